"""What was left out of a patch, in lines that people read, however many files it is."""

from __future__ import annotations

from collections.abc import Iterator

_NAMED_BESIDE_OTHERS = 20
"""Most files left out of a folder for one reason, beside files that were not, by name."""


def megabytes(size: int) -> str:
    """A size for people; three digits where it is small."""
    return f"{size / 1e6:.1f}" if size >= 100_000 else f"{size / 1e6:.3g}"


def summarise(left_out: list[tuple[bytes, str]], present: set[bytes]) -> Iterator[str]:
    """Lines `path: reason`; files of a folder that holds nothing else, or many, are one line."""
    filled = {b"", b"."}
    for path in present:
        parent = path.rpartition(b"/")[0]
        while parent not in filled:
            filled.add(parent)
            parent = parent.rpartition(b"/")[0]
    tops: dict[bytes, bytes] = {}
    groups: dict[tuple[bytes, str], list[bytes]] = {}
    for path, reason in left_out:
        top = _top(path.rpartition(b"/")[0], filled, tops)
        groups.setdefault((top, reason), []).append(path)
    for (top, reason), paths in groups.items():
        if len(paths) > (_NAMED_BESIDE_OTHERS if top in filled else 1):
            yield f"{_shown(top)}/ ({len(paths)} files): {reason}"
        else:
            yield from (f"{_shown(path)}: {reason}" for path in paths)


def _top(folder: bytes, filled: set[bytes], tops: dict[bytes, bytes]) -> bytes:
    """The highest folder at or above this one that is not filled; itself if it is.

    `tops` keeps the answers, so that each folder is looked at once, however deep it lies.
    """
    if folder in filled:
        return folder or b"."
    way = [folder]
    while way[-1] not in tops and (above := way[-1].rpartition(b"/")[0]) not in filled:
        way.append(above)
    top = tops.get(way[-1], way[-1])
    tops.update(dict.fromkeys(way, top))
    return top


def _shown(path: bytes) -> str:
    return path.decode(errors="backslashreplace")
