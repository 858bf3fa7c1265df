"""A file is complete or not there, whatever interrupts the writing."""

import os
import stat
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from complete_files import complete_file, put_in_place


def write(path: Path, content: bytes) -> None:
    with complete_file(path) as file:
        file.write(content)


def test_a_file_is_written_completely_or_not_at_all(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "file"
    write(path, b"before")

    def interrupted(*arguments: Any) -> None:
        raise KeyboardInterrupt

    for owner, name in ((os, "fsync"), (Path, "replace")):
        with monkeypatch.context() as context, pytest.raises(KeyboardInterrupt):
            context.setattr(owner, name, interrupted)
            write(path, b"after")
        assert path.read_bytes() == b"before" and [*tmp_path.iterdir()] == [path]
    with pytest.raises(ZeroDivisionError), complete_file(path) as file:
        file.write(b"half")
        file.write(b"%d" % (1 // 0))
    assert path.read_bytes() == b"before" and [*tmp_path.iterdir()] == [path]
    write(path, b"after")
    assert path.read_bytes() == b"after"


def test_content_and_name_are_on_the_disk_before_the_next_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    order: list[str] = []
    fsync, replace = os.fsync, Path.replace
    monkeypatch.setattr(os, "fsync", lambda number: order.append("fsync") or fsync(number))
    monkeypatch.setattr(Path, "replace", lambda part, path: order.append("rename") or replace(part, path))
    write(tmp_path / "file", b"content")
    assert order == ["fsync", "rename", *["fsync"] * (os.name != "nt")]


@pytest.mark.skipif(os.name == "nt", reason="Windows has no such permissions")
def test_a_file_can_be_for_the_user_alone(tmp_path: Path) -> None:
    with complete_file(tmp_path / "file", 0o600) as file:
        file.write(b"content")
    assert stat.S_IMODE((tmp_path / "file").stat().st_mode) == 0o600


def test_two_processes_write_beside_each_other(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path, numbers = tmp_path / "file", iter([1, 2])
    monkeypatch.setattr(os, "getpid", lambda: next(numbers))
    with complete_file(path) as first:
        first.write(b"first")
        with complete_file(path) as second:
            second.write(b"second")
        assert path.read_bytes() == b"second"
    assert path.read_bytes() == b"first"


def test_windows_opens_no_folder_to_rename_a_file(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    part, path = tmp_path / "new", tmp_path / "old"
    part.write_text("new")
    monkeypatch.setattr("complete_files.os", SimpleNamespace(name="nt"))
    put_in_place(part, path)
    assert path.read_text() == "new" and not part.exists()
