"""The benchmark's table, the tree it makes, and where it works. Nothing is timed here."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.benchmarks.__main__ import markdown, measured
from tests.benchmarks.row import Bar, Row, Setting
from tests.benchmarks.setting import file_system_of
from tests.tree_of_shape import Shape, write_tree

SHAPE = Shape(files=120, folders=25, size_bytes=400_000, median_bytes=1_000, executables=3)


def rated(subject_ms: float, reference_ms: float, bar: Bar | None) -> str:
    """The line of a row whose measurements are known."""

    def measure(_: Setting) -> Iterator[tuple[float, float]]:
        yield 1e9, 1.0  # the first one is thrown away
        while True:
            yield subject_ms, reference_ms

    row = measured(Row("name", "ours", "theirs", measure, bar), None, 3)
    return markdown([row], ["a note"]).splitlines()[2]


@pytest.mark.parametrize(
    ("subject_ms", "bar", "words"),
    [
        (25.0, Bar("ratio", 2.5, "ratio at most 2.5"), "ratio at most 2.5: holds"),
        (25.1, Bar("ratio", 2.5, "ratio at most 2.5"), "ratio at most 2.5: DOES NOT HOLD"),
        (150.0, Bar("ms", 150, "at most 150 ms"), "at most 150 ms: holds"),
        (150.1, Bar("ms", 150, "at most 150 ms"), "at most 150 ms: DOES NOT HOLD"),
        (1e6, None, "|  |"),
    ],
)
def test_the_table_says_whether_a_bar_holds(subject_ms, bar, words):
    assert words in rated(subject_ms, 10.0, bar)


def test_notes_such_as_what_was_left_out_stand_below_the_table():
    assert markdown([], ["LEFT OUT: overlay: no right to mount"]).splitlines()[-1] == (
        "- LEFT OUT: overlay: no right to mount"
    )


def test_a_generated_tree_has_the_shape_that_was_asked_for(tmp_path):
    paths = write_tree(tmp_path / "tree", SHAPE)
    files = [path for path in (tmp_path / "tree").rglob("*") if path.is_file()]
    folders = [path for path in (tmp_path / "tree").rglob("*") if path.is_dir()]
    sizes = sorted(path.stat().st_size for path in files)
    assert sorted(str(path.relative_to(tmp_path / "tree")) for path in files) == paths
    assert (len(files), len(folders), sum(sizes)) == (120, 25, 400_000)
    assert sum(path.stat().st_mode & 0o111 != 0 for path in files) == 3
    assert 500 < sizes[60] < 2_000
    assert sizes[-1] > 50_000


def test_the_same_seed_makes_the_same_bytes_and_another_seed_others(tmp_path):
    made = [
        {name: (tmp_path / place / name).read_bytes() for name in write_tree(tmp_path / place, of)}
        for place, of in (("a", SHAPE), ("b", SHAPE), ("c", SHAPE._replace(seed=1)))
    ]
    assert made[0] == made[1]
    assert made[0] != made[2]


def test_the_file_system_of_a_folder_is_named():
    assert file_system_of(Path("/proc")).kind == "proc"
    assert not file_system_of(Path("/proc")).without_journal
