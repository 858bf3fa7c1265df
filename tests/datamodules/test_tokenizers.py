"""Text to numbers and back."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from datamodules.tokenizers import ByteTokenizer, CharacterTokenizer, load_tokenizer


@given(st.text(alphabet=st.characters(exclude_characters=["\ufffd"], exclude_categories=["Cs"])))
def test_any_text_comes_back(text: str) -> None:
    for tokenizer in (CharacterTokenizer.of(text), ByteTokenizer()):
        ids = tokenizer.encode(text)
        assert "".join(tokenizer.decode(ids)) == text
        assert len(ids) == 0 or ids.max() < tokenizer.vocab_size
        again = load_tokenizer(tokenizer.state())
        assert (again.encode(text) == ids).all() and again.vocab_size == tokenizer.vocab_size


def test_numbers_follow_the_order_of_code_points_from_run_to_run() -> None:
    assert CharacterTokenizer.of("hello").encode("ehlo").tolist() == [1, 2, 3, 4]


def test_what_the_vocabulary_lacks_is_refused_by_name_skipped_or_replaced() -> None:
    tokenizer = CharacterTokenizer.of("abc")
    with pytest.raises(ValueError, match="no 'x', 'é': --unknown skip or replace"):
        tokenizer.encode("xaéx")
    assert "".join(tokenizer.decode(tokenizer.encode("xaé", "skip"))) == "a"
    assert "".join(tokenizer.decode(tokenizer.encode("xaé", "replace"))) == "\ufffda\ufffd"


def test_bytes_of_one_character_are_decoded_when_they_are_complete() -> None:
    ids = ByteTokenizer().encode("é")
    assert list(ByteTokenizer().decode(ids)) == ["", "é", ""]
    assert "".join(ByteTokenizer().decode(ids[:1])) == "\ufffd"
