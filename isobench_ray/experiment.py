"""The Experiment: one YAML file that says which tasks meet which agents, under which conditions.

Covers the models of that file; experiment_file.py reads it. Settings that belong to a later release
are fields here, so that the file's shape is settled; using one is refused by name, never ignored.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import (
    AfterValidator,
    Field,
    PositiveFloat,
    PositiveInt,
    model_validator,
)

from isobench_ray.path_rules import PathRule
from isobench_ray.schema import UserModel, suggest

NAME_PATTERN = r"^[A-Za-z0-9][A-Za-z0-9._-]{0,99}$"
BUILT_IN_AGENT_KINDS = ("nop", "oracle", "scripted")
LATER_AGENT_KINDS = (
    "claude_code",
    "codex",
    "command",
    "mini_swe_agent",
    "openhands",
    "predictions",
    "trae",
)


def _later(what: str) -> AfterValidator:
    """Refuse a value other than None: the setting belongs to a later release."""

    def refuse(value: Any) -> Any:
        if value is not None:
            raise ValueError(f"{what} is not in this release; remove the setting")
        return value

    return AfterValidator(refuse)


class Selection(UserModel):
    """Which tasks of a source take part; both conditions must hold."""

    ids: tuple[str, ...] | None = None
    """Task ids or shell globs (`vllm-*`); a task that matches any of them is selected."""
    where: str | None = None
    """One SQL expression over the task's columns (DuckDB), such as `list_contains(tags, 'x')`."""


class TaskSource(UserModel):
    """Where tasks come from."""

    source: str = Field(alias="from")
    """A .jsonl, .parquet, .yaml or .yml file, relative to the experiment file."""
    select: Selection = Selection()
    """Which of them take part."""


class EditStep(UserModel):
    """Replace one passage of a file."""

    path: str
    """The file, relative to the workspace."""
    find: str
    """The passage; it must occur exactly once."""
    replace: str
    """What stands there afterwards."""


class WriteStep(UserModel):
    """Write a whole file."""

    path: str
    """The file, relative to the workspace."""
    text: str
    """Its new content."""


class ScriptStep(UserModel):
    """One step of a scripted agent: exactly one of its fields."""

    edit: EditStep | None = None
    """Replace one passage of a file in the workspace."""
    write: WriteStep | None = None
    """Write a file in the workspace."""
    apply: str | None = None
    """Apply a patch file (path relative to the experiment file) to the workspace."""
    submit: str | None = None
    """Hand in a patch file as the agent's answer, instead of what the workspace then holds."""
    run: str | None = None
    """Run a shell command in the workspace; a status other than 0 ends the agent with it."""
    sleep_s: PositiveFloat | None = None
    """Wait so many seconds."""
    exit: int | None = Field(default=None, ge=0, le=255)
    """End the agent's process with this status."""

    @model_validator(mode="after")
    def _one_field(self) -> ScriptStep:
        kinds = type(self).model_fields
        given = [name for name in kinds if getattr(self, name) is not None]
        if len(given) != 1:
            words = f"a step is exactly one of {', '.join(kinds)}"
            raise ValueError(f"{words}; got {', '.join(given) or 'none'}")
        return self


class AgentLimits(UserModel):
    """What an agent may use in one trial; a value here replaces the experiment's."""

    agent_working_s: PositiveFloat | None = None
    """Seconds of work. Nothing reports waiting for a model yet, so all time counts as work."""
    agent_wall_s: PositiveFloat | None = None
    """Seconds on the clock."""


class AgentSpec(UserModel):
    """One agent of the experiment."""

    name: str = Field(pattern=NAME_PATTERN)
    """Its name in this experiment: part of every trial's id."""
    kind: str
    """Which adapter runs it: nop, oracle or scripted in this release."""
    select: Selection = Selection()
    """Which of the experiment's tasks it meets."""
    limits: AgentLimits = AgentLimits()
    """Limits of its own."""
    steps: tuple[ScriptStep, ...] | dict[str, tuple[ScriptStep, ...]] | None = None
    """For kind scripted: the steps, or the steps by task id."""
    model: Annotated[str | None, _later("a model (agents that call one)")] = None
    """The model it calls."""
    sampling: Annotated[dict[str, Any] | None, _later("sampling")] = None
    """Sampling parameters of the model."""
    max_steps: Annotated[int | None, _later("max_steps")] = None
    """How many steps it may take."""

    @model_validator(mode="after")
    def _known_kind(self) -> AgentSpec:
        if self.kind in LATER_AGENT_KINDS:
            raise ValueError(f"agent kind '{self.kind}' is not in this release")
        if self.kind not in BUILT_IN_AGENT_KINDS:
            near = suggest(self.kind, (*BUILT_IN_AGENT_KINDS, *LATER_AGENT_KINDS))
            kinds = ", ".join(BUILT_IN_AGENT_KINDS)
            raise ValueError(f"unknown agent kind '{self.kind}'{near}; known: {kinds}")
        if (self.steps is not None) != (self.kind == "scripted"):
            raise ValueError("`steps` belongs to kind scripted, which needs it")
        return self


class Limits(UserModel):
    """Time and size limits of every trial and measurement."""

    agent_working_s: PositiveFloat = 7200
    """Seconds of an agent's work. All time counts as work in this release."""
    agent_wall_s: PositiveFloat = 14400
    """Seconds on the clock for an agent."""
    check_s: PositiveFloat = 900
    """Seconds for one run of a check."""
    workload_s: PositiveFloat = 1800
    """Seconds for one run of a workload (python workloads: one block of one arm)."""
    output_mb: PositiveFloat = 16
    """Megabytes kept of each output stream of a process; the rest is read and dropped."""


class StageResources(UserModel):
    """What one worker of a stage owns."""

    cpus: PositiveFloat = 1
    """CPU cores."""
    gpus: float = Field(default=0, ge=0)
    """GPUs."""
    gpu_type: str | None = None
    """Ray's accelerator type of those GPUs, such as H100."""
    concurrency: PositiveInt | None = None
    """Most workers at a time. Unset: as many as fit; for measuring without GPUs one."""


class Resources(UserModel):
    """What the workers of both stages own."""

    solve: StageResources = StageResources()
    """A worker that runs agents."""
    measure: StageResources = StageResources()
    """A worker that measures; it has its device to itself."""
    wait_s: float = Field(default=600, ge=0)
    """How long to wait for a cluster (`--address`) to hold these shapes."""


class BlockCounts(UserModel):
    """How many blocks a session measures."""

    pilot: int = Field(default=7, ge=3)
    """Blocks measured before the number of blocks is fixed from their variance."""
    max: int = Field(default=15, ge=3)
    """Most blocks."""

    @model_validator(mode="after")
    def _ordered(self) -> BlockCounts:
        if self.max < self.pilot:
            raise ValueError(f"max ({self.max}) must not be below pilot ({self.pilot})")
        return self


class MeasureSettings(UserModel):
    """The rule of measurement and verdict; part of every measure identity."""

    margin_ratio: float = Field(default=0.05, gt=0, lt=1)
    """The margin delta: differences within it count as none. 0.05 is 5 %."""
    blocks: BlockCounts = BlockCounts()
    """How many blocks."""
    guardrails: Annotated[dict[str, Any] | None, _later("measure.guardrails")] = None
    """Metrics that must not get worse."""
    hack_checks: Annotated[dict[str, Any] | None, _later("measure.hack_checks")] = None
    """Checks for gains that are none."""


class EnvironmentSpec(UserModel):
    """The environment in which agents, checks and workloads run."""

    kind: Literal["host", "venv", "vllm", "container"] = "host"
    """host: an interpreter that the node has. The others come with a later release."""
    python: str | None = None
    """Path of the interpreter; unset: the one that runs isobench-ray on the node."""

    @model_validator(mode="after")
    def _only_host(self) -> EnvironmentSpec:
        if self.kind != "host":
            raise ValueError(f"environment kind '{self.kind}' is not in this release; use host")
        return self


class SandboxPolicy(UserModel):
    """How processes of agents, checks and workloads are contained."""

    kind: Literal["auto", "bubblewrap", "container", "none"] = "auto"
    """auto: bubblewrap, else a Failure; none: no containment, for trusted agents only."""
    network: str = "none"
    """Only `none` in this release: no network at all."""

    @model_validator(mode="after")
    def _only_built(self) -> SandboxPolicy:
        if self.kind == "container":
            raise ValueError("sandbox kind 'container' is not in this release; use bubblewrap")
        if self.network != "none":
            raise ValueError(f"sandbox network '{self.network}' is not in this release; use none")
        return self


class WorkspaceSettings(UserModel):
    """How the checkout of the base commit is made that an agent works in."""

    kind: Literal["auto", "copy", "overlay"] = "auto"
    """auto: an overlay where a worker may mount one and hides its lower layer (bubblewrap), else
    a copy. Both hold the same; part of no identity."""
    submodules: Literal["empty", "fill", "refuse"] = "empty"
    """empty: their folders are empty, as after `git clone`; fill: their files at the recorded
    commit become part of the base, theirs too; refuse: a base that has one is a Failure."""


class PatchPolicy(UserModel):
    """What belongs to a patch, besides what the base's ignore rules say."""

    exclude: tuple[PathRule, ...] = ()
    """New files that are no part of a patch, such as an agent's notes, in .gitignore's syntax.
    Caches of Python's tools are always left out."""
    include: tuple[PathRule, ...] = ()
    """New files that are part of a patch although an ignore rule hides them, such as tables of
    tuned parameters, in .gitignore's syntax."""
    max_file_mb: PositiveFloat = 20
    """Larger changed files stay as in the base, and are listed."""
    max_total_mb: PositiveFloat = 200
    """Most megabytes of all changed files with their names; the largest beyond stay as in the
    base. A patch that an agent hands in and that is larger does not apply."""
    max_files: PositiveInt = 20_000
    """Most changed files; those beyond stay as in the base, the largest first."""
    enforce: tuple[Literal["target_files", "protected_paths"], ...] = ()
    """Which of the task's rules quarantine a patch that breaks them. Always recorded. Part of no
    identity: it can be changed without a new trial."""


class Experiment(UserModel):
    """One experiment: tasks x agents x attempts, with limits and resources."""

    name: str = Field(pattern=NAME_PATTERN)
    """Name of the experiment; Results belong to one name."""
    tasks: TaskSource
    """Where the tasks come from, and which of them take part."""
    repositories: dict[str, str] = Field(default_factory=dict)
    """By repository URL: where its history can be had (a path, bundle, URL or patch series)."""
    agents: tuple[AgentSpec, ...] = Field(min_length=1)
    """The agents that meet the tasks."""
    attempts: PositiveInt = 1
    """How often each agent tries each task."""
    seed: int = 0
    """Seed of the order in which agents and attempts of a task are run."""
    limits: Limits = Limits()
    """Limits of time and size."""
    resources: Resources = Resources()
    """What workers own."""
    measure: MeasureSettings = MeasureSettings()
    """The rule of measurement."""
    environment: EnvironmentSpec = EnvironmentSpec()
    """Where code runs."""
    workspace: WorkspaceSettings = WorkspaceSettings()
    """How the base is checked out."""
    patch: PatchPolicy = PatchPolicy()
    """What belongs to a patch."""
    sandbox: SandboxPolicy = SandboxPolicy()
    """How it is contained."""
    budget: Annotated[dict[str, Any] | None, _later("budget")] = None
    """Most dollars, GPU hours and tokens."""
    stop_if: Annotated[dict[str, Any] | None, _later("stop_if")] = None
    """Share of failures at which the run stops."""
    results: str | None = None
    """Where Results lie; unset: the folder NAME-results beside the experiment file."""

    @model_validator(mode="after")
    def _distinct_agents(self) -> Experiment:
        names = [agent.name for agent in self.agents]
        twice = sorted({name for name in names if names.count(name) > 1})
        if twice:
            raise ValueError(f"agent names must differ; used more than once: {', '.join(twice)}")
        return self
