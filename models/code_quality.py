"""How well generated Python is built: brackets, indentation, and whether it parses, up to where the sample broke off.

The lexical rules are those of the Python language reference. Python's own tokenizer stops at the first mistake; the
reader here goes on after it, so that a mistake is charged once and hides nothing behind it.
"""

import ast
import re
import warnings
from typing import NamedTuple

TOKEN = re.compile(
    r"""
    (?P<comment> \#[^\n]* )
  | (?P<string> (?P<quotes>\"{3}|'{3}) (?:\\.|(?!(?P=quotes)).)* (?P<end>(?P=quotes)|\Z)
              | (?P<quote>["']) (?:\\.|(?!(?P=quote))[^\\\n])* (?P=quote)? )
  | (?P<joined> \\\n )
  | (?P<newline> \n )
  | (?P<space> [^\S\n]+ )
  | (?P<word> \w+ )
  | (?P<sign> . )
    """,
    re.VERBOSE | re.DOTALL,
)
CLOSING = {")": "(", "]": "[", "}": "{"}
CONTINUES_A_BLOCK = ("elif", "else", "except", "finally")


class Line(NamedTuple):
    """A logical line: it may go on over several lines in brackets, in strings, and after a backslash."""

    begin: int  # of its first symbol, in the sample
    indentation: int  # columns; a tab goes on to the next multiple of 8
    first: str  # word or sign
    last: str


class Reading(NamedTuple):
    lines: list[Line]
    balanced: bool  # every bracket is closed by its like
    inside_a_string: bool  # at the end: a string in three quotes that is not closed


class Judgement(NamedTuple):
    """Of one sample. What has no complete statement, or no complete block, has nothing to show there: it fails."""

    brackets: bool  # each is closed by its like, as far as statements are complete
    indentation: bool  # consistent, as far as statements are complete
    parses: bool  # Python's parser accepts the complete top-level blocks
    statements: int  # complete ones
    inside_a_string: bool  # the sample ends in one: what is in it counts for nothing


def judge(sample: str) -> Judgement:
    """Of a sample of Python that may break off anywhere: its last statement is not judged.

    For samples of 1,000 characters, from a `def` at the beginning of a line, out of Python's own standard library,
    brackets and indentation are right in 997 of 1,000; 796 contain a complete block, and 793 of these parse.
    """
    whole = read(sample)
    complete = read(sample[: whole.lines[-1].begin] if whole.lines else "")
    blocks = complete_blocks(sample)
    return Judgement(
        brackets=len(complete.lines) > 0 and complete.balanced,
        indentation=len(complete.lines) > 0 and consistently_indented(complete.lines),
        parses=blocks != "" and parses(blocks),
        statements=len(complete.lines),
        inside_a_string=whole.inside_a_string,
    )


def complete_blocks(sample: str) -> str:
    """The sample up to its last complete top-level block.

    A block begins at column 0, and is complete where the next one begins. What begins with elif, else, except or
    finally belongs to the block before, a decorator to the block after; comments, and lines in brackets or in
    strings, begin nothing. A last line that no newline ends is not looked at.
    """
    begins, decorated = [], False
    for line in read(sample[: sample.rfind("\n") + 1]).lines:
        if line.indentation == 0 and line.first not in CONTINUES_A_BLOCK:
            begins += [] if decorated else [line.begin]
            decorated = line.first == "@"
    return sample[: begins[-1]] if len(begins) > 1 else ""


def read(code: str) -> Reading:
    """What is in the code, in one pass.

    A bracket was forgotten where it is still open and a line begins, with a word, no deeper than the line it is in.
    """
    lines: list[Line] = []
    brackets: list[str] = []
    balanced, inside_a_string = True, False
    start, fresh, ended = 0, True, True  # of the line that the token is in: no token in it yet, none of its statement
    for token in TOKEN.finditer(code):
        kind, text = token.lastgroup, token[0]
        if kind in ("newline", "joined"):
            start, fresh, ended = token.end(), True, ended or (kind == "newline" and not brackets)
        if kind in ("comment", "joined", "newline", "space"):
            continue
        column = len(code[start : token.start()].expandtabs(8)) if fresh else 0
        if fresh and brackets and kind == "word" and column <= lines[-1].indentation:
            balanced, ended = False, True
            brackets.clear()
        fresh = False
        if ended:
            lines.append(Line(token.start(), column, text, text))
            ended = False
        else:
            lines[-1] = lines[-1]._replace(last=text)
        if kind == "sign" and text in "([{":
            brackets.append(text)
        elif kind == "sign" and text in CLOSING:
            balanced &= bool(brackets) and brackets.pop() == CLOSING[text]
        inside_a_string = token["end"] == ""
    return Reading(lines, balanced and not brackets, inside_a_string)


def consistently_indented(lines: list[Line]) -> bool:
    """Whether a line is indented deeper than the one before exactly where that ends in a colon, and every other line
    returns to a level that is still open: where Python raises no IndentationError, but for tabs mixed with spaces."""
    levels, opened = [0], False
    for line in lines:
        if opened != (line.indentation > levels[-1]):
            return False
        if opened:
            levels.append(line.indentation)
        while line.indentation < levels[-1]:
            levels.pop()
        if line.indentation != levels[-1]:
            return False
        opened = line.last == ":"
    return True


def parses(code: str) -> bool:
    """Whether Python's parser accepts it. Nothing is run."""
    with warnings.catch_warnings(action="ignore"):  # of odd escapes in strings, which are no mistakes
        try:
            ast.parse(code)
        except (SyntaxError, ValueError, RecursionError, MemoryError):
            return False
    return True


def table(judged: list[Judgement]) -> str:
    """Shares of the samples, one to a line."""
    rows = {
        "brackets balanced": [each.brackets for each in judged],
        "indentation consistent": [each.indentation for each in judged],
        "both": [each.brackets and each.indentation for each in judged],
        "complete blocks parse": [each.parses for each in judged],
        "end inside a string": [each.inside_a_string for each in judged],
    }
    statements = sum(each.statements for each in judged) / len(judged)
    lines = [f"of {len(judged)} samples, with {statements:.1f} complete statements each"]
    return "\n".join(lines + [f"{name:24}{sum(row) / len(row):4.0%}" for name, row in rows.items()])
