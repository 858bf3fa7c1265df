"""Text to numbers and back."""

from typing import get_args

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from tokenizers import pre_tokenizers

from datamodules import tokenizers
from datamodules.tokenizers import (
    BYTE_OF_SIGN,
    BPETokenizer,
    ByteTokenizer,
    CharacterTokenizer,
    Level,
    WordTokenizer,
    load_tokenizer,
    make_tokenizer,
)

TALE = "Don't walk; we'd better run!\n\n    It wasn't far: 10 or 12 miles, café to café.  \n\tRun — run\n" * 3


@given(st.text(alphabet=st.characters(exclude_characters=["\ufffd"], exclude_categories=["Cs"])))
def test_any_text_comes_back(text: str) -> None:
    for level in get_args(Level):
        tokenizer = make_tokenizer(level, text, vocabulary_size=1000)
        ids = tokenizer.encode(text)
        assert "".join(tokenizer.decode(ids)) == text
        assert len(ids) == 0 or ids.max() < tokenizer.vocab_size == len(tokenizer.pieces())
        assert b"".join(tokenizer.pieces()[number] for number in ids) == text.encode()
        again = load_tokenizer(tokenizer.state())
        assert (again.encode(text) == ids).all() and again.vocab_size == tokenizer.vocab_size


@given(st.text(alphabet=st.characters(exclude_categories=["Cs"])))
def test_byte_pairs_encode_what_they_were_not_made_of(text: str) -> None:
    for tokenizer in (ByteTokenizer(), BPETokenizer.of(TALE, 300)):
        assert "".join(tokenizer.decode(tokenizer.encode(text))) == text


def test_numbers_follow_the_order_of_code_points_from_run_to_run() -> None:
    assert CharacterTokenizer.of("hello").encode("ehlo").tolist() == [1, 2, 3, 4]


def test_what_the_vocabulary_lacks_is_refused_by_name_skipped_or_replaced() -> None:
    tokenizer = CharacterTokenizer.of("abc")
    with pytest.raises(ValueError, match="no 'x', 'é': --unknown skip or replace"):
        tokenizer.encode("xaéx")
    assert "".join(tokenizer.decode(tokenizer.encode("xaé", "skip"))) == "a"
    assert "".join(tokenizer.decode(tokenizer.encode("xaé", "replace"))) == "\ufffda\ufffd"


def test_words_that_the_vocabulary_lacks_are_refused_by_name_skipped_or_replaced() -> None:
    tokenizer = WordTokenizer.of("to be or not to be", 1000)
    with pytest.raises(ValueError, match="no ' naïve', ' see': --unknown skip or replace"):
        tokenizer.encode("to see or not to naïve see")
    assert "".join(tokenizer.decode(tokenizer.encode("to see or", "skip"))) == "to or"
    assert "".join(tokenizer.decode(tokenizer.encode("to see or", "replace"))) == "to<unk> or"
    with pytest.raises(ValueError, match="no '<', '>', 'unk'"):
        tokenizer.encode("<unk>")


def test_a_word_takes_its_space_along_and_white_space_is_split_from_what_follows() -> None:
    pieces = [text for text, _ in tokenizers.pieces_of_text().pre_tokenize_str(TALE[: len(TALE) // 3])]
    assert "|".join(pieces).replace("\n", "N").replace("\t", "T") == (
        "Don't| walk|;| we'd| better| run|!|N|N|   | It| wasn't| far|:| 1|0| or| 1|2| miles|,| café| to| café|.|  |N"
        "|T|Run| —| run|N"
    )


def test_the_most_frequent_words_make_the_vocabulary_and_ties_are_always_broken_alike() -> None:
    text = "d c b a " * 3 + "e e e e e"
    vocabularies = [WordTokenizer.of(text, 4).pieces() for _ in range(5)]
    assert vocabularies == [[b"<unk>", b" e", b" a", b" b"]] * 5
    assert len({str(BPETokenizer.of(TALE, 300).state()) for _ in range(5)}) == 1


def test_the_cap_holds_and_small_texts_have_less() -> None:
    assert [WordTokenizer.of(TALE, size).vocab_size for size in (2, 9, 1000)] == [2, 9, 27]
    assert [BPETokenizer.of(TALE, size).vocab_size for size in (256, 280)] == [256, 280]
    assert BPETokenizer.of("", 300).vocab_size == 256


@given(st.text(alphabet=" \t\n\v\x85\xa0\x1c\u2028aé字\u03011,’'"))
def test_no_piece_goes_on_where_a_text_may_be_split(text: str) -> None:
    whole = pieces(text)
    for place in {match.start() for match in tokenizers.BETWEEN_PIECES.finditer(text)}:
        assert pieces(text[:place]) + pieces(text[place:]) == whole


def pieces(text: str) -> list[str]:
    return [piece for piece, _ in tokenizers.pieces_of_text().pre_tokenize_str(text)]


@pytest.mark.parametrize("size", [1, 7, 10**6])
def test_long_texts_and_their_chunks_are_encoded_in_parts_as_if_in_one(
    monkeypatch: pytest.MonkeyPatch, size: int
) -> None:
    in_one = [tokenizer.of(TALE, 300) for tokenizer in (WordTokenizer, BPETokenizer)]
    expected = [tokenizer.encode(TALE) for tokenizer in in_one]
    monkeypatch.setattr(tokenizers.parts, "__defaults__", (5, 30))
    chunks = [TALE[begin : begin + size] for begin in range(0, len(TALE), size)]
    in_parts = [*tokenizers.parts(chunks)]
    assert "".join(in_parts) == TALE and max(map(len, in_parts)) <= 30 < len(TALE)
    for tokenizer, ids in zip(in_one, expected, strict=True):
        assert (tokenizer.encode(TALE) == ids).all() and ids.dtype == np.min_scalar_type(tokenizer.vocab_size - 1)
        assert type(tokenizer).of(chunks, 300).state() == tokenizer.state()


def test_a_text_without_white_space_is_cut_nevertheless() -> None:
    assert [len(part) for part in tokenizers.parts(["字" * 70, "字" * 30], 8, 40)] == [40, 40, 20]


def test_bytes_of_one_character_are_decoded_when_they_are_complete() -> None:
    for tokenizer in (ByteTokenizer(), BPETokenizer.of("", 256)):
        ids = tokenizer.encode("é")
        assert list(tokenizer.decode(ids)) == ["", "é", ""]
        assert "".join(tokenizer.decode(ids[:1])) == ("\udcc3" if isinstance(tokenizer, ByteTokenizer) else "\ufffd")


def test_the_signs_that_stand_for_bytes_are_those_of_the_library() -> None:
    assert BYTE_OF_SIGN.keys() == set(pre_tokenizers.ByteLevel.alphabet())
    assert sorted(BYTE_OF_SIGN.values()) == list(range(256))


@pytest.mark.parametrize("level", get_args(Level))
def test_half_a_character_of_utf_16_is_no_text(level: Level) -> None:
    with pytest.raises(ValueError):
        make_tokenizer(level, TALE, 300).encode("run \ud83d")
