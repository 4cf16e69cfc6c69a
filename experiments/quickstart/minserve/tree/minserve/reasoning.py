"""Splits a model's thoughts from its answer while the text streams in.

An output that opens with `<think>` is reasoning up to the first `</think>` and content after it;
any other output is content only. Text goes out as early as possible: only what may still turn out
to be part of a tag is held back.
"""

import re

START = "<think>"
END = "</think>"
_CLOSED = re.compile(r"<think>(.*?)</think>(.*)", re.DOTALL)
_OPEN = re.compile(r"<think>(.*)", re.DOTALL)


class ReasoningParser:
    """The parser of one request."""

    def __init__(self) -> None:
        self._text = ""
        self._reasoning_sent = 0
        self._content_sent = 0

    def feed(self, delta: str) -> tuple[str, str]:
        """New reasoning and new content, either of which may be empty."""
        self._text += delta
        return self._unsent(*self._split(final=False))

    def finish(self) -> tuple[str, str]:
        """What was held back at the end of the output."""
        return self._unsent(*self._split(final=True))

    def _unsent(self, reasoning: str, content: str) -> tuple[str, str]:
        delta = (reasoning[self._reasoning_sent :], content[self._content_sent :])
        self._reasoning_sent = len(reasoning)
        self._content_sent = len(content)
        return delta

    def _split(self, final: bool) -> tuple[str, str]:
        closed = _CLOSED.match(self._text)
        if closed:
            return closed.group(1), closed.group(2)
        opened = _OPEN.match(self._text)
        if opened:
            reasoning = opened.group(1)
            return reasoning if final else without_tag_start(reasoning), ""
        if not final and START.startswith(self._text):
            return "", ""
        return "", self._text


def without_tag_start(text: str) -> str:
    """`text` without an ending that may be the beginning of the end tag."""
    for length in range(min(len(END) - 1, len(text)), 0, -1):
        if text.endswith(END[:length]):
            return text[:-length]
    return text
