"""Submodules: what a base has of them, from a whole experiment file to the files of a workspace."""

from __future__ import annotations

import os
import shutil
from pathlib import Path
from typing import NamedTuple

import pytest
import yaml

from isobench_ray.errors import UserError
from isobench_ray.experiment_file import load_experiment
from isobench_ray.failure import FailureClass
from isobench_ray.lock import LockedTask
from isobench_ray.planning import PlannedTask
from isobench_ray.repository import Submodule
from isobench_ray.resolve import make_lock, resolve_experiment
from isobench_ray.results import Snapshot
from isobench_ray.workspace import open_workspace
from tests.fixtures_git import Files, commit_all, run_git, tree_of, write_all

LIB = "third party/lib"
"""Where the superproject has its submodule."""
DEEP = "third party/lib/vendor/deep"
"""Where that has one itself."""


class Super(NamedTuple):
    """A repository whose one commit to win changes a file and moves a submodule."""

    folder: Path
    base: str
    human: str
    lib: dict[str, str]
    """Commits of the submodule, by `base` and `human`."""


def new_repository(folder: Path, files: Files) -> str:
    """A repository of two commits, so that there is a history to hide; the second one's hash."""
    folder.mkdir(parents=True)
    run_git(folder, "init", "--quiet", "--initial-branch=main")
    commit_all(folder, "before")
    return commit(folder, files)


def commit(folder: Path, files: Files, links: dict[str, str] | None = None) -> str:
    """Commit files and gitlinks (commits by path); the commit's hash."""
    write_all(folder, files)
    run_git(folder, "add", "--all", "--force")
    for path, linked in (links or {}).items():
        run_git(folder, "update-index", "--add", "--cacheinfo", f"160000,{linked},{path}")
    run_git(folder, "commit", "--quiet", "-m", "step")
    run_git(folder, "reset", "--quiet", "--hard")  # makes the empty folders of gitlinks
    return run_git(folder, "rev-parse", "HEAD")


def gitmodules(path: str, url: str) -> str:
    return f'[submodule "a name"]\n\tpath = {path}\n\turl = {url}\n'


def make_super(place: Path) -> Super:
    """A superproject with a submodule with a submodule, all in one folder."""
    deep = new_repository(place / "deep", {"deep.py": "deep\n", "run.sh": "echo\n"})
    new_repository(place / "lib", {"lib.py": "slow\n", ".gitignore": "*.log\n", "kept.log": "x\n"})
    (place / "lib" / "link").symlink_to("lib.py")
    said = {".gitmodules": gitmodules("vendor/deep", "../deep")}
    lib = {"base": commit(place / "lib", said, {"vendor/deep": deep})}
    lib["human"] = commit(place / "lib", {"lib.py": "fast\n"}, {"vendor/deep": deep})
    new_repository(place / "super", {"main.py": "slow\n"})
    said = {".gitmodules": gitmodules(LIB, "../lib"), "main.py": "slow\n", "third party/x": "x\n"}
    base = commit(place / "super", said, {LIB: lib["base"]})
    human = commit(place / "super", {"main.py": "fast\n"}, {LIB: lib["human"]})
    return Super(place / "super", base, human, lib)


@pytest.fixture(scope="module")
def original(tmp_path_factory) -> Super:
    return make_super(tmp_path_factory.mktemp("original") / "origins")


@pytest.fixture
def project(original, tmp_path, monkeypatch) -> Super:
    """A copy of the original, whose addresses are relative, and an empty cache."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    shutil.copytree(original.folder.parent, tmp_path / "origins", symlinks=True)
    return original._replace(folder=tmp_path / "origins" / "super")


class Resolved(NamedTuple):
    planned: PlannedTask
    locked: LockedTask


def resolve(project: Super, policy: str | None = None, **changes) -> Resolved:
    """The project's task as an experiment of that policy resolves and locks it."""
    folder = project.folder.parent.parent
    task = {
        "task_id": "t",
        "repository": changes.pop("url", project.folder.as_uri()),
        "base_commit": project.base,
        "human_commit": project.human,
        "instruction": "It is slow.",
        "workload": {"command": "true", "metrics": {"s": {"better": "lower", "primary": True}}},
        "check": {"command": "true"},
    }
    experiment = {
        "name": "e",
        "tasks": {"from": "tasks.yaml"},
        "agents": [{"name": "oracle", "kind": "oracle"}],
        "workspace": {} if policy is None else {"submodules": policy},
    } | changes
    (folder / "tasks.yaml").write_text(yaml.safe_dump([task]))
    (folder / "e.yaml").write_text(yaml.safe_dump(experiment))
    resolved = resolve_experiment(load_experiment(folder / "e.yaml"))
    lock = make_lock(resolved, None, Snapshot({}, [], [], []))
    return Resolved(resolved.tasks["t"], lock.tasks[0])


def files_of(folder: Path) -> dict[str, tuple[int, bytes]]:
    """Mode and content of everything below a folder but git's own, empty folders too."""
    found = {}
    for place, folders, files in os.walk(folder):
        folders[:] = [name for name in folders if name != ".git"]
        for name in (*files, *folders):
            path = Path(place) / name
            content = b"" if path.is_dir() else path.read_bytes()
            if name != ".git":
                found[str(path.relative_to(folder))] = (path.lstat().st_mode, content)
    return found


def recursive_clone(project: Super, commit: str, folder: Path) -> Path:
    """What plain git makes of a commit and all its submodules."""
    allow = ("-c", "protocol.file.allow=always")
    uri = project.folder.as_uri()
    run_git(folder.parent, "clone", "--quiet", "--no-checkout", uri, str(folder))
    run_git(folder, "checkout", "--quiet", commit)
    run_git(folder, *allow, "submodule", "--quiet", "update", "--init", "--recursive")
    return folder


@pytest.mark.parametrize("policy", [None, "empty"])
def test_empty_leaves_the_folder_of_a_submodule_empty_and_the_tree_as_it_is(
    policy, project, tmp_path
):
    planned, locked = resolve(project, policy)
    assert planned.resolved.base_tree == tree_of(project.folder, project.base)
    assert planned.resolved.human_tree == tree_of(project.folder, project.human)
    assert f"+Subproject commit {project.lib['human']}".encode() in planned.resolved.human_diff
    base = planned.repository.bake(planned.resolved.base_tree)
    (tmp_path / "room").mkdir()
    with open_workspace(base, tmp_path / "room") as workspace:
        assert list((workspace / LIB).iterdir()) == []
        assert run_git(workspace, "status", "--porcelain", "--ignored") == ""
        assert tree_of(workspace) == locked.base_tree


def test_gitlinks_of_the_base_are_recorded_whether_they_are_filled_or_not(project):
    link = Submodule(LIB, "../lib", project.lib["base"])
    for policy in ("empty", "fill"):
        planned, locked = resolve(project, policy)
        assert planned.resolved.submodules == (link,)
        assert locked.submodules == (link._asdict(),)


def test_fill_gives_exactly_the_files_of_a_recursive_clone(project, tmp_path):
    planned, locked = resolve(project, "fill")
    base = planned.repository.bake(planned.resolved.base_tree)
    (tmp_path / "room").mkdir()
    with open_workspace(base, tmp_path / "room") as workspace:
        found = files_of(workspace)
        assert run_git(workspace, "status", "--porcelain") == ""
        assert tree_of(workspace) == locked.base_tree
    assert found == files_of(recursive_clone(project, project.base, tmp_path / "plain"))
    assert {f"{LIB}/kept.log", f"{LIB}/link", f"{DEEP}/deep.py"} <= found.keys()


def test_a_filled_base_holds_its_own_objects_and_nothing_else(project, tmp_path):
    planned, _ = resolve(project, "fill")
    base = planned.repository.bake(planned.resolved.base_tree)
    git_dir = tmp_path / "history.git"
    base.write_git(git_dir, bare=True)
    listing = run_git(git_dir, "ls-tree", "-r", "-t", base.tree).splitlines()
    assert {line.split()[1] for line in listing} == {"blob", "tree"}  # no gitlink is left
    asked = ("cat-file", "--batch-all-objects", "--batch-check=%(objectname)")
    objects = run_git(git_dir, *asked).split()
    assert set(objects) == {line.split()[2] for line in listing} | {base.tree, base.commit}
    run_git(git_dir, "fsck", "--strict")
    for folder in ("super", "lib", "deep"):
        commits = run_git(project.folder.parent / folder, "rev-list", "--all").split()
        assert commits
        assert not set(commits) & set(objects)


def test_the_humans_diff_between_filled_trees_moves_the_submodule_too(project, tmp_path):
    planned, _ = resolve(project, "fill")
    plain = recursive_clone(project, project.base, tmp_path / "base")
    for git in sorted(plain.rglob(".git"), reverse=True):
        git.rename(tmp_path / f"{len(git.parts)}-{os.urandom(4).hex()}")
    run_git(plain, "apply", data=planned.resolved.human_diff)
    assert files_of(plain) == files_of(recursive_clone(project, project.human, tmp_path / "human"))
    assert (plain / LIB / "lib.py").read_text() == "fast\n"


def test_a_human_who_adds_the_submodule_is_filled_as_well(project):
    (project.folder / LIB).rmdir()
    base = commit(project.folder, {".gitmodules": None, "main.py": "slow\n"})
    said = {".gitmodules": gitmodules(LIB, "../lib"), "main.py": "fast\n"}
    human = commit(project.folder, said, {LIB: project.lib["base"]})
    project = project._replace(base=base, human=human)
    empty, filled = (resolve(project, policy).planned for policy in ("empty", "fill"))
    assert empty.resolved.submodules == filled.resolved.submodules == ()
    assert filled.resolved.base_tree == empty.resolved.base_tree
    assert b"+slow\n" in filled.resolved.human_diff
    assert b"Subproject" not in filled.resolved.human_diff
    assert b"Subproject" in empty.resolved.human_diff  # positive control
    assert filled.conditions != empty.conditions  # another human is measured


def test_refuse_is_a_failure_that_names_the_submodules_and_the_setting(project):
    planned, locked = resolve(project, "refuse")
    assert planned.failure.failure_class is FailureClass.HAS_SUBMODULES
    assert LIB in planned.failure.message
    assert "workspace.submodules" in planned.failure.policy.advice
    assert (locked.failure, locked.submodules) == (planned.failure, ())


def test_without_submodules_all_policies_are_one(project):
    plain = project._replace(base="parent", human=run_git(project.folder, "rev-parse", "HEAD~2"))
    found = [resolve(plain, policy).planned for policy in ("empty", "fill", "refuse")]
    assert found[0].resolved is not None
    assert found[0].resolved == found[1].resolved == found[2].resolved
    assert len({planned.conditions for planned in found}) == 1


@pytest.mark.parametrize("missing", ["lib", "deep"])
def test_a_submodule_that_cannot_be_had_is_named_with_its_address(missing, project):
    (project.folder.parent / missing).rename(project.folder.parent / "gone")
    planned, _ = resolve(project, "fill")
    assert planned.failure.failure_class is FailureClass.SUBMODULE_UNAVAILABLE
    uri = (project.folder.parent / missing).as_uri()
    path = {"lib": LIB, "deep": "vendor/deep"}[missing]
    assert f"the submodule {path} of {uri}: " in planned.failure.message
    assert "repositories:" in planned.failure.policy.advice
    assert resolve(project, "empty").planned.failure is None


def test_a_submodule_whose_commit_nobody_has_is_unavailable(project, tmp_path):
    human = commit(project.folder, {"main.py": "faster\n"}, {LIB: "ab" * 20})
    planned, _ = resolve(project._replace(base=project.human, human=human), "fill")
    assert planned.failure.failure_class is FailureClass.SUBMODULE_UNAVAILABLE
    assert "commit_unknown" in planned.failure.message
    assert "ab" * 20 in planned.failure.message


def test_a_partial_clone_of_a_submodule_is_unavailable(project, tmp_path):
    lib = project.folder.parent / "lib"
    run_git(lib, "config", "uploadpack.allowFilter", "true")
    partial = ("clone", "--quiet", "--bare", "--filter=blob:none")
    run_git(tmp_path, *partial, lib.as_uri(), str(tmp_path / "partial"))
    lib.rename(tmp_path / "gone")
    planned, _ = resolve(project, "fill", repositories={lib.as_uri(): "partial"})
    assert planned.failure.failure_class is FailureClass.SUBMODULE_UNAVAILABLE
    assert LIB in planned.failure.message


@pytest.mark.parametrize(
    ("said", "words"),
    [
        (None, "names no URL for the submodule"),
        ("[submodule]\n\tpath\n", "names no URL for the submodule"),
        ("[broken\n", "names no URL for the submodule"),
        (gitmodules(LIB, "../../../../../../../../../../lib"), "leads out of"),
        (gitmodules(LIB, '"--upload-pack=touch TRAP;"'), "cannot fetch --upload-pack=touch"),
        (gitmodules(LIB, "ext::touch TRAP"), "transport 'ext' not allowed"),
    ],
    ids=["missing", "no value", "broken", "too far up", "an option", "a command"],
)
def test_bad_gitmodules_are_no_obstacle_unless_they_are_needed(
    said, words, project, tmp_path, monkeypatch
):
    monkeypatch.chdir(tmp_path)
    text = said and said.replace("TRAP", str(tmp_path / "trap"))
    human = commit(project.folder, {".gitmodules": text, "x": "x\n"}, {LIB: project.lib["base"]})
    newest = commit(project.folder, {"x": "y\n"}, {LIB: project.lib["base"]})
    broken = project._replace(base=human, human=newest)
    planned, _ = resolve(broken, "fill")
    assert planned.failure.failure_class is FailureClass.SUBMODULE_UNAVAILABLE
    assert LIB in planned.failure.message
    assert words in planned.failure.message
    assert not (tmp_path / "trap").exists()
    (submodule,) = resolve(broken, "empty").planned.resolved.submodules
    assert (submodule.path, submodule.commit) == (LIB, project.lib["base"])


@pytest.mark.parametrize("kind", ["empty", "fill"])
def test_a_path_that_is_not_utf8_is_a_path(kind, project, tmp_path):
    odd = os.fsdecode(b"-caf\xe9")
    (project.folder / LIB).rmdir()
    said = {".gitmodules": os.fsencode(gitmodules(odd, "../lib"))}
    base = commit(project.folder, said, {odd: project.lib["base"]})
    human = commit(project.folder, {"x": "y\n"}, {odd: project.lib["base"]})
    planned, locked = resolve(project._replace(base=base, human=human), kind)
    (row,) = locked.submodules
    assert row["path"] == r"-caf\xe9"
    assert r"-caf\\xe9" in locked.model_dump_json()
    entries = planned.repository.bake(planned.resolved.base_tree).entries
    found = [entry.path for entry in entries if entry.path.startswith(b"-caf\xe9")]
    assert (b"-caf\xe9/lib.py" in found) == (kind == "fill")
    assert (b"-caf\xe9" in found) == (kind == "empty")


@pytest.mark.parametrize(
    ("said", "named"),
    [
        ("https://example.invalid/org/lib.git", "git@example.invalid:org/lib"),
        ("git@example.invalid:org/lib.git", "https://example.invalid/org/lib"),
        ("ssh://git@EXAMPLE.invalid/org/lib/", "https://user:word@example.invalid/org/lib.git/"),
        ("../lib.git", "ssh://example.invalid/org/lib"),
    ],
)
def test_a_place_is_found_under_any_spelling_of_a_submodules_address(
    said, named, project, tmp_path
):
    text = {".gitmodules": gitmodules(LIB, said)}
    base = commit(project.folder, text | {"x": "x\n"}, {LIB: project.lib["base"]})
    human = commit(project.folder, {"x": "y\n"}, {LIB: project.lib["base"]})
    project = project._replace(base=base, human=human)
    places = {
        "https://example.invalid/org/super": "origins/super",
        named: "origins/lib",
        named.replace("lib", "deep"): "origins/deep",
    }
    url = "https://example.invalid/org/super.git"
    planned, _ = resolve(project, "fill", url=url, repositories=places)
    assert planned.failure is None
    assert f"{DEEP}/deep.py".encode() in {
        entry.path for entry in planned.repository.bake(planned.resolved.base_tree).entries
    }
    places[named] = "origins/nothing"
    with pytest.raises(UserError) as raised:
        resolve(project, "fill", url=url, repositories=places)
    assert f"repositories.{named}: there is no {tmp_path}/origins/nothing" in str(raised.value)
