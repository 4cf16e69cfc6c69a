"""64 streams that get 5 items each, one item at a time, and are read through one merge."""

import random

from minserve.loop import Loop, Pause, Queue
from minserve.streams import merge

STREAMS = 64
ITEMS = 5


def setup(seed: int) -> list[int]:
    """Which stream gets the next item."""
    order = [stream for stream in range(STREAMS) for _ in range(ITEMS)]
    random.Random(seed).shuffle(order)
    return order


def prepare(order: list[int], _index: int) -> tuple[Loop, list[Queue], list[int]]:
    return Loop(), [Queue() for _ in range(STREAMS)], order


def run(inputs: tuple[Loop, list[Queue], list[int]]) -> None:
    loop, queues, order = inputs

    async def feed() -> None:
        for number, stream in enumerate(order):
            queues[stream].put(number)
            await Pause()
            await Pause()
        for queue in queues:
            queue.close()

    async def read() -> None:
        loop.spawn(feed())
        async for _ in merge(loop, queues):
            pass

    loop.run(read())
