"""Addresses of repositories: URLs, paths and scp-like ones, compared, shortened and joined."""

from __future__ import annotations

import re


def repository_name(url: str) -> str:
    """The last word of a URL, a path or an scp-like address, without `.git`, safe as a name."""
    last = re.split(r"[/:]", url.rstrip("/"))[-1].removesuffix(".git")
    return re.sub(r"[^A-Za-z0-9._-]", "-", last) or "repository"


def same_repository(url: str) -> str:
    """One spelling for all addresses of a repository: without scheme, user, `.git` and slash.

    `https://github.com/a/b.git`, `git@github.com:a/b` and `ssh://git@github.com/a/b/` are one.
    """
    place = re.sub(r"^[A-Za-z][A-Za-z0-9+.-]*://", "", url)
    if place == url:
        place = re.sub(r"^([^/:]+):", r"\1/", url)  # scp-like
    host, _, path = place.partition("/")
    return f"{host.rpartition('@')[2].lower()}/{path.strip('/').removesuffix('.git')}"


def join_url(url: str, relative: str) -> str:
    """A submodule's URL; those that begin with ./ or ../ are relative to the repository's.

    Raises:
        ValueError: it climbs above the repository's host.
    """
    if not relative.startswith(("./", "../")):
        return relative
    base, rest = url.rstrip("/"), relative
    while rest.startswith(("./", "../")):
        if rest.startswith("../"):
            cut = max(base.rfind("/"), base.rfind(":"))
            if cut < 0 or cut == len(base) - 1 or (cut and base[cut - 1] in ":/"):
                raise ValueError(f"{relative} leads out of {url}")
            base = base[:cut] if base[cut] == "/" else base[: cut + 1]
        rest = rest.partition("/")[2]
    return f"{base}{'' if base.endswith(':') else '/'}{rest}"
