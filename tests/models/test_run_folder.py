"""The folder of a run: where a run begins or continues, and that no two runs share one."""

import multiprocessing
import threading
from pathlib import Path
from typing import Any

import pytest
from pytorch_lightning.utilities.rank_zero import rank_zero_only

from models import run_folder as module
from models.run_folder import claim_version, is_first_process, next_version, run_folder, shortest

RUNS = 8
LIMIT = 120  # seconds, after which a test that hangs ends


def folder_of(*arguments: Any) -> Path:
    with run_folder(*arguments) as folder:
        module.unlock(folder)
        return folder


def test_where_runs_begin_and_continue(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    own = Path("runs/lstm/version_4")
    (own / "checkpoints").mkdir(parents=True)
    last, best = (str(own / "checkpoints" / f"{name}.ckpt") for name in ("last", "best"))
    assert folder_of(None, "configs/gru.yaml", None) == Path("runs/gru/version_0")
    assert folder_of("here", "configs/gru.yaml", None) == Path("here/gru/version_0")
    assert folder_of(None, None, last) == own == folder_of("runs", "lstm.yaml", last)
    assert folder_of(None, None, str(tmp_path / last)) == own
    assert folder_of(None, None, best) == Path("runs/lstm/version_5")
    assert folder_of(None, "gru.yaml", last) == own
    assert folder_of("here", None, last) == Path("here/lstm/version_0")
    assert folder_of(None, None, None, last) == Path("runs/lstm/version_6"), "with its weights, another run"
    assert folder_of(None, None, "copied.ckpt") == Path("runs/copied/version_0")
    assert all(Path(name).is_dir() for name in ("runs/gru/version_0", "here/lstm/version_0", "runs/copied/version_0"))
    monkeypatch.chdir(own / "checkpoints")
    assert folder_of(None, None, "last.ckpt").resolve() == tmp_path / own


def test_the_next_version_is_one_more_than_the_largest(tmp_path: Path) -> None:
    assert next_version(tmp_path / "none") == 0 == next_version(tmp_path)
    for name in ("version_2", "version_10", "version_x", "version_", "other_30", "version_11.bak"):
        (tmp_path / name).mkdir()
    assert next_version(tmp_path) == 11
    (tmp_path / "version_11").write_text("a file, not a folder")
    assert claim_version(tmp_path) == tmp_path / "version_12"


def test_a_folder_that_another_run_creates_meanwhile_is_left_to_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "version_0").mkdir()
    monkeypatch.setattr(module, "next_version", lambda parent: 0)
    assert claim_version(tmp_path) == tmp_path / "version_1"


def test_threads_that_start_at_the_same_moment_have_a_folder_each(tmp_path: Path) -> None:
    barrier, found = threading.Barrier(RUNS), []

    def claim() -> None:
        barrier.wait(LIMIT)
        found.append(folder_of(str(tmp_path), "lstm.yaml", None))

    threads = [threading.Thread(target=claim) for _ in range(RUNS)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(LIMIT)
    assert sorted(found) == [tmp_path / "lstm" / f"version_{number}" for number in range(RUNS)]


def claim_in_a_process(parent: Path, barrier: Any) -> None:
    barrier.wait(LIMIT)
    for _ in range(5):
        (claim_version(parent) / "mine").touch(exist_ok=False)


@pytest.mark.slow
def test_processes_that_start_at_the_same_moment_have_folders_of_their_own(tmp_path: Path) -> None:
    context = multiprocessing.get_context("spawn")
    barrier = context.Barrier(4)
    processes = [context.Process(target=claim_in_a_process, args=(tmp_path, barrier)) for _ in range(4)]
    for process in processes:
        process.start()
    for process in processes:
        process.join(LIMIT)
    assert [process.exitcode for process in processes] == [0] * 4
    assert len([*tmp_path.glob("version_*/mine")]) == 20


def test_a_run_that_fails_before_it_writes_leaves_no_folder(tmp_path: Path) -> None:
    root = tmp_path / "runs"
    for kept in (False, True):
        with pytest.raises(ValueError), run_folder(str(root), "lstm.yaml", None) as folder:
            if kept:
                (folder / "samples.txt").write_text("work")
            raise ValueError
        assert root.exists() == kept
    assert folder_of(str(root), "lstm.yaml", None).name == "version_1"


@pytest.mark.parametrize(
    ("rank", "environment", "first"),
    [
        (0, {}, True),
        (1, {}, False),
        (0, {"NODE_RANK": "0"}, True),
        (0, {"NODE_RANK": "1"}, False),
        (0, {"GROUP_RANK": "2"}, False),
    ],
)
def test_only_the_first_process_of_a_run_creates_its_folder(
    rank: int, environment: dict[str, str], first: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("NODE_RANK", "GROUP_RANK"):
        monkeypatch.delenv(name, raising=False)
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(rank_zero_only, "rank", rank)
    assert is_first_process() == first
    assert folder_of(str(tmp_path / "runs"), "lstm.yaml", None) == tmp_path / "runs/lstm/version_0"
    assert (tmp_path / "runs").exists() == first


def lock_in_a_process(folder: Path, found: Any) -> None:
    try:
        module.lock(folder)
        found.put("locked")
    except BlockingIOError as error:
        found.put(str(error))


@pytest.mark.slow
@pytest.mark.skipif(module.fcntl is None, reason="the system has no locks of folders")
def test_a_folder_is_locked_until_it_is_released(tmp_path: Path) -> None:
    context = multiprocessing.get_context("spawn")
    found = context.Queue()
    module.lock(tmp_path)
    module.lock(tmp_path)  # the same process may
    for expected in ("another process is training this run; wait for its end, or start a new run", "locked"):
        process = context.Process(target=lock_in_a_process, args=(tmp_path, found))
        process.start()
        assert expected in found.get(timeout=LIMIT)
        process.join(LIMIT)
        module.unlock(tmp_path)


def test_where_there_are_no_locks_nothing_is_locked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    module.unlock(tmp_path)
    monkeypatch.setattr(module, "fcntl", None)
    module.lock(tmp_path)
    assert tmp_path.resolve() not in module.LOCKS


def test_a_folder_beneath_this_one_is_named_in_short(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert shortest(tmp_path / "runs") == Path("runs") and shortest(Path("/elsewhere")) == Path("/elsewhere")
