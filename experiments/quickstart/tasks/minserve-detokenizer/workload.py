"""Outputs of 150 tokens, with characters that span tokens."""

import random

from minserve.detokenizer import IncrementalDetokenizer
from minserve.tokenizer import Tokenizer

WORDS = ("the", "station", "is", "caf\u00e9", "\u2192", "in", "ending", "r\u00e9sum\u00e9", "an")
OUTPUTS = 16
OUTPUT_TOKENS = 150


def setup(seed: int) -> tuple[Tokenizer, list[list[int]]]:
    rng = random.Random(seed)
    tokenizer = Tokenizer()
    outputs = []
    for _ in range(OUTPUTS):
        text = " ".join(rng.choices(WORDS, k=OUTPUT_TOKENS))
        outputs.append(tokenizer.encode(text)[:OUTPUT_TOKENS])
    return tokenizer, outputs


def run(inputs: tuple[Tokenizer, list[list[int]]]) -> None:
    tokenizer, outputs = inputs
    for token_ids in outputs:
        detokenizer = IncrementalDetokenizer(tokenizer)
        for token_id in token_ids:
            detokenizer.append(token_id)
        detokenizer.finish()
