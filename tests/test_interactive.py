"""Typing with suggestions: which keys do what, lines instead of keys, and a terminal that is left as it was."""

import os
import select
import subprocess
import sys
from pathlib import Path

import pytest

import interactive
from models.suggestions import Offer, Suggestion

ROOT = Path(__file__).parent.parent


def suggest(text: str) -> Offer:
    """Completes meet…, and suggests "again" after all that ends with a space."""
    if text.endswith(" "):
        return Offer(text, [Suggestion("again", 0.5), Suggestion("here", 0.25)])
    if text.endswith("x"):
        raise ValueError("no word begins with x")
    return Offer(text[: text.rfind(" ") + 1], [Suggestion("meeting", 0.9)])


@pytest.mark.parametrize(
    ("keys", "text"),
    [
        ("a me\t", "a meeting "),
        ("a me\t\t", "a meeting again "),
        ("x\t", "x"),
        ("\t", ""),
        ("ab\x7f\bc", "c"),
        ("\x7f", ""),
        ("é\x00\x1bz", "éz"),
        *((f"ab{end}c", "ab") for end in "\r\n\x03\x04"),
    ],
)
def test_what_keys_do(keys: str, text: str) -> None:
    shown: list[tuple[str, Offer]] = []
    assert interactive.by_key(keys, suggest, lambda text, offer: shown.append((text, offer))) == text
    assert shown[0] == ("", Offer("", [])) and shown[-1][0] == text


def test_without_a_terminal_every_line_gets_one(capsys: pytest.CaptureFixture[str]) -> None:
    interactive.by_line(["see you \n", "x\n", "me"], suggest)
    assert capsys.readouterr().out == "again 50.0%, here 25.0%\n(no word begins with x)\nmeeting 90.0%\n"


def test_a_long_text_stays_in_its_line(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "40")
    interactive.show("word " * 30, suggest("a "))
    line = capsys.readouterr().out
    for code in ("\r\x1b[K", "\x1b7", "\x1b[2m", "\x1b[0m", "\x1b8"):
        line = line.replace(code, "")
    assert len(line) < 40 and line.endswith("word   again  here")


@pytest.mark.slow
@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no such terminals")
def test_in_a_terminal() -> None:
    import pty
    import termios

    ours, theirs = pty.openpty()
    before = termios.tcgetattr(theirs)
    program = "import interactive, tests.test_interactive as t; interactive.type_along(t.suggest)"
    typing = subprocess.Popen([sys.executable, "-c", program], cwd=ROOT, stdin=theirs, stdout=theirs, stderr=theirs)
    seen = b""

    def until(wanted: str) -> None:
        nonlocal seen
        while wanted.encode() not in seen:
            assert select.select([ours], [], [], 30)[0], f"no {wanted!r} in {seen!r}"
            seen += os.read(ours, 1024)

    until("Enter ends")
    os.write(ours, "\x1b[A\x1b[3~so, mé".encode())
    until("so, mé\x1b7")
    os.write(ours, b"\t\x03")
    until("so, meeting \x1b7")
    assert typing.wait(timeout=30) == 0
    assert b"[3~" not in seen and termios.tcgetattr(theirs) == before
    os.close(ours)
    os.close(theirs)


def test_a_word_that_was_taken_ends_with_no_space_where_the_language_has_none() -> None:
    def suggest(text: str) -> Offer:
        return Offer(text, [Suggestion("魚", 0.5)], behind="")

    assert interactive.by_key("猫\t\t\r", suggest, lambda text, offer: None) == "猫魚魚"
