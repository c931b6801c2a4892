"""The texts of the console's pages, in English and Chinese. What the platform and programs say is not translated."""

from __future__ import annotations

from types import MappingProxyType

from airflow_bitahub.pages.language import Texts
from airflow_bitahub.pages.texts import COMMON

TEXTS: Texts = MappingProxyType(
    {
        **COMMON,
        # frame
        "title": ("BitaHub emulator", "BitaHub 模拟器"),
        "navigation": ("Console", "控制台"),
        "jobs": ("Jobs", "作业"),
        "servings": ("Servings", "服务"),
        "models": ("Models", "模型"),
        "capacity": ("Capacity", "容量"),
        "faults": ("Faults", "故障注入"),
        "sign_in": ("Enter token", "输入令牌"),
        "sign_out": ("End session", "结束会话"),
        # lists
        "all": ("All", "全部"),
        "filter": ("Filter", "筛选"),
        "name_contains": ("Name contains", "名称包含"),
        "page_of": ("Page {number} of {last}", "第 {number} 页，共 {last} 页"),
        "newer": ("Newer", "较新"),
        "older": ("Older", "较旧"),
        "no_jobs": ("No job has been submitted yet.", "还没有提交作业。"),
        "no_matches": ("No job matches.", "没有符合条件的作业。"),
        # one job
        "removed": ("Removed", "已删除"),
        "removed_at": ("The record of this job was removed at {time}.", "此作业的记录已于 {time} 删除。"),
        "request_at": ("{name} at {time}", "{time} 收到 {name}"),
        "requests": ("Requests about this job", "与此作业有关的请求"),
        "requests_hint": (
            "Newest first. {left_out} older ones are not shown.",
            "最新的在前，另有 {left_out} 条较早的未显示。",
        ),
        "method": ("Method", "方法"),
        "closed": ("connection closed", "连接被关闭"),
        "not_reached": ("a fault kept it away", "被故障拦截"),
        # servings
        "no_servings": ("There are no servings.", "没有服务。"),
        "replicas_ready": ("{ready} of {wanted} ready", "{ready}/{wanted} 就绪"),
        "replica": ("Replica", "副本"),
        "ready": ("ready", "就绪"),
        "specification": ("Specification as sent", "规格（按提交内容）"),
        "ask": ("Ask with a picture", "用图片提问"),
        "drop": ("Drop pictures here, or choose them", "将图片拖到这里，或选择图片"),
        "send": ("Ask", "提问"),
        "ask_needs_token": ("Asking a serving needs the emulator's token.", "向服务提问需要模拟器的令牌。"),
        "answer": ("Answer", "回答"),
        "answer_status": ("HTTP {status} after {duration}", "HTTP {status}，耗时 {duration}"),
        "no_answer": ("No answer after {duration}", "{duration} 后没有回答"),
        "prediction": ("Prediction", "预测"),
        "picture": ("Picture {number}", "图片 {number}"),
        "probability": ("Probability", "概率"),
        "whole_answer": ("The whole answer", "完整回答"),
        # models
        "no_models": ("There are no models.", "没有模型。"),
        "no_versions": ("no versions", "没有版本"),
        "made_by": ("Made by", "来自作业"),
        "served_by": ("Served by", "用于服务"),
        # capacity
        "capacity_now": ("In use now", "当前使用"),
        "job slot": ("Jobs at once", "并行作业数"),
        "cores": ("CPU cores", "CPU 核"),
        "MB of memory": ("Memory, MB", "内存（MB）"),
        "used": ("Used", "已用"),
        "total": ("Total", "总量"),
        "unlimited": ("unlimited", "不限"),
        "share": ("Share", "占比"),
        "running_jobs": ("Running jobs", "运行中的作业"),
        "no_running": ("No job is running.", "没有运行中的作业。"),
        "waiting_jobs": ("Waiting jobs", "等待中的作业"),
        "no_waiting": ("No job is waiting for capacity.", "没有等待资源的作业。"),
        "queue_named": ("Queue {name}", "队列 {name}"),
        # faults
        "faults_hint": (
            "The emulator fails on purpose, as platforms and networks do. A fault is in force until it is removed.",
            "模拟器按要求出错，如同真实的平台和网络。故障一直有效，直到被移除。",
        ),
        "no_faults": ("No fault is in force.", "当前没有故障。"),
        "fault": ("Fault", "故障"),
        "effect": ("Effect", "效果"),
        "path": ("Path", "路径"),
        "seen": ("Matched", "匹配"),
        "applied": ("Struck", "命中"),
        "of_times": ("{applied} of {times}", "{applied}/{times}"),
        "remove": ("Remove", "移除"),
        "remove_fault": ("Remove fault {id}", "移除故障 {id}"),
        "set_fault": ("Set a fault", "设置故障"),
        "set": ("Set", "设置"),
        "times": ("How often (empty: always)", "次数（留空：一直）"),
        "path_pattern": ("Path, * for anything", "路径，* 表示任意"),
        "as_json": ("Or write it as JSON", "或以 JSON 编写"),
        "faults_need_token": (
            "Setting and removing faults needs the emulator's token.",
            "设置和移除故障需要模拟器的令牌。",
        ),
        "fault_refuse": ("refuses: 429, try again later", "拒绝：429，稍后再试"),
        "fault_expire": ("token has expired: 401", "令牌过期：401"),
        "fault_close_before": ("connection lost, nothing done", "连接断开，请求未生效"),
        "fault_close_after": ("connection lost, but it was done", "连接断开，但请求已生效"),
        "fault_gateway": ("gateway timeout: 504, but it was done", "网关超时：504，但请求已生效"),
        "fault_truncate": ("answer is cut off", "回答被截断"),
        "fault_slow": ("slow: 5 seconds", "缓慢：5 秒"),
        "fault_late": ("records appear 10 seconds late", "记录晚 10 秒出现"),
        "fault_vanish": ("records vanish", "记录消失"),
        # session
        "token": ("The emulator's token", "模拟器的令牌"),
        "token_hint": (
            "The emulator prints it when it starts. Enter it once; this browser may then make changes for 12 hours.",
            "模拟器启动时会打印令牌。输入一次后，此浏览器可在 12 小时内进行更改。",
        ),
        "token_wrong": ("This is not the emulator's token.", "这不是模拟器的令牌。"),
        "continue": ("Continue", "继续"),
        # errors
        "error_404": ("There is no such page", "没有此页面"),
        "error_other": ("This did not work", "操作未成功"),
        "back": ("Back to the jobs", "返回作业列表"),
    }
)
