"""Labelled texts from tables: .tsv, .csv and .jsonl."""

import csv
import io
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

from datamodules.corpora import decode_text, read_file


class Example(NamedTuple):
    text: str
    label: str
    place: str  # where a message finds it


def read_table(path: str, columns: list[str | int], encoding: str) -> list[Example]:
    """Texts and labels of a .tsv, .csv or .jsonl file; blank lines are skipped.

    Raises ValueError, naming the line, for a missing column, text or label, for JSON that cannot be read, and for
    a file that is named otherwise.
    """
    kind = Path(path).suffix.lower()
    if kind not in (".tsv", ".csv", ".jsonl"):
        raise ValueError(f"{path}: is not named as a table: .tsv, .csv and .jsonl can be read")
    text = decode_text(read_file(path), encoding, path)
    rows = json_rows(text, path) if kind == ".jsonl" else table_rows(text, path, columns, tabs=kind == ".tsv")
    examples = []
    for number, row in rows:
        place = f"{path}, line {number}"
        words, label = (cell_of(row, column, place) for column in columns)
        if not words.strip():
            raise ValueError(f"{place}: the text is empty: give it words, or leave the line out")
        if not label.strip():
            raise ValueError(f"{place}: the label is missing: give it one, or leave the line out")
        examples.append(Example(words, label.strip(), place))
    if not examples:
        raise ValueError(f"{path}: has no texts; there is nothing to learn from")
    return examples


def cell_of(row: dict[str, Any], column: str | int, place: str) -> str:
    if str(column) not in row:
        raise ValueError(
            f"{place}: there is no column {column!r}, but {', '.join(row)}: see --data.text_column and label_column"
        )
    value = row[str(column)]
    if value is not None and not isinstance(value, str | int):
        raise ValueError(f"{place}: {column!r} is {value!r}: it must be a string or a whole number")
    return "" if value is None else str(value)


def table_rows(text: str, path: str, columns: list[str | int], tabs: bool) -> Iterator[tuple[int, dict[str, Any]]]:
    """Rows by column name, or by number if columns are asked for by number; in .tsv files, quotes are letters."""
    quoting: Any = csv.QUOTE_NONE if tabs else csv.QUOTE_MINIMAL
    reader = csv.reader(io.StringIO(text), delimiter="\t" if tabs else ",", quoting=quoting, strict=True)
    header = None
    try:
        for row in reader:
            if not row:
                continue
            if header is None:
                by_number = all(str(column).isdecimal() for column in columns)
                header = [str(number) for number in range(len(row))] if by_number else row
                if not by_number:
                    continue
            yield reader.line_num, dict(zip(header, row, strict=False))
    except csv.Error as error:
        raise ValueError(f"{path}, line {reader.line_num}: {error}") from None


def json_rows(text: str, path: str) -> Iterator[tuple[int, dict[str, Any]]]:
    for number, line in enumerate(text.split("\n"), 1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
        except json.JSONDecodeError as error:
            raise ValueError(f"{path}, line {number}: is not JSON: {error.msg} at column {error.colno}") from None
        if not isinstance(row, dict):
            raise ValueError(f"{path}, line {number}: must be an object with the text and its label, {{…}}")
        yield number, row
