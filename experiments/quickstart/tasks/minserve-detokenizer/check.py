"""After each token, exactly the complete characters so far must have been sent."""

import os
import random
import sys

sys.path.insert(0, os.getcwd())

from minserve.detokenizer import IncrementalDetokenizer
from minserve.tokenizer import COMMON_PIECES, Tokenizer

ALPHABET = ("the", "a", " ", "\u00e9", "\u2192", "\U0001f600", "station", "\n\n", "<think>", "\x00")


def main() -> None:
    rng = random.Random(7)
    tokenizer = Tokenizer()
    for length in (0, 1, 2, 5, 20, 150):
        for _ in range(12):
            text = "".join(rng.choices(ALPHABET, k=length))
            follow(tokenizer, tokenizer.encode(text), text)
            follow(tokenizer, list(text.encode()), text)
    detokenizer = IncrementalDetokenizer(tokenizer)
    sent = [detokenizer.append(token_id) for token_id in (97, 0xE2, 0x86)]
    expect([*sent, detokenizer.finish()], ["a", "", "", "\ufffd"], "an output cut in a character")
    for _ in range(100):
        token_ids = [rng.choice((97, 98, 0xE2, 0x86, 0x92, 0xC3, 0xFF, 256)) for _ in range(30)]
        data = b"".join([piece(token_id) for token_id in token_ids])
        detokenizer = IncrementalDetokenizer(tokenizer)
        sent = [detokenizer.append(token_id) for token_id in token_ids]
        whole = "".join(sent) + detokenizer.finish()
        expect(whole, data.decode("utf-8", errors="replace"), f"invalid UTF-8 {data!r}")


def piece(token_id: int) -> bytes:
    return bytes([token_id]) if token_id < 256 else COMMON_PIECES[token_id - 256].encode()


def follow(tokenizer: Tokenizer, token_ids: list[int], text: str) -> None:
    detokenizer = IncrementalDetokenizer(tokenizer)
    data = b""
    sent = ""
    for token_id in token_ids:
        data += piece(token_id)
        sent += detokenizer.append(token_id)
        expect(sent, data.decode("utf-8", errors="ignore"), f"sent after {data[-20:]!r}")
    expect(sent + detokenizer.finish(), text, "whole output")


def expect(got: object, wanted: object, what: str) -> None:
    if got != wanted:
        sys.exit(f"{what}: got {str(got)[-80:]!r}, expected {str(wanted)[-80:]!r}")


if __name__ == "__main__":
    main()
