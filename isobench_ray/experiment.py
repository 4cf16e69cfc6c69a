"""The Experiment: one YAML file that says which tasks meet which agents, under which conditions.

Covers the models of that file, its reading, and the messages for what is wrong in it. It does not
look at tasks, repositories or machines. Settings that belong to a later release are fields here, so
that the file's shape is settled; using one is refused by name, never ignored.
"""

from __future__ import annotations

import difflib
import os
import re
from pathlib import Path
from typing import Annotated, Any, Literal

import yaml
from pydantic import (
    AfterValidator,
    BaseModel,
    Field,
    PositiveFloat,
    PositiveInt,
    ValidationError,
    model_validator,
)

from isobench_ray.errors import UserError
from isobench_ray.schema import UserModel

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
            near = _suggest(self.kind, (*BUILT_IN_AGENT_KINDS, *LATER_AGENT_KINDS))
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


class LoadedExperiment(BaseModel):
    """An Experiment together with where it was read and what it said."""

    experiment: Experiment
    path: Path
    text: str

    @property
    def folder(self) -> Path:
        """The folder that relative paths of the experiment refer to."""
        return self.path.parent

    @property
    def results_uri(self) -> str:
        """Where Results lie: an absolute path or a URI."""
        results = self.experiment.results or f"{self.experiment.name}-results"
        return results if "://" in results else str(self.resolve(results))

    def resolve(self, path: str) -> Path:
        """A path of the file, made absolute; `~` is the user's home."""
        return Path(os.path.normpath(self.folder / Path(path).expanduser()))


def load_experiment(path: str | Path, overrides: tuple[str, ...] = ()) -> LoadedExperiment:
    """Read an experiment file; `overrides` are `key.subkey=value` with values in YAML.

    Raises:
        UserError: the file is missing or not YAML, or a field is unknown, missing or wrong.
    """
    path = Path(path)
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"{path}: cannot read the experiment file: {error}") from error
    node, data = parse_yaml(text, str(path))
    if not isinstance(data, dict):
        raise UserError(f"{path}: an experiment file is a mapping (name:, tasks:, agents:, ...)")
    for override in overrides:
        _override(data, override)
    _expand_variables(data, str(path))
    try:
        experiment = Experiment.model_validate(data)
    except ValidationError as error:
        raise UserError(explain(error, str(path), Experiment, node)) from error
    return LoadedExperiment(experiment=experiment, path=path.absolute(), text=text)


class _StrictLoader(yaml.SafeLoader):
    """YAML without duplicate keys: a second `agents:` must not replace the first unseen."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        seen: set[Any] = set()
        for key_node, _ in node.value:
            key = self.construct_object(key_node, deep=True)
            if isinstance(key, str) and key in seen:
                raise yaml.constructor.ConstructorError(
                    None, None, f"the key '{key}' stands here twice", key_node.start_mark
                )
            seen.add(key if isinstance(key, str) else None)
        return super().construct_mapping(node, deep)


def parse_yaml(text: str, name: str) -> tuple[yaml.Node | None, Any]:
    """The node tree (for line numbers) and the data of one YAML document.

    Raises:
        UserError: the text is not YAML, with the line where reading stopped.
    """
    try:
        return yaml.compose(text, Loader=_StrictLoader), yaml.load(text, Loader=_StrictLoader)  # noqa: S506 - it is a SafeLoader
    except yaml.MarkedYAMLError as error:
        line = f":{error.problem_mark.line + 1}" if error.problem_mark else ""
        raise UserError(f"{name}{line}: not valid YAML: {error.problem}") from error
    except (yaml.YAMLError, ValueError) as error:  # ValueError: a date that no calendar has
        raise UserError(f"{name}: not valid YAML: {error}") from error


def _override(data: dict[str, Any], override: str) -> None:
    key, separator, value = override.partition("=")
    if not separator or not key:
        raise UserError(f"--set {override}: write key=value, such as limits.check_s=60")
    *parents, last = key.split(".")
    target: Any = data
    for part in parents:
        target = target.setdefault(part, {})
        if not isinstance(target, dict):
            raise UserError(f"--set {override}: '{part}' is not a mapping in the experiment file")
    target[last] = parse_yaml(value, f"--set {key}")[1]


def _expand_variables(data: dict[str, Any], path: str) -> None:
    """Put environment variables into the places that hold paths and URIs; nowhere else."""

    def expand(value: Any, field: str) -> Any:
        if not isinstance(value, str):
            return value

        def look_up(match: re.Match[str]) -> str:
            if match[1] not in os.environ:
                raise UserError(f"{path}: {field}: the environment variable {match[1]} is not set")
            return os.environ[match[1]]

        return re.sub(r"\$\{(\w+)\}", look_up, value)

    if "results" in data:
        data["results"] = expand(data["results"], "results")
    for section, key in (("tasks", "from"), ("environment", "python")):
        if isinstance(data.get(section), dict) and key in data[section]:
            data[section][key] = expand(data[section][key], f"{section}.{key}")
    if isinstance(data.get("repositories"), dict):
        data["repositories"] = {
            url: expand(place, f"repositories.{url}") for url, place in data["repositories"].items()
        }


def explain(
    error: ValidationError, name: str, model: type[BaseModel], node: yaml.Node | None = None
) -> str:
    """One line for each problem: file, line, field, what was expected, the near name of a typo."""
    lines = []
    problems = [(_written_place(problem["loc"]), problem) for problem in error.errors()]
    for where, problem in problems:
        if any(len(other) > len(where) and other[: len(where)] == where for other, _ in problems):
            continue  # a consequence of a problem further inside
        field = ".".join(str(part) for part in where) or "(whole file)"
        line = _line_of(node, where)
        message = problem["msg"].removeprefix("Value error, ")
        if problem["type"] == "extra_forbidden":
            keys = _keys_at(model, where[:-1])
            message = f"unknown key{_suggest(str(where[-1]), keys)}; known: {', '.join(keys)}"
        elif problem["type"] in ("tuple_type", "dict_type") and _is_union(problem["loc"]):
            message = f"expected a list, or a mapping (got {problem['input']!r})"
        elif problem["type"] == "missing":
            message = "missing, and there is no default"
        elif not isinstance(problem["input"], dict | list | tuple | BaseModel):
            message += f" (got {problem['input']!r})"
        lines.append(f"{name}{f':{line}' if line else ''}: {field}: {message}")
    return "\n".join(dict.fromkeys(lines))


def _is_union(loc: tuple[int | str, ...]) -> bool:
    """Whether a field takes several forms, of which this is one that did not fit."""
    return str(loc[-1]).startswith(("tuple[", "dict["))


def _written_place(loc: tuple[int | str, ...]) -> list[int | str]:
    """A place as the file's author sees it, without pydantic's names for union members."""
    return [part for part in loc if not str(part).startswith(("tuple[", "dict["))]


def _suggest(word: str, known: tuple[str, ...] | list[str]) -> str:
    near = difflib.get_close_matches(word, known, n=1, cutoff=0.6)
    return f"; did you mean '{near[0]}'?" if near else ""


def _keys_at(model: type[BaseModel], where: list[int | str]) -> list[str]:
    """The keys that a model accepts at a place, as they are written in the file."""
    for part in where:
        if isinstance(part, int):
            continue
        field = next((f for name, f in model.model_fields.items() if part in (name, f.alias)), None)
        inner = _model_in(field.annotation) if field else None
        if inner is not None:
            model = inner
    return [field.alias or name for name, field in model.model_fields.items()]


def _model_in(annotation: Any) -> type[BaseModel] | None:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return annotation
    for argument in getattr(annotation, "__args__", ()):
        found = _model_in(argument)
        if found is not None:
            return found
    return None


def _line_of(node: yaml.Node | None, where: list[int | str]) -> int | None:
    """The line, from 1, of the deepest node on the way to `where` that the file has."""
    if node is None:
        return None
    line = node.start_mark.line + 1
    for part in where:
        if isinstance(node, yaml.MappingNode):
            pair = next(((k, v) for k, v in node.value if k.value == str(part)), None)
            if pair is None:
                return line
            line, node = pair[0].start_mark.line + 1, pair[1]
        elif isinstance(node, yaml.SequenceNode) and isinstance(part, int):
            if part >= len(node.value):
                return line  # added by an override
            node = node.value[part]
            line = node.start_mark.line + 1
    return line
