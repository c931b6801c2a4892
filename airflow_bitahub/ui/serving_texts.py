"""The texts of the page of a task's serving, in English and Chinese."""

from __future__ import annotations

from types import MappingProxyType

from airflow_bitahub.pages.language import Texts

SERVING_TEXTS: Texts = MappingProxyType(
    {
        "UNKNOWN": ("Unknown", "未知"),
        "serving_gone": (
            "The platform has no serving of this name now. What Airflow has on record is shown.",
            "平台上目前没有此名称的服务。以下为 Airflow 中的记录。",
        ),
        "deploys_now": ("Deploying now: {owner}", "正在部署：{owner}"),
        "replica_says": ("Replica", "副本"),
        "device_unnamed": ("Accelerator minutes", "加速卡分钟数"),
        # what the task did
        "rollout": ("The deployment by this task", "此任务的部署过程"),
        "rollout_of": ("Version {digest} of {model}", "版本 {digest}，模型 {model}"),
        "rollout_open": (
            "The task has not ended its deployment itself: another task or command does, or did.",
            "此任务未自行结束部署，由其他任务或命令结束。",
        ),
        "rollout_goes_on": ("goes on", "进行中"),
        "rollout_good": ("deployed", "已部署"),
        "rollout_bad": ("not deployed: the task's log says why", "未部署，原因见任务日志"),
        "rollout_step": ("{state}: {duration}", "{state}：{duration}"),
        "CANDIDATE": ("Start of the candidate", "候选版本启动"),
        "CHECK": ("Checks of the candidate", "候选版本检查"),
        "SWITCH": ("Switch of the name", "切换名称"),
        "VERIFY": ("Verification", "上线验证"),
        "RESTORE": ("Return to the old version", "恢复旧版本"),
        "TIDY": ("Tidying up", "清理"),
        # versions
        "versions": ("Versions that were seen to work", "已验证可用的版本"),
        "champion": ("serves now", "当前服务"),
        "withdrawn": ("withdrawn", "已撤回"),
        "this_task": ("this task", "此任务"),
        "deployed": ("Deployed", "部署时间"),
        "no_versions": ("This Airflow has no version of this serving on record.", "此 Airflow 没有该服务的版本记录。"),
        "specification": ("Specification of what serves now", "当前服务的规格"),
    }
)
