"""Live progress: a tqdm bar on a terminal, plain lines elsewhere."""

from __future__ import annotations

import sys
import time
from collections import Counter

from tqdm import tqdm


class Progress:
    """Says how much is done, by outcome, and what is running. All output goes to standard error."""

    def __init__(self, total: int, done: int) -> None:
        self._terminal = sys.stderr.isatty()
        self._outcomes: Counter[str] = Counter()
        self._start, self._done, self._total = time.monotonic(), done, total
        self._first = done
        self._bar = self._line = None
        if self._terminal:
            form = "{desc} {bar:20} {n_fmt}/{total_fmt} {elapsed}<{remaining} {postfix}"
            self._bar = tqdm(total=total, initial=done, bar_format=form, desc="work", leave=True)
            self._line = tqdm(total=0, bar_format="{desc}", position=1, leave=False)

    def tell(self, message: str) -> None:
        """One line that stays."""
        if self._bar is not None:
            tqdm.write(message, file=sys.stderr)
        else:
            sys.stderr.write(f"{message}\n")
            sys.stderr.flush()

    def finished(self, label: str, word: str, duration_s: float, total: int) -> None:
        """A piece of work ended with an outcome, a failure class, or `measured`."""
        self._outcomes[word] += 1
        self._done, self._total = self._done + 1, max(total, self._done + 1)
        if self._bar is None:
            elapsed_s = time.monotonic() - self._start
            eta_s = elapsed_s / (self._done - self._first) * (self._total - self._done)
            self.tell(
                f"[{self._done}/{self._total}] {label}: {word} ({duration_s:.1f} s; "
                f"elapsed {elapsed_s:.0f} s, about {eta_s:.0f} s left)"
            )
            return
        self._bar.total = self._total
        self._bar.update(1)
        self._bar.set_postfix_str(" ".join(f"{k}:{n}" for k, n in self._outcomes.most_common()))

    def running(self, labels: list[str]) -> None:
        """What is running now."""
        if self._line is not None and self._bar is not None:
            width = max(20, (self._bar.ncols or 100) - 2)
            self._line.set_description_str(f"running: {', '.join(labels) or '-'}"[:width])

    def close(self) -> None:
        """Leave the terminal in order."""
        for bar in (self._line, self._bar):
            if bar is not None:
                bar.close()
