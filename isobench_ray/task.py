"""The Task: one commit to win, as a self-contained record.

Covers the record, its workload and check. Files of workload and check travel as a `TaskFiles`
bundle beside the record; their content hash is part of the measure identity, their place is not.
"""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, PositiveInt, StringConstraints, model_validator

from isobench_ray.experiment import NAME_PATTERN
from isobench_ray.path_rules import PathRule
from isobench_ray.schema import UserModel, canonical_json, sha256_hex

PARENT = "parent"
"""For `base_commit`: the one parent of `human_commit`."""


CommitHash = Annotated[str, StringConstraints(pattern=r"^[0-9a-f]{7,40}$")]
BaseCommit = Annotated[str, StringConstraints(pattern=rf"^({PARENT}|[0-9a-f]{{7,40}})$")]

LATER_WORKLOAD_KINDS = ("vllm-serve", "vllm-throughput", "vllm-latency", "sglang-serve")


class Metric(UserModel):
    """How to read one number that a workload yields."""

    better: Literal["lower", "higher"]
    """Which direction is an improvement."""
    primary: bool = False
    """Whether the verdict rests on this metric; exactly one does."""


class Workload(UserModel):
    """What is timed, and how its metrics are read."""

    kind: str = "command"
    """command: a program that writes one JSON object of metrics to $ISOBENCH_METRICS; python: a
    module with setup, prepare and run whose passes alternate between the arms (lockstep)."""
    files: str | None = None
    """Folder with the workload's files, relative to the task file."""
    command: str | None = None
    """For kind command: a shell command, run in the arm's tree."""
    entry: str = "workload.py"
    """For kind python: the module inside `files`."""
    passes: PositiveInt = 9
    """For kind python: timed passes of a block; its sample is their median."""
    warmup_passes: int = Field(default=2, ge=0)
    """For kind python: passes before, which are not timed."""
    metrics: dict[str, Metric] = Field(
        default_factory=lambda: {"pass_ms": Metric(better="lower", primary=True)}
    )
    """By name: the metrics that it yields."""

    @model_validator(mode="after")
    def _whole(self) -> Workload:
        if self.kind in LATER_WORKLOAD_KINDS:
            raise ValueError(f"workload kind '{self.kind}' is not in this release")
        if self.kind not in ("command", "python"):
            raise ValueError(f"unknown workload kind '{self.kind}'; known: command, python")
        if (self.command is not None) != (self.kind == "command"):
            raise ValueError("`command` belongs to kind command, which needs it")
        if self.kind == "python" and self.files is None:
            raise ValueError("kind python needs `files`: the folder with its module")
        if self.kind == "python" and list(self.metrics) != ["pass_ms"]:
            raise ValueError("kind python yields one metric, pass_ms")
        if [metric.primary for metric in self.metrics.values()].count(True) != 1:
            raise ValueError("exactly one metric must be `primary: true`")
        return self

    @property
    def primary(self) -> tuple[str, Metric]:
        """Name and reading of the metric on which the verdict rests."""
        return next((name, metric) for name, metric in self.metrics.items() if metric.primary)


class Check(UserModel):
    """What must still be right: a command that ends with status 0 if it is."""

    command: str
    """A shell command, run in the arm's tree; $ISOBENCH_TASK is the folder with its files."""
    files: str | None = None
    """Folder with the check's files, relative to the task file."""
    visible: bool = False
    """Whether the agent may read the check's files."""


class Task(UserModel):
    """One commit to win."""

    task_id: str = Field(pattern=NAME_PATTERN)
    """Its name; distinct within an experiment."""
    repository: str = Field(min_length=1)
    """URL of the repository; the name of its history, wherever that is fetched from."""
    base_commit: BaseCommit = PARENT
    """The commit that the agent starts from: a parent of `human_commit`. A full hash, the
    beginning of one, or `parent`: the one parent. Lock and records hold full hashes."""
    human_commit: CommitHash
    """The commit whose gain is the yardstick: a full hash, or the beginning of one."""
    instruction: str = Field(min_length=1)
    """What the agent is told: the bottleneck, not the fix."""
    workload: Workload
    """What is timed."""
    check: Check
    """What must still be right."""
    target_files: tuple[PathRule, ...] = ()
    """Where a change belongs, in .gitignore's syntax; empty: anywhere. A verdict names what a
    patch changes besides; the experiment's `patch.enforce` says whether that quarantines it."""
    protected_paths: tuple[PathRule, ...] = ()
    """What a patch should not change, in .gitignore's syntax; named and enforced likewise."""
    tags: tuple[str, ...] = ()
    """Free words for selection; part of no identity."""


class TaskFiles(UserModel):
    """The files of a task's workload and check, as they are put before a run ($ISOBENCH_TASK)."""

    files: dict[str, bytes] = Field(default_factory=dict)
    """Content by path relative to $ISOBENCH_TASK."""
    visible: tuple[str, ...] = ()
    """Paths that the agent may read too: those of a visible check."""

    @property
    def visible_files(self) -> dict[str, bytes]:
        """What the agent may read."""
        return {path: self.files[path] for path in self.visible}

    @property
    def visible_sha256(self) -> str | None:
        """Hash over what the agent may read; None where that is nothing."""
        return TaskFiles(files=self.visible_files).sha256 if self.visible else None

    @property
    def sha256(self) -> str:
        """Hash over paths and contents."""
        return sha256_hex(canonical_json({k: sha256_hex(v) for k, v in self.files.items()}))
