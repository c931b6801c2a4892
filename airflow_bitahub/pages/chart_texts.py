"""What charts say themselves, in English and Chinese."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType

CHART_TEXTS: Mapping[str, tuple[str, str]] = MappingProxyType(
    {
        "chart_empty": ("Nothing to draw yet.", "暂无数据。"),
        "chart_last": ("last", "最新"),
        "chart_least": ("min", "最小"),
        "chart_greatest": ("max", "最大"),
        "chart_table": ("The figures as a table", "以表格查看数据"),
        "chart_rows_left_out": ("{number} more rows are not shown.", "另有 {number} 行未显示。"),
        "chart_gaps": (
            "Not drawn, because they are no finite numbers: {number} values.",
            "未绘制的非有限数值：{number} 个。",
        ),
        "chart_true": ("true label", "真实标签"),
        "chart_predicted": ("predicted label", "预测标签"),
        "chart_recall": ("recognized", "识别率"),
        "chart_right": ("{share} of the examples were recognized.", "样本识别率为 {share}。"),
        "chart_confusions": ("The most frequent mistakes", "最常见的错误"),
        "chart_confusion": ("{actual} taken for {predicted}: {count}", "{actual} 误判为 {predicted}：{count}"),
        "chart_unreadable": ("This file is not a confusion matrix.", "该文件不是混淆矩阵。"),
    }
)
