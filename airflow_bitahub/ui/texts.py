"""The texts of the pages in the Airflow UI, in English and Chinese."""

from __future__ import annotations

from types import MappingProxyType

from airflow_bitahub.pages.chart_texts import CHART_TEXTS
from airflow_bitahub.pages.language import Texts
from airflow_bitahub.pages.texts import COMMON
from airflow_bitahub.ui.serving_texts import SERVING_TEXTS

TEXTS: Texts = MappingProxyType(
    {
        **COMMON,
        **CHART_TEXTS,
        **SERVING_TEXTS,
        "title": ("BitaHub", "BitaHub"),
        # errors
        "error_401": ("Sign in to Airflow to see this page.", "请先登录 Airflow 再查看此页面。"),
        "error_403": ("Airflow does not let you see this.", "Airflow 未授权您查看此内容。"),
        "error_404": ("There is no such page.", "没有此页面。"),
        "error_other": ("This did not work.", "操作未成功。"),
        "zone": ("Times are in {zone}.", "时间按 {zone} 时区显示。"),
        "UNKNOWN": ("Unknown", "未知"),
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
        "outcome_reverted": ("rolled back to an older version", "已回滚到旧版本"),
        "outcome_restored": ("failed, the old version was restored", "失败，已恢复旧版本"),
        "outcome_rejected": ("failed, nothing was replaced", "失败，未替换任何版本"),
        "outcome_failed": ("failed, and no old version was restored", "失败，未恢复旧版本"),
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
            "This task has no BitaHub job on record. Tasks of this package have one as soon as they submit a job.",
            "此任务没有 BitaHub 作业记录。本软件包的任务在提交作业后即有记录。",
        ),
        "not_verified": (
            "The job on record is not shown: its name was not made by this package, and Airflow no longer has the "
            "arguments of the task, which would show that the job is its own.",
            "未显示记录中的作业：其名称并非由本软件包生成，且 Airflow 已不再保存任务参数，无法确认该作业属于此任务。",
        ),
        "no_such_job": ("This task has no such job on record.", "此任务没有该作业的记录。"),
        "mapped": ("This task is mapped. Choose one of its instances:", "这是映射任务，请选择一个实例："),
        "job_gone": (
            "The platform no longer has this job. What Airflow has on record is shown.",
            "平台上已没有此作业。以下为 Airflow 中的记录。",
        ),
        "not_reached": (
            "The platform could not be asked from Airflow's api-server. What Airflow has on record is shown.",
            "Airflow 的 api-server 无法查询平台。以下为 Airflow 中的记录。",
        ),
        "not_in_time": ("There was no answer in time.", "未能及时得到回答。"),
        "connection_problem": (
            "Airflow's api-server cannot use the connection {name}. What Airflow has on record is shown.",
            "Airflow 的 api-server 无法使用连接 {name}。以下为 Airflow 中的记录。",
        ),
        "connection_unknown": (
            "Airflow no longer knows which connection the task used, so the platform was not asked.",
            "Airflow 已不再保存该任务所用的连接，因此未查询平台。",
        ),
        "files_problem": (
            "The output folder could not be read from Airflow's api-server.",
            "Airflow 的 api-server 无法读取输出目录。",
        ),
        "file_problem": ("This file cannot be shown.", "无法显示此文件。"),
        "file_large": ("too large to be sent through Airflow", "文件过大，无法通过 Airflow 发送"),
        # job
        "on_platform": ("Open on the platform", "在平台上打开"),
        "earlier_job": ("This is an earlier job of the task.", "这是该任务较早的作业。"),
        "latest_job": ("Show the last one", "查看最新作业"),
        "task_state": ("Task in Airflow", "Airflow 任务"),
        "attempt": ("Attempt", "尝试"),
        "connection": ("Connection", "连接"),
        "code_digest": ("Code (digest)", "代码（摘要）"),
        "bundle_version": ("DAG bundle version", "DAG 包版本"),
        "try_at": ("Try {name} of the task began at {time}", "任务第 {name} 次运行开始于 {time}"),
        "show_log": ("Show the log", "显示日志"),
        "log_problem": ("The log could not be read.", "无法读取日志。"),
        "log_withheld": (
            "The log is not shown here, because the job's secrets cannot be masked in it. Look at the task's log.",
            "此处不显示日志，因为无法遮盖其中的作业机密。日志内容见任务日志。",
        ),
        "step": ("step", "步"),
        "confusion": ("Confusion matrix", "混淆矩阵"),
        "result": ("The task's result", "任务结果"),
        "attempts": ("All attempts", "全部尝试"),
        "jobs_of_task": ("Jobs that this task has submitted", "此任务提交的作业"),
        "submitted": ("Submitted", "提交时间"),
        "in_try": ("In try", "所在运行"),
        "tries_of_task": ("Tries of the task in Airflow", "任务在 Airflow 中的运行"),
        "try": ("Try", "运行"),
        "no_submission": ("What was sent is not on record.", "没有提交内容的记录。"),
    }
)
