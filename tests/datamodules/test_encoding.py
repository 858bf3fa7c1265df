"""Texts of any size: the same numbers as of a text in one piece, kept once, and never half."""

import bz2
import gzip
import io
import lzma
import os
import re
import subprocess
import sys
import tempfile
import zlib
from pathlib import Path
from typing import Any, get_args

import numpy as np
import pytest
import zstandard
from hypothesis import given
from hypothesis import strategies as st

import user_cache
from datamodules import encoded_cache, encoding
from datamodules.corpora import decoded
from datamodules.encoded_cache import Checksums, Encoded, MappedIds
from datamodules.encoding import Text, encode
from datamodules.streams import Streams
from datamodules.tokenizers import Level, make_tokenizer

PACK = {"": bytes, ".gz": gzip.compress, ".bz2": bz2.compress, ".xz": lzma.compress, ".ZST": zstandard.compress}
ROOT = Path(__file__).parents[2]
POEM = "Größe, 大きさ\r\nund \U0001f600 Zeit!\r" * 40 + "unbekannt: x\u2028\n" * 4


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Chunks of five bytes, and every text is a long one."""
    monkeypatch.setenv("UNROLLED_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(encoding, "CHUNK", 5)
    monkeypatch.setattr(encoding, "LONG", 1)
    return tmp_path / "cache" / "encoded"


def write(folder: Path, content: bytes, name: str = "text.txt") -> Path:
    path = folder / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)
    return path


def encode_file(path: Path, level: Level = "character", val_fraction: float = 0.1, size: int = 300) -> Encoded:
    return encode(Text(str(path), path, None if level == "byte" else "utf-8"), level, val_fraction, size)


def same(one: Encoded, other: Encoded) -> bool:
    arrays = zip(one[1:3], other[1:3], strict=True)
    states = one.tokenizer.state() == other.tokenizer.state() and one.excerpt == other.excerpt
    return states and all(a.dtype == b.dtype and np.array_equal(a, b) for a, b in arrays)


def in_one_piece(content: bytes, level: Level, val_fraction: float = 0.1, size: int = 300) -> Encoded:
    """What encoding is, for a text that is small."""
    whole: Any = content if level == "byte" else "".join(decoded([content], "utf-8", "text"))
    end = int(len(whole) * (1 - val_fraction))
    training, held_out = whole[:end], whole[end:] if val_fraction else whole
    if level == "byte":
        numbers = [np.frombuffer(part, np.uint8) for part in (training, held_out)]
        excerpt = held_out[: encoding.EXCERPT].decode("utf-8", "replace")
        return Encoded(make_tokenizer("byte", "", 0), *numbers, excerpt, "")
    tokenizer = make_tokenizer(level, training, size)
    numbers = [tokenizer.encode(part, "replace") for part in (training, held_out)]
    return Encoded(tokenizer, *numbers, held_out[: encoding.EXCERPT], "")


@pytest.mark.parametrize("long", [1, 10**6], ids=["kept", "in memory"])
@pytest.mark.parametrize("val_fraction", [0.1, 0])
@pytest.mark.parametrize("level", get_args(Level))
def test_in_chunks_the_numbers_are_those_of_the_text_in_one_piece(
    tmp_path: Path, cache: Path, monkeypatch: pytest.MonkeyPatch, level: Level, val_fraction: float, long: int
) -> None:
    monkeypatch.setattr(encoding, "LONG", long)
    monkeypatch.setattr(encoding, "EXCERPT", 30)
    path = write(tmp_path, POEM.encode())
    for _ in range(2):
        found = encode_file(path, level, val_fraction)
        assert same(found, in_one_piece(POEM.encode(), level, val_fraction))
        assert isinstance(found.training, MappedIds) == cache.exists() == (long == 1)


@given(st.text(st.characters(codec="utf-8"), min_size=1), st.integers(1, 6), st.sampled_from([0, 0.1, 0.5]))
def test_any_text_in_any_chunks(content: str, chunk: int, val_fraction: float) -> None:
    text = Text("text", content.encode(), "utf-8")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(encoding, "CHUNK", chunk)
        patch.setattr(encoding, "LONG", 10**6)
        assert same(
            encode(text, "character", val_fraction, 0), in_one_piece(content.encode(), "character", val_fraction)
        )


@given(st.binary(), st.integers(1, 5), st.sampled_from(["utf-8", "utf-16-le", "shift_jis", "utf-8-sig", "latin-1"]))
def test_bytes_in_chunks_are_the_same_text_or_the_same_mistake(content: bytes, chunk: int, name: str) -> None:
    chunks = [content[begin : begin + chunk] for begin in range(0, len(content), chunk)]
    try:
        text = content.decode(name).removeprefix("\ufeff").replace("\r\n", "\n").replace("\r", "\n")
    except UnicodeDecodeError as error:
        with pytest.raises(ValueError, match=f"it: byte {error.start} is not {name}; name its encoding"):
            list(decoded(chunks, name, "it"))
    else:
        assert "".join(decoded(chunks, name, "it")) == text == "".join(decoded([content], name, "it"))


def test_numbers_are_as_small_as_the_vocabulary_allows(tmp_path: Path) -> None:
    for count, dtype in ((255, np.uint8), (256, np.uint16), (70_000, np.uint32)):
        content = "".join(map(chr, range(0x10000, 0x10000 + count))).encode()
        found = encode_file(write(tmp_path, content), val_fraction=0)
        assert found.training.dtype == dtype and found.training.tolist() == list(range(1, count + 1))


@pytest.mark.parametrize("suffix", PACK)
def test_packed_files_are_read_as_what_they_hold(tmp_path: Path, suffix: str) -> None:
    content = POEM.encode() * 9
    packed = write(tmp_path, PACK[suffix](content[:700]) + PACK[suffix](content[700:]), "text.txt" + suffix)
    assert same(encode_file(packed), in_one_piece(content, "character"))


def test_a_folder_is_its_files_by_name_with_a_newline_in_between(tmp_path: Path) -> None:
    for name in "dbfaec":
        write(tmp_path / "texts", f"{name}\r".encode(), name + ".txt")
    write(tmp_path / "texts", gzip.compress(b"\xef\xbb\xbfzz"), "a/z.GZ")
    for hidden in (".git/x", ".x", "a/.y"):
        write(tmp_path / "texts", b"\xff", hidden)
    assert same(encode_file(tmp_path / "texts"), in_one_piece(b"zz\na\n\nb\n\nc\n\nd\n\ne\n\nf\n", "character"))


def test_folders_that_links_lead_to_are_read_once(tmp_path: Path) -> None:
    """Links to a folder elsewhere, to one that is read anyway, to an upper one, to itself, and to a file."""
    texts = tmp_path / "texts"
    for name in ("texts/c", "texts/inner/d", "elsewhere/b", "elsewhere/deep/a"):
        write(tmp_path, name[-1].encode(), name + ".txt")
    for name, target in (
        ("link", tmp_path / "elsewhere"),
        ("again", tmp_path / "elsewhere"),
        ("inner/up", texts),
        ("beside", texts / "inner"),
        ("z.txt", texts / "c.txt"),
    ):
        (texts / name).symlink_to(target)
    (tmp_path / "elsewhere" / "back").symlink_to(tmp_path)
    assert [str(path.relative_to(texts)) for path in encoding.files_of(texts)] == [
        "again/b.txt", "again/deep/a.txt", "c.txt", "inner/d.txt", "z.txt",
    ]  # fmt: skip
    (texts / "loop").symlink_to("loop")
    with pytest.raises(OSError, match="texts/loop: "):
        encoding.files_of(texts)


def test_a_folder_that_cannot_be_read_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    plain = Path.iterdir

    def iterdir(folder: Path) -> Any:
        if folder.name == "closed":
            raise PermissionError(13, "Permission denied", str(folder))
        return plain(folder)

    write(tmp_path / "texts", b"a", "a.txt")
    (tmp_path / "texts" / "inner" / "closed").mkdir(parents=True)
    (tmp_path / "elsewhere" / "closed").mkdir(parents=True)
    monkeypatch.setattr(Path, "iterdir", iterdir)
    with pytest.raises(PermissionError, match="inner/closed: may not be read; change its permissions"):
        encoding.files_of(tmp_path / "texts")
    (tmp_path / "texts" / "inner" / "closed").rmdir()
    (tmp_path / "texts" / "link").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(PermissionError, match="texts/link/closed: may not be read"):
        encoding.files_of(tmp_path / "texts")


def files(cache: Path) -> dict[str, list[Path]]:
    return {suffix: sorted(cache.glob("*" + suffix)) for suffix in (".ids", ".json", ".digest", ".part")}


def test_a_text_that_has_not_changed_is_not_read_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write(tmp_path, POEM.encode())
    once = encode_file(path)
    monkeypatch.setattr(Text, "chunks", None)
    assert same(encode_file(path), once)
    with pytest.raises(TypeError):
        encode_file(path, val_fraction=0.2)


def test_a_text_has_a_digest_wherever_it_lies(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also when it is not read again, and when it is short; whatever it is split into."""
    path, copy = (write(tmp_path, POEM.encode(), name) for name in ("text.txt", "copy.txt"))
    digests = {encode_file(place, val_fraction=share).digest for place in (path, copy, path) for share in (0.1, 0.3)}
    monkeypatch.setattr(encoding, "LONG", 10**6)
    digests.add(encode_file(copy, "word").digest)
    assert len(digests) == 1 and digests != {""}
    assert encode_file(write(tmp_path, POEM.encode() + b"!")).digest not in digests


def test_a_vocabulary_that_is_given_stays(tmp_path: Path) -> None:
    path, given = write(tmp_path, b"abcabcabc"), make_tokenizer("character", "xab", 0)
    for _ in range(2):
        found = encode(Text(str(path), path, "utf-8"), "character", 0, 0, given)
        assert found.training.tolist() == [1, 2, 0] * 3 and found.tokenizer.state() == given.state()
    assert encode_file(path, val_fraction=0).training.tolist() == [1, 2, 3] * 3


def test_the_same_text_at_another_time_or_place_is_read_but_not_written_again(tmp_path: Path, cache: Path) -> None:
    path = write(tmp_path, POEM.encode())
    once, written = encode_file(path), [file.stat().st_mtime_ns for file in cache.glob("*.ids")]
    os.utime(path, (0, 0))
    for place in (path, write(tmp_path, POEM.encode(), "copy.txt")):
        assert same(encode_file(place), once)
    assert [file.stat().st_mtime_ns for file in cache.glob("*.ids")] == written
    assert {suffix: len(found) for suffix, found in files(cache).items()} == {
        ".ids": 1, ".json": 1, ".digest": 3, ".part": 0,
    }  # fmt: skip


@pytest.mark.parametrize("level", get_args(Level))
def test_another_text_or_other_settings_are_encoded_anew(tmp_path: Path, level: Level) -> None:
    content = POEM.encode()
    for text in (content, content[:-1] + b"!", content):
        path = write(tmp_path, text)
        for val_fraction, size in ((0.1, 300), (0.2, 300), (0.1, 299)):
            assert same(encode_file(path, level, val_fraction, size), in_one_piece(text, level, val_fraction, size))


def test_bytes_in_memory_are_kept_by_what_they_are(cache: Path) -> None:
    for content in (POEM.encode(), b"another", POEM.encode()):
        found = encode(Text("it", content, "utf-8"), "character", 0.1, 0)
        assert same(found, in_one_piece(content, "character"))
    assert {suffix: len(found) for suffix, found in files(cache).items()} == {
        ".ids": 2, ".json": 2, ".digest": 0, ".part": 0,
    }  # fmt: skip


@pytest.mark.parametrize("suffix", [".ids", ".json", ".digest"])
@pytest.mark.parametrize("damage", ["shorter", "longer", "empty", "deleted", "noise"])
def test_what_is_not_whole_in_the_cache_is_made_again(tmp_path: Path, cache: Path, suffix: str, damage: str) -> None:
    path = write(tmp_path, POEM.encode())
    encode_file(path)
    (file,) = files(cache)[suffix]
    content = file.read_bytes()
    if damage == "deleted":
        file.unlink()
    else:
        damaged = {"shorter": content[:-1], "longer": content + b"7", "empty": b"", "noise": b"\xff{]"}
        file.write_bytes(damaged[damage])
    assert same(encode_file(path), in_one_piece(POEM.encode(), "character"))
    assert same(encode_file(path), in_one_piece(POEM.encode(), "character"))


@pytest.mark.parametrize("level", ["character", "byte", "word"])
def test_a_flipped_bit_in_the_numbers_is_found_when_they_are_read(
    tmp_path: Path, cache: Path, monkeypatch: pytest.MonkeyPatch, level: Level
) -> None:
    """Wherever it is, also where the number that it gives is one of the vocabulary; the next start encodes again."""
    monkeypatch.setattr(encoded_cache, "BLOCK", 64)
    path, whole = write(tmp_path, POEM.encode()), in_one_piece(POEM.encode(), level, 0.5)
    streams = 3, 7
    for place in range(0, 1000, 83):
        encode_file(path, level, 0.5)
        (file,) = files(cache)[".ids"]
        content = bytearray(file.read_bytes())
        content[place % len(content)] ^= 1 << place % 8
        file.write_bytes(content)
        found = encode_file(path, level, 0.5)
        with pytest.raises(OSError, match=r"\.ids: this encoded text in the cache is damaged; it was deleted"):
            for part in (found.training, found.held_out):
                for window in Streams(part, *streams):
                    assert window.tokens.max() < found.tokenizer.vocab_size
        assert not file.exists()
    assert same(encode_file(path, level, 0.5), whole)


def test_slices_are_verified_and_parts_are_read_where_they_lie(
    tmp_path: Path, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(encoded_cache, "BLOCK", 16)
    content = bytes(range(256)) * 4
    found, numbers = encode_file(write(tmp_path, content), "byte"), np.frombuffer(content, np.uint8)
    end = len(found.training)
    assert (found.training[100:200] == numbers[100:200]).all() and (found.training[-5:] == numbers[end - 5 : end]).all()
    assert (found.held_out[3:50:7] == numbers[end + 3 : end + 50 : 7]).all() and len(found.training[5:5]) == 0
    assert found.held_out[np.array([[0, 1], [-1, 5]])].tolist() == numbers[[[end, end + 1], [-1, end + 5]]].tolist()
    assert found.training[7] == 7
    blocks: Any = found.training
    assert 10 < blocks.blocks.unverified < 60, "only what was read is verified"
    (file,) = files(cache)[".ids"]
    file.write_bytes(content[:500] + b"?" + content[501:])
    fresh = encode_file(tmp_path / "text.txt", "byte")
    assert (fresh.training[:490] == numbers[:490]).all()
    with pytest.raises(OSError, match="is damaged"):
        fresh.training[490:510]


def test_numbers_beyond_the_vocabulary_are_found(tmp_path: Path, cache: Path) -> None:
    """Even if their checksum is right."""
    path = write(tmp_path, b"abc" * 50)
    encode_file(path)
    (file,), (about,) = files(cache)[".ids"], files(cache)[".json"]
    file.write_bytes(b"\xff" * 150)
    content = re.sub(rb'"checksums": \[\d+\]', b'"checksums": [%d]' % zlib.crc32(b"\xff" * 150), about.read_bytes())
    body = content.partition(b"\n")[2]
    about.write_bytes(b"%08x\n" % zlib.crc32(body) + body)
    with pytest.raises(OSError, match="is damaged"):
        encode_file(path).training[:3]


def test_a_flipped_bit_in_what_is_known_of_a_text_is_found(tmp_path: Path, cache: Path) -> None:
    """The vocabulary is in there."""
    path = write(tmp_path, POEM.encode())
    encode_file(path)
    (about,) = files(cache)[".json"]
    whole = about.read_bytes()
    for place in range(0, len(whole), 61):
        damaged = bytearray(whole)
        damaged[place] ^= 1 << place % 8
        about.write_bytes(damaged)
        assert same(encode_file(path), in_one_piece(POEM.encode(), "character"))
        assert about.read_bytes() == whole


@pytest.mark.parametrize("sizes", [[0], [1], [15, 1], [16], [17], [5, 40, 3], [33, 0, 15]])
def test_checksums_do_not_depend_on_how_a_file_is_written(sizes: list[int], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(encoded_cache, "BLOCK", 16)
    file = io.BytesIO()
    checksums = Checksums(file)
    for size in sizes:
        assert checksums.write(np.arange(size, dtype=np.uint8)) == size
    content = file.getvalue()
    assert checksums.values == [zlib.crc32(content[begin : begin + 16]) for begin in range(0, len(content), 16)]


@pytest.mark.skipif(os.name != "posix", reason="the system has no owners and modes of files")
@pytest.mark.parametrize("suffix", [".ids", ".json", ".digest"])
def test_files_that_another_user_could_have_written_are_not_read(tmp_path: Path, cache: Path, suffix: str) -> None:
    path = write(tmp_path, POEM.encode())
    encode_file(path)
    cache.chmod(0o777)
    (file,) = files(cache)[suffix]
    before = file.stat().st_ino
    file.chmod(0o666)
    assert same(encode_file(path), in_one_piece(POEM.encode(), "character"))
    (file,) = files(cache)[suffix]
    assert file.stat().st_ino != before and not file.stat().st_mode & 0o077 and not cache.stat().st_mode & 0o077


@pytest.mark.skipif(os.name != "posix", reason="the system has no owners and modes of files")
def test_a_cache_of_another_user_is_refused_for_long_texts_alone(
    tmp_path: Path, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = write(tmp_path, POEM.encode())
    encode_file(path)
    monkeypatch.setattr(user_cache, "user", lambda: os.geteuid() + 1)
    with pytest.raises(OSError, match="encoded: belongs to another user, who could change .* variable UNROLLED_CACHE"):
        encode_file(path)
    monkeypatch.setattr(encoding, "LONG", 10**6)
    assert same(encode_file(path), in_one_piece(POEM.encode(), "character"))


def test_short_texts_need_no_home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def unknown() -> Path:
        raise RuntimeError("Could not determine home directory.")

    for name in ("UNROLLED_CACHE", "XDG_CACHE_HOME"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(Path, "home", unknown)
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "none"))
    monkeypatch.setattr(encoding, "LONG", 10**6)
    assert same(encode_file(write(tmp_path, POEM.encode())), in_one_piece(POEM.encode(), "character"))
    monkeypatch.setattr(encoding, "LONG", 1)
    (tmp_path / "none").mkdir()
    assert same(encode_file(tmp_path / "text.txt"), in_one_piece(POEM.encode(), "character"))
    assert [*(tmp_path / "none").glob("unrolled-*/encoded/*.ids")]


def test_a_text_that_changes_while_it_is_read_is_refused_and_not_kept(
    tmp_path: Path, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path, survey = write(tmp_path, POEM.encode()), encoding.survey

    def then_somebody_writes(*arguments: Any) -> Any:
        found = survey(*arguments)
        write(tmp_path, POEM.encode() + b"more")
        return found

    monkeypatch.setattr(encoding, "survey", then_somebody_writes)
    with pytest.raises(OSError, match="was changed while it was read; start again"):
        encode_file(path)
    assert not any(files(cache).values())


@pytest.mark.parametrize("error", [KeyboardInterrupt(), OSError(28, "No space left on device")])
@pytest.mark.parametrize("when", ["fsync", "replace"])
def test_what_is_broken_off_leaves_nothing_half(
    tmp_path: Path, cache: Path, monkeypatch: pytest.MonkeyPatch, error: BaseException, when: str
) -> None:
    path = write(tmp_path, POEM.encode())

    def fail(*arguments: Any) -> None:
        raise error

    with monkeypatch.context() as patch, pytest.raises(type(error)) as found:
        patch.setattr(os, when, fail)
        encode_file(path)
    assert isinstance(error, KeyboardInterrupt) or "make room, or name another folder" in str(found.value)
    assert not any(files(cache).values())
    assert same(encode_file(path), in_one_piece(POEM.encode(), "character"))


def test_what_a_killed_process_left_half_written_is_removed(tmp_path: Path, cache: Path) -> None:
    write(cache, b"half", "old.ids.part")
    encode_file(write(tmp_path, POEM.encode()))
    assert not files(cache)[".part"]


@pytest.mark.slow
def test_several_processes_at_once_write_once_and_have_the_same(tmp_path: Path, cache: Path) -> None:
    path = write(tmp_path, POEM.encode() * 50)
    code = f"""
from pathlib import Path
from datamodules import encoded_cache, encoding
encoding.LONG, path, write_numbers = 1, Path({str(path)!r}), encoding.write_numbers
encoding.write_numbers = lambda *arguments: print("writes") or write_numbers(*arguments)
found = encoding.encode(encoding.Text("it", path, "utf-8"), "bpe", 0.1, 300)
print(sum(found.training.tolist()), sum(found.held_out.tolist()))
"""
    command = [sys.executable, "-c", code]
    started = [subprocess.Popen(command, stdout=subprocess.PIPE, text=True, cwd=ROOT) for _ in range(3)]
    said = [line for process in started for line in process.communicate()[0].splitlines()]
    expected = in_one_piece(path.read_bytes(), "bpe")
    assert said.count("writes") == 2 and [process.returncode for process in started] == [0, 0, 0]
    assert said.count(f"{expected.training.sum()} {expected.held_out.sum()}") == 3


def test_a_run_goes_on_when_the_cache_is_deleted_and_the_next_one_makes_it_again(tmp_path: Path, cache: Path) -> None:
    path = write(tmp_path, POEM.encode() * 9)
    streams = Streams(encode_file(path).training, 2, 5)
    expected = [window.tokens for window in Streams(in_one_piece(path.read_bytes(), "character").training, 2, 5)]
    windows = iter(streams)
    read = [next(windows).tokens]
    for file in cache.iterdir():
        file.unlink()
    read += [window.tokens for window in windows]
    assert all((one == other).all() for one, other in zip(read, expected, strict=True))
    assert same(encode_file(path), in_one_piece(path.read_bytes(), "character"))


def resident() -> int:
    """Bytes of this process in memory."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


@pytest.mark.skipif(not Path("/proc/self/statm").exists(), reason="no /proc")
def test_a_pass_over_a_long_text_does_not_bring_it_into_memory(tmp_path: Path) -> None:
    length = 1 << 26
    np.arange(length, dtype=np.uint8).tofile(tmp_path / "ids")
    streams = Streams(MappedIds(tmp_path / "ids", np.uint8, "r"), 8, 1 << 14)  # 8 pages of 2 MB at most at a time
    before = resident()
    read = sum(window.tokens[0].sum() for window in streams)
    assert read > 0 and resident() - before < length / 2


@pytest.mark.parametrize(("terminal", "size", "shown"), [("1", 9, True), ("1", 8, False), ("0", 9, False)])
def test_a_bar_is_shown_on_a_terminal_for_long_texts_alone(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], terminal: str, size: int, shown: bool
) -> None:
    monkeypatch.setenv("TTY_COMPATIBLE", terminal)
    monkeypatch.setattr(encoding, "LONG", 9)
    with encoding.progress("[it]", size) as advance:
        advance(size)
    printed = capsys.readouterr()
    assert ("encoding [it]" in printed.err) == shown and printed.out == ""
