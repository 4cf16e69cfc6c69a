"""A queue of 240 requests that is worked off, 16 at a time: one token per request and step."""

import random

from minserve.request import Request
from minserve.scheduler import Scheduler

REQUESTS = 240
STEPS = 300


def setup(seed: int) -> list[tuple[str, list[int], int, int]]:
    rng = random.Random(seed)
    return [
        (f"r{number}", list(range(240 + number % 64)), 16 + number % 8, rng.randrange(4))
        for number in range(REQUESTS)
    ]


def prepare(shapes: list[tuple[str, list[int], int, int]], _index: int) -> Scheduler:
    scheduler = Scheduler(max_running=16, max_cached_tokens=1 << 20)
    for request_id, prompt_ids, max_new_tokens, priority in shapes:
        scheduler.add(Request(request_id, prompt_ids, max_new_tokens, priority))
    return scheduler


def run(scheduler: Scheduler) -> None:
    for step in range(STEPS):
        for request in scheduler.schedule():
            request.append(step)
            if request.is_finished:
                scheduler.finish(request)
