"""python -m tests.benchmarks [--runs N] [--out FOLDER]: print a Markdown table, write JSON too."""

from __future__ import annotations

import argparse
import itertools
import json
import platform
import statistics
from pathlib import Path
from typing import Any

from tests.benchmarks.rows import ROWS, Row


def main() -> None:
    """Measure every row a few times and print medians and ratios."""
    parser = argparse.ArgumentParser(prog="python -m tests.benchmarks")
    parser.add_argument("--runs", type=int, default=7, help="measurements per row")
    parser.add_argument("--out", type=Path, default=Path("bench-results"))
    arguments = parser.parse_args()
    rows = [measured(row, arguments.runs) for row in ROWS]
    table = markdown(rows)
    arguments.out.mkdir(parents=True, exist_ok=True)
    (arguments.out / "bench.json").write_text(
        json.dumps({"python": platform.python_version(), "rows": rows}, indent=2) + "\n"
    )
    (arguments.out / "bench.md").write_text(table)
    print(table, end="")


def measured(row: Row, runs: int) -> dict[str, Any]:
    """Medians of both sides, the median of their ratios, and all raw values."""
    pairs = list(itertools.islice(row.measure(), runs))
    ratios = [subject / reference for subject, reference in pairs]
    return {
        "name": row.name,
        "subject": row.subject,
        "reference": row.reference,
        "subject_ms": statistics.median(pair[0] for pair in pairs),
        "reference_ms": statistics.median(pair[1] for pair in pairs),
        "ratio": statistics.median(ratios),
        "ratio_min": min(ratios),
        "ratio_max": max(ratios),
        "runs": [{"subject_ms": s, "reference_ms": r} for s, r in pairs],
    }


def markdown(rows: list[dict[str, Any]]) -> str:
    """One line per row."""
    lines = [
        "| row | measured | beside | ms | ms beside | ratio (min-max) |",
        "|---|---|---|---|---|---|",
        *(
            f"| {r['name']} | {r['subject']} | {r['reference']} | {r['subject_ms']:.1f} "
            f"| {r['reference_ms']:.2f} | {r['ratio']:.1f} ({r['ratio_min']:.1f}-"
            f"{r['ratio_max']:.1f}) |"
            for r in rows
        ),
    ]
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    main()
