"""From a file to windows, and what is said when that cannot be."""

from pathlib import Path
from typing import Any

import pytest
import torch

from datamodules.text import TextDataModule


def write(folder: Path, content: bytes) -> str:
    path = folder / "text.txt"
    path.write_bytes(content)
    return str(path)


def test_the_vocabulary_is_that_of_the_training_part_alone(tmp_path: Path) -> None:
    data = TextDataModule(write(tmp_path, b"abab" * 9 + b"abxy"), batch_size=2, window=3)
    assert data.tokenizer.state()["characters"] == "ab"
    assert torch.cat([w.tokens for w in data.val_dataloader()]).flatten().tolist() == [1, 2, 0, 0]


def test_the_usual_split_of_tinyshakespeare(tinyshakespeare: Path) -> None:
    data = TextDataModule(str(tinyshakespeare), val_streams=64)
    _, training, held_out = data._encoded
    assert (len(training), len(held_out)) == (1_003_854, 111_540)


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
    ],
)
def test_each_mistake_is_named_with_the_way_out(
    tmp_path: Path, content: bytes, options: dict[str, Any], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        TextDataModule(write(tmp_path, content), **options).check(None)


def test_no_file_and_a_folder(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="no such file; give a text file with --data.path"):
        TextDataModule(str(tmp_path / "none")).check(None)
    with pytest.raises(IsADirectoryError, match="is a folder"):
        TextDataModule(str(tmp_path)).check(None)


def test_the_standard_library_is_there_without_its_tests() -> None:
    data = TextDataModule(val_streams=64)
    text = "".join(data.tokenizer.decode(data._encoded[1][:400]))
    assert text.startswith('"""Record of phased-in incompatible language changes.')  # __future__.py, the first by name
    assert len(data._encoded[1]) > 5_000_000
