"""Draws from a vocabulary of 2,048 tokens with top-k 20 and top-p 0.95."""

import random

from minserve.sampling import SamplingParams, sample

VOCABULARY = 2048
DRAWS = 18


def setup(seed: int) -> tuple[SamplingParams, list[tuple[list[float], float]]]:
    rng = random.Random(seed)
    params = SamplingParams(temperature=0.8, top_k=20, top_p=0.95)
    draws = [([rng.random() * 16 for _ in range(VOCABULARY)], rng.random()) for _ in range(DRAWS)]
    return params, draws


def run(inputs: tuple[SamplingParams, list[tuple[list[float], float]]]) -> None:
    params, draws = inputs
    for logits, uniform in draws:
        sample(logits, params, uniform)
