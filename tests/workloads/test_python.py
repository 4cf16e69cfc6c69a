"""Python workloads in lockstep: equal inputs, alternating passes, and arms that fall out alone."""

from __future__ import annotations

import os
import time
from pathlib import Path

import pytest

from isobench_ray.workloads import ArmBlock
from tests.fixtures_git import require_bubblewrap
from tests.fixtures_measure import measure_block

WORKLOAD = {"kind": "python", "files": "x", "passes": 4, "warmup_passes": 1}
MODULE = """
import tiny

def setup(seed):
    return seed

def prepare(state, number):
    return state, number

def run(inputs):
    tiny.work(inputs)
"""
FINE = "def work(inputs):\n    sum(range(2000))\n"


def run(folder: Path, arms: dict[str, str], module: str = MODULE, **options) -> dict[str, ArmBlock]:
    trees = {name: {"tiny.py": text} for name, text in arms.items()}
    return measure_block(folder, WORKLOAD, trees, {"workload.py": module}, **options)


def logging(place: Path, name: str) -> str:
    """An arm whose passes are appended to a file, in the order in which they run."""
    return (
        "import os, time\n"
        "def work(inputs):\n"
        f"    with open({str(place)!r}, 'a') as log:\n"
        f"        log.write(f'{name} {{inputs[0]}} {{inputs[1]}} ')\n"
        "        log.flush()\n"
        "        time.sleep(0.002)\n"
        f"        log.write(f'{name}-end {{sorted(os.sched_getaffinity(0))}}\\n')\n"
    )


def test_a_block_yields_the_median_of_its_passes(tmp_path):
    block = run(tmp_path, {"base": FINE})["base"]
    assert block.problem is None
    assert len(block.passes) == 4
    assert list(block.metrics) == ["pass_ms"]
    assert sorted(block.passes)[1] <= block.metrics["pass_ms"] <= sorted(block.passes)[2]
    assert block.outside_s * 1000 >= sum(block.passes)


def test_arms_alternate_pass_by_pass_one_at_a_time_on_one_core_with_equal_inputs(tmp_path):
    log = tmp_path / "log"
    run(tmp_path, {name: logging(log, name) for name in "abc"}, seed=99)
    lines = log.read_text().splitlines()
    assert len(lines) == 3 * (4 + 1)
    turns = [lines[start : start + 3] for start in range(0, len(lines), 3)]
    cores = set()
    for number, turn in enumerate(turns):
        words = [line.split(" ", 4) for line in turn]
        assert sorted(word[0] for word in words) == ["a", "b", "c"]
        assert all(word[1:3] == ["99", str(number)] for word in words)
        assert all(word[3] == f"{word[0]}-end" for word in words)  # never two at the same time
        cores |= {word[4] for word in words}
    assert len(cores) == 1
    assert eval(cores.pop())[0] in os.sched_getaffinity(0)


def test_the_turns_are_in_an_order_that_the_seed_decides(tmp_path):
    orders = []
    for number, seed in enumerate((3, 3, 4)):
        place = tmp_path / str(number)
        place.mkdir()
        run(place, {name: logging(place / "log", name) for name in "abc"}, seed=seed)
        orders.append([line.split()[0] for line in (place / "log").read_text().splitlines()])
    assert orders[0] == orders[1]
    assert orders[0] != orders[2]
    assert len({tuple(orders[0][i : i + 3]) for i in range(0, 15, 3)}) > 1


def test_what_a_workload_prints_does_not_disturb_the_harness(tmp_path):
    loud = (
        "import sys\ndef work(inputs):\n    print('done 5')\n    sys.stderr.write('x' * 200000)\n"
    )
    block = run(tmp_path, {"base": loud})["base"]
    assert block.problem is None
    assert len(block.passes) == 4
    assert all(value > 0.00001 for value in block.passes)


def test_a_slow_preparation_is_not_timed(tmp_path):
    module = MODULE.replace("    return state, number", "    import time; time.sleep(0.1)")
    block = run(tmp_path, {"base": FINE}, module)["base"]
    assert max(block.passes) < 50


@pytest.mark.parametrize(
    ("broken", "words"),
    [
        ("def work(inputs):\n    raise RuntimeError('no engine')\n", "no engine"),
        ("raise ImportError('half a file')\n", "half a file"),
        ("import os\ndef work(inputs):\n    os._exit(5)\n", "status 5"),
        ("import os\ndef work(inputs):\n    os.kill(os.getpid(), 9)\n", "status -9"),
        ("def work(inputs):\n    if inputs[1] == 3:\n        raise KeyError('late')\n", "late"),
    ],
    ids=["raises", "import", "exit", "killed", "late"],
)
def test_an_arm_that_breaks_says_how_and_the_others_are_measured(tmp_path, broken, words):
    blocks = run(tmp_path, {"base": FINE, "arm": broken, "human": FINE})
    assert "the workload ended with status" in blocks["arm"].problem
    assert words in blocks["arm"].problem
    assert blocks["arm"].metrics == {}
    for name in ("base", "human"):
        assert blocks[name].problem is None
        assert len(blocks[name].passes) == 4


def test_an_arm_over_its_limit_falls_out_and_the_others_are_measured(tmp_path):
    hang = "import time\ndef work(inputs):\n    time.sleep(60)\n"
    start = time.monotonic()
    blocks = run(tmp_path, {"base": FINE, "arm": hang}, timeout_s=1.5)
    assert blocks["arm"].problem == "the workload took more than 1.5 s"
    assert blocks["base"].problem is None
    assert len(blocks["base"].passes) == 4
    assert time.monotonic() - start < 12


SPEAK = """
import os, stat, time
def work(inputs):
    for fd in range(3, 20):
        try:
            if stat.S_ISFIFO(os.fstat(fd).st_mode):
                os.write(fd, {words!r})
        except OSError:
            pass
    {then}
"""


@pytest.mark.parametrize(
    "words",
    [b"done soon\n", b"done 0\n", b"done -5\n", b"done \xff\n", b"done 1\xb2\n", b"nonsense\n"],
    ids=repr,
)
def test_an_arm_that_speaks_in_the_runners_place_falls_out_alone(tmp_path, words):
    speaking = SPEAK.format(words=words, then="pass")
    blocks = run(tmp_path, {"base": FINE, "arm": speaking, "human": FINE})
    assert blocks["arm"].problem
    assert blocks["arm"].metrics == {}
    assert blocks["base"].problem is None
    assert blocks["human"].problem is None


def test_an_arm_that_answers_half_a_line_cannot_hold_up_the_harness(tmp_path):
    half = SPEAK.format(words=b"do", then="time.sleep(7)")
    start = time.monotonic()
    blocks = run(tmp_path, {"base": FINE, "arm": half}, timeout_s=1.5)
    assert time.monotonic() - start < 5
    assert "more than 1.5 s" in blocks["arm"].problem


def test_a_workload_without_prepare_gets_its_state(tmp_path):
    module = "def setup(seed):\n    return seed\ndef run(state):\n    assert state == 31\n"
    assert run(tmp_path, {"base": FINE}, module, seed=31)["base"].problem is None


@pytest.mark.sandbox
def test_in_the_sandbox_an_arm_sees_its_own_tree_read_only_and_no_other(tmp_path):
    require_bubblewrap()
    look = """
    import os
    def work(inputs):
        found = [os.path.exists(place) for place in {others!r}]
        try:
            open("tiny.py", "a")
            found.append("writable")
        except OSError:
            pass
        assert found == [False] * len({others!r}), found
    """
    code = "\n".join(line[4:] for line in look.splitlines())
    arms = {"base": FINE}
    inside = tmp_path / "inside"
    inside.mkdir()
    arms["arm"] = code.format(others=[str(inside / "arms" / "base" / "tiny.py"), str(tmp_path)])
    assert run(inside, arms, sandbox="auto")["arm"].problem is None
    control = tmp_path / "control"
    control.mkdir()
    arms["arm"] = code.format(others=[str(control / "arms" / "base" / "tiny.py"), str(tmp_path)])
    assert "AssertionError" in run(control, arms, sandbox="none")["arm"].problem
