"""From a file to windows, and what is said when that cannot be."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import pytorch_lightning as pl
import torch

from datamodules import text
from datamodules.corpora import python_docstrings
from datamodules.text import SAMPLED, TextDataModule, chosen_batch_size, unknown_share


def write(folder: Path, content: bytes) -> str:
    path = folder / "text.txt"
    path.write_bytes(content)
    return str(path)


def test_the_vocabulary_is_that_of_the_training_part_alone(tmp_path: Path) -> None:
    data = TextDataModule(write(tmp_path, b"abab" * 9 + b"abxy"), batch_size=2, window=3)
    assert data.tokenizer.state()["characters"] == "ab"
    assert torch.cat([w.tokens for w in data.val_dataloader()]).flatten().tolist() == [1, 2, 0, 0]


@pytest.mark.parametrize("level", ["word", "bpe"])
def test_words_come_from_the_training_part_alone_up_to_the_cap(tmp_path: Path, level: str) -> None:
    path = write(tmp_path, b"the cat saw the dog. " * 90 + b"the xenops saw the cat. " * 8)
    data = TextDataModule(path, level=level, vocabulary_size=300, batch_size=2, window=3)
    pieces = data.tokenizer.pieces()
    assert b" cat" in pieces and not any(b"x" in piece for piece in pieces if len(piece) > 1)
    held_out = "".join(data.tokenizer.decode(data._encoded.held_out))
    assert ("<unk> saw" if level == "word" else "xenops saw") in held_out
    cap = 5 if level == "word" else 257
    assert TextDataModule(path, level=level, vocabulary_size=cap).vocab_size == cap


@pytest.mark.parametrize("level", ["character", "byte", "word", "bpe"])
def test_the_excerpt_is_held_out_text_as_it_was_written(tmp_path: Path, level: str) -> None:
    data = TextDataModule(write(tmp_path, b"one two " * 90 + b"xenops  " * 10), level=level)
    assert data.held_out_excerpt == "xenops  " * 10


def test_the_usual_split_of_tinyshakespeare(tinyshakespeare: Path) -> None:
    data = TextDataModule(str(tinyshakespeare), val_streams=64)
    assert (len(data._encoded.training), len(data._encoded.held_out)) == (1_003_854, 111_540)


@pytest.mark.parametrize("content", [b"a\r\nb\rc\n" * 20, b"\xef\xbb\xbfa\nb\nc\n" * 1 + b"a\nb\nc\n" * 20])
def test_line_ends_and_byte_order_marks_are_no_symbols(tmp_path: Path, content: bytes) -> None:
    assert TextDataModule(write(tmp_path, content), batch_size=1).tokenizer.state()["characters"] == "\nabc"


def test_bytes_are_taken_as_they_are(tmp_path: Path) -> None:
    data = TextDataModule(write(tmp_path, b"\xff\x00\r\n" * 20), level="byte", batch_size=1, window=4)
    assert data.vocab_size == 256
    assert next(iter(data.train_dataloader())).tokens.flatten().tolist() == [255, 0, 13, 10, 255]


def test_another_encoding_can_be_named(tmp_path: Path) -> None:
    data = TextDataModule(write(tmp_path, "é".encode("latin-1") * 99), encoding="latin-1")
    assert data.tokenizer.state()["characters"] == "é"


@pytest.mark.parametrize(
    ("content", "options", "message"),
    [
        (b"", {}, "is empty"),
        (b"abc\xff", {}, "byte 3 is not utf-8.*--data.encoding.*--data.level byte"),
        (b"abc", {"encoding": "klingon"}, "no encoding 'klingon'"),
        (b"abc" * 30, {}, "81 symbols.*32 streams of windows of 64 need 2,049: --data.window 2 would fit"),
        (b"abc" * 30, {"batch_size": 1, "window": 5, "val_fraction": 0.001}, "held-out part has 1 symbols"),
        (b"abc", {"batch_size": 0}, "--data.batch_size is 0"),
        (b"abc", {"val_fraction": 1.0}, "--data.val_fraction is 1.0"),
        (b"abc", {"level": "sentence"}, "level is 'sentence': choose one of character, byte, word, bpe"),
        (b"abc", {"level": "word", "vocabulary_size": 1}, "vocabulary_size is 1: at level word it must be at least 2"),
        (b"abc", {"level": "bpe", "vocabulary_size": 255}, "size is 255: at level bpe it must be at least 256"),
    ],
)
def test_each_mistake_is_named_with_the_way_out(
    tmp_path: Path, content: bytes, options: dict[str, Any], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        TextDataModule(write(tmp_path, content), **options).check(None)


def test_no_file_and_an_empty_folder(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="no such file; give a text file with --data.path"):
        TextDataModule(str(tmp_path / "none")).check(None)
    with pytest.raises(ValueError, match="is a folder without files"):
        TextDataModule(str(tmp_path)).check(None)


def test_the_standard_library_is_there_without_its_tests() -> None:
    data = TextDataModule(val_streams=64)
    text = "".join(data.tokenizer.decode(data._encoded.training[:400]))
    assert text.startswith('"""Record of phased-in incompatible language changes.')  # __future__.py, the first by name
    assert len(data._encoded.training) > 5_000_000


def test_the_english_of_the_standard_library_is_there() -> None:
    text = python_docstrings().decode()
    assert text.count("Return") > 1000 and "import sys" not in text[:1000]
    assert 1_500_000 < len(text) < 10_000_000 and not text.endswith("\n")
    assert "A powerful, extensible, and easy-to-use option parser." in text


@pytest.mark.parametrize(("free", "resident"), [(4 * 90, True), (4 * 90 - 1, False), (0, False)])
def test_the_training_part_is_on_the_device_where_it_takes_a_quarter_of_its_memory_at_most(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, free: int, resident: bool
) -> None:
    monkeypatch.setattr(text, "free_memory", lambda device: free)
    data = TextDataModule(write(tmp_path, bytes(range(50)) * 2), level="byte", batch_size=4, window=5)
    without = [window.tokens for window in data.train_dataloader()]
    data.trainer = pl.Trainer(accelerator="cpu", logger=False, enable_checkpointing=False)
    streams = data.train_dataloader()
    assert (streams.device == torch.device("cpu")) is resident and (streams.device is None) is not resident
    assert all(torch.equal(ours.tokens, theirs) for ours, theirs in zip(streams, without, strict=True))
    assert data.val_dataloader().device is None


@pytest.mark.parametrize("fails", ["the copy", "the question how much memory is free"])
def test_a_device_that_cannot_take_the_text_leaves_it_in_the_machine_s_memory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], fails: str
) -> None:
    def fail(*given: Any) -> Any:
        raise RuntimeError("CUDA error: out of\nmemory")

    monkeypatch.setattr(text, "free_memory", fail if fails.startswith("the question") else lambda device: 10**9)
    monkeypatch.setattr(text.Streams, "on", fail)
    data = TextDataModule(write(tmp_path, bytes(range(50)) * 2), level="byte", batch_size=4, window=5)
    data.trainer = pl.Trainer(accelerator="cpu", logger=False, enable_checkpointing=False)
    assert data.train_dataloader().device is None
    (line,) = capsys.readouterr().err.splitlines()
    assert line.endswith("read from the machine's memory: CUDA error: out of memory")


def test_windows_for_a_cpu_are_cut_where_the_text_is() -> None:
    assert text.free_memory(torch.device("cpu")) == 0


@pytest.mark.parametrize(
    ("symbols", "window", "size"),
    [
        (10**7, 64, None),
        (500 * 32 * 64, 64, None),
        (500 * 32 * 64 - 1, 64, 16),
        (33_250, 64, 1),
        (100, 64, 1),
        (0, 64, 1),
    ],
)
def test_a_small_text_is_read_in_fewer_streams(symbols: int, window: int, size: int | None) -> None:
    assert chosen_batch_size(symbols, window) == size
    if size and size > 1:
        assert symbols // (size * window) >= 500 > symbols // (2 * size * window)


def test_the_batch_size_is_chosen_and_said_where_none_is_given(tmp_path: Path) -> None:
    path = write(tmp_path, b"one two three\n" * 900)
    data = TextDataModule(path, batch_size=None, window=5)
    data.check(None)
    assert data.hparams["batch_size"] == len(data.train_streams.starts) == 4 and len(data.train_streams) > 500
    assert "the text is small: a batch size of 4 instead of 32 makes more updates" in str(data)
    given = TextDataModule(path, batch_size=8, window=5)
    assert len(given.train_streams.starts) == 8 and "the text is small" not in str(given)


@pytest.mark.parametrize(
    ("level", "options", "message"),
    [
        ("word", {"vocabulary_size": 3}, "raise --data.vocabulary_size, or choose --data.level bpe"),
        ("word", {}, ": choose --data.level bpe, which has no such words"),
        ("character", {}, ": the held-out part, the end of the text, is unlike the rest; --data.level byte"),
        ("byte", {}, None),
        ("bpe", {"vocabulary_size": 300}, None),
    ],
)
def test_the_share_of_unknown_symbols_is_said_with_a_way_out(
    tmp_path: Path, level: Any, options: dict[str, Any], message: str | None
) -> None:
    content = b"one two three\n" * 90 + b"xqz wvk " * 18
    data = TextDataModule(write(tmp_path, content), level=level, batch_size=1, window=4, **options)
    if message is None:
        assert "not in the vocabulary" not in str(data)
    else:
        assert "not in the vocabulary: " in str(data) and message in str(data)


def test_a_vocabulary_that_has_nearly_all_words_is_said_without_advice(tmp_path: Path) -> None:
    data = TextDataModule(write(tmp_path, b"one two three\n" * 90 + b"four "), level="word", batch_size=1, window=4)
    assert "not in the vocabulary: 0.0% of the training part, " in str(data) and "bpe" not in str(data)


def test_the_share_of_unknown_symbols_in_a_long_text_is_near_the_true_one() -> None:
    ids = np.zeros(SAMPLED + 1000, np.uint8)
    ids[::4] = 1
    assert unknown_share(ids) == pytest.approx(0.75, abs=0.01)
    assert unknown_share(ids[:8]) == 0.75 and unknown_share(ids[:0]) == 0
