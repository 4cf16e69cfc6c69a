"""Runs the scheduler beside a slow model of its rules, with random arrivals and aborts."""

import os
import random
import sys

sys.path.insert(0, os.getcwd())

from minserve.request import Request
from minserve.scheduler import Scheduler


class Model:
    """Entries are [request_id, priority, arrival, tokens]; the next one is looked for among all."""

    def __init__(self, max_running: int, max_cached_tokens: int) -> None:
        self.max_running = max_running
        self.max_cached_tokens = max_cached_tokens
        self.waiting: list[list] = []
        self.running: list[list] = []

    def schedule(self) -> list[str]:
        """Ids of the next step, in order of admission."""
        while len(self.running) > 1 and self.cached() > self.max_cached_tokens:
            victim = max(self.running, key=importance)
            self.running = [entry for entry in self.running if entry is not victim]
            self.waiting.append(victim)
        while self.waiting and len(self.running) < self.max_running:
            first = min(self.waiting, key=importance)
            if self.running and self.cached() + first[3] > self.max_cached_tokens:
                break
            self.waiting = [entry for entry in self.waiting if entry is not first]
            self.running.append(first)
        return [entry[0] for entry in self.running]

    def cached(self) -> int:
        """Tokens of all running requests."""
        return sum(entry[3] for entry in self.running)

    def drop(self, request_id: str) -> bool:
        """Takes a request out; False when there is none of that id."""
        before = len(self.running) + len(self.waiting)
        self.running = [entry for entry in self.running if entry[0] != request_id]
        self.waiting = [entry for entry in self.waiting if entry[0] != request_id]
        return len(self.running) + len(self.waiting) < before


def importance(entry: list) -> tuple[int, int]:
    return entry[1], entry[2]


def main() -> None:
    for seed in range(60):
        rng = random.Random(seed)
        limits = (rng.choice((1, 3, 8)), rng.choice((30, 80, 10_000)))
        scheduler, model = Scheduler(*limits), Model(*limits)
        arrivals = 0
        for step in range(60):
            for _ in range(rng.randint(0, 2) if step < 40 else 0):
                request_id, prompt = f"r{arrivals}", [7] * rng.randint(1, 24)
                limit, priority = rng.randint(1, 12), rng.randrange(3)
                scheduler.add(Request(request_id, prompt, limit, priority))
                model.waiting.append([request_id, priority, arrivals, len(prompt)])
                arrivals += 1
            if rng.random() < 0.15:
                request_id = f"r{rng.randrange(arrivals + 2)}"
                expect(scheduler.abort(request_id), model.drop(request_id), seed, "abort")
            batch = scheduler.schedule()
            expect([request.request_id for request in batch], model.schedule(), seed, "batch")
            for request, entry in zip(batch, list(model.running), strict=True):
                request.append(step)
                entry[3] += 1
                expect(request.token_ids[-1], step, seed, "last token")
                expect(len(request.token_ids), entry[3], seed, "number of tokens")
                if request.is_finished:
                    scheduler.finish(request)
                    model.drop(request.request_id)
            got = (scheduler.num_waiting, scheduler.num_running)
            expect(got, (len(model.waiting), len(model.running)), seed, "waiting, running")


def expect(got: object, wanted: object, seed: int, what: str) -> None:
    if got != wanted:
        sys.exit(f"{what} (seed {seed}): got {got!r}, expected {wanted!r}")


if __name__ == "__main__":
    main()
