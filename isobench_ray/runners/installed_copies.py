"""Describes installed copies of a repository's packages: installed_copies.py REQUEST.

Runs with the environment's interpreter, in the sandbox, as the agent would. REQUEST is a JSON
object: `names` of packages and modules, `repository` (host/path, without scheme and .git) and
`folders` whose site-packages are looked through besides the interpreter's own import path. Prints a
JSON list with one object for each copy: of a package with such a name, or of any distribution whose
metadata names the repository. Imports nothing of what it describes.
"""

import hashlib
import importlib.metadata
import importlib.util
import json
import re
import sys
from collections.abc import Iterator
from pathlib import Path

SITES = (
    "lib/python3*/site-packages",
    "lib/python3*/dist-packages",
    "lib/python3/dist-packages",
    "envs/*/lib/python3*/site-packages",
    "pkgs/*/site-packages",
    "pkgs/*/lib/python3*/site-packages",
)
"""Where packages lie below an installation's folder; the last three are conda's."""
LARGEST_FILE = 5_000_000
"""Bytes; larger files are no sources."""
COMPILED = {".pyc", ".pyo", ".so", ".a", ".o", ".pyd"}


def main() -> None:
    """Print every copy once, wherever it was found."""
    request = json.loads(sys.argv[1])
    copies = {}
    for name in request["names"]:
        for place in imported_from(name):
            copies[str(place.resolve())] = describe(name, place, request["repository"])
    for site in sites(request["folders"]):
        named = {name for name in request["names"] if installed_at(site, name)}
        for distribution in importlib.metadata.distributions(path=[str(site)]):
            if names_repository(distribution, request["repository"]):
                named |= {name for name in top_names(distribution) if installed_at(site, name)}
        for name in named:
            place = installed_at(site, name) or site
            copies[str(place.resolve())] = describe(name, place, request["repository"])
    print(json.dumps([copy for copy in copies.values() if copy["files"]]))


def imported_from(name: str) -> "list[Path]":
    """Where the import system would take a package or module from."""
    try:
        spec = importlib.util.find_spec(name)
    except (ImportError, ValueError, AttributeError):
        return []
    if spec is None:
        return []
    if spec.submodule_search_locations is not None:
        return [Path(folder) for folder in spec.submodule_search_locations]
    return [Path(spec.origin)] if spec.origin and spec.origin.endswith(".py") else []


def sites(folders: "list[str]") -> "list[Path]":
    """Folders of installed packages."""
    return [site for folder in folders for form in SITES for site in Path(folder).glob(form)]


def installed_at(site: Path, name: str) -> "Path | None":
    """A package's folder or a module's file in a folder of installed packages."""
    for place in (site / name, site / f"{name}.py"):
        if place.exists():
            return place
    return None


def describe(name: str, place: Path, repository: str) -> "dict[str, object]":
    """One copy: its files by git's blob id, and what its metadata says."""
    files = {}
    for path in [place] if place.is_file() else place.rglob("*"):
        if path.suffix in COMPILED or not path.is_file() or path.stat().st_size > LARGEST_FILE:
            continue
        inner = path.name if path == place else f"{name}/{path.relative_to(place)}"
        files[inner] = blob_id(path)
    version, commit, ours = None, None, False
    for distribution in importlib.metadata.distributions(path=[str(place.parent)]):
        if name in top_names(distribution):
            version, commit = distribution.version, source_commit(distribution)
            ours = names_repository(distribution, repository)
    return {
        "name": name, "location": str(place), "files": files, "version": version,
        "commit": commit, "names_repository": ours,
    }  # fmt: skip


def top_names(distribution: importlib.metadata.Distribution) -> "set[str]":
    """Top-level names that a distribution installs."""
    names = set((distribution.read_text("top_level.txt") or "").split())
    for file in distribution.files or []:
        if file.suffix == ".py":
            names.add(file.parts[0].removesuffix(".py"))
    return names


def names_repository(distribution: importlib.metadata.Distribution, repository: str) -> bool:
    """Whether a distribution's metadata gives the repository as one of its addresses."""
    plain = (re.sub(r"\.git$", "", url.lower().rstrip("/")) for url in urls(distribution))
    return any(url.endswith(f"/{repository.lower()}") for url in plain)


def urls(distribution: importlib.metadata.Distribution) -> "Iterator[str]":
    """Addresses in a distribution's metadata."""
    for field in ("Home-page", "Download-URL", "Project-URL"):
        for value in distribution.metadata.get_all(field) or []:
            yield str(value).rpartition(" ")[2]
    yield str(origin(distribution).get("url", ""))


def origin(distribution: importlib.metadata.Distribution) -> "dict[str, object]":
    """direct_url.json; empty where there is none."""
    try:
        found = json.loads(distribution.read_text("direct_url.json") or "{}")
    except ValueError:
        return {}
    return found if isinstance(found, dict) else {}


def source_commit(distribution: importlib.metadata.Distribution) -> "str | None":
    """The commit that a distribution was built from, if it says so."""
    vcs = origin(distribution).get("vcs_info")
    if isinstance(vcs, dict) and isinstance(vcs.get("commit_id"), str):
        return str(vcs["commit_id"])
    local = re.search(r"\+(?:.*\.)?g([0-9a-f]{7,40})(?:\.|$)", distribution.version)
    return local.group(1) if local else None


def blob_id(path: Path) -> str:
    """Git's object id of a file's bytes."""
    content = path.read_bytes()
    header = b"blob %d\0" % len(content)
    return hashlib.sha1(header + content, usedforsecurity=False).hexdigest()


if __name__ == "__main__":
    main()
