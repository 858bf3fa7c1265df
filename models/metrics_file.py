"""metrics.csv of a run that may be interrupted: rows of updates that its checkpoint has stay, later ones come again."""

import csv
import io
import sys
from pathlib import Path
from typing import Any

from pytorch_lightning.loggers import CSVLogger
from pytorch_lightning.loggers.csv_logs import ExperimentWriter
from pytorch_lightning.loggers.logger import rank_zero_experiment

from complete_files import complete_file
from models.run_folder import shortest
from models.sampling import harmless


class Metrics(CSVLogger):
    """Lightning's logger of metrics.csv, which continues the file of an interrupted run.

    Args:
        folder: of the run.
        updates: that the run has made when it continues. Rows of later updates are dropped.
    """

    def __init__(self, folder: Path, updates: int) -> None:
        super().__init__(folder.parent.parent, folder.parent.name, folder.name)
        self.updates = updates

    @property
    @rank_zero_experiment
    def experiment(self) -> Any:
        if self._experiment is None:
            self._experiment = Rows(self.log_dir, self.updates)
        return self._experiment

    def has(self, prefix: str, step: int) -> bool:
        """Whether the file has a value of that step in a column whose name begins so."""
        _, rows, _ = read_rows(Path(self.log_dir) / "metrics.csv")
        return any(
            value and name.startswith(prefix) for row in rows if int(row["step"]) == step for name, value in row.items()
        )


class Rows(ExperimentWriter):
    """The rows of metrics.csv. The file is complete at every moment, but for the last line while it is appended."""

    def __init__(self, folder: str, updates: int) -> None:
        super().__init__(folder)
        self.rewrite_rows(updates)

    def _check_log_dir_exists(self) -> None:
        """Lightning would delete what is there."""

    def _rewrite_with_new_header(self, fieldnames: list[str]) -> None:
        self.rewrite_rows()

    def rewrite_rows(self, updates: int | None = None) -> None:
        """Writes the file again: with the columns that there are now, and without rows of later updates, and rows that
        are damaged. Those are counted on stderr, and the damaged file is kept.
        """
        path = Path(self.metrics_file_path)
        columns, rows, damaged = read_rows(path)
        if damaged:
            kept = path.with_name(path.name + ".damaged")
            path.replace(kept)
            lost = "rows" if columns else "rows, because the header is unreadable,"
            message = f"{shortest(path)}: {damaged} damaged {lost} were dropped; the file as it was is {kept.name}"
            print(harmless(message), file=sys.stderr)
        if not columns:
            path.unlink(missing_ok=True)
            return
        self.metrics_keys = self.metrics_keys or columns
        table = io.StringIO(newline="")
        writer = csv.DictWriter(table, self.metrics_keys)
        writer.writeheader()
        writer.writerows(row for row in rows if updates is None or int(row["step"]) < updates)
        with complete_file(path) as file:
            file.write(table.getvalue().encode("utf-8"))


def read_rows(path: Path) -> tuple[list[str], list[dict[str, str]], int]:
    """The columns of a metrics.csv, its rows, and how many lines are damaged. There are no columns where the file is
    missing or its header is damaged. The last line may have been cut by the end of a process: it is not counted.
    """
    lines = path.read_bytes().split(b"\n")[:-1] if path.is_file() else []
    if not lines:
        return [], [], 0
    columns = values_of(lines[0])
    if columns is None or "step" not in columns or len(set(columns)) < len(columns):
        return [], [], len(lines)
    found = [values_of(line) for line in lines[1:]]
    rows = [dict(zip(columns, values, strict=True)) for values in found if values and len(values) == len(columns)]
    rows = [row for row in rows if is_row(row)]
    return columns, rows, len(found) - len(rows)


def values_of(line: bytes) -> list[str] | None:
    """The values of one line; None if it is not text."""
    try:
        text = line.removesuffix(b"\r").decode("utf-8")
        return next(csv.reader([text], strict=True), []) if text.isprintable() else None
    except (UnicodeDecodeError, csv.Error):
        return None


def is_row(row: dict[str, str]) -> bool:
    """Whether `step` is the number of an update, and every other value is a number or missing."""
    step = row["step"]
    return step.isdecimal() and len(step) < 19 and all(map(is_number, filter(None, row.values())))


def is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True
