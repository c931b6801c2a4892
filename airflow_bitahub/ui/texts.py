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
    }
)
