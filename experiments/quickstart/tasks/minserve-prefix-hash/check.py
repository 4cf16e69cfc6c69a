"""Compares the digests with SHA-256 over bytes that are put together here."""

import hashlib
import os
import random
import sys

sys.path.insert(0, os.getcwd())

from minserve.hashing import block_digests

LITERAL = "0c730b69905c5ef7a4ca5269f72365400bde2dd2c04eaf9bbb3d1c4a265a0131"


def digests(token_ids: list[int], block_size: int, salt: bytes) -> list[bytes]:
    wanted = []
    for blocks in range(1, len(token_ids) // block_size + 1):
        data = bytearray(salt)
        for token_id in token_ids[: blocks * block_size]:
            for byte in range(8):
                data.append(token_id >> (8 * byte) & 255)
        wanted.append(hashlib.sha256(data).digest())
    return wanted


def main() -> None:
    rng = random.Random(7)
    expect([digest.hex() for digest in block_digests([1, 2, 3], 2)], [LITERAL], "[1, 2, 3]")
    for length in (0, 1, 15, 16, 17, 31, 32, 33, 160, 201):
        for block_size in (1, 5, 16, 32):
            for salt in (b"", b"model-1", b"s" * 70):
                token_ids = [rng.choice((0, 255, 256, 31_999, 1 << 40)) for _ in range(length)]
                given = list(token_ids)
                wanted = digests(token_ids, block_size, salt)
                what = f"{length} tokens, blocks of {block_size}, salt {salt!r}"
                expect(block_digests(given, block_size, salt), wanted, what)
                expect(given, token_ids, f"prompt was changed: {what}")


def expect(got: object, wanted: object, what: str) -> None:
    if got != wanted:
        sys.exit(f"{what}: got {str(got)[:80]}, expected {str(wanted)[:80]}")


if __name__ == "__main__":
    main()
