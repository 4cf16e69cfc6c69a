"""The Trial (task x agent x attempt), its executions, its patch, and the record it leaves.

Outcomes say what became of the agent's work; Failures (failure.py) say that there was none to
judge. `TrialRecord` is journal.json: its own fields, and beside them, marked as such, the fields
that readers of ISO-Bench's journal.json know (ISO-Bench/ISO-Bench, bench/journal.py).
"""

from __future__ import annotations

from datetime import datetime
from enum import StrEnum
from typing import Literal

from isobench_ray.failure import Failure
from isobench_ray.schema import RECORD_SCHEMA_VERSION, RecordModel


class Outcome(StrEnum):
    """What became of a trial's solve stage."""

    PATCH = "patch"
    NO_PATCH = "no_patch"
    TIMEOUT = "timeout"
    STEP_LIMIT = "step_limit"
    BUDGET_LIMIT = "budget_limit"
    REFUSED = "refused"
    AGENT_ERROR = "agent_error"


def trial_id(task_id: str, agent: str, attempt: int) -> str:
    """The id of a trial, which is also its place in Results: task/agent/attempt-k."""
    return f"{task_id}/{agent}/attempt-{attempt}"


class Trial(RecordModel):
    """One planned trial."""

    task_id: str
    """The task."""
    agent: str
    """Name of the agent in the experiment."""
    attempt: int
    """Scientific repetition, from 1."""
    solve_identity: str | None = None
    """Hash of all that can change what the agent does; null when the base cannot be resolved."""

    @property
    def trial_id(self) -> str:
        """task/agent/attempt-k."""
        return trial_id(self.task_id, self.agent, self.attempt)


class Artifact(RecordModel):
    """A file of an execution."""

    name: str
    """Name relative to the execution's folder."""
    sha256: str
    """Hash of its content."""
    size_bytes: int
    """Its size."""


class Patch(RecordModel):
    """The diff that a trial yielded, by its hashes; the text is model_patch.diff."""

    sha256: str
    """Hash of the diff text."""
    size_bytes: int
    """Length of the diff text."""
    base_tree: str
    """Git tree id that it applies to."""
    tree: str | None
    """Git tree id after strict application; null when it does not apply."""
    apply_error: str | None = None
    """Git's words when it does not apply."""
    files: tuple[str, ...] = ()
    """Paths that it changes."""
    lines_added: int | None = None
    """Added lines; null when unknown."""
    lines_removed: int | None = None
    """Removed lines; null when unknown."""


class SandboxFacts(RecordModel):
    """How a process was contained."""

    mechanism: str
    """bubblewrap or none."""
    version: str | None = None
    """Version of the mechanism."""
    network: str
    """none, or open where there is no sandbox."""


class WorkerFacts(RecordModel):
    """Where an execution ran."""

    hostname: str
    """Name of the node."""
    boot_id: str
    """The kernel's boot id: tells a living process from one before a reboot."""
    pid: int
    """Process id of the worker."""
    start_ticks: int
    """Start time of that process in clock ticks since boot."""
    python: str
    """Version of the worker's interpreter."""
    cpu: str | None = None
    """Model name of the processor."""
    gpus: tuple[str, ...] = ()
    """Ids of the GPUs that the worker owns."""


class ExecutionClaim(RecordModel):
    """claim.json: written before any work of an execution starts."""

    schema_version: int = RECORD_SCHEMA_VERSION
    """Version of this record's form."""
    work: Literal["trial", "session", "admission"]
    """What is executed."""
    work_id: str
    """Id of the trial, session or admission."""
    execution: int
    """Number of the execution, from 1."""
    epoch: int
    """Epoch of the driver that leased it."""
    identity: str
    """Solve or measure identity."""
    worker: WorkerFacts
    """Where it runs."""
    claimed_at: datetime
    """When."""


class ExecutionEnd(RecordModel):
    """end.json: how an execution ended; an execution without one was lost."""

    schema_version: int = RECORD_SCHEMA_VERSION
    """Version of this record's form."""
    outcome: Outcome | None = None
    """For a trial that has one: its outcome."""
    failure: Failure | None = None
    """The failure, if it ended in one."""
    ended_at: datetime
    """When."""
    duration_s: float | None = None
    """Seconds from claim to end; null when the worker did not live to tell."""
    cost_usd: float | None = None
    """Dollars spent; null when unknown."""
    artifacts: tuple[Artifact, ...] = ()
    """The files it wrote."""


class Usage(RecordModel):
    """What an agent used; every field is null when unknown."""

    steps: int | None = None
    """Steps in the agent's own count."""
    input_tokens: int | None = None
    """Fresh input tokens."""
    cache_read_tokens: int | None = None
    """Input tokens read from a prompt cache."""
    cache_write_tokens: int | None = None
    """Input tokens written to a prompt cache."""
    output_tokens: int | None = None
    """Output tokens, reasoning included."""
    cost_usd: float | None = None
    """Dollars."""


class UpstreamCommits(RecordModel):
    """ISO-Bench's names for the two commits."""

    pre: str
    """The base commit."""
    human: str
    """The human's commit."""


class UpstreamMetrics(RecordModel):
    """ISO-Bench's metrics block."""

    time_to_first_edit_s: float | None = None
    """Seconds to the agent's first edit; null when unknown."""
    commit_count: int | None = None
    """The agent's commits; null when unknown."""
    patch_size_loc: int | None = None
    """Added plus removed lines."""
    changed_files_count: int | None = None
    """Files that the patch changes."""
    violations_count: int | None = None
    """Changes outside of allowed files; null when no files were named."""


class UpstreamTimestamps(RecordModel):
    """ISO-Bench's timestamps block."""

    written: float
    """Unix seconds."""


class TrialRecord(RecordModel):
    """journal.json: a trial that has an outcome. Published last, once."""

    schema_version: int = RECORD_SCHEMA_VERSION
    """Version of this record's form."""
    task_id: str
    """The task. (ISO-Bench has the name of the repository's task file here.)"""
    agent: str
    """Name of the agent in the experiment."""
    agent_kind: str
    """The adapter."""
    agent_version: str
    """Version of the agent's program."""
    attempt: int
    """Scientific repetition, from 1."""
    execution: int
    """Number of the execution that won."""
    solve_identity: str
    """Hash of all that can change what the agent does."""
    outcome: Outcome
    """What became of the trial."""
    outcome_detail: str | None = None
    """One sentence more, such as the limit that was reached or the exit status."""
    patch: Patch | None
    """The patch; null when there is none."""
    base_commit: str
    """The commit that the agent started from."""
    base_tree: str
    """Its git tree id."""
    human_commit: str
    """The human's commit."""
    prompt_sha256: str
    """Hash of the rendered prompt."""
    model_requested: str | None = None
    """The model that the experiment names."""
    model_served: str | None = None
    """The model that answered."""
    usage: Usage = Usage()
    """What the agent used."""
    exit_code: int | None
    """Exit status of the agent's process; negative for a signal; null when there was none."""
    output_truncated: bool = False
    """Whether output of the agent beyond `limits.output_mb` was dropped."""
    sandbox: SandboxFacts
    """How the agent was contained."""
    worker: WorkerFacts
    """Where it ran."""
    excluded: tuple[str, ...] = ()
    """What was left out of the workspace's changes: `path: reason`, or `folder/ (N files): …`."""
    workspace_kind: str | None = None
    """How the workspace was made: copy or overlay; null for a prepared agent."""
    concurrency: int | None = None
    """Agents that ran on the cluster when this one started; null when unknown."""
    started_at: datetime
    """Start of the execution."""
    ended_at: datetime
    """End of the execution."""
    agent_s: float
    """Seconds of the agent's process (monotonic)."""
    workspace_s: float
    """Seconds to make the workspace (monotonic)."""
    extract_s: float
    """Seconds to take and verify the patch (monotonic)."""
    artifacts: tuple[Artifact, ...]
    """Every file of the winning execution, with hash and size."""
    status: Literal["success", "error", "max_steps_exceeded"]
    """ISO-Bench's field: success, error or max_steps_exceeded."""
    commits: UpstreamCommits
    """ISO-Bench's field."""
    metrics: UpstreamMetrics
    """ISO-Bench's field."""
    timestamps: UpstreamTimestamps
    """ISO-Bench's field."""

    @property
    def trial_id(self) -> str:
        """task/agent/attempt-k."""
        return trial_id(self.task_id, self.agent, self.attempt)


def upstream_status(outcome: Outcome) -> Literal["success", "error", "max_steps_exceeded"]:
    """ISO-Bench's status for an outcome of ours."""
    if outcome is Outcome.PATCH:
        return "success"
    return "max_steps_exceeded" if outcome is Outcome.STEP_LIMIT else "error"
