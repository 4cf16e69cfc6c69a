"""Task files: three formats that mean the same, selection, and what is wrong with a file."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import duckdb
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import yaml

from isobench_ray.errors import UserError
from isobench_ray.experiment import Selection
from isobench_ray.experiment_file import LoadedExperiment
from isobench_ray.task import Task
from isobench_ray.task_source import LoadedTask, load_tasks, select
from tests.builders import experiment, task_row

ROWS = [
    task_row("engine-a", tags=["fast", "small"]),
    task_row("engine-b", tags=[], instruction='It is "slow".\nVery — slow.'),
    task_row(
        "other-c",
        workload={
            "command": "./bench",
            "metrics": {
                "req_per_s": {"better": "higher", "primary": True},
                "ttft_ms": {"better": "lower"},
            },
        },
        check={"command": "true", "visible": True},
        tags=["fast"],
    ),
]


def _loaded(folder: Path, source: str, **select: Any) -> LoadedExperiment:
    exp = experiment(tasks={"from": source, "select": select})
    return LoadedExperiment(experiment=exp, path=folder / "exp.yaml", text="")


def _write_jsonl(folder: Path, rows: list[Any]) -> str:
    text = "\n\n".join(json.dumps(row, ensure_ascii=False) for row in rows)
    (folder / "tasks.jsonl").write_text(text + "\n", encoding="utf-8")
    return "tasks.jsonl"


def _write_yaml(folder: Path, rows: list[Any]) -> str:
    (folder / "tasks.yaml").write_text(yaml.safe_dump(rows), encoding="utf-8")
    return "tasks.yaml"


def _write_parquet(folder: Path, rows: list[Any]) -> str:
    pq.write_table(pa.Table.from_pylist(rows), folder / "tasks.parquet")
    return "tasks.parquet"


def _write_parquet_with_a_map(folder: Path, rows: list[Any]) -> str:
    """Metrics as a map column: what a table of many tasks would have."""
    metric = pa.struct([("better", pa.string()), ("primary", pa.bool_())])
    workload = pa.struct([("command", pa.string()), ("metrics", pa.map_(pa.string(), metric))])
    table = pa.Table.from_pylist(rows)
    workloads = [r["workload"] | {"metrics": list(r["workload"]["metrics"].items())} for r in rows]
    place = table.schema.get_field_index("workload")
    table = table.set_column(place, "workload", pa.array(workloads, workload))
    pq.write_table(table, folder / "map.parquet")
    return "map.parquet"


def _load(folder: Path, rows: list[Any], **selection: Any) -> list[LoadedTask]:
    return load_tasks(_loaded(folder, _write_jsonl(folder, rows), **selection))


def _ids(folder: Path, rows: list[Any], **selection: Any) -> list[str]:
    return [item.task.task_id for item in _load(folder, rows, **selection)]


def _message(folder: Path, source: str, **selection: Any) -> str:
    with pytest.raises(UserError) as caught:
        load_tasks(_loaded(folder, source, **selection))
    return str(caught.value)


@pytest.mark.parametrize(
    "write", [_write_jsonl, _write_yaml, _write_parquet, _write_parquet_with_a_map]
)
def test_every_format_gives_the_same_tasks_in_the_same_order(tmp_path, write):
    found = load_tasks(_loaded(tmp_path, write(tmp_path, ROWS)))
    assert [item.task for item in found] == [Task.model_validate(row) for row in ROWS]


def test_a_line_of_jsonl_ends_at_a_newline_and_at_no_other_character(tmp_path):
    """JSON strings may hold U+2028, U+0085 and friends as they are (RFC 8259, section 7)."""
    words = "slow\u2028here\u0085and\u2029there"
    found = _load(tmp_path, [task_row("a", instruction=words)])
    assert found[0].task.instruction == words


def test_a_malformed_hash_names_file_line_task_and_field(tmp_path):
    rows = [ROWS[0], task_row("bad", base_commit="abc123")]
    message = _message(tmp_path, _write_jsonl(tmp_path, rows))
    assert message.startswith(f"{tmp_path}/tasks.jsonl:3 (bad): base_commit: ")
    assert "got 'abc123'" in message
    assert "\n" not in message


@pytest.mark.parametrize("field", ["base_commit", "human_commit"])
@pytest.mark.parametrize(
    "commit",
    ["", "HEAD", "Parent", "A" * 40, "a" * 6, "a" * 41, "a" * 40 + "\n", "parent\n", 1234567],
)
def test_a_commit_is_7_to_40_small_hexadecimal_digits(tmp_path, commit, field):
    message = _message(tmp_path, _write_jsonl(tmp_path, [task_row("x", **{field: commit})]))
    assert f"(x): {field}: " in message


@pytest.mark.parametrize("digits", [7, 39, 40])
def test_a_hash_may_be_cut_off(tmp_path, digits):
    row = task_row("x", base_commit="a" * digits, human_commit="b" * digits)
    (found,) = _load(tmp_path, [row])
    assert (found.task.base_commit, found.task.human_commit) == ("a" * digits, "b" * digits)


def test_the_base_is_the_parent_unless_something_else_is_written(tmp_path):
    row = task_row("x")
    del row["base_commit"]
    (found,) = _load(tmp_path, [row])
    assert found.task.base_commit == "parent"
    message = _message(tmp_path, _write_jsonl(tmp_path, [task_row("x", human_commit="parent")]))
    assert "(x): human_commit: " in message


@pytest.mark.parametrize("field", ["target_files", "protected_paths"])
@pytest.mark.parametrize("rule", ["!", "a\\", "[z-a]"])
def test_a_rule_that_gitignore_would_not_take_is_refused(tmp_path, rule, field):
    row = task_row("x", **{field: ["*.py", rule]})
    message = _message(tmp_path, _write_jsonl(tmp_path, [row]))
    assert f"(x): {field}.1: no pattern in .gitignore's syntax: " in message
    (found,) = _load(tmp_path, [task_row("x", **{field: ["*.py", "!docs/", "# why"]})])
    assert getattr(found.task, field) == ("*.py", "!docs/", "# why")


def test_a_typo_in_a_task_suggests_the_near_key(tmp_path):
    row = ROWS[0] | {"check": {"comand": "true"}}
    message = _message(tmp_path, _write_jsonl(tmp_path, [row]))
    assert "check.comand: unknown key; did you mean 'command'?" in message


@pytest.mark.parametrize(
    ("workload", "words"),
    [
        ({"kind": "vllm-serve"}, "workload kind 'vllm-serve' is not in this release"),
        ({"kind": "rust"}, "unknown workload kind 'rust'; known: command, python"),
        ({"kind": "command"}, "`command` belongs to kind command, which needs it"),
        ({"kind": "python"}, "kind python needs `files`"),
        ({"kind": "python", "files": "f", "command": "x"}, "`command` belongs to kind command"),
        (
            {"kind": "python", "files": "f", "metrics": {"x": {"better": "lower"}}},
            "kind python yields one metric, pass_ms",
        ),
        ({"command": "x", "metrics": {"a": {"better": "lower"}}}, "exactly one metric must be"),
        (
            {"command": "x", "metrics": {"a": {"better": "faster", "primary": True}}},
            "workload.metrics.a.better: ",
        ),
    ],
)  # fmt: skip
def test_a_bad_workload_is_explained(tmp_path, workload, words):
    row = ROWS[0] | {"workload": workload}
    message = _message(tmp_path, _write_jsonl(tmp_path, [row]))
    assert message.startswith(f"{tmp_path}/tasks.jsonl:1 (engine-a): workload")
    assert words in message


def test_two_tasks_of_one_id_are_refused_with_both_places(tmp_path):
    message = _message(tmp_path, _write_jsonl(tmp_path, [ROWS[0], ROWS[1], ROWS[0]]))
    place = f"{tmp_path}/tasks.jsonl"
    assert message == f"{place}:5: task_id: 'engine-a' stands already at {place}:1"


def test_an_id_cannot_leave_its_folder(tmp_path):
    message = _message(tmp_path, _write_jsonl(tmp_path, [task_row("../../x")]))
    assert "task_id: " in message


def test_what_is_not_json_names_the_line(tmp_path):
    (tmp_path / "t.jsonl").write_text(json.dumps(ROWS[0]) + "\n{torn\n")
    assert _message(tmp_path, "t.jsonl").startswith(f"{tmp_path}/t.jsonl:2: not valid JSON: ")


def test_a_row_that_is_no_mapping_is_explained(tmp_path):
    message = _message(tmp_path, _write_jsonl(tmp_path, ["just words"]))
    assert message.startswith(f"{tmp_path}/tasks.jsonl:1: (whole file): ")


def test_a_yaml_file_of_tasks_is_a_list(tmp_path):
    (tmp_path / "t.yaml").write_text("task_id: a\n")
    assert "a task file in YAML is a list of tasks" in _message(tmp_path, "t.yaml")


def test_what_is_not_parquet_is_an_error_with_the_file(tmp_path):
    (tmp_path / "t.parquet").write_bytes(b"not parquet at all")
    message = _message(tmp_path, "t.parquet")
    assert message.startswith(f"{tmp_path}/t.parquet: cannot read the tasks: ")


def test_a_missing_file_and_an_unknown_format_are_named(tmp_path):
    assert _message(tmp_path, "none.jsonl") == (
        f"{tmp_path}/none.jsonl: tasks.from: there is no such file"
    )
    (tmp_path / "tasks.csv").write_text("task_id\n")
    assert "tasks.from: expected one of .jsonl, .parquet, .yaml, .yml" in (
        _message(tmp_path, "tasks.csv")
    )


# Selection


def test_without_a_selection_all_tasks_take_part(tmp_path):
    assert _ids(tmp_path, ROWS) == ["engine-a", "engine-b", "other-c"]


@pytest.mark.parametrize(
    ("ids", "expected"),
    [
        (["engine-*"], ["engine-a", "engine-b"]),
        (["other-c", "engine-a"], ["engine-a", "other-c"]),
        (["*-[ac]"], ["engine-a", "other-c"]),
        (["engine-?", "engine-a"], ["engine-a", "engine-b"]),
    ],
)
def test_ids_and_globs_select_in_the_order_of_the_source(tmp_path, ids, expected):
    assert _ids(tmp_path, ROWS, ids=ids) == expected


@pytest.mark.parametrize(
    ("where", "expected"),
    [
        ("list_contains(tags, 'fast')", ["engine-a", "other-c"]),
        ("len(tags) = 0", ["engine-b"]),
        ("task_id LIKE 'engine%' AND instruction LIKE '%—%'", ["engine-b"]),
        ("workload_kind = 'command' -- all of them", ["engine-a", "engine-b", "other-c"]),
        ("NULL OR task_id = 'other-c'", ["other-c"]),
    ],
)
def test_an_sql_expression_selects(tmp_path, where, expected):
    assert _ids(tmp_path, ROWS, where=where) == expected


def test_both_conditions_must_hold(tmp_path):
    found = _ids(tmp_path, ROWS, ids=["engine-*"], where="list_contains(tags, 'fast')")
    assert found == ["engine-a"]


def test_selecting_nothing_is_an_error_with_how_many_there_are(tmp_path):
    source = _write_jsonl(tmp_path, ROWS)
    message = _message(tmp_path, source, where="false")
    assert message == (
        f"{tmp_path}/exp.yaml: tasks.select: selects none of the 3 tasks in {tmp_path}/tasks.jsonl"
    )


def test_an_id_that_matches_nothing_is_an_error_even_beside_others_that_do(tmp_path):
    message = _message(tmp_path, _write_jsonl(tmp_path, ROWS), ids=["engine-*", "enigne-a"])
    assert "tasks.select.ids: 'enigne-a' matches no task; there are engine-a" in message


@pytest.mark.parametrize("where", ["tag = 'fast'", "task_id =", "(", "1 = 1; SELECT 2", "tags"])
def test_a_bad_expression_names_the_field_and_says_what_there_is(tmp_path, where):
    message = _message(tmp_path, _write_jsonl(tmp_path, ROWS), where=where)
    assert message.startswith(f"{tmp_path}/exp.yaml: tasks.select.where: ")
    assert "Traceback" not in message


def test_a_misspelt_column_comes_with_the_list_of_columns(tmp_path):
    message = _message(tmp_path, _write_jsonl(tmp_path, ROWS), where="tag = 'fast'")
    assert "columns: task_id, repository, base_commit, human_commit" in message


FORBIDDEN = [
    "EXISTS (SELECT * FROM read_csv('/etc/passwd', header = false, sep = ':'))",
    "EXISTS (SELECT * FROM read_text('/etc/passwd'))",
    "EXISTS (SELECT * FROM glob('/etc/*'))",
]


@pytest.mark.parametrize("where", FORBIDDEN)
def test_an_expression_reads_no_file(tmp_path, where):
    message = _message(tmp_path, _write_jsonl(tmp_path, ROWS), where=where)
    assert "disabled" in message


@pytest.mark.parametrize("where", FORBIDDEN)
def test_without_the_lock_the_same_expressions_would_read_the_file(where):
    """Positive control: it is the configuration that refuses, not the expression."""
    with duckdb.connect(":memory:") as connection:
        assert connection.execute(f"SELECT 1 WHERE ({where})").fetchall() == [(1,)]


def test_selection_is_the_same_for_an_agents_own():
    tasks = [Task.model_validate(row) for row in ROWS]
    assert select(tasks, Selection(ids=("other-*",)), "agent 'x': select") == ["other-c"]
    assert select(tasks, Selection(where="false"), "agent 'x': select") == []


# Files of workload and check

PYTHON = task_row("py", workload={"kind": "python", "files": "w/"})


def test_files_of_workload_and_check_travel_in_one_bundle(tmp_path):
    (tmp_path / "w" / "data").mkdir(parents=True)
    (tmp_path / "w" / "workload.py").write_text("run = None\n")
    (tmp_path / "w" / "data" / "prompts.bin").write_bytes(b"\x00\xff")
    (tmp_path / "w" / "__pycache__").mkdir()
    (tmp_path / "w" / "__pycache__" / "workload.pyc").write_bytes(b"stale")
    (tmp_path / "c").mkdir()
    (tmp_path / "c" / "check.py").write_text("pass\n")
    row = PYTHON | {"check": {"command": "python $ISOBENCH_TASK/check.py", "files": "c"}}
    files = _load(tmp_path, [row])[0].files.files
    assert files == {
        "workload.py": b"run = None\n",
        "data/prompts.bin": b"\x00\xff",
        "check.py": b"pass\n",
    }


def test_the_hash_of_the_bundle_depends_on_paths_and_contents_not_on_the_folder(tmp_path):
    def bundle(folder: str, name: str, text: str) -> str:
        (tmp_path / folder).mkdir()
        (tmp_path / folder / name).write_text(text)
        row = task_row("a", check={"command": "true", "files": folder})
        return _load(tmp_path, [row])[0].files.sha256

    first = bundle("one", "check.py", "pass\n")
    assert bundle("two", "check.py", "pass\n") == first
    assert bundle("three", "check.py", "pass \n") != first
    assert bundle("four", "chekc.py", "pass\n") != first


def test_a_missing_folder_is_named_with_task_and_field(tmp_path):
    message = _message(tmp_path, _write_jsonl(tmp_path, [PYTHON]))
    place = f"{tmp_path}/tasks.jsonl:1"
    assert message == f"{place}: workload.files: there is no folder {tmp_path}/w"


def test_a_python_workload_without_its_module_is_refused(tmp_path):
    (tmp_path / "w").mkdir()
    (tmp_path / "w" / "wrokload.py").write_text("")
    message = _message(tmp_path, _write_jsonl(tmp_path, [PYTHON]))
    assert message.endswith("workload.entry: there is no file workload.py")


def test_check_and_workload_cannot_bring_different_files_of_one_name(tmp_path):
    for folder, text in (("w", "1"), ("c", "2")):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "workload.py").write_text(text)
    row = PYTHON | {"check": {"command": "true", "files": "c"}}
    assert "check.files: workload.py differs from the workload's" in (
        _message(tmp_path, _write_jsonl(tmp_path, [row]))
    )


def test_only_the_files_of_selected_tasks_are_asked_for(tmp_path):
    assert _ids(tmp_path, [ROWS[0], PYTHON], ids=["engine-a"]) == ["engine-a"]
