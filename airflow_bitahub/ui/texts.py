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
        # models
        "models_of": ("Models of {dag_id}", "{dag_id} 的模型"),
        "no_runs": ("There are no runs.", "没有运行记录。"),
        "no_metrics": (
            "There are no metrics yet. BitaHubEvaluateOperator and BitaHubMetricGateOperator show theirs here.",
            "暂无指标。BitaHubEvaluateOperator 和 BitaHubMetricGateOperator 的指标会显示在这里。",
        ),
        "run": ("Run", "运行"),
        "runs": ("Runs", "运行记录"),
        "events": ("Events", "事件"),
        "metrics": ("Metrics", "指标"),
        "metrics_by_run": ("Metrics by run", "各次运行的指标"),
        "lines_missing": (
            "A chart shows the first 6 tasks that measured its metric.",
            "每张图仅显示测量该指标的前 6 个任务。",
        ),
        "threshold": ("threshold of the gate", "门控阈值"),
        "closed_or_failed": ("gate closed, or deployment failed", "门控关闭或部署失败"),
        "gate_closed": ("closed, not {condition} ({value})", "已关闭，不满足 {condition}（{value}）"),
        "outcome_deployed": ("deployed", "已部署"),
        "outcome_rolled_back": ("rolled back to an older version", "已回滚到旧版本"),
        "outcome_restored": ("failed, the old version was restored", "失败，已恢复旧版本"),
        "outcome_failed": ("failed, nothing was replaced", "失败，未替换任何版本"),
        "outcome_outdated": ("skipped, a newer run has deployed", "已跳过，更新的运行已部署"),
        "outcome_back": ("rolled back", "已回滚"),
        "cost_by_run": ("Time and accelerators by run", "各次运行的耗时与加速卡用量"),
        "time_of_jobs": ("Time of all jobs", "全部作业耗时"),
        "accelerator_hours": ("GPU hours", "GPU 小时"),
        "no_accelerators": ("No job of these runs has used an accelerator.", "这些运行的作业均未使用加速卡。"),
        "last_try_hint": (
            "Of a task that was tried several times, only the job of the last try is counted.",
            "多次尝试的任务仅统计最后一次尝试的作业。",
        ),
        "duration": ("Duration", "总时长"),
        "trained_by": ("Trained by", "训练作业"),
        "model_serves": ("serves now", "正在服务"),
        "model_served": ("served before", "曾经服务"),
        "model_closed": ("gate closed", "门控关闭"),
        "serves_now": ("serves now", "正在服务"),
        "serves_nothing": (
            "Nothing that this Airflow has deployed serves under this name now.",
            "目前没有由此 Airflow 部署的版本以该名称提供服务。",
        ),
        "served_before": ("What served before ({number})", "此前的版本（{number}）"),
        "withdrawn": ("rolled back from", "已被回滚"),
        "is_changing": ("a replacement is under way", "正在替换"),
        "deployed_at": ("Deployed", "部署时间"),
        "by_another_dag": ("by another DAG", "由其他 DAG 部署"),
        "older_runs": ("Older runs", "更早的运行"),
        "newer_runs": ("Newer runs", "更新的运行"),
        "is_cut": (
            "These runs have more tasks than this page can show. The oldest ones are incomplete.",
            "这些运行的任务过多，最早的部分未完整显示。",
        ),
        # job
        "no_task": ("Airflow has no such task instance.", "Airflow 中没有此任务实例。"),
        "no_record": (
            "This task has no BitaHub job on record. A task of this package has one as soon as it submits its job.",
            "此任务没有 BitaHub 作业记录。使用本软件包的任务在提交作业后即有记录。",
        ),
    }
)
