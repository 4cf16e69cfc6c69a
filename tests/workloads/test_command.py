"""Command workloads: one JSON object of positive numbers, or one clear reason why there is none."""

from __future__ import annotations

import json
import time
from pathlib import Path

import pytest

from isobench_ray.task import Workload
from isobench_ray.workloads import ArmBlock
from isobench_ray.workloads.command import read_metrics
from tests.fixtures_measure import measure_block

METRICS = {
    "latency_ms": {"better": "lower", "primary": True},
    "tokens_per_s": {"better": "higher"},
}
BOTH = '{"latency_ms": 12.5, "tokens_per_s": 3, "unasked": "x"}'
TREE = {"a.txt": "of the tree\n"}


def read(folder: Path, text: str | bytes) -> tuple[dict[str, float], str | None]:
    path = folder / "metrics.json"
    path.write_bytes(text.encode() if isinstance(text, str) else text)
    workload = Workload.model_validate({"command": "true", "metrics": METRICS})
    return read_metrics(path, workload)


def run(folder: Path, command: str, **options) -> ArmBlock:
    workload = {"command": command, "metrics": METRICS}
    return measure_block(folder, workload, {"base": TREE}, **options)["base"]


def test_the_declared_metrics_are_read_and_no_others(tmp_path):
    assert read(tmp_path, BOTH) == ({"latency_ms": 12.5, "tokens_per_s": 3.0}, None)


@pytest.mark.parametrize(
    "value",
    ["NaN", "Infinity", "-Infinity", "0", "-1", "null", "true", '"12.5"', "[1]", "1e999", "-0.0",
     "1" + "0" * 400],
)  # fmt: skip
def test_a_value_that_is_no_positive_finite_number_is_a_problem_not_a_sample(tmp_path, value):
    metrics, problem = read(tmp_path, f'{{"latency_ms": {value}, "tokens_per_s": 1}}')
    assert metrics == {}
    assert "metric latency_ms must be a positive, finite number" in problem


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ('{"latency_ms": 1}', "metric tokens_per_s must be a positive, finite number; got None"),
        ("", "is not JSON"),
        ("latency 12 ms", "is not JSON"),
        ('{"latency_ms": 1', "is not JSON"),
        (b"\xff\xfe{}", "is not JSON"),
        ("[1, 2]", "must hold one JSON object"),
        ("12.5", "must hold one JSON object"),
        ("[" * 100_000, "is not JSON"),
        ('{"latency_ms": ' + "9" * 5000 + "}", "is not JSON"),
    ],
    ids=lambda value: str(value)[:20],
)
def test_what_is_not_the_asked_object_is_a_problem_with_its_reason(tmp_path, text, words):
    metrics, problem = read(tmp_path, text)
    assert metrics == {}
    assert words in problem


def test_a_folder_or_a_link_in_place_of_the_metrics_is_a_problem_and_not_followed(tmp_path):
    workload = Workload.model_validate({"command": "true", "metrics": METRICS})
    (tmp_path / "folder").mkdir()
    assert read_metrics(tmp_path / "folder", workload)[1]
    (tmp_path / "elsewhere.json").write_text(BOTH)
    (tmp_path / "link").symlink_to(tmp_path / "elsewhere.json")
    metrics, problem = read_metrics(tmp_path / "link", workload)
    assert metrics == {}
    assert problem


def test_it_runs_in_the_arms_tree_with_task_files_seed_and_fresh_folders(tmp_path):
    command = (
        "cat a.txt $ISOBENCH_TASK/bench.txt; echo $ISOBENCH_SEED; ls -A $HOME $TMPDIR; "
        "python -c 'import sys; print(sys.version_info[0])'; "
        f"echo '{BOTH}' > $ISOBENCH_METRICS"
    )
    block = run(tmp_path, command, files={"bench.txt": "of the task\n"}, seed=4711)
    assert block.problem is None
    assert block.metrics == {"latency_ms": 12.5, "tokens_per_s": 3.0}
    assert block.passes == ()
    assert block.outside_s > 0
    said = (tmp_path / "block" / "base" / "stdout.log").read_text().splitlines()
    assert said[:3] == ["of the tree", "of the task", "4711"]
    assert [line for line in said[3:] if line and not line.endswith(":")] == ["3"]


def test_no_metrics_file_is_a_problem(tmp_path):
    assert run(tmp_path, "true").problem == "the workload wrote no $ISOBENCH_METRICS"


def test_a_status_is_a_problem_with_the_programs_words_even_with_metrics(tmp_path):
    block = run(tmp_path, f"echo '{BOTH}' > $ISOBENCH_METRICS; echo no engine >&2; exit 4")
    assert block.problem == "the workload ended with status 4: no engine"
    assert block.metrics == {}


def test_a_workload_over_its_limit_is_a_problem_and_is_ended(tmp_path):
    start = time.monotonic()
    block = run(tmp_path, f"echo '{BOTH}' > $ISOBENCH_METRICS; sleep 60", timeout_s=0.5)
    assert block.problem == "the workload took more than 0.5 s"
    assert block.metrics == {}
    assert time.monotonic() - start < 8


def test_one_broken_arm_does_not_disturb_the_others(tmp_path):
    arms = {name: {"status": status} for name, status in (("a", "0"), ("b", "1"), ("c", "0"))}
    command = f"echo '{BOTH}' > $ISOBENCH_METRICS; exit $(cat status)"
    blocks = measure_block(tmp_path, {"command": command, "metrics": METRICS}, arms)
    assert {name: block.problem is None for name, block in blocks.items()} == {
        "a": True, "b": False, "c": True,
    }  # fmt: skip


def test_the_order_is_that_of_the_seed(tmp_path):
    arms = {name: {} for name in "abc"}
    command = f"echo '{BOTH}' > $ISOBENCH_METRICS"
    orders = []
    for number, seed in enumerate((5, 5, 6, 7, 8, 9)):
        place = tmp_path / str(number)
        place.mkdir()
        workload = {"command": command, "metrics": METRICS}
        blocks = measure_block(place, workload, arms, seed=seed)
        assert sorted(block.position for block in blocks.values()) == [0, 1, 2]
        orders.append(sorted(blocks, key=lambda name: blocks[name].position))
    assert orders[0] == orders[1]
    assert len({json.dumps(order) for order in orders}) > 1


@pytest.mark.parametrize("place", ["HOME", "TMPDIR"])
def test_what_one_arm_leaves_in_its_folders_no_other_arm_finds(tmp_path, place):
    command = f'ls -A ${place} >> $ISOBENCH_METRICS.seen; touch ${place}/mine; echo "$PWD" >&2; '
    command += f"test ! -s $ISOBENCH_METRICS.seen && echo '{BOTH}' > $ISOBENCH_METRICS"
    blocks = measure_block(
        tmp_path, {"command": command, "metrics": METRICS}, {"a": {}, "b": {}, "c": {}}
    )
    assert [block.problem for block in blocks.values()] == [None] * 3
