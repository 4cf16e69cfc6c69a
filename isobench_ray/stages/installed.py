"""Whether the environment holds another build of the package under test than the base's.

An installed copy of the repository's own package would show an agent a later state of the code it
is asked to improve. So each installed file that the base has too must be the base's.
"""

from __future__ import annotations

import json
import stat
import tempfile
from collections.abc import Iterable
from pathlib import Path, PurePosixPath
from typing import NamedTuple

from isobench_ray.base import Base, Entry
from isobench_ray.failure import FailureClass, fail
from isobench_ray.process import run_process, tail
from isobench_ray.runners import __file__ as runners_file
from isobench_ray.sandbox import Mount
from isobench_ray.stages.node import Node

SOURCE_FOLDERS = ("", "src/", "python/", "lib/")
"""Where repositories keep their packages, by custom."""
_PROBE_LIMIT_S = 120.0
_NO_PACKAGES = {"setup", "conftest", "noxfile", "tasks", "versioneer"}


class InstalledCopy(NamedTuple):
    """A package of the environment that has the name of one in the repository."""

    name: str
    location: str
    version: str | None
    commit: str | None
    """Where it was built from, if its metadata says so."""
    files: dict[str, str]
    """Git's blob id by path, such as `vllm/config.py`."""


def refuse_other_builds(node: Node, base: Base, base_commit: str) -> None:
    """Ask the environment, once per worker and base, inside the sandbox, as an agent would.

    Raises:
        FailureRaised: other_build_installed, with the first files that differ.
    """
    if base.tree in node.compared_bases:
        return
    for copy in installed_copies(node, base):
        problem = other_build(copy, base.entries, base_commit)
        if problem is not None:
            raise fail(FailureClass.OTHER_BUILD_INSTALLED, problem)
    node.compared_bases.add(base.tree)


def installed_copies(node: Node, base: Base) -> list[InstalledCopy]:
    """What the environment's interpreter can import under the names of the base's packages.

    Raises:
        FailureRaised: harness_error, when the interpreter does not answer.
    """
    names = sorted(package_names(base.entries))
    if not names:
        return []
    with tempfile.TemporaryDirectory(dir=node.scratch, prefix="installed-") as folder:
        scratch = Path(folder)
        (scratch / "room").mkdir()
        room = Mount(scratch / "room", "/scratch")
        harness = Mount(Path(runners_file).parent, "/harness")
        program = f"{node.sandbox.path(harness)}/installed_copies.py"
        home = node.sandbox.path(room)
        contained = node.sandbox.contain(
            [node.environment.python, "-I", program, *names],
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
        found = json.loads((scratch / "stdout").read_bytes())
    return [InstalledCopy(name, **facts) for name, facts in found.items()]


def other_build(copy: InstalledCopy, entries: Iterable[Entry], base_commit: str) -> str | None:
    """Why an installed package is another build of the repository than the base's; None if not.

    A package that merely has the same name shares few files with the repository and is no build
    of it. Compiled files cannot be compared; of them only the metadata's commit can tell.
    """
    oids = {entry.path.decode(errors="surrogateescape"): entry.oid for entry in entries}
    ours = {
        path: next((oids[f + path] for f in SOURCE_FOLDERS if f + path in oids), None)
        for path in copy.files
    }
    known = {path: oid for path, oid in ours.items() if oid is not None}
    telling = [path for path in copy.files if not path.endswith("__init__.py")] or list(copy.files)
    if 2 * sum(path in known for path in telling) < len(telling):
        return None
    different = [path for path, oid in sorted(known.items()) if copy.files[path] != oid]
    what = f"{copy.name} {copy.version or '(unknown version)'} in {copy.location}"
    if different:
        names = ", ".join(different[:3]) + (", …" if len(different) > 3 else "")
        return f"{what} is not the build of base_commit: {len(different)} files differ ({names})"
    if copy.commit is not None and not base_commit.startswith(copy.commit):
        return f"{what} was built from {copy.commit}, not from base_commit {base_commit}"
    return None


def package_names(entries: Iterable[Entry]) -> set[str]:
    """Names that an installation of the repository would make importable."""
    packages, modules = set(), set()
    for entry in entries:
        path = PurePosixPath(entry.path.decode(errors="surrogateescape"))
        if not stat.S_ISREG(entry.mode) or path.suffix != ".py":
            continue
        folder = "" if len(path.parts) == 1 else f"{path.parts[0]}/"
        inner = path.parts[1:] if len(path.parts) > 1 and folder in SOURCE_FOLDERS else path.parts
        if len(inner) == 1 and inner[0] != "__init__.py":
            modules.add(path.stem)
        elif len(inner) == 2 and inner[1] == "__init__.py":
            packages.add(inner[0])
    names = packages or modules - _NO_PACKAGES
    return {name for name in names if name.isidentifier()}
