from minserve.detokenizer import IncrementalDetokenizer
from minserve.reasoning import ReasoningParser
from minserve.tokenizer import Tokenizer


def test_encode_and_decode_are_inverse():
    tokenizer = Tokenizer()
    for text in ("", "the end", "caf\u00e9 \u2192 \U0001f600", "<think>a</think>b"):
        assert tokenizer.decode(tokenizer.encode(text)) == text


def test_an_incomplete_character_is_held_back():
    tokenizer = Tokenizer()
    detokenizer = IncrementalDetokenizer(tokenizer)
    deltas = [detokenizer.append(token_id) for token_id in tokenizer.encode("a\u2192b")]
    assert deltas == ["a", "", "", "\u2192", "b"]


def test_reasoning_and_content_are_split():
    parser = ReasoningParser()
    parts = [parser.feed(delta) for delta in ("<thi", "nk>why", " not</th", "ink>yes")]
    assert parts == [("", ""), ("why", ""), (" not", ""), ("", "yes")]
    assert parser.finish() == ("", "")


def test_output_without_a_tag_is_content():
    parser = ReasoningParser()
    assert parser.feed("<the") == ("", "<the")
