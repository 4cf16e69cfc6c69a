"""Patches as texts: applied to their base strictly, and described by what they change.

A diff that an agent hands in is an agent's program for `git apply`: it is held to the same sizes as
files that are taken from a workspace, before and after.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import NamedTuple

from isobench_ray.experiment import PatchPolicy
from isobench_ray.left_out import megabytes
from isobench_ray.plumbing import GitError, apply_to_tree, changed_sizes, numstat
from isobench_ray.schema import sha256_hex
from isobench_ray.trial import Patch


class Extraction(NamedTuple):
    """A patch and its text."""

    patch: Patch
    text: bytes
    excluded: tuple[str, ...] = ()
    """What was left out, with reasons; empty for a patch that was handed in."""


def describe_patch(
    harness: Path, base_tree: str, text: bytes, policy: PatchPolicy | None = None
) -> Extraction:
    """Apply a diff to the base, strictly, and say what it is. One that does not apply is kept.

    With a policy, for a diff that somebody hands in, one that is larger than the policy allows, or
    says that it unpacks to more, counts as one that does not apply.
    """
    patch = Patch(sha256=sha256_hex(text), size_bytes=len(text), base_tree=base_tree, tree=None)
    try:
        if policy is not None:
            declared = re.findall(rb"^(?:literal|delta) (\d+)$", text, re.MULTILINE)
            _refuse_large([int(size) for size in declared], policy)
        tree = apply_to_tree(harness, base_tree, text)
        if policy is not None:
            _refuse_large(changed_sizes(harness, base_tree, tree), policy)
    except GitError as error:
        return Extraction(patch.model_copy(update={"apply_error": str(error)}), text)
    rows = numstat(harness, base_tree, tree)
    facts = {
        "tree": tree,
        "files": tuple(row[0] for row in rows),
        "lines_added": _total([row[1] for row in rows]),
        "lines_removed": _total([row[2] for row in rows]),
    }
    return Extraction(patch.model_copy(update=facts), text)


def _refuse_large(sizes: list[int], policy: PatchPolicy) -> None:
    """Refuse a diff that was handed in, by bytes of what it holds.

    Raises:
        GitError: in words like git's.
    """
    if sum(sizes) > policy.max_total_mb * 1e6:
        raise GitError(f"error: more than {policy.max_total_mb:g} MB (patch.max_total_mb)")
    if max(sizes, default=0) > policy.max_file_mb * 1e6:
        size = f"error: {megabytes(max(sizes))} MB in one file"
        raise GitError(f"{size}, more than {policy.max_file_mb:g} MB (patch.max_file_mb)")
    if len(sizes) > policy.max_files:
        raise GitError(f"error: more than {policy.max_files} files (patch.max_files)")


def _total(counts: list[int | None]) -> int | None:
    """The sum; None as soon as one count is unknown (binary files)."""
    known = [count for count in counts if count is not None]
    return sum(known) if len(known) == len(counts) else None
