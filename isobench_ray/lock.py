"""lock.json: what an experiment resolved to. The plan that every count of a report refers to."""

from __future__ import annotations

from datetime import datetime
from typing import Any

from pydantic import ValidationError

from isobench_ray.errors import RecordError
from isobench_ray.failure import Failure
from isobench_ray.results import Results
from isobench_ray.schema import RECORD_SCHEMA_VERSION, RecordModel
from isobench_ray.trial import Trial


class LockedTask(RecordModel):
    """A task as it was resolved."""

    task_id: str
    """The task."""
    repository: str
    """URL of its repository."""
    base_commit: str
    """Where agents start."""
    human_commit: str
    """The yardstick."""
    instruction: str
    """What agents are told."""
    tags: tuple[str, ...]
    """Free words."""
    workload: dict[str, Any]
    """What is timed, as written."""
    check: dict[str, Any]
    """What must still be right, as written."""
    files_sha256: str
    """Hash of the files of workload and check."""
    target_files: tuple[str, ...] = ()
    """Where a change belongs."""
    protected_paths: tuple[str, ...] = ()
    """What a patch should not change."""
    submodules: tuple[dict[str, str | None], ...] = ()
    """Gitlinks of base_commit: path, url and commit."""
    base_tree: str | None
    """Git tree id of the base commit; null when it cannot be resolved."""
    human_tree: str | None
    """Git tree id of the human's commit; null when it cannot be resolved."""
    human_diff_sha256: str | None
    """Hash of the human's diff; null when it cannot be resolved."""
    conditions: str | None
    """Hash of all that its sessions are measured under; null when it cannot be resolved."""
    failure: Failure | None
    """Why it cannot be resolved."""


class LockedAnalysis(RecordModel):
    """The rule of measurement and verdict."""

    margin_ratio: float
    """The margin delta."""
    pilot_blocks: int
    """Blocks before the number of blocks is fixed."""
    max_blocks: int
    """Most blocks."""
    enforce: tuple[str, ...] = ()
    """Which of the tasks' rules quarantine a patch that breaks them."""


class LockedAgent(RecordModel):
    """An agent as it was resolved."""

    name: str
    """Its name in the experiment."""
    kind: str
    """The adapter."""
    version: str
    """Version of its program."""


class Lock(RecordModel):
    """lock.json: what the experiment resolved to; the plan that every count refers to."""

    schema_version: int = RECORD_SCHEMA_VERSION
    """Version of this record's form."""
    name: str
    """Name of the experiment."""
    code_version: str
    """Version of isobench-ray that wrote this last."""
    python: str
    """Version of the driver's interpreter."""
    created_at: datetime
    """First start."""
    updated_at: datetime
    """Latest start."""
    analysis: LockedAnalysis
    """The frozen rule of measurement."""
    experiment: dict[str, Any]
    """The experiment with all overrides, but for what keeps its default."""
    tasks: tuple[LockedTask, ...]
    """All tasks that were ever planned here."""
    agents: tuple[LockedAgent, ...]
    """All agents that were ever planned here."""
    trials: tuple[Trial, ...]
    """All trials that were ever planned here."""


def read_lock(results: Results) -> Lock | None:
    """The lock of Results; None where there is none."""
    data = results.store.get("lock.json")
    try:
        return None if data is None else Lock.model_validate_json(data)
    except ValidationError as error:
        raise RecordError(
            f"{results.uri}/lock.json: not a lock of isobench-ray: {error}"
        ) from error
