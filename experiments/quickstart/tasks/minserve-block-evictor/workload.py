"""A full cache of 56 free blocks; each step evicts one, adds one and looks at another."""

import random

from minserve.evictor import Evictor

FREE_BLOCKS = 56
STEPS = 1600


def setup(seed: int) -> list[tuple[int, int]]:
    """For each step: the prefix of the block that is added, and the block that is touched."""
    rng = random.Random(seed)
    return [(16 * rng.randrange(1, 9), rng.randrange(FREE_BLOCKS)) for _ in range(STEPS)]


def prepare(steps: list[tuple[int, int]], _index: int) -> tuple[Evictor, list[tuple[int, int]]]:
    evictor = Evictor()
    for block_id in range(FREE_BLOCKS):
        evictor.add(block_id, 16 * (1 + block_id % 8), block_id // 8)
    return evictor, steps


def run(inputs: tuple[Evictor, list[tuple[int, int]]]) -> None:
    evictor, steps = inputs
    now = FREE_BLOCKS
    for prefix_tokens, touched in steps:
        now += 1
        block_id = evictor.evict()
        evictor.add(block_id, prefix_tokens, now)
        evictor.touch(touched, now)
