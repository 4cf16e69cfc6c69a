"""Prompts of about 400 tokens, in blocks of 32."""

import random

from minserve.hashing import block_digests

BLOCK_SIZE = 32
PROMPTS = 40


def setup(seed: int) -> list[list[int]]:
    rng = random.Random(seed)
    return [rng.choices(range(32_000), k=396 + prompt % 8) for prompt in range(PROMPTS)]


def run(prompts: list[list[int]]) -> None:
    for token_ids in prompts:
        block_digests(token_ids, BLOCK_SIZE, b"model-0")
