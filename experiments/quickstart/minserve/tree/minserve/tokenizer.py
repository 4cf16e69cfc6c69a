"""Byte-level tokenizer: 256 single bytes, then longer pieces. A character may span tokens."""

COMMON_PIECES = (
    "the", "and", "ing", "ion", "ent", "for", " the", " of", " to", " in", " is", " a",
    "th", "he", "in", "er", "an", "re", "on", "at", "en", "nd", "ti", "es", "or", "te",
    "<think>", "</think>", "\n\n", ". ", ", ",
)


class Tokenizer:
    """Token ids 0-255 are bytes; id 256 + i is the UTF-8 form of `pieces[i]`."""

    def __init__(self, pieces: tuple[str, ...] = COMMON_PIECES) -> None:
        self._pieces = [bytes([value]) for value in range(256)]
        self._pieces += [piece.encode() for piece in pieces]
        self._ids = {piece: token_id for token_id, piece in enumerate(self._pieces)}
        self._longest = max(len(piece) for piece in self._pieces)

    @property
    def vocab_size(self) -> int:
        return len(self._pieces)

    def encode(self, text: str) -> list[int]:
        """Greedy: at each position the longest piece that fits."""
        data = text.encode()
        token_ids = []
        start = 0
        while start < len(data):
            for length in range(min(self._longest, len(data) - start), 0, -1):
                token_id = self._ids.get(data[start : start + length])
                if token_id is not None:
                    token_ids.append(token_id)
                    start += length
                    break
        return token_ids

    def decode(self, token_ids: list[int]) -> str:
        """Text of `token_ids`. Bytes that are no valid UTF-8 become U+FFFD."""
        data = b"".join([self._pieces[token_id] for token_id in token_ids])
        return data.decode("utf-8", errors="replace")
