"""Reading tasks: JSONL, Parquet or YAML, selection by id, glob and SQL, and their files.

Touches the disk of the driver only. Every message names the file, the line or row, and the task.
"""

from __future__ import annotations

import fnmatch
import json
from pathlib import Path
from typing import Any, NamedTuple

import duckdb
import pyarrow as pa
from pydantic import ValidationError

from isobench_ray.errors import UserError
from isobench_ray.experiment import Selection
from isobench_ray.experiment_file import LoadedExperiment, explain, parse_yaml
from isobench_ray.parquet import read_parquet
from isobench_ray.task import Task, TaskFiles

IGNORED_PARTS = ("__pycache__", ".git", ".DS_Store")


class LoadedTask(NamedTuple):
    """A Task, the place it was read from, and the files it brings."""

    task: Task
    place: str
    files: TaskFiles


def load_tasks(loaded: LoadedExperiment) -> list[LoadedTask]:
    """The selected tasks of an experiment, in the order of the source.

    Raises:
        UserError: the source cannot be read, a task is malformed, two share an id, files are
            missing, or nothing is selected.
    """
    source = loaded.experiment.tasks
    path = loaded.resolve(source.source)
    rows = _read_rows(path)
    tasks = [_task(row, place) for place, row in rows]
    _refuse_duplicates(tasks)
    chosen = set(select([task for _, task in tasks], source.select, f"{loaded.path}: tasks.select"))
    if not chosen:
        raise UserError(
            f"{loaded.path}: tasks.select: selects none of the {len(tasks)} tasks in {path}"
        )
    return [
        LoadedTask(task, place, _task_files(task, place, path.parent))
        for place, task in tasks
        if task.task_id in chosen
    ]


def select(tasks: list[Task], selection: Selection, place: str) -> list[str]:
    """Ids of the tasks that a selection holds for, in order.

    Raises:
        UserError: an id or glob matches nothing, or the SQL expression is not valid.
    """
    ids = [task.task_id for task in tasks]
    if selection.ids is not None:
        for pattern in selection.ids:
            if not fnmatch.filter(ids, pattern):
                raise UserError(f"{place}.ids: '{pattern}' matches no task; there are {_some(ids)}")
        ids = [i for i in ids if any(fnmatch.fnmatchcase(i, p) for p in selection.ids)]
    if selection.where is not None:
        held = _where(tasks, selection.where, f"{place}.where")
        ids = [i for i in ids if i in held]
    return ids


def _where(tasks: list[Task], expression: str, place: str) -> set[str]:
    """Ids for which one SQL expression is true; DuckDB without access to files or network."""
    table = pa.table(
        {
            "task_id": pa.array([t.task_id for t in tasks], pa.string()),
            "repository": pa.array([t.repository for t in tasks], pa.string()),
            "base_commit": pa.array([t.base_commit for t in tasks], pa.string()),
            "human_commit": pa.array([t.human_commit for t in tasks], pa.string()),
            "instruction": pa.array([t.instruction for t in tasks], pa.string()),
            "workload_kind": pa.array([t.workload.kind for t in tasks], pa.string()),
            "tags": pa.array([list(t.tags) for t in tasks], pa.list_(pa.string())),
        }
    )
    with duckdb.connect(":memory:", config={"threads": 1}) as connection:
        connection.register("tasks_view", table)
        connection.execute("CREATE TABLE tasks AS SELECT * FROM tasks_view")
        connection.execute("SET enable_external_access = false")
        connection.execute("SET lock_configuration = true")
        try:
            query = f"SELECT task_id FROM tasks WHERE ({expression}\n)"
            if len(duckdb.extract_statements(query)) != 1:
                raise UserError(f"{place}: must be one SQL expression")
            return {row[0] for row in connection.execute(query).fetchall()}
        except duckdb.Error as error:
            columns = ", ".join(table.column_names)
            raise UserError(f"{place}: {error}\ncolumns: {columns}") from error


def _read_rows(path: Path) -> list[tuple[str, Any]]:
    readers = {
        ".jsonl": _read_jsonl,
        ".parquet": _read_parquet,
        ".yaml": _read_yaml,
        ".yml": _read_yaml,
    }
    reader = readers.get(path.suffix)
    if reader is None:
        raise UserError(f"{path}: tasks.from: expected one of {', '.join(readers)}")
    if not path.is_file():
        raise UserError(f"{path}: tasks.from: there is no such file")
    try:
        return reader(path)
    except (OSError, UnicodeDecodeError, pa.ArrowException) as error:
        raise UserError(f"{path}: cannot read the tasks: {error}") from error


def _read_jsonl(path: Path) -> list[tuple[str, Any]]:
    rows = []
    for number, line in enumerate(path.read_text(encoding="utf-8").split("\n"), start=1):
        if not line.strip():
            continue
        try:
            rows.append((f"{path}:{number}", json.loads(line)))
        except json.JSONDecodeError as error:
            raise UserError(f"{path}:{number}: not valid JSON: {error}") from error
    return rows


def _read_parquet(path: Path) -> list[tuple[str, Any]]:
    rows = read_parquet(path.read_bytes()).to_pylist()
    return [(f"{path}: row {n}", _without_nulls(row)) for n, row in enumerate(rows)]


def _without_nulls(value: Any) -> Any:
    """Parquet gives every struct all fields of the schema; absent ones are null.

    A map column comes as a list of pairs; it becomes a mapping again.
    """
    if isinstance(value, dict):
        return {k: _without_nulls(v) for k, v in value.items() if v is not None}
    if isinstance(value, list) and value and all(isinstance(v, tuple) for v in value):
        return {k: _without_nulls(v) for k, v in value}
    return value


def _read_yaml(path: Path) -> list[tuple[str, Any]]:
    _, data = parse_yaml(path.read_text(encoding="utf-8"), str(path))
    if not isinstance(data, list):
        raise UserError(f"{path}: a task file in YAML is a list of tasks")
    return [(f"{path}: task {n}", row) for n, row in enumerate(data, start=1)]


def _task(row: Any, place: str) -> tuple[str, Task]:
    try:
        return place, Task.model_validate(row)
    except ValidationError as error:
        name = row.get("task_id") if isinstance(row, dict) else None
        raise UserError(explain(error, f"{place}{f' ({name})' if name else ''}", Task)) from error


def _refuse_duplicates(tasks: list[tuple[str, Task]]) -> None:
    first: dict[str, str] = {}
    for place, task in tasks:
        if task.task_id in first:
            raise UserError(
                f"{place}: task_id: '{task.task_id}' stands already at {first[task.task_id]}"
            )
        first[task.task_id] = place


def _task_files(task: Task, place: str, folder: Path) -> TaskFiles:
    """Files of workload and check in one bundle."""
    files: dict[str, bytes] = {}
    of_check: list[str] = []
    for field, name in (("workload", task.workload.files), ("check", task.check.files)):
        if name is None:
            continue
        root = folder / name
        if not root.is_dir():
            raise UserError(f"{place}: {field}.files: there is no folder {root}")
        for path in sorted(root.rglob("*")):
            inside = path.relative_to(root)
            if not path.is_file() or any(part in IGNORED_PARTS for part in inside.parts):
                continue
            relative, content = inside.as_posix(), path.read_bytes()
            if field == "check":
                of_check.append(relative)
            if files.setdefault(relative, content) != content:
                raise UserError(f"{place}: {field}.files: {relative} differs from the workload's")
    if task.workload.kind == "python" and task.workload.entry not in files:
        raise UserError(f"{place}: workload.entry: there is no file {task.workload.entry}")
    return TaskFiles(files=files, visible=tuple(of_check) if task.check.visible else ())


def _some(ids: list[str]) -> str:
    more = f", ... ({len(ids)} in all)" if len(ids) > 6 else ""
    return ", ".join(ids[:6]) + more
