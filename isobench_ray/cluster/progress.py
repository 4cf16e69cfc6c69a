"""Live progress: a tqdm bar on a terminal, plain lines elsewhere. All of it on standard error."""

from __future__ import annotations

import statistics
import sys
import time
from collections import Counter

from tqdm import tqdm

from isobench_ray.cluster.schedule import STAGES, Stage


class Progress:
    """Says how much is done, by outcome, what is running, and about how long the rest will take."""

    def __init__(self, capacities: dict[Stage, int]) -> None:
        self._capacities = capacities
        self._durations: dict[Stage, list[float]] = {stage: [] for stage in STAGES}
        self._outcomes: Counter[str] = Counter()
        self._start = time.monotonic()
        self._bar = self._line = None
        if sys.stderr.isatty():
            form = "{desc} {bar:20} {n_fmt}/{total_fmt} {elapsed}{postfix}"
            self._bar = tqdm(total=0, bar_format=form, desc="work", dynamic_ncols=True)
            self._line = tqdm(total=0, bar_format="{desc}", position=1, leave=False)

    def tell(self, message: str) -> None:
        """One line that stays."""
        if self._bar is not None:
            tqdm.write(message, file=sys.stderr)
        else:
            sys.stderr.write(f"{message}\n")
            sys.stderr.flush()

    def finished(
        self, stage: Stage, label: str, word: str, duration_s: float, left: dict[Stage, int]
    ) -> None:
        """A piece of work ended with an outcome, a failure class, or `measured`."""
        self._outcomes[word] += 1
        self._durations[stage].append(duration_s)
        done = self._outcomes.total()
        total = done + sum(left.values())
        if self._bar is None:
            elapsed_s = time.monotonic() - self._start
            self.tell(
                f"[{done}/{total}] {label}: {word} "
                f"({duration_s:.1f} s; elapsed {elapsed_s:.0f} s, {self._rest(left)})"
            )
            return
        counts = " ".join(f"{n} {word}" for word, n in self._outcomes.most_common())
        self._bar.total = total
        self._bar.update(1)
        self._bar.set_postfix_str(f"{self._rest(left)}: {counts}")

    def running(self, labels: list[str]) -> None:
        """What is running now."""
        if self._line is not None:
            self._line.set_description_str(f"running: {', '.join(labels) or '-'}"[:150])

    def close(self) -> None:
        """Leave the terminal in order."""
        for bar in (self._line, self._bar):
            if bar is not None:
                bar.close()

    def _rest(self, left: dict[Stage, int]) -> str:
        """How long the rest will take, by the mean of each stage; a stage may have none yet."""
        seconds = 0.0
        for stage, count in left.items():
            if count and not self._durations[stage]:
                return f"then {sum(left.values())} to {stage}"
            if count:
                seconds += (
                    statistics.fmean(self._durations[stage]) * count / self._capacities[stage]
                )
        return f"about {seconds:.0f} s left"
