"""Conditions hold for numbers that are good enough, and for nothing else."""

from __future__ import annotations

import math
from typing import Any

import pytest

from airflow_bitahub.exceptions import ConfigurationError
from airflow_bitahub.operators.conditions import evaluate_condition, parse_condition, read_metrics

HUGE = 10**6000  # Python refuses to print it, and no float can hold it


@pytest.mark.parametrize(
    ("condition", "metrics", "reason"),
    [
        ("accuracy >= 0.9", {"accuracy": 0.9}, "accuracy = 0.9 >= 0.9"),
        ("accuracy >= 0.7", {"accuracy": 0.7}, "accuracy = 0.7 >= 0.7"),  # the float is less than seven tenths
        ("accuracy >= 0.9", {"accuracy": 1}, "accuracy = 1 >= 0.9"),
        ("accuracy > 0.9", {"accuracy": 0.91, "loss": "unknown"}, "accuracy = 0.91 > 0.9"),
        ("loss<=1e-3", {"loss": 0.0005}, "loss = 0.0005 <= 1e-3"),
        (" loss < +.5 ", {"loss": -2}, "loss = -2 < +.5"),
        ("val.top-5_accuracy > -1", {"val.top-5_accuracy": 0}, "val.top-5_accuracy = 0 > -1"),
        ("mAP@0.5 > 0.4", {"mAP@0.5": 0.5}, "mAP@0.5 = 0.5 > 0.4"),
        ("mAP@[.5:.95]>=.3", {"mAP@[.5:.95]": 0.3}, "mAP@[.5:.95] = 0.3 >= .3"),
        ("val/acc >= 0.9", {"val/acc": 0.9}, "val/acc = 0.9 >= 0.9"),
        ("准确率 >= 0.9", {"准确率": 0.9}, "准确率 = 0.9 >= 0.9"),
        ("'top 5 accuracy' >= 0.9", {"top 5 accuracy": 0.9}, "top 5 accuracy = 0.9 >= 0.9"),
        ('"it\'s > 0">1', {"it's > 0": 2}, "it's > 0 = 2 > 1"),
        ("'0.5' >= 0.9", {"0.5": 0.9}, "0.5 = 0.9 >= 0.9"),
        ("test.accuracy >= 0.9", {"test": {"accuracy": 0.9}}, "test.accuracy = 0.9 >= 0.9"),
        ("a.b.c > 0", {"a": {"b": 5}, "a.b": {"c": 1}}, "a.b.c = 1 > 0"),
        ("test.mAP@0.5 > 0", {"test": {"mAP@0.5": 1}}, "test.mAP@0.5 = 1 > 0"),
        ("steps >= 0.5", {"steps": HUGE}, "steps = 1.000000e+6000 >= 0.5"),
        ("steps > 1e400", {"steps": HUGE}, "steps = 1.000000e+6000 > 1e400"),
        ("loss < 1e400", {"loss": 1e308}, "loss = 1e+308 < 1e400"),
        ("steps > 9007199254740992", {"steps": 2**53 + 1}, "steps = 9007199254740993 > 9007199254740992"),
    ],
)
def test_condition_holds(condition: str, metrics: Any, reason: str) -> None:
    assert evaluate_condition(condition, metrics) == (True, reason)


@pytest.mark.parametrize(
    ("condition", "metrics", "reason"),
    [
        ("accuracy >= 0.9", {"accuracy": 0.89}, "accuracy = 0.89 is not >= 0.9"),
        ("accuracy > 0.9", {"accuracy": 0.9}, "accuracy = 0.9 is not > 0.9"),
        ("loss <= 0.1", {"loss": 0.11}, "loss = 0.11 is not <= 0.1"),
        ("loss < 0.1", {"loss": 0.1}, "loss = 0.1 is not < 0.1"),
        ("steps < 1e400", {"steps": HUGE}, "steps = 1.000000e+6000 is not < 1e400"),
        ("accuracy >= 0.9", {}, "accuracy is missing, so not >= 0.9"),
        ("accuracy >= 0.9", {"Accuracy": 1.0}, "accuracy is missing"),
        ("test.accuracy >= 0.9", {"test": 0.95, "accuracy": 0.95}, "test.accuracy is missing"),
        ("accuracy >= 0.9", {"accuracy": math.nan}, "nan is not a number"),
        ("accuracy < 0.9", {"accuracy": math.nan}, "nan is not a number"),
        ("accuracy >= 0.9", {"accuracy": math.inf}, "inf is not a number"),
        ("loss <= 0.1", {"loss": -math.inf}, "-inf is not a number"),
        ("accuracy >= 0.9", {"accuracy": "0.95"}, "'0.95' is not a number"),
        ("accuracy >= 0.9", {"accuracy": "9" * 101}, "a text of 101 characters is not a number"),
        ("accuracy >= 0.9", {"accuracy": ""}, "'' is not a number"),
        ("accuracy >= 0.9", {"accuracy": True}, "True is not a number"),
        ("accuracy >= 0.9", {"accuracy": None}, "None is not a number"),
        ("accuracy >= 0.9", {"accuracy": [0.95]}, "a list is not a number"),
    ],
)
def test_condition_does_not_hold(condition: str, metrics: Any, reason: str) -> None:
    holds, said = evaluate_condition(condition, metrics)
    assert not holds
    assert reason in said


@pytest.mark.parametrize(
    "condition",
    [
        "",
        "accuracy",
        "accuracy >= ",
        ">= 0.9",
        "accuracy => 0.9",
        "accuracy == 0.9",
        "accuracy >= high",
        "accuracy >= 1.2.3",
        "accuracy >= nan",
        "accuracy >= 1e99999999999999999999",
        "top 5 accuracy >= 0.9",
        "0.9 <= 0.95",
        "0.5 < accuracy < 0.9",
        "accuracy >= 0.9, loss < 1",
        "'accuracy >= 0.9",
        "'' >= 0.9",
        "accuracy >= champion",
        "accuracy >= champion.",
        "accuracy >= other.accuracy",
        "accuracy >= champion.accuracy - ",
        "accuracy >= champion.accuracy -0.005",
        "accuracy >= champion.accuracy-0.005",  # could be a metric of that name
        "accuracy >= champion.accuracy / 2",
        "accuracy >= champion.accuracy - 0.1 - 0.1",
        "accuracy >= champion.accuracy - champion.loss",
        "accuracy >= 0.5 * champion.accuracy",
        "champion.accuracy < accuracy",
        None,
        0.9,
    ],
)
def test_malformed_condition_is_refused(condition: Any) -> None:
    with pytest.raises(ConfigurationError, match=r"is not a (condition|number)"):
        parse_condition(condition)


@pytest.mark.parametrize(
    ("condition", "holds", "reason"),
    [
        ("accuracy > champion.accuracy", True, "accuracy = 0.925 > champion.accuracy = 0.92"),
        ("accuracy >= champion.best", False, "accuracy = 0.925 is not >= champion.best = 0.93"),
        (  # as floats, 0.93 - 0.005 is more than 0.925
            "accuracy >= champion.best - 0.005", True,
            "accuracy = 0.925 >= champion.best - 0.005 = 0.925, where champion.best = 0.93",
        ),
        ("'top 5'<champion.'top-5'", True, "top 5 = 1 < champion.'top-5' = 5"),
        ("accuracy>=champion.test.accuracy", True, "accuracy = 0.925 >= champion.test.accuracy = 0.5"),
        ("loss < champion.'the loss' * 1.1", True, "where champion.the loss = 0.5"),
        ("steps > champion.steps + -1", True, f"steps = {2**53} > champion.steps + -1 = {2**53 - 1}, where"),
        ("steps < champion.steps * 1e999999999", True, "= Infinity, where"),
    ],
)  # fmt: skip
def test_condition_compares_with_the_champion(condition: str, holds: bool, reason: str) -> None:
    metrics = {"accuracy": 0.925, "loss": 0.5, "top 5": 1, "steps": 2**53}
    champion = {"accuracy": 0.92, "best": 0.93, "the loss": 0.5, "steps": 2**53, "top-5": 5, "test": {"accuracy": 0.5}}
    holds_, said = evaluate_condition(condition, metrics, champion)
    assert (holds_, reason in said) == (holds, True), said


@pytest.mark.parametrize(
    ("champion", "why"),
    [
        (None, "there is no champion"),
        ({}, "champion.accuracy is missing"),
        ({"accuracy": math.nan}, "champion.accuracy = nan is not a number"),
        ({"accuracy": "0.9"}, "champion.accuracy = '0.9' is not a number"),
    ],
)
@pytest.mark.parametrize("champion_missing", ["open", "closed"])
def test_what_a_missing_champion_means_is_said(champion: Any, why: str, champion_missing: Any) -> None:
    condition = "accuracy >= champion.accuracy - 0.005"
    holds, said = evaluate_condition(condition, {"accuracy": 0.9}, champion, champion_missing)
    assert holds == (champion_missing == "open")
    assert said == (
        f"accuracy = 0.9 is not compared with champion.accuracy - 0.005: {why}, and "
        f"champion_missing={champion_missing!r}"
    )
    for metrics in ({}, {"accuracy": math.nan}):
        assert evaluate_condition(condition, metrics, champion, champion_missing)[0] is False


@pytest.mark.parametrize(
    ("given", "metrics"),
    [
        ({"accuracy": 0.93}, {"accuracy": 0.93}),
        ('{"accuracy": 0.93}', {"accuracy": 0.93}),
        (" {'accuracy': 0.93, 'note': None}", {"accuracy": 0.93, "note": None}),
        ('{"loss": Infinity}', {"loss": math.inf}),
        ("{'loss': -inf}", {"loss": -math.inf}),
        pytest.param('{"steps": 1' + "0" * 6000 + "}", {"steps": HUGE}, id="huge"),
    ],
)
def test_mapping_is_read(given: Any, metrics: Any) -> None:
    assert read_metrics(given) == metrics


@pytest.mark.parametrize("given", ['{"accuracy": NaN}', "{'accuracy': nan}"])
def test_nan_in_text_is_read(given: str) -> None:
    assert math.isnan(read_metrics(given)["accuracy"])


@pytest.mark.parametrize(
    ("given", "said"),
    [
        (None, "not None. Did the task"),
        ("None", "not None. Did the task"),
        ([{"accuracy": 0.9}], "not a list. A mapped task returns one value for each index"),
        ("[{'accuracy': 0.9}]", "not a list. A mapped task returns one value for each index"),
        (0.95, "not 0.95."),
        ("0.95", "not 0.95."),
        ('"accuracy"', "not 'accuracy'."),
        ({"accuracy"}, "not a set."),
        ("", "'' is neither JSON nor a Python literal"),
        ("accuracy: 0.9", "'accuracy: 0.9' is neither JSON nor a Python literal"),
        ("{[]: 1}", "is neither JSON nor a Python literal"),
        pytest.param("[" * 100_000, "a text of 100000 characters is neither JSON nor a Python literal", id="deep"),
        ("{'accuracy': open('/etc/passwd')}", "is neither JSON nor a Python literal"),
    ],
)
def test_what_is_not_a_mapping_is_a_mistake(given: Any, said: str) -> None:
    with pytest.raises(ConfigurationError) as mistake:
        read_metrics(given)
    assert said in str(mistake.value)
    assert len(str(mistake.value)) < 300
