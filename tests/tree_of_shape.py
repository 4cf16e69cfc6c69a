"""A tree of files of a given shape: how many, in how many folders, how large together.

For benchmarks and tests that need the size of a real project and not the project. The same shape
and seed give the same bytes. Sizes are lognormal, with a few large files; text is made of words,
so that it compresses about as well as sources do.
"""

from __future__ import annotations

import math
import random
from pathlib import Path
from typing import NamedTuple


class Shape(NamedTuple):
    """What a tree is like."""

    files: int
    folders: int
    """Folders besides the root; each holds at least one file at any depth."""
    size_bytes: int
    median_bytes: int = 3_900
    largest_bytes: int = 990_000
    executables: int = 0
    seed: int = 0


NEWEST_VLLM_PARENT = Shape(2_779, 340, 30_343_164, executables=26)
"""The base of the newest of the 91 vLLM tasks; its median and largest file are the defaults."""
IGNORE_RULES = "__pycache__/\n*.py[cod]\nbuild/\n*.log\n"
"""The tree's .gitignore, one of its files."""


def write_tree(folder: Path, shape: Shape) -> list[str]:
    """Write a tree into a new folder; the paths of its files, relative and sorted."""
    draw = random.Random(shape.seed)
    paths = _paths(draw, shape)
    sizes = _sizes(draw, shape._replace(size_bytes=shape.size_bytes - len(IGNORE_RULES)))
    text, at = _text(draw, sum(sizes)), 0
    files = {".gitignore": IGNORE_RULES.encode()}
    for path, size in zip(paths, sizes, strict=True):
        files[path], at = text[at : at + size], at + size
    executables = set(draw.sample(paths, shape.executables))
    for path, content in files.items():
        place = folder / path
        place.parent.mkdir(parents=True, exist_ok=True)
        place.write_bytes(content)
        place.chmod(0o755 if path in executables else 0o644)
    return sorted(files)


def _paths(draw: random.Random, shape: Shape) -> list[str]:
    """Folders in one another, each with a file; the other files crowd in a few of them."""
    folders = [""]
    while len(folders) <= shape.folders:
        parent = draw.choice([folder for folder in folders if folder.count("/") < 6])
        folders.append(f"{parent}{draw.choice(_PARTS)}_{len(folders)}/")
    crowds = [draw.paretovariate(1.0) for _ in folders]
    places = folders[1:]
    places += draw.choices(folders, crowds, k=shape.files - 1 - len(places))
    return [f"{place}{draw.choice(_PARTS)}_{number}.py" for number, place in enumerate(places)]


def _sizes(draw: random.Random, shape: Shape) -> list[int]:
    """Sizes of all files but .gitignore: lognormal, then scaled to the sum; one is the largest."""
    count = shape.files - 1
    largest = min(shape.largest_bytes, shape.size_bytes // 4)
    rest = shape.size_bytes - largest
    mean = rest / count
    sigma = math.sqrt(2 * math.log(max(mean / shape.median_bytes, 1.05)))
    raw = [draw.lognormvariate(0, sigma) for _ in range(count - 1)]
    sizes = [int(size * rest / sum(raw)) for size in raw]
    sizes.append(shape.size_bytes - sum(sizes))
    draw.shuffle(sizes)
    return sizes


def _text(draw: random.Random, size_bytes: int) -> bytes:
    """Lines of words: no two stretches are alike, and all of it compresses to about a third."""
    words = ["".join(draw.choices("etaoinshrdlu_", k=draw.randint(2, 9))) for _ in range(2_000)]
    weights = [1 / rank for rank in range(1, len(words) + 1)]
    lines = [
        " " * 4 * draw.randint(0, 4) + " ".join(draw.choices(words, weights, k=draw.randint(2, 9)))
        for _ in range(min(20_000, 100 + size_bytes // 100))
    ]
    average = sum(map(len, lines)) / len(lines) + 1
    text = ""
    while len(text) < size_bytes:
        missing = size_bytes - len(text)
        text += "\n".join(draw.choices(lines, k=int(missing / average) + 10)) + "\n"
    return text[:size_bytes].encode()


_PARTS = ("engine", "layers", "kernels", "worker", "models", "cache", "attention", "config", "api")
