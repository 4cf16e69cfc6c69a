"""Long thoughts, then an answer, fed in deltas of a few characters: nine requests per pass."""

import random

from minserve.reasoning import ReasoningParser

WORDS = ("so", "then", "x < y", "maybe", "we", "take", "the", "root", "</i>", "check", "again")
THOUGHT_WORDS = 100
ANSWER_WORDS = 25
REQUESTS = 9


def setup(seed: int) -> list[list[str]]:
    return [deltas(random.Random(seed * REQUESTS + request)) for request in range(REQUESTS)]


def deltas(rng: random.Random) -> list[str]:
    thought = " ".join(rng.choices(WORDS, k=THOUGHT_WORDS))
    answer = " ".join(rng.choices(WORDS, k=ANSWER_WORDS))
    text = f"<think>{thought}</think>{answer}"
    return [text[start : start + 4] for start in range(0, len(text), 4)]


def run(outputs: list[list[str]]) -> None:
    for output in outputs:
        parser = ReasoningParser()
        for delta in output:
            parser.feed(delta)
        parser.finish()
