"""The cache folder: where it is, whose it is, and that its files are whole."""

import os
import stat
import tempfile
from pathlib import Path
from typing import Any

import pytest

import user_cache
from user_cache import cache_folder, is_private_file, private_folder

pwd = pytest.importorskip("pwd", reason="the system has no list of users")
pytestmark = pytest.mark.skipif(os.name != "posix", reason="the system has no owners and modes of files")


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("UNROLLED_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


def test_where_the_cache_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert cache_folder() == tmp_path / "cache"
    monkeypatch.delenv("UNROLLED_CACHE")
    monkeypatch.setenv("XDG_CACHE_HOME", "/users")
    assert cache_folder() == Path("/users/unrolled")
    monkeypatch.setenv("HOME", "/home/me")
    for ignored in ("", "relative"):
        monkeypatch.setenv("XDG_CACHE_HOME", ignored)
        assert cache_folder() == Path("/home/me/.cache/unrolled")


def test_a_user_without_a_home_has_a_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def unknown(number: int) -> Any:
        raise KeyError(number)

    for name in ("UNROLLED_CACHE", "XDG_CACHE_HOME", "HOME"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(pwd, "getpwuid", unknown)
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    assert private_folder("kernels") == tmp_path / f"unrolled-{os.geteuid()}" / "kernels"
    for folder in (tmp_path / f"unrolled-{os.geteuid()}", private_folder("kernels")):
        assert stat.S_IMODE(folder.stat().st_mode) == 0o700
    folder.rmdir()
    folder.parent.rmdir()
    folder.parent.symlink_to(tmp_path)
    with pytest.raises(OSError, match="is a symbolic link"):
        private_folder("kernels")


def test_a_folder_is_the_users_alone(cache: Path) -> None:
    folder = private_folder("kernels")
    assert folder == cache / "kernels" and stat.S_IMODE(folder.stat().st_mode) == 0o700
    folder.chmod(0o777)
    private_folder("kernels")
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700


def test_folders_that_others_could_change_are_refused(
    cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "elsewhere").mkdir()
    cache.mkdir()
    (cache / "linked").symlink_to(tmp_path / "elsewhere")
    (cache / "dangling").symlink_to(tmp_path / "none")
    (cache / "file").write_text("")
    for name, message in (
        ("linked", "linked: is a symbolic link, and could lead to files of others: remove it, or name another folder"),
        ("dangling", "File exists"),
        ("file", "File exists"),
    ):
        with pytest.raises(OSError, match=message):
            private_folder(name)
    monkeypatch.setattr(user_cache, "user", lambda: os.geteuid() + 1)
    with pytest.raises(OSError, match="kernels: belongs to another user, who could change what is in it"):
        private_folder("kernels")


def test_files_that_others_could_change_are_not_private(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "file"
    assert not is_private_file(path) and not is_private_file(tmp_path)
    path.write_bytes(b"content")
    path.chmod(0o600)
    (tmp_path / "link").symlink_to(path)
    assert is_private_file(path) and not is_private_file(tmp_path / "link")
    path.chmod(0o620)
    assert not is_private_file(path)
    path.chmod(0o644)
    assert is_private_file(path)
    monkeypatch.setattr(user_cache, "user", lambda: os.geteuid() + 1)
    assert not is_private_file(path)
