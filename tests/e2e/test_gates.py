"""What a real scheduler does with the tasks behind a closed gate, compared with Airflow's ShortCircuitOperator."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from tests.e2e.conftest import SECONDS

if TYPE_CHECKING:
    from tests.e2e.conftest import World

pytestmark = pytest.mark.e2e

# All that is not skipped in tests/e2e/dags/gates.py. An instance [1] has good metrics.
NOT_HELD = {
    "closed.gate",
    "closed.clean_up",
    "each.gate[1]",
    "each.deploy[1]",
    "each.notify[1]",
    "each.report[1]",
    "compare",
    "by_itself.gate[1]",
}


def not_held(world: World, dag: str, run_id: str) -> dict[str, set[str]]:
    """Return what ran behind each of the two kinds of gate, gates included."""
    after = world.states(dag, run_id)
    assert set(after.values()) == {"success", "skipped"}
    ran = [name.partition(".") for name, state in after.items() if state == "success"]
    return {kind: {shape for whose, _, shape in ran if whose == kind} for kind in ("ours", "airflows")}


@pytest.mark.dag_runs("gates")
def test_a_closed_gate_holds_whatever_is_behind_it_also_after_a_clear(world: World) -> None:
    dag, run_id, state = world.finish("gates")
    assert state == "success"
    ran = not_held(world, dag, run_id)
    assert ran["ours"] == NOT_HELD
    closed = ("each.gate[0]", "by_itself.gate[0]")  # skipped themselves, unlike Airflow's
    assert ran["ours"] <= ran["airflows"] - set(closed)
    assert world.airflow.xcom(dag, run_id, "ours.each.gate", map_index=0)["open"] is False

    deployments = {name.partition("[")[0] for name in world.states(dag, run_id) if ".deploy" in name}
    clear = {"dry_run": False, "dag_run_id": run_id, "only_failed": False, "task_ids": sorted(deployments)}
    assert world.airflow.call("POST", f"/dags/{dag}/clearTaskInstances", clear)["total_entries"] == 34
    assert world.airflow.wait(dag, run_id, seconds=SECONDS) == "success"
    assert not_held(world, dag, run_id)["ours"] == NOT_HELD
