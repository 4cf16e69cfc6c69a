"""Compares candidates and draws with a slow model that looks at one token at a time."""

import math
import os
import random
import sys

sys.path.insert(0, os.getcwd())

from minserve.sampling import SamplingParams, candidates, sample


def model(logits: list[float], temperature: float, top_k: int, top_p: float) -> list[tuple]:
    ranked = sorted((-logit, token_id) for token_id, logit in enumerate(logits))
    ranked = ranked[: top_k or len(ranked)]
    weights = [math.exp((ranked[0][0] - negative) / temperature) for negative, _ in ranked]
    total = math.fsum(weights)
    kept = 1
    while kept < len(weights) and (top_p == 1 or math.fsum(weights[:kept]) < top_p * total):
        kept += 1
    mass = math.fsum(weights[:kept])
    return [(ranked[place][1], weights[place] / mass) for place in range(kept)]


def main() -> None:
    rng = random.Random(7)
    literal = candidates([0.0, 2.0, 2.0, math.log(2), -9.0], SamplingParams(1.0, 3, 0.6))
    expect_close(literal, [(1, 0.5), (2, 0.5)], "literal case")
    for size in (1, 2, 7, 31, 32, 33, 64, 300, 1000):
        for top_k in (0, 1, 2, 5, 20, 40, 2000):
            for top_p in (1.0, 0.9137, 0.3719):
                logits = [rng.gauss(0, 3) for _ in range(size)]
                if rng.random() < 0.5:
                    logits = [float(round(logit)) for logit in logits]
                temperature = rng.choice((0.3, 0.8, 1.7))
                params = SamplingParams(temperature, top_k, top_p)
                wanted = model(logits, temperature, top_k, top_p)
                what = f"{size} logits, top_k {top_k}, top_p {top_p}"
                given = list(logits)
                expect_close(candidates(given, params), wanted, what)
                expect(given, logits, f"logits were changed: {what}")
                uniform = rng.random()
                expect(sample(given, params, uniform), draw(wanted, uniform), f"draw: {what}")
                greedy = sample(given, SamplingParams(0.0, top_k, top_p), uniform)
                expect(greedy, wanted[0][0], f"greedy: {what}")


def draw(wanted: list[tuple], uniform: float) -> int:
    for place in range(len(wanted)):
        if uniform < math.fsum(probability for _, probability in wanted[: place + 1]):
            return wanted[place][0]
    return wanted[-1][0]


def expect_close(got: list[tuple], wanted: list[tuple], what: str) -> None:
    expect([token_id for token_id, _ in got], [token_id for token_id, _ in wanted], what)
    for (token_id, left), (_, right) in zip(got, wanted, strict=True):
        if not math.isclose(left, right, rel_tol=1e-9):
            sys.exit(f"{what}: token {token_id} has probability {left}, expected {right}")


def expect(got: object, wanted: object, what: str) -> None:
    if got != wanted:
        sys.exit(f"{what}: got {str(got)[:80]}, expected {str(wanted)[:80]}")


if __name__ == "__main__":
    main()
