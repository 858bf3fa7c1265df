"""The judge of generated code: good code passes, each bad one fails in what is bad about it, real code passes."""

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from datamodules.corpora import standard_library
from models.code_quality import Judgement, complete_blocks, consistently_indented, judge, parses, read, table

GOOD = r'''def first(a, b={"x": [1, 2]}):
    """Text with ) and ( and
unindented lines: that count for nothing
    """
    if a:  # a comment with (
        return (a +
           b)
    elif b: return 1
# a comment at column 0
    else:
        value = a \
  + 2

        print('it\'s :', "(", r"\\")
    return {
}

@decorated
class Second:
    x: int = 3
try:
    pass
except ValueError:
    pass
last = 1
'''


def test_good_code_is_good() -> None:
    assert judge(GOOD) == (True, True, True, 16, False)


def test_blocks_are_complete_where_the_next_begins() -> None:
    assert complete_blocks(GOOD) == GOOD.removesuffix("last = 1\n")
    assert complete_blocks("@a\n@b\ndef f():\n    pass\n@c\ndef g():\n    pass\n") == "@a\n@b\ndef f():\n    pass\n"
    assert complete_blocks("try:\n    a\nexcept E:\n    b\n") == ""
    assert complete_blocks("a = 1\nb = 2\nc") == "a = 1\n"
    assert complete_blocks('a = 1\nb = """\nc = 2\nd = 3\n') == "a = 1\n"
    for begun in ("", "\n\ndef f():\n    a\n", "# why\ndef f():\n    a\n"):
        assert complete_blocks(begun) == ""


@pytest.mark.parametrize(
    "code",
    [
        "a = (1\nb = 2\n",
        "a = 1)\nb = 2\n",
        "a = (1]\nb = 2\n",
        "a = ([1)]\nb = 2\n",
        "def f():\n    a = (1\n    return a\n",
        "def f(a:\n    return a\nb = 1\n",
        "def f():\n    if (a:\n        b(\n    return\nb\n",
    ],
)
def test_brackets_that_are_not_closed_by_their_like(code: str) -> None:
    assert not judge(code + "end\n").brackets


@pytest.mark.parametrize(
    "code",
    [
        "  a = 1\n",
        "a = 1\n  b = 2\n",
        "if a:\nb = 1\n",
        "if a:\n        b\n    c\n",
        "def f():\n    if a:\n        b\n      c\n",
        "if a:  # why\n\n# indented? no\nb\n",
        "if a: return b\n    c\n",
        "x = {1:\n  2}\n    y\n",
    ],
)
def test_indentation_that_python_would_refuse(code: str) -> None:
    lines = read(code).lines
    assert not consistently_indented(lines) and not judge(code + "end\n").indentation
    with pytest.raises(IndentationError):
        compile(code.replace("return b", "b"), "", "exec")


def test_what_breaks_off_is_not_held_against_the_sample() -> None:
    assert judge("def f(a):\n    b = a\n    return (a, [") == (True, True, False, 2, False)
    assert judge('def f(a):\n    b = a\n    """What ( it') == (True, True, False, 2, True)
    assert judge("a = 1\nb = 2\nif b:\n") == (True, True, True, 2, False)


def test_nothing_to_show_is_nothing_to_praise() -> None:
    for sample in ("", "\n\n", "def ", "def f(", '"""def f():\n    return 1\n'):
        assert judge(sample)[:4] == (False, False, False, 0)


def test_a_tab_goes_on_to_the_next_multiple_of_eight() -> None:
    assert judge("if a:\n\tb\n        c\n   \td\nend\n").indentation
    assert not judge("if a:\n\tb\n    c\nend\n").indentation


def test_a_mistake_hides_nothing_behind_it() -> None:
    judged = judge("def f(a:\n    return a\ndef g():\n    x\n  y\nend\n")
    assert not judged.brackets and not judged.indentation and judged.statements == 4


def test_what_no_parser_should_stumble_over() -> None:
    assert parses(r"x = '\d'") and not parses("x = \0") and not parses("(" * 10_000) and not parses("a b")


@given(st.text("()[]'\"\\#:\n\t ab", max_size=60))
def test_no_sample_is_too_odd_to_judge(sample: str) -> None:
    judge(sample)
    assert sample.startswith(complete_blocks(sample))


def test_a_sample_is_read_in_one_pass() -> None:
    """Symbols are looked at once, so that a long line costs as much as many short ones."""
    for code in ("a(" * 50_000, "a " * 50_000, "'''a" * 30_000, "\\\n" * 50_000, "if a:\n" * 20_000):
        judge(code)


def test_real_code_is_good() -> None:
    text = "\n".join(file.decode("utf-8", "replace").replace("\r\n", "\n") for file in standard_library())
    starts = [match.start() + 1 for match in re.finditer(r"\ndef ", text)]
    samples = [text[start : start + 1000] for start in starts[:: len(starts) // 200]]
    judged = [judge(sample) for sample in samples]
    assert sum(each.brackets and each.indentation for each in judged) >= 0.98 * len(judged)
    assert sum(each.parses for each in judged) >= 0.98 * sum(complete_blocks(sample) != "" for sample in samples)


def test_the_table_gives_shares() -> None:
    good, bad = Judgement(True, True, True, 12, False), Judgement(True, False, False, 3, True)
    assert table([good, bad]).splitlines() == [
        "of 2 samples, with 7.5 complete statements each",
        "brackets balanced       100%",
        "indentation consistent   50%",
        "both                     50%",
        "complete blocks parse    50%",
        "end inside a string      50%",
    ]
