"""The leak audit: nothing is found in our workspaces, and every way is found where it is open."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from isobench_ray.errors import FailureRaised
from isobench_ray.experiment import PatchPolicy
from isobench_ray.overlay import why_no_overlay
from isobench_ray.runners.leak_probe import WAYS
from isobench_ray.stages import leak_audit
from isobench_ray.stages.leak_audit import (
    AuditedTask,
    audit_workspace,
    make_questions,
    probe,
)
from isobench_ray.stages.node import Node, clear_scratch
from isobench_ray.task import TaskFiles
from isobench_ray.workspace import open_workspace
from tests.fixtures_git import (
    Baked,
    Files,
    History,
    bake,
    commit_all,
    make_history,
    make_node,
    make_task,
    require_bubblewrap,
    run_git,
    write_all,
)

BASE: Files = {
    "a.py": "".join(f"slow line {n}\n" for n in range(30)),
    "kept.log": "tracked though ignored\n",
    ".gitignore": "*.log\n",
    "pkg/__init__.py": "",
    "pkg/b.py": "b = 1\n" * 20,
}
HUMAN: Files = {"a.py": "".join(f"fast line {n}\n" for n in range(30))}


class Scene(NamedTuple):
    """A task, a node, and a folder where nothing else lies."""

    history: History
    baked: Baked
    audited: AuditedTask
    node: Node
    folder: Path

    def ask(self, workspace: Path, **changes: Any) -> dict[str, list[str]]:
        """What the probe finds from a folder; it searches that folder alone unless told."""
        artifacts = clear_scratch(self.node, self.baked.base)
        human = self.baked.repository.bake(self.baked.resolved.human_tree)
        questions = json.loads(make_questions(self.audited, self.baked.base, human, self.node))
        if self.node.sandbox.facts.mechanism == "none":
            questions |= {"roots": [str(workspace)], "rooms": [str(workspace)]}
        asked = json.dumps(questions | changes).encode()
        ways = probe(self.audited, asked, workspace, self.node, artifacts)
        return {way.way: list(way.found) for way in ways if way.found}


def make_scene(tmp_path: Path, sandbox: str = "none") -> Scene:
    history = make_history(tmp_path / "origin", BASE, HUMAN)
    baked = bake(history, tmp_path / "cache")
    audited = AuditedTask(make_task(history), TaskFiles(), baked.repository, baked.resolved)
    return Scene(history, baked, audited, make_node(tmp_path / "node", sandbox), tmp_path)


@pytest.fixture
def scene(tmp_path) -> Scene:
    return make_scene(tmp_path)


# Ours


@pytest.mark.parametrize("kind", ["copy", "overlay"])
def test_no_way_is_open_in_our_workspace_even_after_a_trial_on_the_humans_tree(tmp_path, kind):
    require_bubblewrap()
    scene = make_scene(tmp_path, "auto")
    why = why_no_overlay(scene.node.scratch) if kind == "overlay" else None
    if why is not None:
        pytest.skip(f"NO OVERLAYS ON THIS MACHINE: {why}")
    report = audit_workspace(scene.audited, scene.node._replace(workspace_kind=kind), PatchPolicy())
    assert [way.way for way in report.ways] == [*WAYS, "installed packages"]
    assert report.leaks == []
    assert report.is_replayed
    assert report.is_clean
    assert report.human_tree == scene.baked.resolved.human_tree != scene.baked.base.tree


def test_what_the_earlier_agent_leaves_would_be_found_if_it_stayed(tmp_path, monkeypatch):
    require_bubblewrap()
    scene = make_scene(tmp_path, "auto")
    # the mechanism broken: the workspace of the trial before is handed out again
    human = scene.baked.repository.bake(scene.baked.resolved.human_tree)
    with open_workspace(human, scene.node.scratch) as workspace:
        shutil.copytree(workspace, tmp_path / "left")
    found = scene.ask(tmp_path / "left")
    assert {"human objects", "other objects", "human files"} <= found.keys()


def test_without_a_sandbox_the_audit_says_what_is_open(scene):
    (scene.folder / "room").mkdir()
    with open_workspace(scene.baked.base, scene.folder / "room") as workspace:
        found = scene.ask(workspace, roots=[str(scene.folder)])
    assert {"human files", "other repositories", "processes"} <= found.keys()
    assert "human objects" not in found  # its own git knows nothing, with or without a sandbox


# Everything else: what people do instead, and each way with something that opens it


def clone(scene: Scene, *options: str) -> Path:
    folder = scene.folder / "clone"
    origin = scene.history.folder
    run_git(scene.folder, "clone", "--quiet", *options, str(origin), str(folder))
    run_git(folder, "checkout", "--quiet", "--detach", scene.history.base)
    return folder


def clone_and_forget(scene: Scene) -> Path:
    folder = clone(scene)
    run_git(folder, "remote", "remove", "origin")
    run_git(folder, "branch", "--force", "main", scene.history.base)
    run_git(folder, "reset", "--quiet", "--hard", scene.history.base)
    return folder


def worktree(scene: Scene) -> Path:
    folder = scene.folder / "worktree"
    add = ("worktree", "add", "--quiet", "--detach", str(folder), scene.history.base)
    run_git(scene.history.folder, *add)
    return folder


def detached_worktree(scene: Scene) -> Path:
    folder = worktree(scene)
    (folder / ".git").unlink()
    run_git(folder, "init", "--quiet")
    run_git(folder, "add", "--all")
    run_git(folder, "commit", "--quiet", "-m", "base")
    return folder


def shallow_fetch(scene: Scene, *commits: str) -> Path:
    folder = scene.folder / "shallow"
    folder.mkdir()
    run_git(scene.history.folder, "config", "uploadpack.allowAnySHA1InWant", "true")
    run_git(folder, "init", "--quiet")
    for commit in commits or (scene.history.base,):
        run_git(folder, "fetch", "--quiet", "--depth=1", scene.history.folder.as_uri(), commit)
        run_git(folder, "checkout", "--quiet", "--detach", commit)
    return folder


NAIVE: dict[str, tuple[Callable[[Scene], Path], set[str]]] = {
    "clone": (clone, {"git log", "human objects", "references", "pointers to stores"}),
    "clone, remote removed": (clone_and_forget, {"human objects", "other objects"}),
    "clone --shared": (lambda s: clone(s, "--shared"), {"human objects", "pointers to stores"}),
    "worktree": (worktree, {"git log", "human objects", "pointers to stores"}),
    "worktree, git anew": (detached_worktree, {"commit metadata", "other objects"}),
    "shallow fetch": (shallow_fetch, {"commit metadata", "traces of git"}),
    "reused after the human's commit": (
        lambda s: shallow_fetch(s, s.history.human, s.history.base),
        {"human objects", "other objects", "traces of git"},
    ),
}


@pytest.mark.parametrize("name", NAIVE)
def test_the_audit_finds_the_leaks_of_other_ways_to_make_a_workspace(scene, name):
    make, expected = NAIVE[name]
    found = scene.ask(make(scene))
    assert expected <= found.keys()


@pytest.mark.parametrize("name", ["clone", "reused after the human's commit"])
def test_it_finds_them_inside_the_sandbox_too(tmp_path, name):
    require_bubblewrap()
    scene = make_scene(tmp_path, "auto")
    make, _ = NAIVE[name]
    assert {"human objects", "other objects"} <= scene.ask(make(scene)).keys()


@contextlib.contextmanager
def ours(scene: Scene) -> Iterator[Path]:
    """Our own workspace, copied to where a control may damage it."""
    (scene.folder / "room").mkdir()
    with open_workspace(scene.baked.base, scene.folder / "room") as workspace:
        shutil.copytree(workspace, scene.folder / "ours" / "workspace", symlinks=True)
    yield scene.folder / "ours" / "workspace"


def commit_more(scene: Scene, workspace: Path) -> None:
    write_all(workspace, {"a.py": "more\n"})
    commit_all(workspace, "more")


def hide_human_object(scene: Scene, workspace: Path) -> None:
    content = (scene.history.folder / "a.py").read_bytes()
    run_git(workspace, "hash-object", "-w", "--stdin", data=content)


def link_hard(scene: Scene, workspace: Path) -> None:
    os.link(workspace / "a.py", scene.folder / "other")


def note(name: str, text: str) -> Callable[[Scene, Path], None]:
    def write(scene: Scene, workspace: Path) -> None:
        place = workspace / name
        place.parent.mkdir(parents=True, exist_ok=True)
        place.write_text(text.replace("HUMAN", scene.history.human))

    return write


def leave_human_file(scene: Scene, workspace: Path) -> None:
    (workspace / "build").mkdir()
    shutil.copyfile(scene.history.folder / "a.py", workspace / "build" / "x.py")


def leave_repository(scene: Scene, workspace: Path) -> None:
    folder = workspace / "build" / "cache"
    run_git(scene.folder, "clone", "--quiet", "--mirror", str(scene.history.folder), str(folder))


def leave_pack(scene: Scene, workspace: Path) -> None:
    leave_repository(scene, workspace)
    folder = workspace / "build" / "cache"
    run_git(folder, "repack", "-adq")
    shutil.move(folder / "objects" / "pack", workspace / "build" / "pack")
    shutil.rmtree(folder)


def leave_bundle(scene: Scene, workspace: Path) -> None:
    bundle = workspace / "build" / "all.bundle"
    bundle.parent.mkdir()
    run_git(scene.history.folder, "bundle", "create", "--quiet", str(bundle), "--all")


def lose_the_pack(scene: Scene, workspace: Path) -> None:
    for path in (workspace / ".git" / "objects" / "pack").glob("*.idx"):
        path.unlink()


def surround(scene: Scene, workspace: Path) -> None:
    run_git(workspace.parent, "init", "--quiet")


CONTROLS: dict[str, tuple[Callable[[Scene, Path], None], str]] = {
    "a second commit": (commit_more, "git log"),
    "an author of one's own": (commit_more, "commit metadata"),
    "a loose object of the human's": (hide_human_object, "human objects"),
    "an unreachable object": (hide_human_object, "other objects"),
    "a tag": (lambda s, w: run_git(w, "tag", "later"), "references"),
    "FETCH_HEAD": (note(".git/FETCH_HEAD", "x"), "traces of git"),
    "alternates": (note(".git/objects/info/alternates", "/x/objects\n"), "pointers to stores"),
    "a remote": (lambda s, w: run_git(w, "remote", "add", "o", "/x"), "pointers to stores"),
    "a repository around": (surround, "outer repositories"),
    "a hard link": (link_hard, "hard links"),
    "a note with the hash": (note("notes.txt", "see HUMAN"), "words in files"),
    "a build of the human's": (leave_human_file, "human files"),
    "a mirror in a cache": (leave_repository, "other repositories"),
    "a pack in a cache": (leave_pack, "other repositories"),
    "a bundle": (leave_bundle, "other repositories"),
    "a git that does not answer": (note(".git/config", "[core\nbroken"), "git's own view"),
    "a base that is not whole": (lose_the_pack, "git's own view"),
    "another HEAD": (commit_more, "git's own view"),
}


@pytest.mark.parametrize("name", CONTROLS)
def test_each_way_is_found_where_something_opens_it(scene, name):
    open_way, way = CONTROLS[name]
    with ours(scene) as workspace:
        assert way not in scene.ask(workspace)
        open_way(scene, workspace)
        assert way in scene.ask(workspace)


def test_a_hash_in_the_environment_of_a_visible_process_is_found(scene):
    with ours(scene) as workspace:
        sleeper = subprocess.Popen(["sleep", "60"], env={"COMMIT": scene.history.human})
        try:
            assert "words in processes" in scene.ask(workspace)
        finally:
            sleeper.kill()
            sleeper.wait()


def test_a_layer_of_an_overlay_is_found_where_nothing_hides_it(scene):
    why = why_no_overlay(scene.node.scratch)
    if why is not None:
        pytest.skip(f"NO OVERLAYS ON THIS MACHINE: {why}")
    artifacts = clear_scratch(scene.node, scene.baked.base)
    human = scene.baked.repository.bake(scene.baked.resolved.human_tree)
    questions = json.loads(make_questions(scene.audited, scene.baked.base, human, scene.node))
    with open_workspace(scene.baked.base, scene.node.scratch, "overlay") as workspace:
        asked = json.dumps(questions | {"roots": [str(workspace)]}).encode()
        ways = probe(scene.audited, asked, workspace, scene.node, artifacts)
    assert any(way.found for way in ways if way.way == "overlay layers")


def test_every_way_has_something_above_that_opens_it():
    controlled = {way for _, way in CONTROLS.values()}
    elsewhere = {"words in processes", "overlay layers", "processes", "network"}
    assert controlled | elsewhere == set(WAYS)


def test_a_whole_clone_whose_git_is_broken_does_not_pass(scene):
    folder = clone(scene)
    (folder / ".git" / "config").write_text("[core\nbroken")
    assert "git's own view" in scene.ask(folder)


def test_a_foreign_bundle_of_certificates_is_no_leak(scene):
    with ours(scene) as workspace:
        note("build/ca.bundle", "-----BEGIN CERTIFICATE-----\n")(scene, workspace)
        assert "other repositories" not in scene.ask(workspace)


def test_the_audit_fails_where_its_worst_case_did_not_happen(tmp_path, monkeypatch):
    require_bubblewrap()
    scene = make_scene(tmp_path, "auto")
    monkeypatch.setattr(leak_audit, "_LEAVINGS", "set -e; false")
    with pytest.raises(FailureRaised, match="the agent before the audit ended as agent_error"):
        audit_workspace(scene.audited, scene.node, PatchPolicy())


def test_an_interface_besides_the_loopback_is_found(scene):
    interfaces = {path.name for path in Path("/sys/class/net").iterdir()} - {"lo"}
    if not interfaces:
        pytest.skip("NO NETWORK INTERFACE ON THIS MACHINE")
    with ours(scene) as workspace:
        assert {f"interface {name}" for name in interfaces} <= set(scene.ask(workspace)["network"])
