"""Describes installed packages by their files: installed_copies.py NAME..., as one JSON object.

Runs with the environment's interpreter, as the agent would. By name, for each that can be imported:
where it lies, git's blob id of each of its Python files, its version, and the commit it was
installed from where its metadata says so. Imports nothing of what it describes.
"""

import hashlib
import importlib.metadata
import importlib.util
import json
import re
import sys
from pathlib import Path


def main() -> None:
    """Print the description of every name that can be imported."""
    print(json.dumps({name: found for name in sys.argv[1:] if (found := describe(name))}))


def describe(name: str) -> "dict[str, object] | None":
    """One package or module; None if there is none of that name."""
    try:
        spec = importlib.util.find_spec(name)
    except (ImportError, ValueError, AttributeError):
        return None
    if spec is None:
        return None
    files = {}
    for folder in spec.submodule_search_locations or []:
        for path in Path(folder).rglob("*.py"):
            files[f"{name}/{path.relative_to(folder)}"] = blob_id(path)
    if spec.submodule_search_locations is None and spec.origin and spec.origin.endswith(".py"):
        files[f"{name}.py"] = blob_id(Path(spec.origin))
    if not files:
        return None
    version, commit = metadata(name)
    where = next(iter(spec.submodule_search_locations or []), spec.origin)
    return {"location": where, "files": files, "version": version, "commit": commit}


def metadata(name: str) -> "tuple[str | None, str | None]":
    """Version and source commit of the distribution that owns a package."""
    for distribution in importlib.metadata.distributions():
        top = (distribution.read_text("top_level.txt") or "").split()
        owned = {str(file).split("/")[0].removesuffix(".py") for file in distribution.files or []}
        if name not in top and name not in owned:
            continue
        version = distribution.version
        try:
            origin = json.loads(distribution.read_text("direct_url.json") or "{}")
        except ValueError:
            origin = {}
        local = re.search(r"\+(?:.*\.)?g([0-9a-f]{7,40})(?:\.|$)", version)
        commit = origin.get("vcs_info", {}).get("commit_id") or (local.group(1) if local else None)
        return version, commit
    return None, None


def blob_id(path: Path) -> str:
    """Git's object id of a file's bytes."""
    content = path.read_bytes()
    header = b"blob %d\0" % len(content)
    return hashlib.sha1(header + content, usedforsecurity=False).hexdigest()


if __name__ == "__main__":
    main()
