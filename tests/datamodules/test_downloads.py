"""Corpora from a server on the loopback, which cuts, corrupts and refuses: they come whole, verified, or not at all."""

import hashlib
import io
import threading
import zipfile
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, get_args

import pytest

from datamodules import downloads
from datamodules.corpora import CORPORA, Corpus
from datamodules.downloads import DOWNLOADS, File, Source, fetch
from datamodules.text import TextDataModule
from user_cache import cache_folder

TEXT = "".join(f"Zeile {number}: Grüße, naïve €\n" for number in range(4000)).encode()


class Server(ThreadingHTTPServer):
    """Serves `files`; each of `moods` spoils one answer, in turn: "cut" ends it early, "wrong" turns a bit, "whole"
    does not know of ranges, and a number is an error."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.files: dict[str, bytes] = {}
        self.moods: list[str | int] = []
        self.asked: list[str | None] = []  # for which range


class Handler(BaseHTTPRequestHandler):
    server: Any

    def do_GET(self) -> None:
        content, mood = self.server.files[self.path[1:]], self.server.moods.pop(0) if self.server.moods else ""
        wanted = self.headers["Range"]
        self.server.asked.append(wanted)
        begin = int(wanted.removeprefix("bytes=").removesuffix("-")) if wanted and mood != "whole" else 0
        if isinstance(mood, int) or begin >= len(content):
            self.send_error(mood if isinstance(mood, int) else 416)
            return
        rest = content[begin:]
        self.send_response(206 if begin else 200)
        self.send_header("Content-Length", str(len(rest)))
        self.end_headers()
        if mood == "wrong":
            rest = rest[:9] + bytes([rest[9] ^ 1]) + rest[10:]
        self.wfile.write(rest[: len(rest) // 2] if mood == "cut" else rest)

    def log_message(self, *arguments: Any) -> None:
        pass


@pytest.fixture
def server(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    monkeypatch.setenv("UNROLLED_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    with Server() as server:
        threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
        yield server
        server.shutdown()


def offer(server: Server, monkeypatch: pytest.MonkeyPatch, name: str, content: bytes, **how: Any) -> Path:
    """Makes a file on the server the corpus "text"; returns where it will lie."""
    server.files[name] = content
    file = File(f"http://127.0.0.1:{server.server_port}/{name}", "sha256:" + hashlib.sha256(content).hexdigest())
    monkeypatch.setitem(DOWNLOADS, "text", Source((file,), **{"pieces": (name,), "cut": (90_000, 5_000), **how}))
    return cache_folder() / "corpora" / "text" / name


def zipped(**members: bytes) -> bytes:
    archive = io.BytesIO()
    with zipfile.ZipFile(archive, "w", zipfile.ZIP_DEFLATED) as file:
        for name, content in members.items():
            file.writestr(name, content)
    return archive.getvalue()


def test_it_comes_once_and_is_split_as_usual(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    place = offer(server, monkeypatch, "all.txt", TEXT)
    text = fetch("text")
    assert text.path.read_bytes() == TEXT[:95_000] and (place.parent / "test.txt").read_bytes() == TEXT[95_000:]
    assert text.parts["bytes"] == (90_000, 5_000)
    assert sum(text.parts["characters"]) == len(TEXT[:95_000].decode(errors="ignore"))
    assert fetch("text") == text and len(server.asked) == 1
    left = {path.name for path in place.parent.iterdir()} - {"lock"}
    assert left == {"all.txt", "text.txt", "test.txt", "parts.json"}


def test_three_files_are_three_parts_and_the_share_meets_their_border(
    server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    parts = {"a.tokens": TEXT[:50_001], "b.tokens": "é€".encode() * 999, "c.tokens": b"test"}
    members = {f"in/{name}": content for name, content in parts.items()}
    offer(server, monkeypatch, "three.zip", zipped(**members), pieces=tuple(members), cut=())
    text = fetch("text")
    content = text.path.read_bytes()
    assert content == parts["a.tokens"] + parts["b.tokens"]
    for level, symbols, border in (
        ("byte", content, 50_001),
        ("character", content.decode(), len(parts["a.tokens"].decode())),
    ):
        assert int(len(symbols) * (1 - text.val_fraction(level))) == border
        assert symbols[border:] in (parts["b.tokens"], parts["b.tokens"].decode())


@pytest.mark.parametrize("first", ["cut", "wrong", 503, "whole"])
def test_what_is_spoiled_is_asked_for_again(server: Server, monkeypatch: pytest.MonkeyPatch, first: str | int) -> None:
    offer(server, monkeypatch, "all.txt", TEXT)
    server.moods = [first, *(["cut"] * 2 if first == "cut" else [])]
    assert fetch("text").path.read_bytes() == TEXT[:95_000]
    half, quarter = len(TEXT) // 2, len(TEXT) // 2 + (len(TEXT) - len(TEXT) // 2) // 2
    if first == "cut":
        assert server.asked[:3] == [None, f"bytes={half}-", f"bytes={quarter}-"], "only what is lacking"


def test_a_server_that_knows_no_ranges_sends_all_again(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    offer(server, monkeypatch, "all.txt", TEXT)
    server.moods = ["cut", "whole"]
    assert fetch("text").path.read_bytes() == TEXT[:95_000] and len(server.asked) == 2


def test_a_later_run_goes_on_where_one_was_killed(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    place = offer(server, monkeypatch, "all.txt", TEXT)
    part = place.with_name("all.txt.part")
    for left in (TEXT[:1000], TEXT):  # killed in the middle, and killed before it was renamed
        place.parent.mkdir(parents=True, exist_ok=True)
        part.write_bytes(left)
        (place.parent / "parts.json").unlink(missing_ok=True)
        place.unlink(missing_ok=True)
        assert fetch("text").path.read_bytes() == TEXT[:95_000]
    assert server.asked == ["bytes=1000-", f"bytes={len(TEXT)}-"]


@pytest.mark.parametrize(
    ("mood", "problem"), [("wrong", "sends something else than sha256:"), ("cut", "breaks off"), (404, "404")]
)
def test_what_stays_spoiled_is_one_line_and_never_used(
    server: Server, monkeypatch: pytest.MonkeyPatch, mood: str | int, problem: str
) -> None:
    place = offer(server, monkeypatch, "all.txt", TEXT)
    server.moods = [mood] * 99
    with pytest.raises(OSError, match=f"all.txt .*{problem}.*: try again, or put that file at {place}"):
        fetch("text")
    assert not place.exists() and not (place.parent / "text.txt").exists()


def test_offline_the_file_can_be_put_there_by_hand(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    place = offer(server, monkeypatch, "all.txt", TEXT)
    closed = File("http://127.0.0.1:1/all.txt", DOWNLOADS["text"].files[0].digest)
    monkeypatch.setitem(DOWNLOADS, "text", DOWNLOADS["text"]._replace(files=(closed,)))
    with pytest.raises(OSError, match=f"cannot be had .*: try again, or put that file at {place}"):
        fetch("text")
    place.write_bytes(b"another")
    with pytest.raises(ValueError, match="all.txt: is not http.*: remove it, or put the right file there"):
        fetch("text")
    place.write_bytes(TEXT)
    assert fetch("text").path.read_bytes() == TEXT[:95_000] and not server.asked


def test_an_archive_writes_nothing_outside_the_cache(
    server: Server, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    evil = {"../../../evil.txt": b"evil", str(tmp_path / "evil.txt"): b"evil", "good": TEXT}
    offer(server, monkeypatch, "text.zip", zipped(**evil), pieces=("good",))
    assert fetch("text").path.read_bytes() == TEXT[:95_000]
    assert not [path for path in tmp_path.rglob("*") if "evil" in path.name]
    slip = tuple(evil)
    monkeypatch.setenv("UNROLLED_CACHE", str(tmp_path / "other"))
    offer(server, monkeypatch, "text.zip", zipped(**evil), pieces=slip, cut=())
    assert fetch("text").path.read_bytes() == b"evilevil", "whatever a member is called, it is only read"
    assert not [path for path in tmp_path.rglob("*") if "evil" in path.name]
    offer(server, monkeypatch, "text.zip", zipped(**evil), pieces=("none",))
    (tmp_path / "other" / "corpora" / "text" / "parts.json").unlink()
    with pytest.raises(ValueError, match="text.zip: has no none"):
        fetch("text")


def test_what_was_cut_while_it_was_joined_is_joined_again(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    place = offer(server, monkeypatch, "all.txt", TEXT)
    with monkeypatch.context() as at:
        at.setattr(downloads, "characters", lambda chunk: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            fetch("text")
    assert (place.parent / "text.txt").exists()
    for _ in range(2):
        assert fetch("text").path.read_bytes() == TEXT[:95_000] and len(server.asked) == 1
        (place.parent / "text.txt").unlink()


def test_two_who_ask_at_once_download_once(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    offer(server, monkeypatch, "all.txt", TEXT)
    threads = [threading.Thread(target=fetch, args=("text",)) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(server.asked) == 1 and fetch("text").path.read_bytes() == TEXT[:95_000]


def test_every_name_is_a_corpus_with_digest_and_split() -> None:
    assert set(get_args(Corpus)) == {*CORPORA, *DOWNLOADS}
    for source in DOWNLOADS.values():
        assert len(source.pieces) == 3 or (len(source.pieces) == 1 and len(source.cut) == 2)
        for file in source.files:
            algorithm, digits = file.digest.split(":")
            assert len(digits) == 2 * hashlib.new(algorithm).digest_size


def test_tinyshakespeare_is_the_file_that_everybody_means(
    tinyshakespeare: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("UNROLLED_CACHE", str(tmp_path))
    folder = tmp_path / "corpora" / "tinyshakespeare"
    folder.mkdir(parents=True)
    (folder / "input.txt").write_bytes(tinyshakespeare.read_bytes())
    text = fetch("tinyshakespeare")
    assert text.parts == {unit: (1_003_854, 111_540) for unit in ("bytes", "characters")}
    assert text.path.read_bytes() == tinyshakespeare.read_bytes()
    data = TextDataModule(corpus="tinyshakespeare")
    assert str(data).startswith("tinyshakespeare: 1,003,854 symbols to train on, 111,540 held out, 66 different")
    with pytest.raises(ValueError, match="the held-out part has 1 symbols"):
        TextDataModule(corpus="tinyshakespeare", val_fraction=1e-9).check(None)
