"""Standard streams that are not UTF-8, closed, or full; arguments that are not UTF-8."""

import errno
import io
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from terminal import OptionalOutput, check_arguments, prepare_streams
from tests.scripts import ROOT, run, start

TEXT = "caf\u00e9 \u2026 \u5927 \udcff"


class Full:
    """A text stream that cannot be written."""

    closed = False

    def __init__(self, number: int) -> None:
        self.number = number

    def write(self, text: str) -> int:
        return len(text)

    def flush(self) -> None:
        raise OSError(self.number, "no more")

    def fileno(self) -> int:
        raise io.UnsupportedOperation


def streams(monkeypatch: pytest.MonkeyPatch, **given: Any) -> None:
    monkeypatch.setattr(sys, "argv", ["train.py"])
    for name in ("stdin", "stdout", "stderr"):
        monkeypatch.setattr(sys, name, given.get(name, io.TextIOWrapper(io.BytesIO(), "utf-8", write_through=True)))


def written(stream: Any) -> bytes:
    content: bytes = stream.buffer.getvalue()
    return content


@pytest.mark.parametrize(
    ("encoding", "expected"),
    [("ascii", b"caf? ? ? ?"), ("cp1252", b"caf\xe9 \x85 ? ?"), ("utf-8", "café … 大 ?".encode())],
)
def test_what_a_terminal_lacks_becomes_a_question_mark(
    monkeypatch: pytest.MonkeyPatch, encoding: str, expected: bytes
) -> None:
    streams(monkeypatch, stdout=io.TextIOWrapper(io.BytesIO(), encoding, write_through=True))
    prepare_streams(output_is_optional=True)
    print(TEXT, end="", flush=True)
    assert written(sys.stdout) == expected


@pytest.mark.parametrize(("content", "encoding"), [(b"a\xffb\n", "utf-8"), (b"a\x81b\n", "cp1252")])
def test_input_that_is_in_another_encoding_is_read(
    monkeypatch: pytest.MonkeyPatch, content: bytes, encoding: str
) -> None:
    streams(monkeypatch, stdin=io.TextIOWrapper(io.BytesIO(content), encoding))
    prepare_streams(output_is_optional=True)
    assert sys.stdin.read() == "a\ufffdb\n"


@pytest.mark.parametrize(
    ("number", "reason"), [(errno.ENOSPC, "no more"), (errno.EPIPE, "its reader is gone"), (errno.EIO, "no more")]
)
def test_output_that_cannot_be_written_is_said_once(monkeypatch: pytest.MonkeyPatch, number: int, reason: str) -> None:
    streams(monkeypatch, stdout=Full(number))
    prepare_streams(output_is_optional=True)
    for _ in range(3):
        print("a line", flush=True)
    message = f"train.py: standard output cannot be written: {reason}; the run goes on without it\n"
    assert written(sys.stderr).decode() == message


def test_errors_that_cannot_be_written_end_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    streams(monkeypatch, stderr=Full(errno.ENOSPC))
    prepare_streams(output_is_optional=False)
    print("a line", file=sys.stderr, flush=True)
    assert isinstance(sys.stderr, OptionalOutput) and not isinstance(sys.stdout, OptionalOutput)
    assert written(sys.stdout) == b""


def test_closed_streams_are_empty_and_take_everything(monkeypatch: pytest.MonkeyPatch) -> None:
    streams(monkeypatch, stdin=None, stdout=None, stderr=None)
    prepare_streams(output_is_optional=True)
    print("a line", flush=True)
    print("a line", file=sys.stderr, flush=True)
    assert sys.stdin.read() == "" and not sys.stdout.isatty()
    for name in ("stdin", "stdout", "stderr"):
        getattr(sys, name).close()


def test_a_script_whose_result_is_its_output_needs_one(monkeypatch: pytest.MonkeyPatch) -> None:
    streams(monkeypatch, stdout=None)
    with pytest.raises(SystemExit, match="^train.py: standard output is closed$"):
        prepare_streams(output_is_optional=False)


def test_an_argument_that_is_not_utf_8_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "argv", ["predict.py", "generate", "caf\udce9"])
    with pytest.raises(ValueError, match=r"^argument 2, caf\\udce9, is not UTF-8: give it in UTF-8"):
        check_arguments()


@pytest.mark.parametrize("script", ["train.py", "predict.py", "explore.py"])
def test_arguments_that_are_not_utf_8_are_one_line_of_every_script(script: str) -> None:
    done = run(script, "--\udcff")
    assert done.returncode == 2 and done.stderr.startswith(f"{script}: argument 1, --\\udcff, is not UTF-8")
    assert done.stderr.count("\n") == 1 and done.stdout == ""


@pytest.mark.slow
@pytest.mark.skipif(not Path("/dev/full").exists(), reason="no /dev/full")
def test_training_goes_on_when_the_disk_of_its_output_is_full(tmp_path: Path) -> None:
    arguments = ["--config", str(ROOT / "configs/lstm.yaml"), "--data.corpus", "memorise", "--data.batch_size", "1"]
    arguments += ["--trainer.max_epochs", "1", "--trainer.default_root_dir", str(tmp_path), "--data.val_streams", "1"]
    with open("/dev/full", "w") as full:
        process = start("train.py", *arguments, stdout=full, stderr=subprocess.PIPE)
        _, errors = process.communicate(timeout=120)
    assert process.returncode == 0 and "standard output cannot be written" in errors and errors.count("\n") == 1
    assert list(tmp_path.rglob("last.ckpt"))
