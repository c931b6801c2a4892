"""The texts of the pages in the Airflow UI, in English and Chinese."""

from __future__ import annotations

from types import MappingProxyType

from airflow_bitahub.pages.chart_texts import CHART_TEXTS
from airflow_bitahub.pages.language import Texts
from airflow_bitahub.pages.texts import COMMON

TEXTS: Texts = MappingProxyType(
    {
        **COMMON,
        **CHART_TEXTS,
        "title": ("BitaHub", "BitaHub"),
        # errors
        "error_401": ("Sign in to Airflow to see this page.", "请先登录 Airflow 再查看此页面。"),
        "error_403": ("Airflow does not let you see this.", "Airflow 未授权您查看此内容。"),
        "error_404": ("There is no such page.", "没有此页面。"),
        "error_other": ("This did not work.", "操作未成功。"),
        # job
        "no_task": ("Airflow has no such task instance.", "Airflow 中没有此任务实例。"),
        "no_record": (
            "This task has no BitaHub job on record. A task of this package has one as soon as it submits its job.",
            "此任务没有 BitaHub 作业记录。使用本软件包的任务在提交作业后即有记录。",
        ),
        # serving
        "UNKNOWN": ("Unknown", "未知"),
        "serving_missing": (
            "The platform has no serving of this name now.",
            "平台上目前没有此名称的服务。",
        ),
        "serving_problem": ("The platform could not be asked.", "无法查询平台。"),
        "url": ("Address", "地址"),
        "replica_says": ("Replica", "副本"),
        "device_unnamed": ("Accelerator minutes", "加速卡分钟数"),
        "rollout": ("What this task did", "此任务的部署过程"),
        "rollout_of": ("Version {digest} of {model}", "版本 {digest}，模型 {model}"),
        "rollout_open": (
            "The task did not end this itself: the next try, or another deployment, does.",
            "此任务未自行结束部署，由下一次重试或其他部署结束。",
        ),
        "deploys_now": ("Deploying now: {owner}", "正在部署：{owner}"),
        "CANDIDATE": ("Start of the candidate", "候选版本启动"),
        "CHECK": ("Checks of the candidate", "候选版本检查"),
        "SWITCH": ("Switch of the name", "切换名称"),
        "VERIFY": ("Verification", "上线验证"),
        "RESTORE": ("Return to the old version", "恢复旧版本"),
        "TIDY": ("Tidying up", "清理"),
        "step": ("{state}: {duration}", "{state}：{duration}"),
        "versions": ("Versions", "版本"),
        "champion": ("serves now", "当前服务"),
        "withdrawn": ("withdrawn", "已撤回"),
        "this_task": ("this task", "此任务"),
        "metrics": ("Metrics", "指标"),
        "deployed": ("Deployed", "部署时间"),
        "no_versions": ("This Airflow has no version of this serving on record.", "此 Airflow 没有该服务的版本记录。"),
        "specification": ("Specification of what serves now", "当前服务的规格"),
        "log_show": ("Show the last lines of its log", "查看日志末尾"),
        "log_back": ("Back to the serving", "返回服务"),
        "log_again": ("Read again", "重新读取"),
        "no_serving_record": ("This task has no serving on record.", "此任务没有服务记录。"),
    }
)
