"""python -m tests.benchmarks: print a Markdown table and write JSON too.

Without options the rows about workspaces work on a generated tree; --repository and --commit name
a real one. They lie on tmpfs where there is room, unless --place names another folder.
"""

from __future__ import annotations

import argparse
import itertools
import json
import platform
import statistics
import tempfile
from pathlib import Path
from typing import Any

from tests.benchmarks.row import Bar, LeftOut, Row, Setting
from tests.benchmarks.rows import ROWS
from tests.benchmarks.setting import default_place, described, file_system_of, prepare

WITHOUT_JOURNAL = (
    "an ext4 without a journal, on which writing becomes many times slower with every file that "
    "was removed: these times say little"
)


def main() -> None:
    """Measure every row a few times and print medians and ratios."""
    arguments = parsed()
    place = arguments.place or default_place()
    system = file_system_of(place)
    notes = [f"workspaces lie on {system.kind} ({place})"]
    if system.without_journal:
        notes.append(f"WARNING: {place} is {WITHOUT_JOURNAL}")
    rows = []
    with tempfile.TemporaryDirectory(dir=place, prefix="isobench-ray-bench-") as folder:
        setting = prepare(Path(folder), arguments.repository, arguments.commit)
        notes.insert(0, described(setting, arguments.repository, arguments.commit))
        for row in ROWS:
            try:
                rows.append(measured(row, setting, arguments.runs))
            except LeftOut as reason:
                notes.append(f"LEFT OUT: {row.name}: {reason}")
    report = markdown(rows, notes)
    arguments.out.mkdir(parents=True, exist_ok=True)
    facts = {
        "python": platform.python_version(),
        "file_system": system._asdict() | {"folder": str(place)},
        "notes": notes,
        "rows": rows,
    }
    (arguments.out / "bench.json").write_text(json.dumps(facts, indent=2) + "\n")
    (arguments.out / "bench.md").write_text(report)
    print(report, end="")


def parsed() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(prog="python -m tests.benchmarks")
    parser.add_argument("--runs", type=int, default=7, help="measurements per row")
    parser.add_argument("--out", type=Path, default=Path("bench-results"))
    parser.add_argument("--repository", type=Path, help="a local repository, instead of a made one")
    parser.add_argument("--commit", help="the base in it")
    parser.add_argument("--place", type=Path, help="where workspaces lie (default: tmpfs)")
    arguments = parser.parse_args()
    if (arguments.repository is None) != (arguments.commit is None):
        parser.error("--repository and --commit belong together")
    return arguments


def measured(row: Row, setting: Setting, runs: int) -> dict[str, Any]:
    """Medians of both sides, the median of their ratios, and all raw values but the first."""
    pairs = list(itertools.islice(row.measure(setting), 1, runs + 1))
    ratios = [subject / reference for subject, reference in pairs]
    medians = {
        "subject_ms": statistics.median(pair[0] for pair in pairs),
        "reference_ms": statistics.median(pair[1] for pair in pairs),
        "ratio": statistics.median(ratios),
    }
    return {
        "name": row.name,
        "subject": row.subject,
        "reference": row.reference,
        **medians,
        "ratio_min": min(ratios),
        "ratio_max": max(ratios),
        "bar": row.bar.words if row.bar else None,
        "bar_holds": holds(row.bar, medians) if row.bar else None,
        "runs": [{"subject_ms": s, "reference_ms": r} for s, r in pairs],
    }


def holds(bar: Bar, medians: dict[str, float]) -> bool:
    """Whether a row's median does what its bar asks."""
    return medians["ratio" if bar.of == "ratio" else "subject_ms"] <= bar.at_most


def markdown(rows: list[dict[str, Any]], notes: list[str]) -> str:
    """One line per row, then the notes."""
    lines = [
        "| row | measured | beside | ms | ms beside | ratio (min-max) | bar |",
        "|---|---|---|---|---|---|---|",
        *(
            f"| {r['name']} | {r['subject']} | {r['reference']} | {r['subject_ms']:.1f} "
            f"| {r['reference_ms']:.2f} | {_ratio(r['ratio'])} ({_ratio(r['ratio_min'])}-"
            f"{_ratio(r['ratio_max'])}) | {_verdict(r)} |"
            for r in rows
        ),
        "",
        *(f"- {note}" for note in notes),
    ]
    return "\n".join(lines) + "\n"


def _ratio(value: float) -> str:
    return f"{value:.1f}" if value >= 10 else f"{value:.2g}" if value < 0.1 else f"{value:.2f}"


def _verdict(row: dict[str, Any]) -> str:
    if row["bar"] is None:
        return ""
    return f"{row['bar']}: {'holds' if row['bar_holds'] else 'DOES NOT HOLD'}"


if __name__ == "__main__":
    main()
