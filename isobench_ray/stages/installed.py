"""Whether the environment holds another build of the package under test than the base's.

An installed copy of the repository's own package would show an agent a later state of the code it
is asked to improve. So a copy must be the base's: every file that both have must be equal, and it
must have no sources that the base lacks. Asked inside the sandbox, of the interpreter's import path
and of all folders of installed packages that can be seen there. Not compared: compiled files (of
those only the metadata's commit can tell), and packages inside archives such as wheels.
"""

from __future__ import annotations

import json
import stat
import sys
import tempfile
from collections.abc import Iterable
from pathlib import Path, PurePosixPath
from typing import NamedTuple

from isobench_ray.addresses import same_repository
from isobench_ray.base import Base, Entry
from isobench_ray.failure import FailureClass, fail
from isobench_ray.path_rules import is_rule, matching
from isobench_ray.process import run_process, tail
from isobench_ray.runners import __file__ as runners_file
from isobench_ray.sandbox import Mount
from isobench_ray.stages.node import Node
from isobench_ray.task import Task

SOURCE_FOLDERS = ("", "src/", "python/", "lib/")
"""Where repositories keep modules that are no packages, by custom."""
_PROBE_LIMIT_S = 120.0
_CONVENTIONAL = {
    "benchmark", "benchmarks", "ci", "conftest", "doc", "docs", "example", "examples", "noxfile",
    "scripts", "setup", "tasks", "test", "tests", "tools", "versioneer",
}  # fmt: skip
"""Names that any repository may use and that nobody means to install."""
_GENERATED = {"_version.py", "version.py", "__version__.py"}
"""Files that a build writes anew."""
_TOLD = 3


class InstalledCopy(NamedTuple):
    """A package or module that lies in the environment."""

    name: str
    location: str
    version: str | None
    commit: str | None
    """Where it was built from, if its metadata says so."""
    files: dict[str, str]
    """Git's blob id by path, such as `vllm/config.py`; compiled files are left out."""
    names_repository: bool = False
    """Whether its metadata gives the task's repository as an address."""


def refuse_other_builds(node: Node, base: Base, task: Task) -> None:
    """Ask the environment, once per worker and base.

    Raises:
        FailureRaised: other_build_installed, with the first files that differ.
    """
    if base.tree in node.compared_bases:
        return
    problems = other_builds(node, base, task)
    if problems:
        raise fail(FailureClass.OTHER_BUILD_INSTALLED, problems[0], "\n".join(problems))
    node.compared_bases.add(base.tree)


def other_builds(node: Node, base: Base, task: Task) -> list[str]:
    """What in the environment is another build of the task's repository than the base's.

    Raises:
        FailureRaised: harness_error, when the interpreter does not answer.
    """
    copies = installed_copies(node, base, task)
    found = (other_build(copy, base, task.base_commit) for copy in copies)
    return [problem for problem in found if problem is not None]


def installed_copies(node: Node, base: Base, task: Task) -> list[InstalledCopy]:
    """All installed packages with a name of the repository's, or with its address.

    Raises:
        FailureRaised: harness_error, when the interpreter does not answer.
    """
    folders = ("/usr", "/usr/local", *node.environment.folders)
    request = {
        "names": sorted({root.name for root in package_roots(base.entries)}),
        "repository": same_repository(task.repository),
        "folders": [str(Path(folder)) for folder in dict.fromkeys(folders)],
    }
    with tempfile.TemporaryDirectory(dir=node.scratch, prefix="installed-") as folder:
        scratch = Path(folder)
        (scratch / "room").mkdir()
        room = Mount(scratch / "room", "/scratch")
        harness = Mount(Path(runners_file).parent, "/harness")
        program = f"{node.sandbox.path(harness)}/installed_copies.py"
        home = node.sandbox.path(room)
        contained = node.sandbox.contain(
            [node.environment.python, "-I", program, json.dumps(request)],
            [room, harness],
            room,
            node.environment.variables(home, home) | {"PYTHONDONTWRITEBYTECODE": "1"},
        )
        done = run_process(
            contained.argv,
            cwd=contained.cwd,
            env=contained.env,
            stdout=scratch / "stdout",
            stderr=scratch / "stderr",
            timeout_s=_PROBE_LIMIT_S,
            output_limit_bytes=100_000_000,
            ledger=node.ledger,
        )
        if done.exit_code != 0:
            words = "the environment's interpreter cannot list its packages"
            raise fail(FailureClass.HARNESS_ERROR, words, tail(scratch / "stderr"))
        return [InstalledCopy(**row) for row in json.loads((scratch / "stdout").read_bytes())]


def other_build(copy: InstalledCopy, base: Base, base_commit: str) -> str | None:
    """Why an installed package is another build of the repository than the base's; None if not.

    It is the repository's if its metadata says so, or if a single path below the package's own
    name is the same; `__init__.py` counts only in a package that has nothing else.
    """
    what = f"{copy.name} {copy.version or '(unknown version)'} in {copy.location}"
    oids = {entry.path.decode(errors="surrogateescape"): entry.oid for entry in base.entries}
    prefixes = [r.prefix for r in package_roots(base.entries) if r.name == copy.name] or [""]
    prefix = max(prefixes, key=lambda p: sum(p + path in oids for path in copy.files))
    shared = {path for path in copy.files if prefix + path in oids}
    inside = (f"{prefix}{copy.name}/", f"{prefix}{copy.name}.py")
    own = {path for path in oids if path.startswith(inside)}
    telling = {path for path in shared if not path.endswith("__init__.py")}
    bare = all(path.endswith("__init__.py") for path in own)
    if not (copy.names_repository or telling or (bare and shared)):
        return None
    different = {p for p in shared if copy.files[p] != oids[prefix + p] and not _generated(p)}
    sources = {p for p in copy.files if p.endswith(".py") and p not in shared and not _generated(p)}
    hidden = _hidden_by_base(base, {prefix + path for path in sources})
    more = {path for path in sources if prefix + path not in hidden}
    if different or more:
        parts = [_some(different, "differ"), _some(more, "are not in it")]
        words = "; ".join(part for part in parts if part)
        return f"{what} is not the build of base_commit: {words}"
    if copy.commit and not any(c.startswith(copy.commit) for c in (base_commit, base.commit)):
        return f"{what} was built from {copy.commit}, not from base_commit {base_commit}"
    return None


class PackageRoot(NamedTuple):
    """A package or module that an installation of the repository may make importable."""

    prefix: str
    """The folder that it lies in, with a slash at the end, or nothing."""
    name: str


def package_roots(entries: Iterable[Entry]) -> set[PackageRoot]:
    """Every folder with an `__init__.py` whose own folder has none, and modules by custom."""
    paths = [
        PurePosixPath(entry.path.decode(errors="surrogateescape"))
        for entry in entries
        if stat.S_ISREG(entry.mode) and entry.path.endswith(b".py")
    ]
    packages = {path.parent for path in paths if path.name == "__init__.py"}
    roots = {(p.parent, p.name) for p in packages if p.parent not in packages and p.parts}
    roots |= {
        (path.parent, path.stem)
        for path in paths
        if path.name != "__init__.py" and _as_prefix(path.parent) in SOURCE_FOLDERS
    }
    return {
        PackageRoot(_as_prefix(parent), name)
        for parent, name in roots
        if name.isidentifier()
        and name not in sys.stdlib_module_names
        and not _CONVENTIONAL & {name, *parent.parts}
    }


def _as_prefix(folder: PurePosixPath) -> str:
    return f"{folder}/" if folder.parts else ""


def _generated(path: str) -> bool:
    return PurePosixPath(path).name in _GENERATED


def _hidden_by_base(base: Base, paths: set[str]) -> set[str]:
    """Those paths that an ignore file of the base names: what its build writes."""
    hidden: set[str] = set()
    for entry in base.entries:
        folder, _, name = entry.path.decode(errors="surrogateescape").rpartition("/")
        if name == ".gitignore" and stat.S_ISREG(entry.mode):
            lines = bytes(base.bytes_of(entry)).decode(errors="replace").splitlines()
            rules = [line for line in lines if is_rule(line)]
            inner = {p.removeprefix(f"{folder}/"): p for p in paths if p.startswith(folder)}
            hidden |= {inner[path] for path in matching(rules, inner)}
    return hidden


def _some(paths: set[str], words: str) -> str:
    """The first of some files, and how many there are."""
    if not paths:
        return ""
    names = ", ".join(sorted(paths)[:_TOLD]) + (", …" if len(paths) > _TOLD else "")
    return f"{len(paths)} files {words} ({names})"
