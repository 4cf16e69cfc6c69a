"""Reading what users write: YAML with line numbers, overrides, and messages for what is wrong.

Every message names the file, the line, the field and what would be accepted. Nothing here looks at
tasks, repositories or machines.
"""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import Any

import yaml
from pydantic import BaseModel, ValidationError

from isobench_ray.errors import UserError
from isobench_ray.experiment import Experiment
from isobench_ray.schema import suggest


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
            message = f"unknown key{suggest(str(where[-1]), keys)}; known: {', '.join(keys)}"
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
