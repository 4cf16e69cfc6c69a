"""Repositories: the same trees from every place, and the right Failure where there is none."""

from __future__ import annotations

import hashlib
import shutil
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import git as gitpython
import pytest

from isobench_ray.addresses import join_url, repository_name, same_repository
from isobench_ray.base import Base
from isobench_ray.errors import FailureRaised
from isobench_ray.failure import FailureClass
from isobench_ray.repository import (
    cache_folder,
    open_repository,
)
from isobench_ray.task import Task
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

ROOT = Path(__file__).parents[1]


@pytest.fixture(scope="module")
def original(tmp_path_factory) -> History:
    folder = tmp_path_factory.mktemp("original") / "origin"
    return make_history(folder, {"a.py": "slow\n", "b.py": "b\n"}, {"a.py": "fast\n", "b.py": None})


@pytest.fixture
def history(original, tmp_path) -> History:
    shutil.copytree(original.folder, tmp_path / "origin")
    return original._replace(folder=tmp_path / "origin")


def failure_of(history: History, place: Path | str, cache: Path, **changes):
    with pytest.raises(FailureRaised) as raised:
        open_repository(URL, str(place), cache).resolve(make_task(history, **changes))
    return raised.value.failure


def mirror_in(cache: Path) -> Path:
    """The one mirror in a cache folder."""
    (mirror,) = (p for p in cache.iterdir() if p.is_dir())
    return mirror


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
    assert (
        run_git(mirror_in(tmp_path / "cache"), "count-objects", "-v").splitlines()[0] == "count: 0"
    )


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
    run_git(history.folder, "config", "uploadpack.allowAnySHA1InWant", "true")
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
    tried = failure.message.partition("; tried: ")[2].split("; ")
    refs = f"fetch +refs/heads/*:refs/heads/* +refs/tags/*:refs/tags/* from {place}"
    assert tried[:2] == (["the mirror"] if kind == "path" else ["the mirror", refs])
    if kind != "path":
        assert tried[2].startswith(f"fetch {'ab' * 20} from {place} (")
        assert len(tried[2].partition("(")[2]) > 10  # git's words


def test_the_beginning_of_an_unknown_hash_is_not_asked_for_by_hash(history, tmp_path):
    place = history.folder.as_uri()
    failure = failure_of(history, place, tmp_path / "cache", human_commit="abababa")
    assert failure.failure_class is FailureClass.COMMIT_UNKNOWN
    assert failure.message.count("fetch ") == 1


@pytest.mark.parametrize("digits", [7, 40])
@pytest.mark.parametrize("what", ["a.py", ""], ids=["blob", "tree"])
def test_a_blob_or_a_tree_is_no_commit(what, digits, history, tmp_path):
    other = run_git(history.folder, "rev-parse", f"{history.base}:{what}")[:digits]
    failure = failure_of(history, history.folder, tmp_path / "cache", human_commit=other)
    assert failure.failure_class is FailureClass.COMMIT_UNKNOWN


@pytest.mark.parametrize("kind", ["path", "bundle", "url"])
@pytest.mark.parametrize("digits", [7, 12, 39])
def test_the_beginning_of_a_hash_names_its_commit(digits, kind, history, tmp_path):
    task = make_task(history)
    short = make_task(
        history, base_commit=history.base[:digits], human_commit=history.human[:digits]
    )
    repository = open_repository(URL, source(kind, history, tmp_path), tmp_path / "cache")
    resolved = repository.resolve(short)
    assert (resolved.base_commit, resolved.human_commit) == (history.base, history.human)
    assert resolved == repository.resolve(task)


def commits_like(history: History, count: int) -> dict[str, bytes]:
    """Commits of the human's tree upon base that differ in their messages, by hash; unwritten."""
    tree, person = tree_of(history.folder, history.human), "t <t@example.invalid> 1 +0000"
    head = f"tree {tree}\nparent {history.base}\nauthor {person}\ncommitter {person}\n\n"
    texts = [f"{head}{number}\n".encode() for number in range(count)]
    return {hash_of(b"commit", text): text for text in texts}


def hash_of(kind: bytes, content: bytes) -> str:
    """Git's id of an object."""
    return hashlib.sha1(b"%s %d\0%s" % (kind, len(content), content)).hexdigest()


def store(history: History, kind: str, content: bytes, branch: str | None = None) -> None:
    stored = run_git(history.folder, "hash-object", "-t", kind, "-w", "--stdin", data=content)
    assert stored == hash_of(kind.encode(), content)
    if branch is not None:
        run_git(history.folder, "update-ref", f"refs/heads/{branch}", stored)


@pytest.mark.parametrize("kind", ["path", "url"])
def test_a_beginning_that_two_commits_share_is_ambiguous_and_names_them(kind, history, tmp_path):
    commits = commits_like(history, 80_000)
    by_beginning = {commit[:7]: commit for commit in commits}
    one = next(c for c in commits if by_beginning[c[:7]] != c)
    two = by_beginning[one[:7]]
    for commit in (one, two):
        store(history, "commit", commits[commit], branch=commit)
    place = source(kind, history, tmp_path)
    failure = failure_of(history, place, tmp_path / "cache", human_commit=one[:7])
    assert failure.failure_class is FailureClass.COMMIT_AMBIGUOUS
    assert f"2 commits that begin with {one[:7]}: {min(one, two)}, {max(one, two)}" in (
        failure.message
    )
    longer = next(n for n in range(8, 41) if one[:n] != two[:n])
    repository = open_repository(URL, place, tmp_path / "cache")
    assert repository.resolve(make_task(history, human_commit=one[:longer])).human_commit == one


def test_a_beginning_that_a_commit_shares_with_a_file_is_the_commits(history, tmp_path):
    commits = commits_like(history, 60_000)
    by_beginning = {commit[:7]: commit for commit in commits}
    blobs = ((hash_of(b"blob", b"%d" % n), b"%d" % n) for n in range(10**6))
    blob, content = next(pair for pair in blobs if pair[0][:7] in by_beginning)
    commit = by_beginning[blob[:7]]
    store(history, "blob", content)
    store(history, "commit", commits[commit])
    repository = open_repository(URL, str(history.folder), tmp_path / "cache")
    resolved = repository.resolve(make_task(history, human_commit=commit[:7]))
    assert resolved.human_commit == commit


@pytest.mark.parametrize("changes", [{"base_commit": "parent"}, {"base_commit": None}])
def test_the_base_is_the_one_parent_unless_the_task_names_it(changes, history, tmp_path):
    row = {k: v for k, v in make_task(history).model_dump().items() if k != "base_commit"}
    row |= {k: v for k, v in changes.items() if v is not None}
    repository = open_repository(URL, str(history.folder), tmp_path / "cache")
    resolved = repository.resolve(Task.model_validate(row))
    assert resolved.base_commit == history.base
    assert resolved.base_tree == tree_of(history.folder, history.base)


def test_parent_of_a_merge_or_of_a_first_commit_is_refused_with_the_parents(history, tmp_path):
    first = run_git(history.folder, "rev-parse", f"{history.base}^")
    run_git(history.folder, "checkout", "--quiet", "-b", "side", history.base)
    side = commit_all(history.folder, "side")
    run_git(history.folder, "merge", "--quiet", "--no-ff", "-m", "merge", history.human)
    merge = run_git(history.folder, "rev-parse", "HEAD")
    said = {merge: f"{side}, {history.human}", first: "none"}
    for human, parents in said.items():
        failure = failure_of(
            history, history.folder, tmp_path / "cache", base_commit="parent", human_commit=human
        )
        assert failure.failure_class is FailureClass.BASE_NOT_PARENT
        words = f"human_commit {human} has the parents {parents}; it has no single parent"
        assert words in failure.message
        assert "base_commit" in failure.policy.advice


def test_a_base_that_is_no_parent_is_refused_with_the_parents(history, tmp_path):
    first = run_git(history.folder, "rev-parse", f"{history.base}^")
    failure = failure_of(history, history.folder, tmp_path / "cache", base_commit=first)
    assert failure.failure_class is FailureClass.BASE_NOT_PARENT
    assert f"has the parents {history.base}; base_commit {first} is not one" in failure.message
    root = failure_of(
        history, history.folder, tmp_path / "cache", base_commit=history.human, human_commit=first
    )
    assert root.failure_class is FailureClass.BASE_NOT_PARENT
    assert "has the parents none" in root.message


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


@pytest.mark.parametrize("kind", ["path", "url"])
def test_a_partial_clone_lacks_files_and_says_so(kind, history, tmp_path):
    run_git(history.folder, "config", "uploadpack.allowFilter", "true")
    origin, partial = history.folder.as_uri(), tmp_path / "partial"
    run_git(tmp_path, "clone", "--quiet", "--bare", "--filter=blob:none", origin, str(partial))
    assert (partial / "HEAD").exists()
    history.folder.rename(tmp_path / "gone")  # nobody can fetch what is missing
    place = str(partial) if kind == "path" else partial.as_uri()
    failure = failure_of(history, place, tmp_path / "cache")
    assert failure.failure_class is FailureClass.REPOSITORY_UNAVAILABLE
    assert place in failure.message
    assert ("a partial clone?" in failure.message) == (kind == "path")


@pytest.mark.parametrize("kind", ["path", "url"])
def test_a_shallow_clone_serves_what_it_has(kind, history, tmp_path):
    def clone(depth: int) -> str:
        folder = tmp_path / f"depth-{depth}"
        uri = history.folder.as_uri()
        run_git(tmp_path, "clone", "--quiet", f"--depth={depth}", uri, str(folder))
        return str(folder) if kind == "path" else folder.as_uri()

    deep = open_repository(URL, clone(2), tmp_path / "cache").resolve(make_task(history))
    assert deep.base_tree == tree_of(history.folder, history.base)
    failure = failure_of(history, clone(1), tmp_path / "cache", base_commit="parent")
    assert failure.failure_class is FailureClass.COMMIT_UNKNOWN
    assert history.base in failure.message
    assert "(a shallow clone?)" in failure.message


def test_a_branch_that_became_a_folder_of_branches_hinders_no_fetch(history, tmp_path):
    repository = open_repository(URL, history.folder.as_uri(), tmp_path / "cache")
    run_git(history.folder, "branch", "topic", history.base)
    repository.resolve(make_task(history))
    run_git(history.folder, "branch", "-D", "topic")
    run_git(history.folder, "checkout", "--quiet", "-b", "topic/new")
    newer = commit_all(history.folder, "newer")
    resolved = repository.resolve(make_task(history, base_commit=history.human, human_commit=newer))
    assert resolved.human_commit == newer
    assert repository.resolve(make_task(history)).base_commit == history.base


def test_an_address_that_looks_like_an_option_is_none(history, tmp_path):
    trap = tmp_path / "trap"
    place = f"--upload-pack=touch {trap};"
    failure = failure_of(history, place, tmp_path / "cache")
    assert failure.failure_class is FailureClass.REPOSITORY_UNAVAILABLE
    assert not trap.exists()
    run_git(history.folder, "fetch", place, history.folder.as_uri(), check=False)
    assert trap.exists()  # positive control: git would have run it


def test_a_mirror_whose_making_was_killed_is_made_anew(history, tmp_path):
    write_all(history.folder, {".gitattributes": "* -diff\n"})
    human = commit_all(history.folder, "attributes")
    task = make_task(history, base_commit=history.human, human_commit=human)
    open_repository(URL, str(history.folder), tmp_path / "whole").resolve(task)
    whole = mirror_in(tmp_path / "whole")
    killed = tmp_path / "cache" / whole.name
    run_git(tmp_path, "init", "--quiet", "--bare", "--template=", str(killed))
    open_repository(URL, str(history.folder), tmp_path / "cache").resolve(task)
    attributes = [p / "info" / "attributes" for p in (whole, killed)]
    assert attributes[0].read_bytes() == attributes[1].read_bytes() != b""


def test_a_second_look_at_a_local_repository_writes_nothing_that_others_read(history, tmp_path):
    """Others read the list of alternates without a lock."""
    repository = open_repository(URL, str(history.folder), tmp_path / "cache")
    repository.resolve(make_task(history))
    alternates = mirror_in(tmp_path / "cache") / "objects" / "info" / "alternates"
    before = alternates.stat().st_mtime_ns
    assert alternates.read_text() == f"{history.folder}/.git/objects\n"
    repository.resolve(make_task(history))
    assert alternates.stat().st_mtime_ns == before
    history.folder.rename(tmp_path / "moved")
    history.folder.symlink_to(tmp_path / "moved")
    repository.resolve(make_task(history))
    assert alternates.read_text() == f"{tmp_path}/moved/.git/objects\n"


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


def fsck(base: Base, folder: Path) -> None:
    """Fails if git finds anything wrong with the base, once it is written."""
    base.write_git(folder, bare=True)
    run_git(folder, "fsck", "--strict", "--full")


def test_a_base_is_built_once_and_what_is_kept_is_used(history, tmp_path):
    repository = open_repository(URL, str(history.folder), tmp_path / "cache")
    tree = repository.resolve(make_task(history)).base_tree
    first = repository.bake(tree)
    kept = {p: p.stat().st_ino for p in (mirror_in(tmp_path / "cache") / "bases").rglob("*")}
    assert len(kept) == 4
    other = open_repository(URL, str(history.folder), tmp_path / "cache")
    assert other.bake(tree) == first
    assert {p: p.stat().st_ino for p in kept} == kept


def test_many_threads_that_bake_one_tree_get_one_base(history, tmp_path):
    tree = (
        open_repository(URL, str(history.folder), tmp_path / "cache")
        .resolve(make_task(history))
        .base_tree
    )

    def bake(_: int) -> Base:
        return open_repository(URL, str(history.folder), tmp_path / "cache").bake(tree)

    with ThreadPoolExecutor(8) as pool:
        bases = list(pool.map(bake, range(8)))
    assert all(base == bases[0] for base in bases)
    fsck(bases[0], tmp_path / "written.git")
    assert len(list((mirror_in(tmp_path / "cache") / "bases").iterdir())) == 1


BAKE = """\
import sys
from pathlib import Path
from isobench_ray import repository
from isobench_ray.task import Task

def bake(place, cache, task):
    opened = repository.open_repository("https://example.invalid/tiny.git", place, Path(cache))
    resolved = opened.resolve(Task.model_validate_json(task))
    base = opened.bake(resolved.base_tree)
    print(base.commit, base.pack[-20:].hex())

"""


def start_baking(history: History, cache: Path, before: str = "") -> subprocess.Popen[str]:
    """Another process that resolves and bakes the history's task."""
    place, task = history.folder.as_uri(), make_task(history).model_dump_json()
    code = f"{BAKE}{before}\nbake(*sys.argv[1:])"
    return subprocess.Popen(
        [sys.executable, "-c", code, place, str(cache), task],
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, cwd=ROOT,
    )  # fmt: skip


def test_processes_that_start_with_an_empty_cache_at_once_all_succeed(history, tmp_path):
    processes = [start_baking(history, tmp_path / "cache") for _ in range(4)]
    said = [process.communicate(timeout=60)[0] for process in processes]
    assert [process.returncode for process in processes] == [0, 0, 0, 0], said
    assert len(set(said)) == 1
    assert len(said[0].split()) == 2


def test_a_base_whose_building_was_killed_is_never_taken_for_good(history, tmp_path):
    kill = "import os\nrepository.make_index = lambda *_: os.kill(os.getpid(), 9)"
    process = start_baking(history, tmp_path / "cache", kill)
    process.communicate(timeout=60)
    assert process.returncode == -9
    bases = mirror_in(tmp_path / "cache") / "bases"
    (left,) = bases.iterdir()
    assert {"pack", "pack_index"} <= {p.name for p in left.iterdir()}  # it had come this far
    repository = open_repository(URL, history.folder.as_uri(), tmp_path / "cache")
    fsck(repository.bake(repository.resolve(make_task(history)).base_tree), tmp_path / "git")
    assert len(list(bases.iterdir())) == 1
    assert not left.exists()


def truncate(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-30])


def flip(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


def empty(path: Path) -> None:
    path.write_bytes(b"")


@pytest.mark.parametrize("damage", [truncate, flip, empty, Path.unlink])
@pytest.mark.parametrize("part", ["pack", "pack_index", "git_index"])
def test_a_kept_base_that_is_damaged_is_built_anew(part, damage, history, tmp_path):
    repository = open_repository(URL, str(history.folder), tmp_path / "cache")
    tree = repository.resolve(make_task(history)).base_tree
    good = repository.bake(tree)
    (kept,) = (mirror_in(tmp_path / "cache") / "bases").iterdir()
    damage(kept / part)
    assert repository.bake(tree) == good
    assert (kept / part).read_bytes() == getattr(good, part)


def test_a_pack_of_another_base_is_no_part_of_this_one(history, tmp_path):
    repository = open_repository(URL, str(history.folder), tmp_path / "cache")
    resolved = repository.resolve(make_task(history))
    base, human = (repository.bake(t) for t in (resolved.base_tree, resolved.human_tree))
    bases = mirror_in(tmp_path / "cache") / "bases"
    (kept,) = bases.glob(f"{base.tree}-*")
    (kept / "pack").write_bytes(human.pack)
    assert repository.bake(base.tree) == base


@pytest.mark.parametrize(
    ("url", "name"),
    [
        ("https://github.com/sgl-project/sglang.git", "sglang"),
        ("https://github.com/sgl-project/sglang", "sglang"),
        ("https://github.com/sgl-project/sglang.git/", "sglang"),
        ("https://github.com/vllm-project/vllm.git//", "vllm"),
        ("sglang.git", "sglang"),
        ("vllm.git/", "vllm"),
        ("git@github.com:vllm-project/vllm.git", "vllm"),
        ("host:vllm.git", "vllm"),
        ("ssh://git@host:22/a/vllm.git/", "vllm"),
        ("/srv/git/vllm.git", "vllm"),
        ("../widget", "widget"),
        ("https://example.invalid/org/widget.git", "widget"),
        ("https://example.invalid/org/git", "git"),
        ("https://example.invalid/org/digit.git", "digit"),
        ("https://example.invalid/a.git.tools.git", "a.git.tools"),
        ("https://example.invalid/a b%20c?.git", "a-b-20c-"),
        ("https://example.invalid/org/.git", "repository"),
    ],
)
def test_a_mirror_is_named_after_its_repository(url, name, tmp_path):
    assert repository_name(url) == name


@pytest.mark.parametrize(
    "url",
    [
        "https://github.com/Org/widget",
        "https://github.com/Org/widget.git",
        "https://github.com/Org/widget.git/",
        "HTTPS://GitHub.com/Org/widget/",
        "http://user:word@github.com/Org/widget.git",
        "git@github.com:Org/widget.git",
        "github.com:Org/widget",
        "github.com:/Org/widget.git",
        "ssh://git@github.com/Org/widget.git",
        "git+ssh://git@github.com/Org/widget",
        "git://github.com/Org/widget.git",
    ],
)
def test_all_spellings_of_an_address_are_one_repository(url):
    assert same_repository(url) == "github.com/Org/widget"


@pytest.mark.parametrize(
    ("one", "two"),
    [
        ("https://github.com/a/b", "https://gitlab.com/a/b"),
        ("https://github.com/a/b", "https://github.com/c/b"),
        ("https://github.com/a/b", "https://github.com/a/b.github"),
        ("https://github.com/a/widget", "https://github.com/a/wid"),
        ("https://github.com/a/widget.git", "https://github.com/a/widg"),
        ("https://github.com/a/digit", "https://github.com/a/di"),
        ("https://github.com/a/b", "https://github.com/a/b/c"),
        ("https://one.invalid/x@v/b", "https://two.invalid/y@v/b"),
        ("/home/one@work/b", "/home/two@work/b"),
        ("git@github.com:a/b", "git@github.com:a/B"),
    ],
)
def test_addresses_of_two_repositories_are_two(one, two):
    assert same_repository(one) != same_repository(two)


def test_a_path_and_its_file_url_are_one_repository():
    assert same_repository("/srv/git/x.git") == same_repository("file:///srv/git/x")


@pytest.mark.parametrize(
    ("url", "relative", "joined"),
    [
        ("https://h/a/b.git", "./c.git", "https://h/a/b.git/c.git"),
        ("https://h/a/b.git", "../c.git", "https://h/a/c.git"),
        ("https://h/a/b.git/", "../c.git", "https://h/a/c.git"),
        ("https://h/a/b", "../../c/d", "https://h/c/d"),
        ("https://h/a/b", ".././c", "https://h/a/c"),
        ("https://h:8080/a/b", "../../c", "https://h:8080/c"),
        ("git@h:a/b.git", "../c.git", "git@h:a/c.git"),
        ("git@h:a/b.git", "../../c/d", "git@h:c/d"),
        ("git@h:b", "../c", "git@h:c"),
        ("/srv/git/b", "../c", "/srv/git/c"),
        ("/b", "../c", "/c"),
        ("file:///srv/b", "../c", "file:///srv/c"),
        ("https://h/a/b", "https://other/c", "https://other/c"),
        ("https://h/a/b", "git@other:c", "git@other:c"),
        ("https://h/a/b", "/srv/c", "/srv/c"),
        ("https://h/a/b", "...c", "...c"),
    ],
)
def test_a_relative_address_starts_at_the_repositorys(url, relative, joined):
    assert join_url(url, relative) == joined


@pytest.mark.parametrize("url", ["https://h/a/b", "git@h:a/b", "/a/b", "a/b", "b"])
def test_a_relative_address_stays_on_the_repositorys_host(url):
    with pytest.raises(ValueError, match=r"^\.\./\.\./\.\./c leads out of"):
        join_url(url, "../../../c")


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


def test_no_process_of_git_outlives_a_look(history, tmp_path):
    def children() -> list[str]:
        lists = Path("/proc/self/task").glob("*/children")
        return sorted(child for one in lists for child in one.read_text().split())

    before = children()
    open_repository(URL, str(history.folder), tmp_path / "cache").resolve(make_task(history))
    assert children() == before
    with gitpython.Repo(history.folder) as repo:  # positive control: GitPython keeps processes
        assert repo.commit(history.human).tree.hexsha == tree_of(history.folder)
        assert children() != before
