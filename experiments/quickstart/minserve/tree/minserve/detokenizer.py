"""Incremental detokenisation: tokens come one by one, text goes out as soon as it is certain."""

from minserve.tokenizer import Tokenizer

REPLACEMENT = "\ufffd"


class IncrementalDetokenizer:
    """The text of one request. What was returned is final and is never taken back."""

    def __init__(self, tokenizer: Tokenizer) -> None:
        self._tokenizer = tokenizer
        self._token_ids: list[int] = []
        self._sent = 0

    def append(self, token_id: int) -> str:
        """Text that became certain with this token; empty while a character is incomplete."""
        self._token_ids.append(token_id)
        text = self._tokenizer.decode(self._token_ids)
        if text.endswith(REPLACEMENT):
            return ""
        delta = text[self._sent :]
        self._sent = len(text)
        return delta

    def finish(self) -> str:
        """The held-back rest; an incomplete character becomes U+FFFD."""
        text = self._tokenizer.decode(self._token_ids)
        delta = text[self._sent :]
        self._sent = len(text)
        return delta
