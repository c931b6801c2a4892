"""The report on an evaluation, as Markdown."""

from __future__ import annotations

import re
from types import SimpleNamespace
from typing import Any

import pytest

from airflow_bitahub.exceptions import ConfigurationError
from airflow_bitahub.hooks.bitahub import BitaHubHook
from airflow_bitahub.hooks.deployment_records import VariableRecords
from airflow_bitahub.procedures.deployments import Deployment, Version
from airflow_bitahub.reports import evaluation_report

EVALUATION = {
    "job_name": "eval-1",
    "metrics": {"accuracy": 0.934, "test": {"loss": 0.25}, "pictures": 10000, "by": "me"},
}


@pytest.fixture
def champion(hook: BitaHubHook, variables: dict[str, str]) -> None:  # noqa: ARG001
    spec = {"model": {"path": "/models/u/mnist/3"}}
    serves = Version("abc", spec, metrics={"accuracy": 0.93, "f1": 0.9}, deployed_at=1767225600)
    VariableRecords(hook, "mnist", "v1").save(Deployment(versions=[serves], exists=True))


def test_metrics_alone() -> None:
    assert evaluation_report(EVALUATION) == (
        "| metric | this model |\n"
        "| --- | ---: |\n"
        "| `accuracy` | 0.934 |\n"
        "| `test.loss` | 0.25 |\n"
        "| `pictures` | 10000 |\n"
        "\n"
        "Evaluated by job `eval-1`."
    )


@pytest.mark.usefixtures("champion")
def test_metrics_beside_the_champions() -> None:
    report = evaluation_report(EVALUATION, champion="mnist")
    assert report.startswith("| metric | this model | champion | difference |\n| --- | ---: | ---: | ---: |\n")
    assert "| `accuracy` | 0.934 | 0.93 | +0.004 |\n| `test.loss` | 0.25 | - | - |" in report
    assert "| `f1` | - | 0.9 | - |" in report
    assert "As `mnist`, the model `/models/u/mnist/3` serves since 2026-01-01 00:00 UTC." in report


@pytest.mark.usefixtures("champion")
def test_report_in_chinese() -> None:
    report = evaluation_report(EVALUATION, champion="mnist", language="zh")
    assert report.startswith("| 指标 | 新模型 | 当前版本 | 差值 |")
    assert not re.search("serves|champion|metric", report)


@pytest.mark.usefixtures("connection", "variables")
def test_report_on_the_first_model() -> None:
    report = evaluation_report(EVALUATION, champion="mnist")
    assert "| metric | this model |\n" in report
    assert "Nothing serves as `mnist` yet." in report


def test_picture_of_the_confusion_matrix(monkeypatch: pytest.MonkeyPatch) -> None:
    ti = SimpleNamespace(dag_id="release", run_id="manual__2026-01-01T00:00:00+00:00)")
    monkeypatch.setattr("airflow.sdk.get_current_context", lambda: {"ti": ti})
    report = evaluation_report(EVALUATION, matrix_of="group.evaluate")
    address = (
        "bitahub/confusion_matrix?"
        "dag_id=release&run_id=manual__2026-01-01T00%3A00%3A00%2B00%3A00%29&task_id=group.evaluate"
    )
    assert report.endswith(f"\n\n[![Confusion matrix]({address})]({address})")


@pytest.mark.parametrize(
    "name", ["a|b", "a`b", "<b>a</b>", "[a](http://x)", "a\n\n# b", "a\\", "\\`a", "http://x", "", "x" * 9999]
)
def test_names_from_outside_have_no_effect_as_markdown(name: str) -> None:
    report = evaluation_report({"metrics": {name: 1, "after": 2}, "job_name": name})
    table = report.splitlines()[:4]
    for line in table:
        assert line.count("|") == 3
    assert re.fullmatch(r"\| `[^`\\]{1,200}` \| 1 \|", table[2])
    assert table[3] == "| `after` | 2 |"


def test_many_metrics_are_cut() -> None:
    report = evaluation_report({"metrics": {f"m{number}": number for number in range(1000)}})
    assert report.count("\n| `") == 40
    assert "960 more metrics are in the evaluation's result." in report


@pytest.mark.parametrize("evaluation", [None, "{}", {}, {"metrics": None}, {"accuracy": 1}])
def test_something_else_is_refused(evaluation: Any) -> None:
    with pytest.raises(ConfigurationError, match="evaluation must be the result of a BitaHubEvaluateOperator"):
        evaluation_report(evaluation)


@pytest.mark.usefixtures("champion")
def test_numbers_of_any_size() -> None:
    report = evaluation_report({"metrics": {"accuracy": 10**400, "loss": 1e300, "f1": 10**12}}, champion="mnist")
    assert "| `accuracy` | 1e+400 | 0.93 | - |" in report.replace(".00000", "")
    assert "| `loss` | 1e+300 | - | - |" in report


def test_metrics_without_a_number() -> None:
    assert evaluation_report({"metrics": {"a": None, "b": float("nan")}}) == (
        "The evaluation has no metrics that are numbers."
    )
