"""Latency histograms with exponential buckets, as a metrics endpoint would show them."""

from bisect import bisect_left

FIRST_BOUND_MS = 0.25
BOUND_RATIO = 1.25
NUM_BOUNDS = 48


def exponential_bounds(first: float, ratio: float, count: int) -> tuple[float, ...]:
    """`count` upper bounds, each `ratio` times the one before."""
    return tuple(first * ratio**power for power in range(count))


class LatencyHistogram:
    """Counts of latencies in milliseconds. A bucket holds values up to and with its bound."""

    def __init__(self) -> None:
        self._bounds_ms = exponential_bounds(FIRST_BOUND_MS, BOUND_RATIO, NUM_BOUNDS)
        self._counts = [0] * (NUM_BOUNDS + 1)
        self._sum_ms = 0.0

    @property
    def count(self) -> int:
        return sum(self._counts)

    @property
    def mean_ms(self) -> float | None:
        """None when nothing was observed."""
        count = self.count
        return self._sum_ms / count if count else None

    def observe(self, latency_ms: float) -> None:
        self._counts[bisect_left(self._bounds_ms, latency_ms)] += 1
        self._sum_ms += latency_ms

    def observe_all(self, latencies_ms: list[float]) -> None:
        for latency_ms in latencies_ms:
            self.observe(latency_ms)

    def buckets(self) -> list[tuple[float, int]]:
        """(bound in ms, observations up to it), cumulative; the last bound is infinity."""
        cumulative = []
        total = 0
        for bound_ms, count in zip((*self._bounds_ms, float("inf")), self._counts, strict=True):
            total += count
            cumulative.append((bound_ms, total))
        return cumulative

    def quantile_ms(self, share: float) -> float | None:
        """Upper bound of the bucket that holds the quantile; None when nothing was observed."""
        needed = share * self.count
        for bound_ms, cumulative in self.buckets():
            if cumulative and cumulative >= needed:
                return bound_ms
        return None
