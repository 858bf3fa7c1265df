"""Reads labelled texts from tables: .tsv, .csv and .jsonl, packed or not."""

import csv
import io
import json
import math
import re
from collections import Counter
from collections.abc import Iterator
from typing import Any, Literal, NamedTuple

from datamodules.given_text import read_text, suffix_of

EmptyRows = Literal["refuse", "skip"]

# What tables of others call their columns. The first entry is the default of the option.
COLUMN_NAMES = {
    "text": ("text", "sentence", "review", "comment", "content", "body", "message", "tweet", "document"),
    "label": ("label", "class", "category", "sentiment", "target", "stars", "rating", "score"),
}
LONGEST_FIELD = 2**31 - 1  # characters; the csv module's default is 131,072
NUMBER = re.compile(r"[+-]?[0-9]+(\.[0-9]+)?")


class Example(NamedTuple):
    text: str
    label: str
    place: str  # the file and line, for messages


class Table(NamedTuple):
    """`notes` says what was read in another way than the columns' names alone would say, or left out."""

    examples: list[Example]
    notes: list[str]


class Row(NamedTuple):
    line: int
    cells: list[Any]  # of the columns that were asked for


def read_table(path: str, columns: list[str | int], encoding: str, empty_rows: EmptyRows = "refuse") -> Table:
    """Reads the texts and labels of a .tsv, .csv or .jsonl file. Blank lines are skipped.

    Args:
        path: the file.
        columns: the columns of the texts and of the labels: names in the first row, or numbers from 0. Where a table
            has no column `text` or `label`, one with another usual name is taken, such as `sentence`; see COLUMN_NAMES.
        encoding: of the file.
        empty_rows: whether rows without a text or a label are errors, or left out and counted.

    Raises ValueError, naming the line, for rows that cannot be read as the first row says.
    """
    if not is_table(path):
        raise ValueError(f"{path}: is not named as a table: .tsv, .csv and .jsonl can be read")
    content = read_text(path, encoding, "--data.path", "--data.encoding")
    if not content:
        raise ValueError(f"{path}: is empty; there is nothing to learn from")
    notes: list[str] = []
    examples, empty = [], 0
    for line, (text, label) in rows_of(content, path, columns, notes):
        example = Example(as_text(text), as_label(label), f"{path}, line {line}")
        if example.text.strip() and example.label:
            check_symbols(example)
            examples.append(example)
        elif empty_rows == "skip":
            empty += 1
        else:
            what = "label is missing" if example.text.strip() else "text is empty"
            raise ValueError(
                f"{example.place}: the {what}: fill it in, or leave such rows out with --data.empty_rows skip"
            )
    if not examples:
        raise ValueError(f"{path}: has no texts; there is nothing to learn from")
    if empty:
        notes.append(f"{path}: {empty:,} {'row' if empty == 1 else 'rows'} without a text or a label left out")
    return Table(examples, notes)


def is_table(path: str) -> bool:
    return suffix_of(path) in (".tsv", ".csv", ".jsonl")


def rows_of(content: str, path: str, columns: list[str | int], notes: list[str]) -> Iterator[Row]:
    """The cells of some columns of a table, row by row."""
    kind = suffix_of(path)
    if kind == ".jsonl":
        return json_rows(content, path, columns, notes)
    return table_rows(content, path, columns, "\t" if kind == ".tsv" else delimiter_of(content), notes)


def as_text(value: Any) -> str:
    return "" if value is None else str(value)


def as_label(value: Any) -> str:
    """The label's name. Whole numbers have one name however they are written: 5, 5.0 and "5.0" are "5"."""
    if isinstance(value, bool):
        return str(value).lower()  # as JSON has it
    if value is None or isinstance(value, float) and math.isnan(value):
        return ""
    name = str(value).strip()
    return re.sub(r"\.0+$", "", name) if NUMBER.fullmatch(name) else name


def check_symbols(example: Example) -> None:
    try:
        (example.text + example.label).encode("utf-8")
    except UnicodeEncodeError as error:
        code = f"\\u{ord(error.object[error.start]):04x}"
        raise ValueError(f"{example.place}: {code} is half of a surrogate pair, which is no character") from None


def table_rows(text: str, path: str, columns: list[str | int], delimiter: str, notes: list[str]) -> Iterator[Row]:
    rows = fields(text, path, delimiter)
    first_line, first_row = next(rows, (1, []))
    by_number = all(str(column).isdecimal() for column in columns)
    if by_number:
        names = [str(number) for number in range(len(first_row))]
        all_rows = [(first_line, first_row), *rows]
        if has_row_of_names([row for _, row in all_rows], columns):
            named = ", ".join(repr(first_row[int(column)]) for column in columns)
            notes.append(f"{path}: the first row, {named}, is read as the names of the columns")
            all_rows = all_rows[1:]
        rows = iter(all_rows)
    else:
        names = [name.strip() for name in first_row]
    place = f"{path}, line {first_line}"
    indices = [names.index(name) for name in chosen_columns(names, columns, place, notes)]
    for line, row in rows:
        check_width(row, first_row, by_number, f"{path}, line {line}", delimiter)
        full = row + [""] * (len(names) - len(row))
        yield Row(line, [full[index] for index in indices])


def fields(text: str, path: str, delimiter: str) -> Iterator[tuple[int, list[str]]]:
    """Rows with the numbers of their last lines. In tables separated by tabs, quotes are letters."""
    csv.field_size_limit(LONGEST_FIELD)
    quoting: Any = csv.QUOTE_NONE if delimiter == "\t" else csv.QUOTE_MINIMAL
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=delimiter, quoting=quoting, strict=True)
    try:
        yield from ((reader.line_num, row) for row in reader if row)
    except csv.Error as error:
        raise ValueError(f"{path}, line {reader.line_num}: {error}; check the double quotes before it") from None


def delimiter_of(text: str) -> str:
    """The comma, or what a first row without commas has instead: some spreadsheets write semicolons or tabs."""
    first_row = text.lstrip("\n").split("\n", 1)[0]
    return next((sign for sign in ",;\t" if sign in first_row), ",")


def check_width(row: list[str], first_row: list[str], exactly: bool, place: str, delimiter: str) -> None:
    """Refuses a row with more fields than the first row, or, if asked for, with fewer: a text that contains the
    delimiter was not quoted."""
    longer, shorter = row[len(first_row) :], first_row[len(row) :] if exactly else []
    if not any(cell.strip() for cell in longer + shorter):
        return
    way_out = (
        "write a text's tabs as spaces" if delimiter == "\t" else f'put texts with {delimiter!r} in "double quotes"'
    )
    raise ValueError(f"{place}: has {len(row)} fields, but the first row has {len(first_row)}: {way_out}")


def has_row_of_names(rows: list[list[str]], columns: list[str | int]) -> bool:
    """Whether the first row of a table, whose columns were given by number, holds names of columns.

    It does where its label is one word, no number, that no other row has, and where a usual name of a column stands in
    it, or every other label stands in several rows.
    """
    cells = [[row[int(c)].strip() if int(c) < len(row) else "" for row in rows] for c in columns]
    texts, labels = cells[0], cells[-1]
    counts = Counter(as_label(label) for label in labels[1:])
    if not counts or labels[0] in counts or not (labels[0].isidentifier() and texts[0].isidentifier()):
        return False
    usual = texts[0].lower() in COLUMN_NAMES["text"] or labels[0].lower() in COLUMN_NAMES["label"]
    return usual or len(columns) > 1 and min(counts.values()) > 1


def chosen_columns(names: list[str], columns: list[str | int], place: str, notes: list[str]) -> list[str]:
    """The names of the columns to read. Raises ValueError where there is none, or where several have the name."""
    chosen = []
    for wanted in map(str, columns):
        found = [name for name in names if name == wanted] or [name for name in names if name.lower() == wanted]
        if not found:
            found = [name for name in names if name.lower() in COLUMN_NAMES.get(wanted, ())]
            if len(found) == 1:
                notes.append(f"{place}: the column {found[0]!r} is read as the {wanted}")
        if len(found) > 1:
            raise ValueError(f"{place}: several columns may be {wanted!r}: {', '.join(found)}: {WHICH_COLUMN}")
        if not found:
            raise ValueError(f"{place}: there is no column {wanted!r}, but {', '.join(names)}: {WHICH_COLUMN}")
        chosen += found
    return chosen


WHICH_COLUMN = "see --data.text_column and label_column, which take numbers, from 0, where no row has names"


def json_rows(text: str, path: str, columns: list[str | int], notes: list[str]) -> Iterator[Row]:
    names: list[str] = []
    for number, line in enumerate(text.split("\n"), 1):
        if not line.strip():
            continue
        place = f"{path}, line {number}"
        row = json_object(line, place)
        names = names or chosen_columns(list(row), columns, place, notes)
        for name in names:
            if name not in row:
                raise ValueError(f"{place}: there is no column {name!r}, but {', '.join(row)}: {WHICH_COLUMN}")
            if isinstance(row[name], list | dict):
                kind = "a list" if isinstance(row[name], list) else "an object"
                raise ValueError(f"{place}: {name!r} is {kind}: it must be a string or a number")
        yield Row(number, [row[name] for name in names])


def json_object(line: str, place: str) -> dict[str, Any]:
    try:
        row = json.loads(line)
    except json.JSONDecodeError as error:
        raise ValueError(f"{place}: is not JSON: {error.msg} at column {error.colno}") from None
    except (ValueError, RecursionError) as error:  # numbers of thousands of digits, thousands of brackets
        what = "it is nested too deeply" if isinstance(error, RecursionError) else str(error)
        raise ValueError(f"{place}: cannot be read as JSON: {what}") from None
    if not isinstance(row, dict):
        raise ValueError(f"{place}: must be an object with the text and its label, {{…}}")
    return row
