"""Buttons in the Airflow UI."""

from __future__ import annotations

from typing import Any

import pytest
from airflow.sdk.types import TaskInstanceKey

from airflow_bitahub.links import BitaHubJobLink, BitaHubServingLink

KEY = TaskInstanceKey("tests", "task", "manual__1", 1, -1)


def test_each_link_has_its_own_name_and_xcom_key() -> None:
    assert BitaHubJobLink().name != BitaHubServingLink().name
    assert BitaHubJobLink().xcom_key != BitaHubServingLink().xcom_key


@pytest.mark.parametrize("link", [BitaHubJobLink(), BitaHubServingLink()])
@pytest.mark.parametrize(("pushed", "shown"), [("https://platform/x", "https://platform/x"), (None, "")])
def test_a_link_is_what_the_operator_pushed(
    monkeypatch: pytest.MonkeyPatch, link: Any, pushed: str | None, shown: str
) -> None:
    asked: list[dict[str, Any]] = []

    class Store:
        """Replaces Airflow's XCom."""

        @staticmethod
        def get_value(**place: Any) -> str | None:
            asked.append(place)
            return pushed

    monkeypatch.setattr("airflow.sdk.execution_time.xcom.XCom", Store)
    operator: Any = object()  # a new operator object, which does not know the address
    assert link.get_link(operator, ti_key=KEY) == shown
    assert asked == [{"key": link.xcom_key, "ti_key": KEY}]
