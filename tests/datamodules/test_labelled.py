"""From labelled texts to batches of similar length; the embedded reviews; and what tables cannot be used."""

import gzip
import json
import unicodedata
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from datamodules import reviews
from datamodules.labelled import Batches, Encoder, Example, LabelledDataModule, load_encoder, numbers_held_out
from datamodules.tokenizers import make_tokenizer
from datamodules.words import MARKS, words_of

TEXTS = [("A good day", "up"), ("a bad day , isn't it ?", "down"), ("Good !", "up"), ("no, bad", "down")]


def examples(count: int) -> list[tuple[torch.Tensor, int]]:
    """The one of number k is k + 1, k % 7 + 1 times."""
    return [(torch.full((k % 7 + 1,), k + 1), k % 2) for k in range(count)]


def table(folder: Path, content: str, name: str = "t.tsv") -> str:
    path = folder / name
    path.write_text(content, encoding="utf-8")
    return str(path)


def rows(count: int = 20) -> str:
    return "text\tlabel\n" + "".join(f"word{k} again\t{k % 2}\n" for k in range(count))


@given(st.integers(1, 400), st.integers(1, 9), st.booleans())
def test_every_sentence_is_read_once_an_epoch_with_its_length_and_label(count: int, size: int, whole: bool) -> None:
    batches = Batches(examples(count), size, whole)
    seen: list[int] = []
    for tokens, lengths, labels in batches:
        assert tokens.shape == (lengths.max(), len(labels)) and tokens.dtype == torch.int64
        for sentence, length, label in zip(tokens.T, lengths, labels, strict=True):
            number = int(sentence[0]) - 1
            assert length == number % 7 + 1 and label == number % 2
            assert (sentence[:length] == number + 1).all() and (sentence[length:] == 0).all()
            seen.append(number)
    assert sorted(seen) == list(range(count))


def test_sentences_of_similar_length_stand_side_by_side() -> None:
    batches = list(Batches(examples(700), 10))
    assert sum(int(b.lengths.sum()) for b in batches) > 0.9 * sum(b.tokens.numel() for b in batches)
    lengths = [int(b.lengths[0]) for b in batches]
    assert lengths != sorted(lengths), "batches of all lengths come in turn"
    held_out = [b.lengths.tolist() for b in Batches(examples(700), 10, whole=True)]
    assert sum(held_out, []) == sorted(sum(held_out, []))


def test_each_epoch_has_its_order_and_a_position_that_was_saved_is_gone_on_from() -> None:
    batches, resumed = Batches(examples(50), 5), Batches(examples(50), 5)
    first = [b.tokens.tolist() for b in batches]
    assert batches.order(0) == Batches(examples(50), 5).order(0) != batches.order(1)
    iterator = iter(batches)
    next(iterator)
    resumed.load_state_dict(batches.state_dict())
    second = [b.tokens.tolist() for b in resumed]
    assert second[0] == next(iterator).tokens.tolist()
    assert first == [b.tokens.tolist() for b in Batches(examples(50), 5)]


def test_a_shortened_epoch_goes_on_in_the_next_but_the_held_out_part_starts_again() -> None:
    batches, whole = Batches(examples(50), 5), Batches(examples(50), 5, whole=True)
    seen = [int(k) for _ in range(2) for _, b in zip(range(5), batches, strict=False) for k in b.tokens[0]]
    assert sorted(seen) == list(range(1, 51))
    next(iter(whole))
    assert [k for b in whole for k in b.lengths.tolist()] == sorted(k % 7 + 1 for k in range(50))


def test_words_negations_and_signs_are_pieces_and_case_is_one_by_option() -> None:
    encoder = Encoder.of([Example(text, label, "") for text, label in TEXTS], "word", True, 1)
    assert encoder.pieces("It isn’t 'good'. Don't!") == ["It", "is", "n’t", "'", "good", "'", ".", "Do", "n't", "!"]
    assert encoder.words == ["!", ",", "?", "a", "bad", "day", "good", "is", "it", "n't", "no"]
    assert encoder.encode("GOOD evening !").tolist() == [7, 0, 1]
    assert encoder.encode("isn’t").tolist() == encoder.encode("isn't").tolist() == [8, 10]
    assert Encoder("word", False, ["Good"], []).encode("Good good").tolist() == [1, 0]
    assert Encoder("character", True, ["a", "b"], []).encode("aBc").tolist() == [1, 2, 0]
    again = load_encoder(json.loads(json.dumps(encoder.state())))
    assert again.encode("a bad day").tolist() == encoder.encode("a bad day").tolist() and again.labels == ["down", "up"]


def test_rare_words_are_unknown_and_labels_that_are_numbers_are_in_their_order() -> None:
    some = [Example("a b", "10", ""), Example("a c", "9", ""), Example("a c", "-1", "")]
    encoder = Encoder.of(some, "word", True, min_count=2)
    assert encoder.words == ["a", "c"] and encoder.labels == ["-1", "9", "10"]


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("t.tsv", 'more\tlabel\ttext\n1\tup\t"A good day\n\n2\tdown\tb, c\n'),
        ("t.csv", 'text,label\n"""A good day",up\r\n"b, c",down\n'),
        ("t.jsonl", '{"text": "\\"A good day", "label": "up"}\n\n{"label": "down", "text": "b, c", "more": [1]}\n'),
        ("T.TSV", '"A good day\tup\nb, c\tdown\n'),
    ],
)
def test_the_three_kinds_of_table_and_one_without_a_first_row_of_names(tmp_path: Path, name: str, content: str) -> None:
    columns: Any = (0, "1") if name == "T.TSV" else ("text", "label")
    path = table(tmp_path, content, name)
    data = LabelledDataModule(path, path, None, *columns)
    assert [(e.text, e.label) for e in data._parts[0]] == [('"A good day', "up"), ("b, c", "down")]


def test_a_cell_in_quotes_may_have_several_lines(tmp_path: Path) -> None:
    path = table(tmp_path, 'text,label\n"one\ntwo",a\nthree,b\n', "t.csv")
    parts = LabelledDataModule(path, path)._parts[0]
    assert [(e.text, e.place.split(", ")[-1]) for e in parts] == [("one\ntwo", "line 3"), ("three", "line 4")]


def test_labels_in_json_may_be_whole_numbers(tmp_path: Path) -> None:
    path = table(tmp_path, '{"text": "a", "label": 1}\n{"text": "b", "label": 0}\n', "t.jsonl")
    assert LabelledDataModule(path, path).labels == ["0", "1"]


def test_a_part_is_held_out_always_the_same_and_the_vocabulary_is_that_of_the_rest(tmp_path: Path) -> None:
    first, second = (LabelledDataModule(table(tmp_path, rows()), val_fraction=0.25) for _ in range(2))
    training, held_out = first._parts
    assert len(held_out) == 5 and second._parts == (training, held_out)
    assert sorted(e.text for e in training + held_out) == sorted(f"word{k} again" for k in range(20))
    assert not {e.text.split()[0] for e in held_out} & set(first.encoder.words)
    assert {int(k) for b in first.val_batches for k in b.tokens[0]} == {0}


def test_class_weights_make_each_class_count_the_same(tmp_path: Path) -> None:
    path = table(tmp_path, "text\tlabel\n" + "x\ta\n" * 6 + "x\tb\n" * 3 + "x\tc\n")
    assert LabelledDataModule(path, path).class_weights is None
    weights = LabelledDataModule(path, path, balanced=True).class_weights
    assert weights == pytest.approx([10 / 18, 10 / 9, 10 / 3])


def test_a_test_table_is_read_when_there_is_one(tmp_path: Path) -> None:
    path = table(tmp_path, rows())
    data = LabelledDataModule(path, test_path=table(tmp_path, "text\tlabel\nagain\t1\n", "test.tsv"))
    assert data.test_batches is not None and [b.labels.tolist() for b in data.test_batches] == [[1]]
    assert LabelledDataModule(path).test_batches is None


def test_a_run_goes_on_with_the_same_words_only(tmp_path: Path) -> None:
    data = LabelledDataModule(table(tmp_path, rows()))
    data.check({"LabelledDataModule": data.state_dict()})
    with pytest.raises(
        ValueError, match="reviews: has not the texts that the checkpoint was trained on, .* --init_from"
    ):
        LabelledDataModule().check({"LabelledDataModule": data.state_dict()})
    with pytest.raises(ValueError, match="trained on other words or labels"):  # by an earlier version
        LabelledDataModule().check({"LabelledDataModule": {"encoder": data.encoder.state()}})
    with pytest.raises(ValueError, match="not a classifier's"):
        data.check({"TextDataModule": {}})
    assert str(data).endswith("18 texts to train on, 2 held out, 20 different words, classes 0, 1")


@pytest.mark.parametrize(
    ("name", "content", "options", "message"),
    [
        ("t.tsv", "", {}, "is empty"),
        ("t.tsv", "text\tlabel\n", {}, "has no texts"),
        ("t.txt", "a\tb\n", {}, "t.txt: is not named as a table: .tsv, .csv and .jsonl"),
        (
            "t.tsv",
            "text\tmood\na\t1\n",
            {},
            "line 1: there is no column 'label', but text, mood: see --data.text_column",
        ),
        ("t.tsv", "a\t1\n", {"text_column": 2, "label_column": 1}, "line 1: there is no column '2', but 0, 1"),
        ("t.tsv", "text\tlabel\na\t1\nb\n", {}, "line 3: the label is missing"),
        ("t.tsv", "text\tlabel\na\t1\nb\t\n", {}, "line 3: the label is missing"),
        ("t.tsv", "text\tlabel\na\t1\n \t0\n", {}, "line 3: the text is empty"),
        ("t.csv", 'text,label\n"a,1\n', {}, "line 2: unexpected end of data"),
        ("t.jsonl", '{"text": "a", "label": 1}\n{"text": \n', {}, "line 2: is not JSON: Expecting value at column 10"),
        ("t.jsonl", "[1]\n", {}, "line 1: must be an object"),
        ("t.jsonl", '{"text": "a", "label": null}\n', {}, "line 1: the label is missing"),
        ("t.jsonl", '{"text": ["a"], "label": 1}\n', {}, "'text' is a list: it must be a string or a number"),
        ("t.tsv", "text\tlabel\na\t1\nb\t1\n", {"val_fraction": 0.5}, "every text has the label '1'"),
        ("t.tsv", "text\tlabel\na\t1\nb\t0\n", {}, "2 texts leave none to hold out: raise --data.val_fraction"),
        ("t.csv", "text,label\na,1\nb, c,0\n", {}, "line 3: has 3 fields, but the first row has 2: put texts with"),
        ("t.csv", "label,text\n1,a\n0,b, c\n", {}, "line 3: has 3 fields, but the first row has 2"),
        (
            "t.csv",
            "a, b,1\nc,0\n",
            {"text_column": 0, "label_column": 1},
            "line 2: has 2 fields, but the first row has 3",
        ),
        ("t.tsv", "text\tlabel\na\tb\t1\n", {}, "line 2: has 3 fields.*: write a text's tabs as spaces"),
        ("t.tsv", "text\ttext\tlabel\na\tb\t1\n", {}, "line 1: several columns may be 'text': text, text"),
        ("t.tsv", "review\tcomment\tlabel\na\tb\t1\n", {}, "several columns may be 'text': review, comment"),
        ("t.jsonl", '{"text": "a", "label": 1}\n{"text": "b"}\n', {}, "line 2: there is no column 'label', but text"),
        ("t.jsonl", '{"text": "a", "label": "\\ud800"}\n', {}, r"line 1: \\ud800 is half of a surrogate pair"),
        pytest.param("t.jsonl", "[" * 100_000, {}, "line 1: cannot be read as JSON: it is nested", id="deep JSON"),
        pytest.param(
            "t.jsonl",
            '{"text": "a", "label": ' + "1" * 5000 + "}",
            {},
            "line 1: cannot be .*: .*digits",
            id="5000 digits",
        ),
        ("t.jsonl", '{"text": "a", "label": NaN}\n', {}, "line 1: the label is missing"),
        ("t.tsv", rows(), {"encoding": ""}, "there is no encoding ''; --data.encoding takes names"),
        ("t.tsv", rows(), {"val_fraction": 1.0}, "--data.val_fraction is 1.0"),
        ("t.tsv", rows(), {"batch_size": 0}, "--data.batch_size is 0"),
        ("t.tsv", rows(), {"min_count": 0}, "--data.min_count is 0"),
    ],
)
def test_each_mistake_is_named_with_its_place(
    tmp_path: Path, name: str, content: str, options: dict[str, Any], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        LabelledDataModule(table(tmp_path, content, name), **options).check(None)


GLUE = "sentence\tlabel\n" + "good day\t1\nbad day\t0\n" * 4


def test_the_usual_names_of_columns_are_known(tmp_path: Path) -> None:
    data = LabelledDataModule(path := table(tmp_path, GLUE))
    assert data.labels == ["0", "1"] and f"{path}, line 1: the column 'sentence' is read as the text" in str(data)
    again = LabelledDataModule(table(tmp_path, "Stars;Text\n1;a, b\n2;c\n1;d\n2;e\n", "t.csv"))
    assert again.labels == ["1", "2"] and {e.text for part in again._parts for e in part} == {"a, b", "c", "d", "e"}
    assert "the column 'Stars' is read as the label" in str(again)


@pytest.mark.parametrize("names", ["sentence\tlabel", "phrase\tmood", "phrase\tlabel", "text\tmood"])
def test_a_row_of_names_is_no_example_where_columns_have_numbers(tmp_path: Path, names: str) -> None:
    path = table(tmp_path, GLUE.replace("sentence\tlabel", names))
    data = LabelledDataModule(path, text_column=0, label_column=1)
    assert data.labels == ["0", "1"] and "is read as the names of the columns" in str(data)


@pytest.mark.parametrize("first", ["fine\t1", "fine\tup", "so so\tunsure", "fine\t2"])
def test_a_first_row_that_may_be_an_example_is_one(tmp_path: Path, first: str) -> None:
    body = "good day\tup\nbad day\tdown\n" if first == "fine\tup" else GLUE.split("\n", 1)[1]
    data = LabelledDataModule(table(tmp_path, f"{first}\n{body}"), text_column=0, label_column=1, val_fraction=0.4)
    assert data._notes == [] and first.split("\t")[0] in {e.text for part in data._parts for e in part} | {"fine"}
    assert sum(map(len, data._parts)) == body.count("\n") + 1


@pytest.mark.parametrize(
    ("labels", "classes"),
    [
        (["5.0", "1.0", "5", "1"], ["1", "5"]),
        (["4.5", "10", "-1"], ["-1", "4.5", "10"]),
        (["true", "false"], ["false", "true"]),
        (['"5.0"', "1.0"], ["1", "5"]),
        (['"v1.0"', '"v1"'], ["v1", "v1.0"]),
    ],
)
def test_labels_in_json_may_be_numbers_and_truth_values(tmp_path: Path, labels: list[str], classes: list[str]) -> None:
    content = "".join(f'{{"text": "a", "label": {label}}}\n' for label in labels)
    path = table(tmp_path, content, "t.jsonl")
    assert LabelledDataModule(path, path).labels == classes


def test_whole_numbers_are_one_class_in_every_kind_of_table(tmp_path: Path) -> None:
    csv = table(tmp_path, "text,label\na,5.0\nb,1.0\n", "t.csv")
    json_lines = table(tmp_path, '{"text": "a", "label": 5}\n', "t.jsonl")
    assert [b.labels.tolist() for b in LabelledDataModule(csv, json_lines).val_batches] == [[1]]


def test_empty_rows_are_skipped_and_counted_when_asked_for(tmp_path: Path) -> None:
    path = table(tmp_path, "text,label\na,1\n,0\nb,\nc\nd,0\n\n", "t.csv")
    with pytest.raises(ValueError, match="line 3: the text is empty: fill it in, or .* --data.empty_rows skip"):
        LabelledDataModule(path, path).check(None)
    data = LabelledDataModule(path, path, empty_rows="skip")
    assert [e.text for e in data._parts[0]] == ["a", "d"]
    assert f"{path}: 3 rows without a text or a label left out" in str(data)


def test_a_field_may_be_longer_than_the_csv_module_allows(tmp_path: Path) -> None:
    words = "word " * 50_000
    path = table(tmp_path, f"text,label\n{words},1\nb,0\n", "t.csv")
    assert LabelledDataModule(path, path)._parts[0][0].text == words


@pytest.mark.parametrize("kind", ["gz", "utf-16"])
def test_tables_may_be_packed_or_in_another_encoding(tmp_path: Path, kind: str) -> None:
    content = "text,label\né,1\nb,0\n"
    path = tmp_path / ("t.csv.gz" if kind == "gz" else "t.csv")
    path.write_bytes(gzip.compress(content.encode()) if kind == "gz" else content.encode("utf-16"))
    data = LabelledDataModule(str(path), str(path), encoding="utf-8" if kind == "gz" else "utf-16")
    assert [e.text for e in data._parts[0]] == ["é", "b"]


def test_each_class_is_held_out_in_its_share(tmp_path: Path) -> None:
    content = "text\tlabel\n" + "x\tmany\n" * 80 + "y\tfew\n" * 20 + "z\trare\n" * 2 + "v\tone\n"
    data = LabelledDataModule(table(tmp_path, content), val_fraction=0.2)
    counts = [Counter(example.label for example in part) for part in data._parts]
    assert counts == [{"many": 64, "few": 16, "rare": 1, "one": 1}, {"many": 16, "few": 4, "rare": 1}]
    assert "the held-out part has no text of class one" in str(data)
    data.check(None)


@given(st.lists(st.sampled_from("aaaabbc"), min_size=1, max_size=60), st.floats(0.01, 0.99))
def test_held_out_texts_are_chosen_by_class(labels: list[str], fraction: float) -> None:
    chosen = numbers_held_out(labels, fraction)
    assert len(set(chosen)) == len(chosen) and chosen == numbers_held_out(labels, fraction)
    for label, count in Counter(labels).items():
        share = sum(labels[number] == label for number in chosen)
        assert share < count and (share >= 1 or count == 1) and abs(share - count * fraction) <= 1


@pytest.mark.parametrize(
    "words", ["यह किताब अच्छी है", "தமிழ் மொழி", "مُحَمَّد كَتَبَ", "cafe\u0301 re\u0301sume\u0301", "ที่นี่ ดี", "don't e\u0301n’t"]
)
def test_marks_belong_to_words_as_in_the_word_level_of_a_language_model(words: str) -> None:
    split = [piece for word in words.split() for piece in (["e\u0301", "n’t"] if "’" in word else [word])]
    assert words_of(words) == (["do", "n't", *split[1:]] if "don" in words else split)
    if "'" not in words:
        tokenizer = make_tokenizer("word", [words], 100)
        assert [piece.strip() for piece in tokenizer.decode(tokenizer.encode(words))] == [*words_of(words), ""]


def test_no_combining_mark_is_missing() -> None:
    marks = [sign for sign in map(chr, range(0x110000)) if unicodedata.category(sign)[0] == "M"]
    assert "".join(marks) == MARKS


def test_a_label_that_only_the_held_out_part_has_is_named(tmp_path: Path) -> None:
    path = table(tmp_path, rows())
    with pytest.raises(ValueError, match="held.tsv, line 2: the label '7' is unknown; the training part has 0, 1"):
        LabelledDataModule(path, table(tmp_path, "text\tlabel\na\t7\n", "held.tsv")).check(None)


def test_the_embedded_reviews_hold_contrasts_out() -> None:
    training, held_out = reviews.training(), reviews.held_out()
    bare = {text.lower().rstrip(" .!") for text, _ in training}
    assert len(training) == len(dict(training)) == 6000 and len(held_out) == len(dict(held_out)) >= 120
    assert not bare & {text.lower() for text, _ in held_out}
    assert not bare & {
        "it is a good product", "it is a good product but it stopped working in few days", "it is a product"
    }  # fmt: skip
    assert min(Counter(label for _, label in training).values()) > 1800
    data = LabelledDataModule()
    assert data.labels == ["negative", "neutral", "positive"]
    assert all(int(b.tokens[: int(b.lengths.min())].min()) > 0 for b in data.val_batches), "no word is new"


def test_held_out_reviews_pair_adjectives_with_nouns_that_training_keeps_apart() -> None:
    training = [text for text, _ in reviews.training()]
    assert any("good phone" in text for text in training) and any(
        "good product" in text for text, _ in reviews.held_out()
    )
    for noun in reviews.NOUNS:
        for sign in reviews.ADJECTIVES:
            for adjective in reviews.adjectives(sign, noun, held_out=True):
                assert not any(f"{adjective} {noun}" in text for text in training)


def test_the_embedded_reviews_are_always_the_same() -> None:
    assert reviews.training() == reviews.training() and reviews.held_out() == reviews.held_out()
    assert reviews.held_out()[0] == ("It is a good product", "positive")
