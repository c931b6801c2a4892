"""`@task.bitahub`: a Python function that runs as a job."""

from __future__ import annotations

import inspect
import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, cast

from airflow.sdk.bases.decorator import DecoratedOperator, task_decorator_factory
from airflow.sdk.definitions.mappedoperator import validate_mapping_kwargs

from airflow_bitahub.decorators.source import function_source
from airflow_bitahub.exceptions import ConfigurationError
from airflow_bitahub.operators.arguments import Check, as_json, is_template
from airflow_bitahub.operators.job import BitaHubJobOperator
from airflow_bitahub.operators.masking import hide_secrets
from airflow_bitahub.operators.xcom import problem_as_xcom

if TYPE_CHECKING:
    from airflow.sdk import Context
    from airflow.sdk.bases.decorator import TaskDecorator

    from airflow_bitahub.api.job_reading import Job
    from airflow_bitahub.api.jobs import JobSpec
    from airflow_bitahub.identity import JobRecord
    from airflow_bitahub.lineage.names import Material

_MOUNT = "/function"
_PROGRAM = Path(__file__).with_name("run_function.py")
_RESULT = "function_result.json"
_FIXED: Mapping[str, Any] = {"command": "", "task_roles": None, "output_version": None, "wait_for_completion": True}


class BitaHubFunctionOperator(DecoratedOperator, BitaHubJobOperator):
    """Runs a Python function as a job; made by `bitahub_task`, whose docstring describes it."""

    custom_operator_name = "@task.bitahub"
    template_fields: Sequence[str] = (
        *(name for name in BitaHubJobOperator.template_fields if name not in _FIXED),
        *DecoratedOperator.template_fields,
    )
    argument_checks: ClassVar[Mapping[str, Check]] = {
        name: check for name, check in BitaHubJobOperator.argument_checks.items() if name not in _FIXED
    }
    template_fields_renderers: ClassVar[dict[str, str]] = {
        **{name: how for name, how in BitaHubJobOperator.template_fields_renderers.items() if name not in _FIXED},
        **DecoratedOperator.template_fields_renderers,
    }

    def __init__(self, *, project: str, code_path: str | None = None, **kwargs: Any) -> None:
        _refuse_fixed(kwargs)
        # The fixed arguments are given, so that no default_args reach them.
        super().__init__(project=project, code_path=code_path, kwargs_to_upstream=dict(_FIXED), **kwargs)

    def spec(self, record: JobRecord) -> JobSpec:
        """Return the submission."""
        from airflow_bitahub.operators.job_spec import mount

        spec = super().spec(record)
        return spec.model_copy(update={"datasets": [*spec.datasets, mount(self._folder(record), _MOUNT)]})

    def prepare(self, record: JobRecord) -> JobRecord:
        """Put the function and its arguments where the job finds them."""
        call = self._call()
        record = super().prepare(record)
        self._deliver(record, call)
        return record

    def job_command(self, record: JobRecord) -> str:  # noqa: ARG002
        """Return a line that calls the function in the output folder, where its files are kept."""
        from airflow_bitahub.storage import paths

        program, result = f"{_MOUNT}/{_PROGRAM.name}", f"{paths.OUTPUT}/{_RESULT}"
        return f"cd {paths.OUTPUT} && exec python3 -u {program} {_MOUNT} {result} {paths.CODE}"

    def result(self, job: Job, record: JobRecord) -> Any:
        """Return what the function has returned, and push the result of any job under names of its own."""
        from airflow_bitahub.procedures.results import read_when_visible
        from airflow_bitahub.storage.limits import RESULT_LIMIT

        if self._context is not None:
            for name, value in super().result(job, record).items():
                self._context["ti"].xcom_push(key=f"bitahub_{name}", value=value)
        what = f"result of {self._name}()"
        path = f"{record.output_path}/{_RESULT}"
        result = self.hook.run(read_when_visible(lambda: self.hook.storage.read_json(what, path, RESULT_LIMIT)))
        unusable = ""
        if "problem" in result:
            unusable = f"{self._name}() returned {result['problem']}, which JSON does not have."
        elif problem := problem_as_xcom(result["value"]):
            unusable = f"What {self._name}() returned cannot become a result in Airflow: {problem}."
        if unusable:
            raise ConfigurationError(
                f"{unusable} Job {job.name!r} succeeded, and the files that the function wrote are in "
                f"{record.output_path}. Return text, numbers, lists and mappings, then clear the task to run it again."
            )
        return result["value"]

    def lineage_inputs(self) -> Iterable[Material]:
        """Return the folders of any job, and that of the function with its arguments."""
        from airflow_bitahub.lineage.names import Material

        function = [Material(self._folder(self._record))] if self._record is not None else []
        return [*function, *super().lineage_inputs()]

    @property
    def _name(self) -> str:
        return self.python_callable.__name__

    def _folder(self, record: JobRecord) -> str:
        """Return the folder with the function and its arguments. Each attempt has its own."""
        outputs = self.hook.folders.outputs(self.project)
        return f"{outputs.rpartition('/')[0]}/functions/{record.token}-{record.attempt}"

    def _call(self) -> dict[str, Any]:
        """Return the call as JSON has it.

        :raises ConfigurationError: an argument is missing, or JSON does not have it
        """
        signature = inspect.signature(self.python_callable)
        try:
            given = signature.bind_partial(*self.op_args, **self.op_kwargs).arguments
            named = {name: value for name, value in self._context_arguments(signature).items() if name not in given}
            bound = signature.bind(*self.op_args, **{**self.op_kwargs, **named})
        except TypeError as error:
            raise ConfigurationError(f"{self._name}() cannot be called: {error}.") from None
        for name, value in bound.arguments.items():
            bound.arguments[name] = self._as_argument(name, value)
        return {"function": self._name, "args": list(bound.args), "kwargs": bound.kwargs}

    def _context_arguments(self, signature: inspect.Signature) -> dict[str, Any]:
        """Return what Airflow's context has under the names of parameters, as for other decorated tasks."""
        from airflow.sdk.definitions.context import KNOWN_CONTEXT_KEYS

        context: Mapping[str, Any] = self._context or {}
        return {name: context[name] for name in signature.parameters if name in KNOWN_CONTEXT_KEYS and name in context}

    def _as_argument(self, name: str, value: Any) -> Any:
        what = f"Argument {name!r} of {self._name}()"
        try:
            plain = as_json(what, value)
        except ConfigurationError as error:
            raise ConfigurationError(
                f"{error} Pass text, numbers, lists or mappings, such as date.isoformat(), str(path) or array.tolist()."
            ) from None
        if json.loads(json.dumps(plain)) != plain:
            raise ConfigurationError(f"{what} cannot be sent as JSON: a key of a mapping must be text.")
        return plain

    def _deliver(self, record: JobRecord, call: dict[str, Any]) -> None:
        """Write what the job runs. What an earlier try wrote for the same attempt stays."""
        from airflow_bitahub.storage.files import NewFile

        source = function_source(self.python_callable)
        files = {
            _PROGRAM.name: _PROGRAM.read_bytes(),
            "function.py": source.encode(),
            "arguments.json": json.dumps(call).encode(),
        }
        self.hook.storage.create_folder(
            f"source and arguments of {self._name}()",
            self._folder(record),
            [NewFile(*file) for file in files.items()],
        )

    def _do_render_template_fields(
        self, parent: Any, template_fields: Iterable[str], context: Context, jinja_env: Any, seen_oids: set[int]
    ) -> None:
        """Render the templates, and let Airflow mask secrets by the names of the function's parameters, too."""
        super()._do_render_template_fields(parent, template_fields, context, jinja_env, seen_oids)
        names = inspect.signature(parent.python_callable).parameters
        hide_secrets(dict(zip(names, parent.op_args, strict=False)))


def _refuse_fixed(arguments: Iterable[str]) -> None:
    """Raise TypeError for arguments that this operator sets itself."""
    if wrong := sorted({*_FIXED} & {*arguments}):
        raise TypeError(f"@task.bitahub runs the function, waits for its result, and takes no {', '.join(wrong)}")


def _check_job_arguments(arguments: dict[str, Any]) -> None:
    """Raise for wrong arguments of the job. Airflow itself looks at those of a mapped function only when it runs."""
    _refuse_fixed(arguments)
    try:
        validate_mapping_kwargs(BitaHubFunctionOperator, "partial", arguments)
    except TypeError as error:
        raise TypeError(str(error).replace("BitaHubFunctionOperator.partial()", "@task.bitahub")) from None
    for name, check in BitaHubFunctionOperator.argument_checks.items():
        if name in arguments and not is_template(arguments[name]):
            check(name, arguments[name])


def bitahub_task(
    python_callable: Callable[..., Any] | None = None, *, multiple_outputs: bool | None = None, **kwargs: Any
) -> TaskDecorator:
    """Make a task of a function that runs as a job on BitaHub; in a DAG, ``@task.bitahub(project="mnist")``.

    .. code-block:: python

        @task.bitahub(project="mnist", image="pytorch:2.4", accelerator="gtx-1080-ti")
        def train(learning_rate: float) -> dict[str, float]:
            import torch

            ...
            torch.save(model, "model.pt")  # in the job's output folder
            return {"accuracy": accuracy}


        best = choose(train.expand(learning_rate=[0.1, 0.01]))

    Only the function itself is sent, so its imports and helpers must be inside it: what it uses of the DAG's file is an
    error when the DAG is parsed. It runs in ``/output``, by the ``python3`` (3.6 or later) of the image. An exception
    fails the job, and its traceback, with the line numbers of the DAG's file, is in the job's log.

    Arguments and the returned value travel as JSON through the connection's ``storage_uri``. An argument that JSON does
    not have, such as a date or an array, fails the task before anything is submitted. Parameters named like a variable
    of Airflow's context, such as ``ds`` or ``run_id``, receive it. In the returned value, of at most 1 MiB, numbers and
    arrays of NumPy, PyTorch and TensorFlow become numbers and lists, and NaN and infinities become None.

    The returned value is the task's XCom result, as for ``@task``. The result of any job is pushed beside it, each
    entry under its name after ``bitahub_``: ``train(0.1)["bitahub_output_path"]`` is the folder that the function has
    written to.

    Parameters are those of `BitaHubJobOperator` without ``command``, ``task_roles``, ``output_version`` and
    ``wait_for_completion``, and:

    :param code_path: server path of modules that the function imports, mounted at ``/code``; default: none
    :param multiple_outputs: also push each entry of the returned mapping under its own name; default: if the function
        is annotated to return a mapping

    A type checker knows the function's parameters, but neither that they may be outputs of other tasks nor the
    arguments above: Airflow's declarations say no more.
    """
    _check_job_arguments(kwargs)
    decorate: Any = task_decorator_factory(
        multiple_outputs=multiple_outputs, decorated_operator_class=BitaHubFunctionOperator, **kwargs
    )

    def checked(function: Callable[..., Any]) -> Any:
        function_source(function)  # a function that cannot be sent is an error of the DAG's file
        return decorate(function)

    return cast("TaskDecorator", checked if python_callable is None else checked(python_callable))
