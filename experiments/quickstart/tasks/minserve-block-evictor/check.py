"""Runs the evictor beside a slow model that looks at all free blocks; time never runs backwards."""

import os
import random
import sys

sys.path.insert(0, os.getcwd())

from minserve.evictor import Evictor


def main() -> None:
    evictor = Evictor()
    for block_id, prefix_tokens, last_used in ((0, 16, 1), (1, 32, 1), (2, 32, 1), (3, 16, 2)):
        evictor.add(block_id, prefix_tokens, last_used)
    evictor.touch(2, 2)
    evictor.remove(0)
    expect([evictor.evict() for _ in range(3)], [1, 2, 3], "order of the literal case")
    expect_raises(LookupError, evictor.evict, "evict from an empty evictor")
    expect_raises(KeyError, lambda: evictor.remove(1), "remove of an evicted block")
    for seed in range(40):
        compare(random.Random(seed), f"seed {seed}")


def compare(rng: random.Random, what: str) -> None:
    evictor = Evictor()
    free: dict[int, tuple[int, int]] = {}
    now = 0
    for _ in range(600):
        now += rng.random() < 0.3
        block_id = rng.randrange(40)
        expect(block_id in evictor, block_id in free, f"contains, {what}")
        expect(len(evictor), len(free), f"len, {what}")
        action = rng.random()
        if block_id not in free and action < 0.7:
            free[block_id] = (now, 16 * rng.randint(1, 4))
            evictor.add(block_id, free[block_id][1], now)
        elif block_id in free and action < 0.4:
            free[block_id] = (now, free[block_id][1])
            evictor.touch(block_id, now)
        elif block_id in free and action < 0.55:
            del free[block_id]
            evictor.remove(block_id)
        elif free:
            victim = min(free, key=lambda key: (free[key][0], -free[key][1], key))
            del free[victim]
            expect(evictor.evict(), victim, f"evict, {what}")


def expect_raises(error: type[Exception], call, what: str) -> None:
    try:
        call()
    except error:
        return
    sys.exit(f"{what}: no {error.__name__}")


def expect(got: object, wanted: object, what: str) -> None:
    if got != wanted:
        sys.exit(f"{what}: got {got!r}, expected {wanted!r}")


if __name__ == "__main__":
    main()
