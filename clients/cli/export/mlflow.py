"""Runs in MLflow: a search is an experiment, an ended trial a run of it."""

import os
from collections.abc import Iterator, Sequence
from importlib.util import find_spec
from typing import TYPE_CHECKING, TypeVar

from clients.cli.export.runs import Run
from nasmesh.errors import Invalid, Unavailable

if TYPE_CHECKING:
    from mlflow.tracking import MlflowClient

_TRIAL = "nasmesh.trial"
_STATUS = {"failed": "FAILED", "lost": "KILLED", "stopped": "KILLED"}
# What one call of a tracking server takes.
_METRICS, _PARAMETERS = 1000, 100
# Kept by libraries that the client alone (mlflow-skinny) does not bring.
_DATABASES = frozenset({"sqlite", "postgresql", "mysql", "mssql"})
_FOR_DATABASES = ("sqlalchemy", "alembic")

Item = TypeVar("Item")


def log_runs(runs: list[Run], uri: str, experiment: str) -> int:
    """Log each run that is not there whole yet; return how many were logged.

    `uri` is a tracking server, a database, or a folder. Raises Invalid (MLFLOW_MISSING, MLFLOW_URI) and Unavailable
    (MLFLOW_DOWN).
    """
    client, failure = _open(uri)
    try:
        found = client.get_experiment_by_name(experiment)
        identifier = found.experiment_id if found is not None else client.create_experiment(experiment)
        known = _known(client, identifier)
        logged = 0
        for run in runs:
            if run.trial not in known:
                _log(client, identifier, run)
                logged += 1
    except failure as error:
        text = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise Unavailable("MLFLOW_DOWN", f"--mlflow: {uri} does not take runs: {text[:300]}") from error
    return logged


def _open(uri: str) -> "tuple[MlflowClient, type[Exception]]":
    # It reports usage to its vendor unless told not to, and keeps folders only for those who ask.
    os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
    os.environ.setdefault("MLFLOW_ALLOW_FILE_STORE", "true")
    try:
        from mlflow.exceptions import MlflowException
        from mlflow.tracking import MlflowClient
    except ModuleNotFoundError as error:
        message = f"--mlflow needs {error.name}, which is not installed; pip install 'nasmesh[tracking]'"
        raise Invalid("MLFLOW_MISSING", message, field="mlflow") from error
    if uri.split(":")[0].split("+")[0] in _DATABASES and not all(map(find_spec, _FOR_DATABASES)):
        message = f"--mlflow: {uri.split(':')[0]} is a database, which needs the whole of MLflow; pip install mlflow"
        raise Invalid("MLFLOW_MISSING", message, field="mlflow")
    try:
        return MlflowClient(tracking_uri=uri), MlflowException
    except MlflowException as error:
        raise Invalid("MLFLOW_URI", f"--mlflow: {uri} cannot be opened: {str(error)[:300]}", field="mlflow") from error


def _known(client: "MlflowClient", experiment: str) -> set[str]:
    """Return the trials that are there; a run that was begun and not ended is deleted, to be logged anew."""
    known: set[str] = set()
    token = None
    while True:
        page = client.search_runs([experiment], page_token=token)
        for run in page:
            trial = run.data.tags.get(_TRIAL, "")
            if trial and run.info.status == "RUNNING":
                client.delete_run(run.info.run_id)
            elif trial:
                known.add(trial)
        token = page.token
        if not token:
            return known


def _log(client: "MlflowClient", experiment: str, run: Run) -> None:
    from mlflow.entities import Metric, Param

    end_ms = round(1000 * run.end_s)
    begun = client.create_run(experiment, start_time=round(1000 * run.begin_s), tags=run.tags, run_name=run.folder)
    identifier = begun.info.run_id
    for points in _pieces(run.points, _METRICS):
        client.log_batch(identifier, metrics=[Metric(one.name, one.value, end_ms, one.step) for one in points])
    for pairs in _pieces(list(run.parameters.items()), _PARAMETERS):
        client.log_batch(identifier, params=[Param(name, value) for name, value in pairs])
    client.set_terminated(identifier, _STATUS.get(run.outcome, "FINISHED"), end_ms)


def _pieces(items: Sequence[Item], size: int) -> Iterator[Sequence[Item]]:
    for first in range(0, len(items), size):
        yield items[first : first + size]
