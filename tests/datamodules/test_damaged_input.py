"""Damaged and unusual input: each is trained on as what it is, or refused by train.py in one line, with exit code 2."""

import bz2
import codecs
import gzip
import lzma
import os
import re
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import zstandard

import train
from datamodules import encoding
from datamodules.text import TextDataModule

TEXT = "Ein Text für alle Fälle.\n" * 40
UTF_8 = TEXT.encode()
SYMBOLS = "".join(map(chr, range(0x10000, 0x10000 + 180_000)))
NOISE = np.random.default_rng(0).bytes(2000)
PACK = {
    "gz": gzip.compress,
    "bz2": bz2.compress,
    "xz": lzma.compress,
    "zst": zstandard.ZstdCompressor(write_checksum=True).compress,
}
NOT_UTF_8 = "is not utf-8; name its encoding with --data.encoding, or read a text as it is with --data.level byte"
# Of what Lightning's command line calls in jsonargparse.
quietly = pytest.mark.filterwarnings("ignore::DeprecationWarning")


def changed(packed: bytes) -> bytes:
    """A byte in the middle is another one."""
    middle = len(packed) // 2
    return packed[:middle] + bytes([packed[middle] ^ 1]) + packed[middle + 1 :]


# By what is the matter: a file's name, what is written to it, what is to be read.
TRAINED = {
    "nothing": ("text.txt", UTF_8, TEXT),
    "byte order mark": ("text.txt", codecs.BOM_UTF8 + UTF_8, TEXT),
    "two byte order marks": ("text.txt", codecs.BOM_UTF8 * 2 + UTF_8, "\ufeff" + TEXT),
    "CRLF": ("text.txt", UTF_8.replace(b"\n", b"\r\n"), TEXT),
    "CR": ("text.txt", UTF_8.replace(b"\n", b"\r"), TEXT),
    "NUL": ("text.txt", b"a\0b" * 100, "a\0b" * 100),
    "white space alone": ("text.txt", b" \t\n" * 100, " \t\n" * 100),
    "one line of 20 MB": ("text.txt", b"abc " * 5_000_000, "abc " * 5_000_000),
    "180,000 symbols": ("text.txt", SYMBOLS.encode(), SYMBOLS),
    "control characters": ("text.txt", b"\x1b[31m\x07\x7f" * 50, "\x1b[31m\x07\x7f" * 50),
    "replacement characters": ("text.txt", "a\ufffdb".encode() * 50, "a\ufffdb" * 50),
    "a strange name": ("[red] Größe\n大.GZ", gzip.compress(UTF_8), TEXT),
    "gz in two members": ("text.gz", gzip.compress(UTF_8[:100]) + gzip.compress(UTF_8[100:]), TEXT),
}
# The same, and what is to be said.
REFUSED = {
    "empty": ("text.txt", b"", "is empty; there is nothing to learn from"),
    "byte order mark alone": ("text.txt", codecs.BOM_UTF8, "has 0 symbols.*give a longer text"),
    "one symbol": ("text.txt", b"a", "has 0 symbols.*give a longer text"),
    "cut in a character": ("text.txt", UTF_8[: UTF_8.rindex(b"\xc3") + 1], f"byte 1073 {NOT_UTF_8}"),
    "random bytes": ("text.txt", NOISE, f"byte [0-9] {NOT_UTF_8}"),
    "lone surrogates": ("text.txt", b"abc\xed\xa0\xbd" * 50, f"byte 3 {NOT_UTF_8}"),
    "latin-1": ("text.txt", TEXT.encode("latin-1"), f"byte 10 {NOT_UTF_8}"),
    "utf-16": ("text.txt", TEXT.encode("utf-16"), f"byte 0 {NOT_UTF_8}"),
    "an image": ("text.png", b"\x89PNG\r\n\x1a\n" + NOISE, f"byte 0 {NOT_UTF_8}"),
    "packed and not named so": ("text.txt", gzip.compress(UTF_8), f"byte 1 {NOT_UTF_8}"),
    "packed noise": ("text.gz", gzip.compress(NOISE), f"byte [0-9] {NOT_UTF_8}"),
    **{f"{kind} of nothing": (f"text.{kind}", PACK[kind](b""), "is empty; there is nothing") for kind in PACK},
    **{
        f"not {kind}": (f"text.{kind}", UTF_8, f"is damaged, or no .{kind} file .*; fetch it again, or")
        for kind in PACK
    },
    **{f"{kind} cut": (f"text.{kind}", PACK[kind](UTF_8)[:-9], f"is damaged, or no .{kind} file") for kind in PACK},
    **{f"{kind} changed": (f"text.{kind}", changed(PACK[kind](UTF_8)), f"is damaged, or no .{kind}") for kind in PACK},
}


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("UNROLLED_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache" / "encoded"


@pytest.fixture
def train_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[Path], None]:
    """`python train.py --config … --data.path …`, two updates of a small model and a validation, in this process."""
    config = tmp_path / "small.yaml"
    config.write_text(
        "seed_everything: 0\ntrainer: {fast_dev_run: 2, accelerator: cpu, enable_progress_bar: false}\n"
        "model: {cell: rnn, hidden_size: 3, embedding_size: 2}\ndata: {batch_size: 2, window: 3}\n"
    )

    def run(path: Path) -> None:
        root = ["--trainer.default_root_dir", str(tmp_path / "runs")]
        monkeypatch.setattr(sys, "argv", ["train.py", "--config", str(config), "--data.path", str(path), *root])
        train.main()

    return run


def refused(train_on: Callable[[Path], None], path: Path, message: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as exit:
        train_on(path)
    said = capsys.readouterr().err
    assert exit.value.code == 2 and re.fullmatch(f"train.py: .*{message}.*\n", said), said
    assert not (path.parent / "runs").exists() and not [*path.parent.glob("cache/encoded/*.*")]


@pytest.mark.slow
@quietly
@pytest.mark.parametrize(("name", "content", "text"), TRAINED.values(), ids=TRAINED)
def test_unusual_texts_are_read_as_they_are(
    tmp_path: Path, train_on: Callable[[Path], None], name: str, content: bytes, text: str
) -> None:
    (tmp_path / name).write_bytes(content)
    data = TextDataModule(str(tmp_path / name), val_fraction=0)
    assert (data._encoded.training == data.tokenizer.encode(text, "replace")).all()
    assert data.vocab_size == 1 + len(set(text) - {"\ufffd"}) and len(data._encoded.training) == len(text)
    train_on(tmp_path / name)


@quietly
@pytest.mark.parametrize(("name", "content", "message"), REFUSED.values(), ids=REFUSED)
def test_damaged_texts_are_refused_in_one_line(
    tmp_path: Path,
    train_on: Callable[[Path], None],
    capsys: pytest.CaptureFixture[str],
    name: str,
    content: bytes,
    message: str,
) -> None:
    (tmp_path / name).write_bytes(content)
    refused(train_on, tmp_path / name, f"text.[a-z0-9]+: {message}" if "symbols" not in message else message, capsys)


def unreadable(path: Path) -> None:
    path.write_bytes(UTF_8)
    path.chmod(0)


def folder(path: Path, **files: bytes) -> None:
    path.mkdir()
    for name, content in files.items():
        (path / name).write_bytes(content)


PLACES: dict[str, tuple[Callable[[Path], object], str]] = {
    "no file": (lambda path: None, "it: no such file; give a text file with --data.path"),
    "an empty folder": (folder, "it: is a folder without files; give a text with --data.path"),
    "a folder with a binary file": (lambda path: folder(path, a=UTF_8, b=NOISE), f"it/b: byte [0-9] {NOT_UTF_8}"),
    "a folder of empty files": (lambda path: folder(path, a=b"", b=b""), "it: is empty; there is nothing to learn"),
    "a link to nothing": (lambda path: path.symlink_to("nothing"), "it: no such file"),
    "a folder with a link to nothing": (
        lambda path: (folder(path, a=UTF_8), (path / "b").symlink_to("nothing")),
        "it/b: no such file",
    ),
    "a pipe": (os.mkfifo, "it: cannot be read twice: give a file that holds the text"),
    "not to be read": (unreadable, "it: may not be read; change its permissions"),
}


@quietly
@pytest.mark.parametrize(("make", "message"), PLACES.values(), ids=PLACES)
def test_places_without_a_text_are_refused_in_one_line(
    tmp_path: Path,
    train_on: Callable[[Path], None],
    capsys: pytest.CaptureFixture[str],
    make: Callable[[Path], object],
    message: str,
) -> None:
    if make is unreadable and os.geteuid() == 0:
        pytest.skip("root may read everything")
    make(tmp_path / "it")
    refused(train_on, tmp_path / "it", message, capsys)


@pytest.mark.slow
@pytest.mark.parametrize("level", ["word", "bpe"])
def test_a_word_of_200_000_letters(tmp_path: Path, level: str) -> None:
    (tmp_path / "text.txt").write_bytes(b"a" * 200_000)
    data = TextDataModule(str(tmp_path / "text.txt"), level=level, vocabulary_size=300, val_fraction=0)
    assert "".join(data.tokenizer.decode(data._encoded.training)) == "a" * 200_000


@pytest.mark.parametrize("level", ["character", "word"])
def test_when_there_is_no_room_for_the_cache_nothing_is_left_and_the_next_start_makes_it(
    tmp_path: Path, cache: Path, monkeypatch: pytest.MonkeyPatch, level: str
) -> None:
    monkeypatch.setattr(encoding, "LONG", 1)
    (tmp_path / "text.txt").write_bytes(UTF_8)
    resource: Any = pytest.importorskip("resource", reason="no limits on the size of files here")
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100, hard))
    try:
        with pytest.raises(OSError, match="the encoded text cannot be kept here .*UNROLLED_CACHE"):
            TextDataModule(str(tmp_path / "text.txt"), level=level).check(None)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert [file.name for file in cache.iterdir()] == ["lock"]
    data = TextDataModule(str(tmp_path / "text.txt"), level=level, val_fraction=0)
    assert "".join(data.tokenizer.decode(data._encoded.training)) == TEXT


@quietly
def test_a_cache_that_is_no_folder_is_named_in_one_line(
    tmp_path: Path,
    train_on: Callable[[Path], None],
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(encoding, "LONG", 1)
    (tmp_path / "cache").write_bytes(b"")
    (tmp_path / "text.txt").write_bytes(UTF_8)
    refused(
        train_on, tmp_path / "text.txt", "cannot be kept here .Not a directory.: make room, or name another", capsys
    )
