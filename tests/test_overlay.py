"""Overlays: mounted, found, taken away, and refused with words where they cannot be."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

from isobench_ray.overlay import (
    OverlayError,
    mount_overlay,
    mounts_below,
    unmount_below,
    why_no_overlay,
)


@pytest.fixture
def place(tmp_path) -> Path:
    why = why_no_overlay(tmp_path)
    if why is not None:
        pytest.skip(f"NO OVERLAY ON THIS MACHINE: {why}")
    (tmp_path / "lower").mkdir()
    (tmp_path / "lower" / "file").write_text("below\n")
    return tmp_path


def test_changes_stay_above_and_the_mount_is_found_and_taken_away(place):
    mount_overlay(place / "lower", place / "changes", place / "merged")
    assert mounts_below(place) == [place / "merged"]
    (place / "merged" / "file").write_text("above\n")
    unmount_below(place)
    assert mounts_below(place) == []
    assert (place / "lower" / "file").read_text() == "below\n"
    assert (place / "changes" / "upper" / "file").read_text() == "above\n"


def test_a_mount_that_is_in_use_is_taken_away_too(place):
    mount_overlay(place / "lower", place / "changes", place / "merged")
    user = subprocess.Popen(["sleep", "60"], cwd=place / "merged")
    try:
        unmount_below(place)
        assert mounts_below(place) == []
    finally:
        user.kill()
        user.wait()


def test_mounts_of_a_folder_with_a_similar_name_are_left(place):
    mount_overlay(place / "lower", place / "changes", place / "merged-more")
    try:
        assert mounts_below(place / "merged") == []
    finally:
        unmount_below(place)


def test_a_path_with_a_space_is_found_again(place):
    mount_overlay(place / "lower", place / "my changes", place / "my merged")
    assert mounts_below(place / "my merged") == [place / "my merged"]
    unmount_below(place)
    assert mounts_below(place) == []


@pytest.mark.parametrize("letter", [",", ":", "\\"])
def test_a_path_that_mount_would_misread_is_refused(place, letter):
    with pytest.raises(OverlayError, match="comma, colon or backslash"):
        mount_overlay(place / "lower", place / f"a{letter}b", place / "merged")
    assert mounts_below(place) == []


def test_what_is_below_must_exist(place):
    with pytest.raises(OverlayError):
        mount_overlay(place / "nothing", place / "changes", place / "merged")


def test_on_a_file_system_that_cannot_hold_changes_the_reason_is_told(place):
    mount_overlay(place / "lower", place / "changes", place / "merged")
    try:  # an overlay is itself no place for the changes of another
        assert why_no_overlay(place / "merged")
    finally:
        unmount_below(place)


def test_without_the_right_to_mount_the_reason_is_told():
    if os.getuid() != 0:
        pytest.skip("this test gives up root's rights, and there are none")
    code = (
        "import os, sys\n"
        "from pathlib import Path\n"
        "from isobench_ray.overlay import why_no_overlay\n"
        "os.setuid(65534)\n"
        "print(why_no_overlay(Path(sys.argv[1])))"
    )
    with tempfile.TemporaryDirectory() as open_place:
        Path(open_place).chmod(0o777)
        done = subprocess.run(
            [sys.executable, "-c", code, open_place], capture_output=True, text=True, check=False
        )
    assert done.stdout.strip() not in ("", "None"), done.stderr
