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
        "zone": ("Times are in {zone}.", "时间按 {zone} 时区显示。"),
        "UNKNOWN": ("Unknown", "未知"),
        # what is missing
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
        "metrics": ("Metrics", "指标"),
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
        "to_job": ("Back to the job", "返回作业"),
    }
)
