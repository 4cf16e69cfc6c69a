"""Repositories: the same trees from every place, and the right Failure where there is none."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from isobench_ray.errors import FailureRaised
from isobench_ray.failure import FailureClass
from isobench_ray.plumbing import GitError, init_bare
from isobench_ray.repository import build_series, cache_folder, open_repository
from tests.fixtures_git import (
    URL,
    History,
    commit_all,
    make_history,
    make_task,
    run_git,
    tree_of,
    write_all,
)

QUICKSTART = Path(__file__).parents[1] / "experiments" / "quickstart"


@pytest.fixture
def history(tmp_path) -> History:
    return make_history(
        tmp_path / "origin", {"a.py": "slow\n", "b.py": "b\n"}, {"a.py": "fast\n", "b.py": None}
    )


def failure_of(history: History, place: Path | str, cache: Path, **changes):
    with pytest.raises(FailureRaised) as raised:
        open_repository(URL, str(place), cache).resolve(make_task(history, **changes))
    return raised.value.failure


def source(kind: str, history: History, folder: Path) -> str:
    """A place of each kind where the history can be had."""
    if kind == "path":
        return str(history.folder)
    if kind == "bare":
        run_git(folder, "clone", "--quiet", "--bare", str(history.folder), "bare")
        return str(folder / "bare")
    if kind == "worktree":
        run_git(history.folder, "worktree", "add", "--quiet", str(folder / "tree"), history.base)
        return str(folder / "tree")
    if kind == "bundle":
        run_git(history.folder, "bundle", "create", "--quiet", str(folder / "h.bundle"), "--all")
        return str(folder / "h.bundle")
    return history.folder.as_uri()


@pytest.mark.parametrize("kind", ["path", "bare", "worktree", "bundle", "url"])
def test_every_kind_of_place_gives_gits_own_trees_and_diff(kind, history, tmp_path):
    repository = open_repository(URL, source(kind, history, tmp_path), tmp_path / "cache")
    resolved = repository.resolve(make_task(history))
    assert resolved.base_tree == tree_of(history.folder, history.base)
    assert resolved.human_tree == tree_of(history.folder, history.human)
    run_git(history.folder, "checkout", "--quiet", history.base)
    run_git(history.folder, "apply", "--index", data=resolved.human_diff)
    assert run_git(history.folder, "write-tree") == resolved.human_tree
    assert repository.resolve(make_task(history)) == resolved


def test_a_local_repository_is_borrowed_not_copied_or_written(history, tmp_path):
    before = {p: p.stat().st_mtime_ns for p in history.folder.rglob("*")}
    open_repository(URL, str(history.folder), tmp_path / "cache").resolve(make_task(history))
    assert {p: p.stat().st_mtime_ns for p in history.folder.rglob("*")} == before
    (mirror,) = (p for p in (tmp_path / "cache").iterdir() if p.is_dir())
    assert run_git(mirror, "count-objects", "-v").splitlines()[0] == "count: 0"


def test_commits_that_the_origin_got_later_are_fetched(history, tmp_path):
    repository = open_repository(URL, history.folder.as_uri(), tmp_path / "cache")
    repository.resolve(make_task(history))
    write_all(history.folder, {"a.py": "faster\n"})
    newer = commit_all(history.folder, "newer")
    resolved = repository.resolve(make_task(history, base_commit=history.human, human_commit=newer))
    assert resolved.human_tree == tree_of(history.folder, newer)


@pytest.mark.parametrize("kind", ["path", "url"])
def test_a_commit_that_only_its_hash_reaches_is_found(kind, history, tmp_path):
    run_git(history.folder, "checkout", "--quiet", "--detach", history.base)
    write_all(history.folder, {"a.py": "abandoned\n"})
    lost = commit_all(history.folder, "on no branch")
    run_git(history.folder, "checkout", "--quiet", "main")
    assert lost not in run_git(history.folder, "rev-list", "--all")
    place = source(kind, history, tmp_path)
    task = make_task(history, human_commit=lost)
    resolved = open_repository(URL, place, tmp_path / "cache").resolve(task)
    assert resolved.human_tree == tree_of(history.folder, lost)


@pytest.mark.parametrize("kind", ["path", "bundle", "url"])
def test_a_commit_that_no_place_has_is_commit_unknown_and_says_what_was_tried(
    kind, history, tmp_path
):
    place = source(kind, history, tmp_path)
    failure = failure_of(history, place, tmp_path / "cache", human_commit="ab" * 20)
    assert failure.failure_class is FailureClass.COMMIT_UNKNOWN
    assert "ab" * 20 in failure.message
    assert place in failure.message
    assert "tried: the mirror" in failure.message
    assert ("fetch" in failure.message) == (kind != "path")


def test_a_blob_is_no_commit(history, tmp_path):
    blob = run_git(history.folder, "rev-parse", f"{history.base}:a.py")
    failure = failure_of(history, history.folder, tmp_path / "cache", human_commit=blob)
    assert failure.failure_class is FailureClass.COMMIT_UNKNOWN


def test_a_base_that_is_no_parent_is_refused_with_the_parents(history, tmp_path):
    first = run_git(history.folder, "rev-parse", f"{history.base}^")
    failure = failure_of(history, history.folder, tmp_path / "cache", base_commit=first)
    assert failure.failure_class is FailureClass.BASE_NOT_PARENT
    assert f"its parents: {history.base}" in failure.message
    root = failure_of(
        history, history.folder, tmp_path / "cache", base_commit=history.human, human_commit=first
    )
    assert root.failure_class is FailureClass.BASE_NOT_PARENT
    assert "its parents: none" in root.message


def test_either_parent_of_a_merge_is_a_base(history, tmp_path):
    run_git(history.folder, "checkout", "--quiet", "-b", "side", history.base)
    write_all(history.folder, {"c.py": "c\n"})
    side = commit_all(history.folder, "side")
    run_git(history.folder, "checkout", "--quiet", "main")
    run_git(history.folder, "merge", "--quiet", "--no-ff", "-m", "merge", "side")
    merge = run_git(history.folder, "rev-parse", "HEAD")
    repository = open_repository(URL, str(history.folder), tmp_path / "cache")
    for base in (history.human, side):
        task = make_task(history, base_commit=base, human_commit=merge)
        assert repository.resolve(task).base_tree == tree_of(history.folder, base)


@pytest.mark.parametrize("place", ["file:///not/there/repo.git", "/not/there.bundle", "folder"])
def test_a_place_that_has_no_history_is_repository_unavailable(place, history, tmp_path):
    (tmp_path / "folder").mkdir()
    place = str(tmp_path / place) if place == "folder" else place
    failure = failure_of(history, place, tmp_path / "cache")
    assert failure.failure_class is FailureClass.REPOSITORY_UNAVAILABLE
    assert place in failure.message


def test_a_plain_folder_inside_of_another_repository_is_not_that_repository(history, tmp_path):
    inside = history.folder / "vendored"
    inside.mkdir()
    (inside / "code.py").write_text("no git here\n")
    failure = failure_of(history, inside, tmp_path / "cache")
    assert failure.failure_class is FailureClass.REPOSITORY_UNAVAILABLE


def test_the_users_git_takes_no_part(history, tmp_path, monkeypatch):
    expected = tree_of(history.folder, history.human)
    decoy = make_history(tmp_path / "decoy", {"x": "x\n"}, {"x": "y\n"})
    home = tmp_path / "home"
    home.mkdir()
    config = (
        "[core]\n\tautocrlf = true\n\tattributesFile = ~/attributes\n"
        f'[url "{decoy.folder.as_uri()}"]\n\tinsteadOf = {history.folder.as_uri()}\n'
        "[diff]\n\tnoprefix = true\n\texternal = /bin/false\n[color]\n\tui = always\n"
    )
    (home / ".gitconfig").write_text(config)
    (home / "attributes").write_text("* text eol=crlf -diff\n")
    monkeypatch.setenv("HOME", str(home))
    monkeypatch.setenv("GIT_CONFIG_GLOBAL", str(home / ".gitconfig"))
    monkeypatch.setenv("GIT_DIR", str(decoy.folder / ".git"))
    monkeypatch.setenv("GIT_OBJECT_DIRECTORY", str(decoy.folder / ".git" / "objects"))
    monkeypatch.setenv("GIT_INDEX_FILE", str(tmp_path / "no-index"))
    for number, place in enumerate((str(history.folder), history.folder.as_uri())):
        repository = open_repository(URL, place, tmp_path / f"cache-{number}")
        resolved = repository.resolve(make_task(history))
        assert resolved.human_tree == expected
        assert resolved.human_diff.startswith(b"diff --git a/a.py b/a.py\n")
        assert b"\r" not in resolved.human_diff
        assert repository.bake(resolved.base_tree).tree == resolved.base_tree


def test_a_baked_base_is_the_same_wherever_and_whenever_it_is_baked(history, tmp_path):
    bases = []
    for number, place in enumerate((str(history.folder), history.folder.as_uri())):
        repository = open_repository(URL, place, tmp_path / f"cache-{number}")
        bases.append(repository.bake(repository.resolve(make_task(history)).base_tree))
    assert bases[0].commit == bases[1].commit
    assert bases[0].tree == bases[1].tree == tree_of(history.folder, history.base)


@pytest.mark.parametrize(
    ("url", "name"),
    [
        ("https://github.com/sgl-project/sglang.git", "sglang"),
        ("https://github.com/sgl-project/sglang", "sglang"),
        ("https://github.com/sgl-project/sglang.git/", "sglang"),
        ("git@github.com:vllm-project/vllm.git", "vllm"),
        ("https://example.invalid/a.git.tools.git", "a.git.tools"),
    ],
)
def test_a_mirror_is_named_after_its_repository(url, name, history, tmp_path):
    run_git(history.folder, "update-server-info")
    open_repository(url, str(history.folder), tmp_path).resolve(make_task(history))
    (mirror,) = (p for p in tmp_path.iterdir() if p.is_dir() and p != history.folder)
    assert mirror.name.rpartition("-")[0] == name


def test_two_urls_with_one_name_and_two_places_of_one_url_do_not_share_a_mirror(history, tmp_path):
    copy = str(shutil.copytree(history.folder, tmp_path / "copy"))
    places = [("https://a/x.git", copy), ("https://b/x.git", copy), ("https://a/x.git", None)]
    places[2] = ("https://a/x.git", str(history.folder))
    for url, place in places:
        open_repository(url, place, tmp_path / "cache").resolve(make_task(history))
    assert len([p for p in (tmp_path / "cache").iterdir() if p.is_dir()]) == 3


def test_mirrors_lie_in_the_users_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert cache_folder() == tmp_path / "isobench-ray" / "repositories"
    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    assert cache_folder() == tmp_path / "home" / ".cache" / "isobench-ray" / "repositories"


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
    failure = failure_of(history, place, tmp_path / "cache")
    assert failure.failure_class is FailureClass.REPOSITORY_UNAVAILABLE
    assert "patch" in failure.message
