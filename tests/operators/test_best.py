"""The best of several results. `tests/e2e` shows that this fits what Airflow passes on of mapped tasks."""

from __future__ import annotations

import json
from typing import Any

import pytest
from airflow.sdk.exceptions import AirflowFailException

from airflow_bitahub.exceptions import ConfigurationError
from airflow_bitahub.operators.best import LONGEST_RANKING, BitaHubBestOperator
from tests.conftest import TaskRun


def best(results: Any, metric: str = "metrics.accuracy", **arguments: Any) -> dict[str, Any]:
    return BitaHubBestOperator(task_id="best", results=results, metric=metric, **arguments).execute(TaskRun().context())


def member(accuracy: Any, **fields: Any) -> dict[str, Any]:
    return {"job_name": f"job-{accuracy}", "metrics": {"accuracy": accuracy, "test.loss": 1}, **fields}


@pytest.mark.parametrize(
    ("values", "mode", "ranking"),
    [
        ([0.8, 0.9, 0.7], "max", [1, 0, 2]),
        ([0.8, 0.9, 0.7], "min", [2, 0, 1]),
        ([0.9, 0.9, 1, 1], "max", [2, 3, 0, 1]),  # of equal values, the first one
        ([0.9, 0.8, 0.8], "min", [1, 2, 0]),
        ([0.5, None, float("nan"), float("inf"), "0.9", True, 0.6], "max", [6, 0]),
    ],
)
def test_winner_is_returned_whole_with_its_index_and_the_ranking(
    values: list[Any], mode: str, ranking: list[int]
) -> None:
    result = best([member(value) for value in values], mode=mode)
    winner = ranking[0]
    assert result == {
        **member(values[winner]),
        "index": winner,
        "ranking": [{"index": index, "value": values[index]} for index in ranking],
    }


def test_members_without_a_result_are_left_out() -> None:
    assert best([None, member(0.1), "text"])["index"] == 1


def test_metric_may_be_anywhere_in_the_result() -> None:
    assert best([{"loss": 2}, {"loss": 1}], "loss", mode="min")["index"] == 1
    assert best([member(1)], "metrics.test.loss")["index"] == 0
    assert best(member(1), "metrics.test.loss")["index"] == 0, "the only instance of a mapped task"


def test_ranking_of_a_great_sweep_is_bounded() -> None:
    result = best([{"loss": number, "text": "x" * 100} for number in range(1000)], "loss")
    assert (result["index"], len(result["ranking"])) == (999, LONGEST_RANKING)
    assert len(json.dumps(result)) < 5000


@pytest.mark.parametrize(
    ("results", "told"),
    [
        (
            [member(None), {"accuracy": 1}, None],
            r"metric='metrics.accuracy': \[0\]: metrics.accuracy = None is not a "
            r"finite number; \[1\]: metrics.accuracy is missing from its entries accuracy; \[2\]: it has no result",
        ),
        ([member(None)] * 100, "and 95 more"),
        ([], "there are no results"),
        (None, "there are no results"),
        ("LazyXComSequence(<unevaluated length>)", r"results must be the output of a mapped task.*not text"),
    ],
)
def test_sweep_without_a_winner_fails_with_a_sentence(results: Any, told: str) -> None:
    with pytest.raises(AirflowFailException, match=told):
        best(results)


def test_wrong_mode_is_found_when_the_dag_is_parsed() -> None:
    with pytest.raises(ConfigurationError, match="mode must be 'max' or 'min'"):
        BitaHubBestOperator(task_id="best", results=[], metric="loss", mode="least")  # type: ignore[arg-type]
