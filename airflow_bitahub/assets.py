"""Models and servings as Airflow assets: what to schedule a DAG on, and where to read the newest version from.

    model = BitaHubModel("dense-mnist-tf")

    with DAG(dag_id="on_new_model", schedule=model.asset):

        @task(inlets=[model.asset])
        def newest_version(inlet_events):
            return model.newest(inlet_events)

**Names.** An asset's name is its URI: ``bitahub://{connection id}/models/{model}`` or ``.../servings/{serving}``. The
platform's address and the user are only in the connection, and a DAG is parsed without looking connections up: that
would be a request for each parse, and the DAG's assets would change with the connection. The connection's id is known,
and stands for both. The event says where the model really is: the ``uri`` in its ``extra`` is
``bitahub://{platform}/models/{user_id}/{model}``. An asset alias, which Airflow resolves when the task runs, could have
that URI itself, but Airflow 3.3 has neither watchers nor partitions for an alias.

It is imported when a DAG is parsed, so it imports nothing heavy.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar
from urllib.parse import SplitResult, quote

from airflow.sdk import Asset

from airflow_bitahub.exceptions import ConfigurationError
from airflow_bitahub.hooks import DEFAULT_CONN_ID
from airflow_bitahub.storage.paths import path_part

if TYPE_CHECKING:
    from datetime import timedelta

    from airflow.sdk.execution_time.context import InletEventsAccessors

SCHEME = "bitahub"
# Events that `newest` reads: those that somebody made by hand in Airflow's UI, without our extra, are passed over.
_EVENTS = 50


@dataclass(frozen=True)
class _Product:
    """Something that tasks make, and that other DAGs may wait for."""

    name: str
    bitahub_conn_id: str = DEFAULT_CONN_ID

    folder: ClassVar[str]
    kind: ClassVar[str]
    mark: ClassVar[str]  # the key that every event of ours has

    def __post_init__(self) -> None:
        path_part(self.kind, self.name)

    @property
    def asset(self) -> Asset:
        """The asset. The task that makes the product has it among its outlets by itself."""
        return self._asset()

    def newest(self, inlet_events: InletEventsAccessors) -> dict[str, Any]:
        """Return the ``extra`` of the newest event, whichever event started the DAG run.

        Airflow 3.3 gives a DAG run only the first of several events that come at about the same time. So the events
        are read again here, from the inlets of the task: it needs ``inlets=[...]`` with the asset.

        :param inlet_events: Airflow's, from the task's context
        :raises ConfigurationError: the task has no such inlet, or this Airflow has no such event
        """
        inlets = [inlet for inlet in inlet_events if self._is_ours(inlet)]
        if not inlets:
            raise ConfigurationError(f"The task has no asset of {self.kind} {self.name!r} among its inlets: add it.")
        events = [event for inlet in inlets for event in inlet_events[inlet].ascending(False).limit(_EVENTS)]
        for event in sorted(events, key=lambda event: event.timestamp, reverse=True):
            extra = event.extra or {}
            found = extra.get("payload", extra)  # a watcher's event has it one level deeper
            if isinstance(found, Mapping) and self.mark in found:
                return dict(found)
        raise ConfigurationError(
            f"Airflow has no event yet about {self.kind} {self.name!r} of connection {self.bitahub_conn_id!r}. The "
            f"first comes when a task has made it."
        )

    def _asset(self, suffix: str = "", **more: Any) -> Asset:
        uri = f"{SCHEME}://{quote(self.bitahub_conn_id, safe='')}/{self.folder}/{quote(self.name)}{suffix}"
        extra: dict[str, Any] = {self.kind: self.name, "bitahub_conn_id": self.bitahub_conn_id}
        return Asset(name=uri, uri=uri, group=self.kind, extra=extra, **more)

    def _is_ours(self, inlet: Any) -> bool:
        name, own = str(getattr(inlet, "name", "")), self._asset().name
        return name == own or name.startswith(f"{own}/")


@dataclass(frozen=True)
class BitaHubModel(_Product):
    """A model of the user's, whose versions `BitaHubSaveModelOperator` saves.

    The ``extra`` of each event is the head of the version's manifest, with two more entries:

    .. code-block:: python

        {
            "uri": "bitahub://kubesphere.example.com/models/_2f1f.../dense-mnist-tf",
            "path": "/models/_2f1f.../dense-mnist-tf/20260101-abcdefghijkl-1",
            "model": "dense-mnist-tf",
            "version": "20260101-abcdefghijkl-1",  # None: the model has no versions
            "metrics": {"accuracy": 0.9},  # None: not known; likewise the next two
            "job": "mnist-train-demo-20260101-klmnopqrst-1",
            "code_digest": "5fa3b9d24e7c0a16",
            "source": "/projects/_2f1f.../mnist-train-demo/outputs/20260101-klmnopqrst-1",
            "saved_by": "save-model-20260101-abcdefghijkl-1",
            "run": {"dag_id": "mnist_lifecycle", "run_id": "...", "task_id": "save_model", "map_index": -1},
        }

    :param name: the model's name; its versions are the folders of ``/models/{user_id}/{name}``
    :param bitahub_conn_id: the Airflow connection, as the task that saves the model names it
    """

    folder = "models"
    kind = "model"
    mark = "path"

    @property
    def versions(self) -> Asset:
        """An asset with one partition for each version, for one DAG run per version, also where several come at once.

        The DAG has ``schedule=PartitionedAssetTimetable(assets=model.versions)``, and ``{{ partition_key }}`` is the
        version. The task that saves the model has ``outlets=[model.versions]``. It is an asset of its own because
        Airflow starts DAGs that are scheduled on partitions only by events that have a partition, and all other DAGs
        only by events that have none.
        """
        return self._asset("/versions")

    def watched(self, poll_interval: timedelta | float = 60) -> Asset:
        """Return an asset with a watcher: it has an event for each version on the storage, whoever saved it.

        It is an asset of its own because Airflow keeps the watchers of an asset only as long as nothing else, such as
        the outlet of the task that saves the model, names the same asset without them. For the same reason, give one
        and the same `poll_interval` wherever you use it. See `triggers.model.BitaHubModelTrigger`.

        :param poll_interval: the time between two looks at the storage; a ``timedelta`` or a number of seconds
        """
        from airflow.sdk import AssetWatcher

        from airflow_bitahub.triggers.model import BitaHubModelTrigger

        trigger = BitaHubModelTrigger(self.name, poll_interval, self.bitahub_conn_id)
        return self._asset("/watched", watchers=[AssetWatcher(name=f"versions of {self.name}", trigger=trigger)])


@dataclass(frozen=True)
class BitaHubServing(_Product):
    """A serving, to which `BitaHubDeployServingOperator` and `BitaHubRollbackServingOperator` give versions.

    The ``extra`` of each event is:

    .. code-block:: python

        {
            "uri": "bitahub://kubesphere.example.com/servings/mnist-serving-demo",
            "url": "http://mnist-serving-demo-testinference.bitahub.com",
            "serving": "mnist-serving-demo",
            "version": "v1",
            "model_path": "/models/_2f1f.../dense-mnist-tf/20260102-abcdefghijkl-1",
            "previous": "/models/_2f1f.../dense-mnist-tf/20260101-zyxwvutsrq-1",  # None: nothing else served before
            "run": {"dag_id": "mnist_lifecycle", "run_id": "...", "task_id": "deploy", "map_index": -1},
        }

    :param name: the serving's name
    :param bitahub_conn_id: the Airflow connection, as the task that deploys names it
    """

    folder = "servings"
    kind = "serving"
    mark = "url"


def sanitize_uri(uri: SplitResult) -> SplitResult:
    """Return the URI of an asset, for Airflow, which calls this for every URI that begins with ``bitahub://``.

    :raises ValueError: it names nothing
    """
    kind, _, name = uri.path.lstrip("/").partition("/")
    if not uri.netloc or not kind or not name:
        raise ValueError(
            f"A BitaHub URI is like bitahub://bitahub_default/models/dense-mnist-tf, not {uri.geturl()!r}. "
            f"airflow_bitahub.assets makes them."
        )
    return uri
