"""Compares histograms with counts that are taken value by value."""

import math
import os
import random
import sys

sys.path.insert(0, os.getcwd())

from minserve.metrics import LatencyHistogram

BOUNDS_MS = [0.25 * 1.25**power for power in range(48)] + [math.inf]


def main() -> None:
    empty = LatencyHistogram()
    expect((empty.count, empty.mean_ms, empty.quantile_ms(0.5)), (0, None, None), "empty")
    rng = random.Random(7)
    for size in (1, 2, 10, 500):
        values = [rng.choice((0.25, 0.3, rng.random() * 900, 0.0, 1e6)) for _ in range(size)]
        histogram = LatencyHistogram()
        histogram.observe(values[0])
        histogram.observe_all(values[1:])
        expect(histogram.count, size, "count")
        if not math.isclose(histogram.mean_ms, math.fsum(values) / size, rel_tol=1e-9):
            sys.exit(f"mean of {size} values: got {histogram.mean_ms}")
        buckets = histogram.buckets()
        counts = [sum(value <= bound for value in values) for bound, _ in buckets]
        expect([count for _, count in buckets], counts, "cumulative counts")
        for (bound, _), wanted in zip(buckets, BOUNDS_MS, strict=True):
            if bound != wanted and not math.isclose(bound, wanted, rel_tol=1e-9):
                sys.exit(f"bound: got {bound}, expected {wanted}")
        for share in (0.0, 0.01, 0.5, 0.9, 0.99, 1.0):
            wanted = next(
                bound
                for bound, count in zip([bound for bound, _ in buckets], counts, strict=True)
                if count and count >= share * size
            )
            expect(histogram.quantile_ms(share), wanted, f"quantile {share} of {size} values")


def expect(got: object, wanted: object, what: str) -> None:
    if got != wanted:
        sys.exit(f"{what}: got {got!r}, expected {wanted!r}")


if __name__ == "__main__":
    main()
