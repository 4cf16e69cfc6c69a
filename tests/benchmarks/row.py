"""What a row of the benchmark is: two things that are timed in turns, and a bar for how they do."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Literal, NamedTuple

from isobench_ray.base import Base


class Bar(NamedTuple):
    """What a median must not exceed."""

    of: Literal["ratio", "ms"]
    """The ratio of both sides, or the subject's own time."""
    at_most: float
    words: str
    """The same as a reader would say it."""


class Setting(NamedTuple):
    """What rows about workspaces work on."""

    base: Base
    mirror: Path
    """A bare repository that has the base's commit."""
    commit: str
    """The base's commit in the mirror."""
    folder: Path
    """A folder on the file system that is measured."""


class Row(NamedTuple):
    """One row: what is compared with what, and how one measurement of both is taken."""

    name: str
    subject: str
    reference: str
    measure: Callable[[Setting], Iterator[tuple[float, float]]]
    """Yields (subject_ms, reference_ms) for ever. Raises LeftOut."""
    bar: Bar | None = None


class LeftOut(Exception):
    """A row cannot be measured here; the message says why."""
