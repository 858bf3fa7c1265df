"""metrics.csv: what a run that is interrupted keeps of it, and what of a damaged one can be read."""

import csv
from pathlib import Path
from typing import Any

import pytest

from models.metrics_file import Metrics, Rows, read_rows


def read(folder: Path) -> list[dict[str, str]]:
    with (folder / "metrics.csv").open(encoding="utf-8", newline="") as file:
        return [{name: value for name, value in row.items() if value} for row in csv.DictReader(file)]


def test_metrics_go_on_where_the_checkpoint_was(tmp_path: Path) -> None:
    folder = tmp_path / "tiny" / "version_0"
    logger = Metrics(folder, 0)
    for step in range(5):
        logger.log_metrics({"loss": step / 2}, step)
        logger.save()
    logger.log_metrics({"held_out": 7.0}, 4)  # another column
    logger.save()
    with (folder / "metrics.csv").open("a") as file:
        file.write("3,")  # killed while it wrote
    again = Metrics(folder, 3)
    again.log_metrics({"held_out": 8.0, "other": 9.0}, 3)
    again.save()
    rows = [{"loss": str(step / 2), "step": str(step)} for step in range(3)]
    assert read(folder) == [*rows, {"held_out": "8.0", "other": "9.0", "step": "3"}]


def test_metrics_are_whole_at_every_moment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    rows = Rows(str(tmp_path), 0)
    rows.log_metrics({"loss": 1.0}, 0)
    rows.save()
    rows.log_metrics({"held_out": 1.0}, 0)

    def killed(*given: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(Path, "replace", killed)
    with pytest.raises(KeyboardInterrupt):
        rows.save()
    assert read(tmp_path) == [{"loss": "1.0", "step": "0"}]


def test_a_folder_without_a_whole_line_begins_anew(tmp_path: Path) -> None:
    (tmp_path / "metrics.csv").write_text("epoch,lo")
    Rows(str(tmp_path), 5)
    assert not (tmp_path / "metrics.csv").exists()


LINES = [b"loss,step\r\n", *(b"%d.5,%d\r\n" % (step, step) for step in range(6))]


@pytest.mark.parametrize(
    ("number", "line"),
    {
        "NULs": (2, b"\0" * 4096 + b"\n"),
        "NULs within": (2, b"1.\x00,1\r\n"),
        "short": (2, b"1.5\r\n"),
        "empty": (2, b"\r\n"),
        "long": (2, b"1.5,1,7\r\n"),
        "other bytes": (2, b"\xff\xfe,1\r\n"),
        "no update": (2, b"1.5,one\r\n"),
        "a huge update": (2, b"1.5," + b"1" * 5000 + b"\r\n"),
        "no number": (2, b"1.x5,1\r\n"),
        "an open quote": (2, b'"1.5,1\r\n'),
        "lost line end": (2, b"1.5,1"),
    }.items(),
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_of_a_damaged_file_the_rows_that_can_be_read_stay(
    number: str, line: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    place, content = line
    damaged = b"".join([*LINES[:place], content, *LINES[place + 1 :]])
    path = tmp_path / "metrics.csv"
    path.write_bytes(damaged)
    lost = {"1", "2"} if number == "lost line end" else {"1"}
    Rows(str(tmp_path), 5)
    assert [row["step"] for row in read(tmp_path)] == [step for step in "01234" if step not in lost]
    told = capsys.readouterr().err
    assert told.endswith("metrics.csv: 1 damaged rows were dropped; the file as it was is metrics.csv.damaged\n")
    assert told.count("\n") == 1 and (tmp_path / "metrics.csv.damaged").read_bytes() == damaged
    Rows(str(tmp_path), 5)
    assert capsys.readouterr().err == ""


@pytest.mark.parametrize("header", [b"\0\0\0\n", b"loss,epoch\n", b"step,step\n", b"\xff,step\n", b"\n"])
def test_a_file_without_a_header_begins_anew_and_is_kept(
    header: bytes, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "metrics.csv").write_bytes(header + b"".join(LINES[1:]))
    rows = Rows(str(tmp_path), 5)
    assert "7 damaged rows, because the header is unreadable, were dropped" in capsys.readouterr().err
    assert (tmp_path / "metrics.csv.damaged").read_bytes() == header + b"".join(LINES[1:])
    rows.log_metrics({"loss": 2.5}, 5)
    rows.save()
    assert read(tmp_path) == [{"loss": "2.5", "step": "5"}]


def test_a_file_that_is_damaged_while_it_grows_is_read_again(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "metrics.csv").write_bytes(b"".join(LINES))
    rows = Rows(str(tmp_path), 6)
    (tmp_path / "metrics.csv").write_bytes(b"".join([*LINES[:3], b"\0\n", *LINES[4:]]))
    rows.log_metrics({"other": 1.0}, 6)
    rows.save()
    assert [row["step"] for row in read(tmp_path)] == list("013456") and "1 damaged" in capsys.readouterr().err


def test_what_may_stand_in_a_row(tmp_path: Path) -> None:
    path = tmp_path / "metrics.csv"
    path.write_text("a,b,step\n,nan,0\n-inf,1e-30,7\n", encoding="utf-8")
    rows = [{"a": "", "b": "nan", "step": "0"}, {"a": "-inf", "b": "1e-30", "step": "7"}]
    assert read_rows(path) == (["a", "b", "step"], rows, 0)
    assert read_rows(tmp_path / "none") == ([], [], 0)
