"""One histogram that observes five batches of 8,000 latencies, and its 99th percentile."""

import random

from minserve.metrics import LatencyHistogram

BATCHES = 5
LATENCIES = 8_000


def setup(seed: int) -> list[float]:
    rng = random.Random(seed)
    return [rng.random() * 400 for _ in range(LATENCIES)]


def run(latencies_ms: list[float]) -> None:
    histogram = LatencyHistogram()
    for _ in range(BATCHES):
        histogram.observe_all(latencies_ms)
    histogram.quantile_ms(0.99)
