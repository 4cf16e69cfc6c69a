"""Patch series: the same commits in every folder, or the words of what is wrong."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from isobench_ray.errors import FailureRaised
from isobench_ray.failure import FailureClass
from isobench_ray.plumbing import GitError, init_bare
from isobench_ray.repository import open_repository
from isobench_ray.series import build_series, is_series
from tests.fixtures_git import (
    URL,
    History,
    make_history,
    make_task,
    run_git,
    tree_of,
    write_all,
)

QUICKSTART = Path(__file__).parents[1] / "experiments" / "quickstart"


@pytest.fixture(scope="module")
def original(tmp_path_factory) -> History:
    folder = tmp_path_factory.mktemp("original") / "origin"
    return make_history(folder, {"a.py": "slow\n", "b.py": "b\n"}, {"a.py": "fast\n", "b.py": None})


@pytest.fixture
def history(original, tmp_path) -> History:
    shutil.copytree(original.folder, tmp_path / "origin")
    return original._replace(folder=tmp_path / "origin")


def series(history: History, folder: Path) -> Path:
    """The history as a patch series: the tree of its first commit, and its mails."""
    (folder / "tree").mkdir(parents=True)
    write_all(folder / "tree", {"first.txt": "the first commit\n"})
    (folder / "patches").mkdir()
    mail = run_git(history.folder, "format-patch", "--root", "-o", str(folder / "patches"), "main")
    assert len(mail.splitlines()) == 3
    first = folder / "patches" / "0001-first.patch"
    first.write_text(first.read_text().split("\n---\n")[0] + "\n---\n")
    return folder


def test_a_patch_series_is_rebuilt_into_the_commits_it_was_made_of(history, tmp_path):
    place = series(history, tmp_path / "series")
    init_bare(tmp_path / "built.git")
    assert build_series(place, tmp_path / "built.git") == history.human
    repository = open_repository(URL, str(place), tmp_path / "cache")
    assert repository.resolve(make_task(history)).base_tree == tree_of(history.folder, history.base)


def test_a_series_has_the_same_hashes_in_every_folder_whoever_builds_it(tmp_path, monkeypatch):
    built = []
    for name in ("one", "two with a space"):
        place = shutil.copytree(QUICKSTART / "minserve", tmp_path / name / "series")
        for path in (place / "tree").rglob("*"):
            path.chmod(0o755)
        (place / "tree" / "minserve" / "__pycache__").mkdir()
        (place / "tree" / "minserve" / "__pycache__" / "x.pyc").write_bytes(b"left over")
        init_bare(tmp_path / name / "built.git")
        built.append(build_series(place, tmp_path / name / "built.git"))
        monkeypatch.setenv("TZ", "Asia/Kathmandu")
        monkeypatch.setenv("GIT_AUTHOR_NAME", "somebody else")
        monkeypatch.setenv("GIT_COMMITTER_DATE", "2030-01-01T00:00:00+0000")
    assert built[0] == built[1]
    (place / "tree" / ".gitignore").write_text("changed\n")  # positive control
    assert build_series(place, tmp_path / name / "built.git") != built[0]


def test_a_series_whose_patch_does_not_apply_says_so(history, tmp_path):
    place = series(history, tmp_path / "series")
    (place / "patches" / "0002-base.patch").unlink()
    init_bare(tmp_path / "built.git")
    with pytest.raises(GitError):
        build_series(place, tmp_path / "built.git")
    with pytest.raises(FailureRaised) as raised:
        open_repository(URL, str(place), tmp_path / "cache").resolve(make_task(history))
    assert raised.value.failure.failure_class is FailureClass.REPOSITORY_UNAVAILABLE
    assert f"the patch series {place} cannot be built" in raised.value.failure.message
    assert "a.py" in raised.value.failure.message


def test_a_series_without_mails_says_where_they_should_be(history, tmp_path):
    place = series(history, tmp_path / "series")
    for mail in (place / "patches").iterdir():
        mail.unlink()
    init_bare(tmp_path / "built.git")
    with pytest.raises(GitError, match=r"series/patches holds no \*\.patch"):
        build_series(place, tmp_path / "built.git")


def test_a_build_that_was_killed_hinders_no_later_one(history, tmp_path):
    """Git leaves a lock when it is killed: an index of a fixed name would stay locked."""
    place = series(history, tmp_path / "series")
    init_bare(tmp_path / "built.git")
    before = set((tmp_path / "built.git").iterdir())
    assert build_series(place, tmp_path / "built.git") == history.human
    assert set((tmp_path / "built.git").iterdir()) == before  # no index of a fixed name


def test_a_repository_with_folders_of_these_names_is_no_series(tmp_path):
    files = {"tree/a.py": "slow\n", "patches/notes.txt": "x\n"}
    history = make_history(tmp_path / "origin", files, {"tree/a.py": "fast\n"})
    assert not is_series(history.folder)
    repository = open_repository(URL, str(history.folder), tmp_path / "cache")
    resolved = repository.resolve(make_task(history))
    assert resolved.human_tree == tree_of(history.folder, history.human)
    shutil.rmtree(history.folder / ".git")
    assert is_series(history.folder)  # positive control
