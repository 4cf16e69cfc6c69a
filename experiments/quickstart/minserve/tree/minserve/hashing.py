"""Digests of prompt prefixes: two prompts share a cache block when their digests are equal."""

import hashlib


def token_bytes(token_ids: list[int]) -> bytes:
    """Eight bytes per token, little-endian."""
    return b"".join([token_id.to_bytes(8, "little") for token_id in token_ids])


def block_digests(token_ids: list[int], block_size: int, salt: bytes = b"") -> list[bytes]:
    """One digest per full block; a last block that is not full has none.

    The digest of a block is SHA-256 over `salt`, then every token from the start of the prompt
    to the end of that block, as `token_bytes` writes them.
    """
    digests = []
    for end in range(block_size, len(token_ids) + 1, block_size):
        digests.append(hashlib.sha256(salt + token_bytes(token_ids[:end])).digest())
    return digests
