"""The texts that several pages have, in English and Chinese. What the platform and programs say is not translated."""

from __future__ import annotations

from types import MappingProxyType

from airflow_bitahub.pages.language import Texts

COMMON: Texts = MappingProxyType(
    {
        # frame
        "skip": ("Skip to the content", "跳到正文"),
        "live": ("live", "实时"),
        "connection_lost": (
            "This page is not up to date, because the server does not answer. It keeps trying.",
            "服务器没有响应，本页内容可能已过时，正在不断重试。",
        ),
        "connection_back": ("The server answers again.", "服务器已恢复响应。"),
        "session_ended": (
            "This page is no longer updated, because your session has ended. Reload it to sign in again.",
            "您的会话已结束，本页不再更新。请重新加载以再次登录。",
        ),
        "time_zone": ("Times are this machine's local time.", "时间为本机当地时间。"),
        # states
        "WAITING": ("Waiting", "等待中"),
        "RUNNING": ("Running", "运行中"),
        "STOPPING": ("Stopping", "停止中"),
        "SUCCEEDED": ("Succeeded", "成功"),
        "FAILED": ("Failed", "失败"),
        "UNDERPOWERED": ("Underpowered", "资源不足"),
        "STOPPED": ("Stopped", "已停止"),
        # lists
        "name": ("Name", "名称"),
        "state": ("State", "状态"),
        "namespace": ("Namespace", "命名空间"),
        "queue": ("Queue", "队列"),
        "created": ("Created", "创建时间"),
        "queue_time": ("Queue time", "排队时长"),
        "run_time": ("Run time", "运行时长"),
        "exit_code": ("Exit code", "退出码"),
        # one job
        "job": ("Job", "作业"),
        "message": ("Message", "消息"),
        "facts": ("Facts", "概况"),
        "user": ("User", "用户"),
        "kind": ("Kind", "类型"),
        "launched": ("Started", "启动时间"),
        "finished": ("Ended", "结束时间"),
        "restarts": ("Restarts", "重启次数"),
        "accelerator": ("Accelerator", "加速卡"),
        "none": ("none", "无"),
        "accelerator_time": ("Accelerator minutes", "加速卡分钟数"),
        "image": ("Image", "镜像"),
        "timeline": ("Timeline", "时间线"),
        "timeline_text": ("{state} for {duration}", "{state}，{duration}"),
        "timeline_end": ("Ran for {duration}: {state}", "运行 {duration}：{state}"),
        "mounts": ("Mounts", "挂载"),
        "code": ("code", "代码"),
        "dataset": ("dataset", "数据集"),
        "model": ("model", "模型"),
        "output": ("output", "输出"),
        "server_path": ("Path on the server", "服务器路径"),
        "container_path": ("Path in the container", "容器内路径"),
        "submission": ("Submission as sent", "提交内容"),
        "submission_hint": (
            "Values whose names say that they are secret are replaced by ***.",
            "名称表明是机密的值以 *** 代替。",
        ),
        "log": ("Log", "日志"),
        "log_empty": ("The program has printed nothing yet.", "程序还没有输出。"),
        "log_cut": ("Only the end is shown.", "仅显示末尾。"),
        "log_all": ("Download the whole log", "下载完整日志"),
        "files": ("Output files", "输出文件"),
        "no_files": ("There are no output files.", "没有输出文件。"),
        "more_files": ("There are more files; these are the first.", "文件较多，仅列出前面的。"),
        "file": ("File", "文件"),
        "size": ("Size", "大小"),
        "changed": ("Changed", "修改时间"),
        "download": ("Download", "下载"),
        "time": ("Time", "时间"),
        "status": ("Status", "状态"),
        "file_cut": ("Only the beginning is shown.", "仅显示开头。"),
        "file_download_only": (
            "This file is not shown here. Download it to look at it.",
            "此文件不在此处显示，请下载后查看。",
        ),
        # servings
        "serving": ("Serving", "服务"),
        "version": ("Version", "版本"),
        "served_model": ("Model", "模型"),
        "replicas": ("Replicas", "副本"),
        "address": ("Address", "地址"),
        "metering": ("Metering", "计量"),
        "running_minutes": ("Running minutes", "运行分钟数"),
        "core_minutes": ("CPU core minutes", "CPU 核分钟数"),
        "memory_minutes": ("Memory GB minutes", "内存 GB 分钟数"),
        "device_minutes": ("{kind} minutes", "{kind} 分钟数"),
        # models
        "left_out": ("{number} more are not shown.", "另有 {number} 个未显示。"),
    }
)
