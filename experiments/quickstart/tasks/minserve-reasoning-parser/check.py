"""Streams outputs through the parser in random cuts and compares with a split of the whole."""

import os
import random
import sys

sys.path.insert(0, os.getcwd())

from minserve.reasoning import ReasoningParser

START, END = "<think>", "</think>"
OUTPUTS = [
    "",
    "plain",
    "<",
    "<thi",
    "<thinking is hard",
    "<think>",
    "<think></think>",
    "<think>a</think>b",
    "<think>never closed </thin",
    "<think>x < y </ </t </think</think>rest </think> and <think> again",
    " <think>not at the start</think>",
    "<think>two\nlines</think>\nthree\n\nlines <",
    "<think><think></think></think>",
]


def split(text: str, final: bool) -> tuple[str, str]:
    """Reasoning and content that are certain once `text` has been seen."""
    if not text.startswith(START):
        return ("", "") if not final and START.startswith(text) else ("", text)
    rest = text[len(START) :]
    end = rest.find(END)
    if end >= 0:
        return rest[:end], rest[end + len(END) :]
    held = 0
    if not final:
        held = max(n for n in range(len(END)) if rest.endswith(END[:n]))
    return rest[: len(rest) - held], ""


def main() -> None:
    rng = random.Random(7)
    alphabet = ["<think>", "</think>", "</", "<", "th", ">", "a", "\n", "ink>", " "]
    texts = OUTPUTS + ["".join(rng.choices(alphabet, k=12)) for _ in range(200)]
    texts += [START + "".join(rng.choices(alphabet[2:], k=40)) + END + "yes" for _ in range(50)]
    for text in texts:
        for longest in (1, 3, 9, 400):
            parser = ReasoningParser()
            seen, reasoning, content = 0, "", ""
            while seen < len(text):
                cut = min(len(text), seen + rng.randint(0, longest))
                new_reasoning, new_content = parser.feed(text[seen:cut])
                seen = cut
                reasoning += new_reasoning
                content += new_content
                expect((reasoning, content), split(text[:seen], final=False), text[:seen])
            new_reasoning, new_content = parser.finish()
            expect((reasoning + new_reasoning, content + new_content), split(text, True), text)


def expect(got: object, wanted: object, text: str) -> None:
    if got != wanted:
        sys.exit(f"after {text!r}: got {got!r}, expected {wanted!r}")


if __name__ == "__main__":
    main()
