"""Check the installed package. `test_packaging.py` runs this in a new environment, in which no tests are.

The first argument is what is installed: ``required`` or ``extras``. The second is a folder for files. Both find the
examples as Airflow's DAG processor does; with the extras, an example also runs its jobs on an emulator.
"""

from __future__ import annotations

import importlib
import json
import os
import pkgutil
import sys
from pathlib import Path
from types import ModuleType

import airflow_bitahub

ONLY_WITH_EXTRAS = ("emulator", "demo")
# pytest loads the first, Airflow's OpenLineage provider the second. The third runs a command when it is imported, and
# the last holds DAGs.
NOT_IMPORTED = ("pytest_plugin", "lineage.facets", "cli.__main__", "example_dags")
IMAGE = f'[[image]]\npattern = "*"\npython = {json.dumps(sys.executable)}\n'


def import_modules(package: ModuleType, extras: bool) -> None:
    """Import every module of a package that must work with what is installed."""
    for module in pkgutil.iter_modules(package.__path__, f"{package.__name__}."):
        name = module.name.partition(".")[2]
        if name.startswith(NOT_IMPORTED) or (name in ONLY_WITH_EXTRAS and not extras):
            continue
        imported = importlib.import_module(module.name)
        if module.ispkg:
            import_modules(imported, extras)


def main(extras: bool, home: Path) -> None:
    os.environ |= {
        "AIRFLOW_HOME": str(home),
        "AIRFLOW__CORE__LOAD_EXAMPLES": "True",
        "AIRFLOW__CORE__DAGS_FOLDER": str(home),
    }
    import_modules(airflow_bitahub, extras)
    from airflow.dag_processing.bundles.manager import DagBundlesManager
    from airflow.dag_processing.dagbag import BundleDagBag, sync_bag_to_db
    from airflow.models.dag import DagModel
    from airflow.providers_manager import ProvidersManager
    from airflow.utils.db import upgradedb
    from airflow.utils.session import create_session

    provider = ProvidersManager().providers["airflow-bitahub"]
    found: dict[str, object] = {"provider": provider.version, "place": airflow_bitahub.__file__}
    found["job"] = None
    hook = ProvidersManager().hooks["bitahub"]
    found["hook"] = hook and hook.hook_name
    upgradedb()
    bundles = DagBundlesManager()
    bundles.sync_bundles_to_db()
    bundle = bundles.get_bundle("airflow-bitahub-example-dags")
    bag = BundleDagBag(dag_folder=bundle.path, bundle_path=bundle.path, bundle_name=bundle.name)
    sync_bag_to_db(bag, bundle.name, None)
    found["errors"] = bag.import_errors
    with create_session() as session:
        found["paused"] = {dag.dag_id: dag.is_paused for dag in session.query(DagModel)}
    if extras:
        from airflow_bitahub.emulator.server import Emulator

        (home / "images.toml").write_text(IMAGE)
        with Emulator(home / "emulator", images=home / "images.toml") as emulator:
            os.environ["AIRFLOW_CONN_BITAHUB_DEFAULT"] = json.dumps(emulator.connection(login="ann", user_id="_ann"))
            run = bag.dags["python_function"].test(run_conf={"image": "python"})
            found["job"] = str(run.state)
    print(json.dumps(found))


if __name__ == "__main__":
    main(sys.argv[1] == "extras", Path(sys.argv[2]))
