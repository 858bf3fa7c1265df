"""Suggestions as one types: after every key in a terminal, after every line from a file or a pipe."""

import codecs
import os
import re
import shutil
import sys
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager

from models.suggestions import Offer

try:
    import termios
    import tty
except ImportError:  # on Windows
    termios = None  # type: ignore[assignment]

ENDS = "\r\n\x03\x04"  # Enter, Ctrl-C, Ctrl-D
BACKSPACES = "\x7f\b"
ARROWS = re.compile("\x1b(\\[[0-9;]*[A-Za-z~]|O[A-Z])")  # and other keys that send several signs
Suggest = Callable[[str], Offer]


def type_along(suggest: Suggest) -> None:
    """Tab takes the first word, Backspace the last sign; Enter, Ctrl-C or Ctrl-D ends. Without a terminal that sends
    single keys, as on Windows: by lines."""
    if termios and sys.stdin.isatty():
        with keys_pressed() as keys:
            by_key(keys, suggest, show)
    else:
        by_line(sys.stdin, suggest)


def by_line(lines: Iterable[str], suggest: Suggest) -> None:
    """A line of suggestions for every line of text; where there are none, why."""
    for line in lines:
        try:
            words = ", ".join(f"{word} {chance:.1%}" for word, chance in suggest(line.rstrip("\r\n")).words)
        except ValueError as error:
            words = f"({error})"
        print(words, flush=True)


def by_key(keys: Iterable[str], suggest: Suggest, show: Callable[[str, Offer], None]) -> str:
    """The text that was typed; `show` gets it, and what is offered, at the start and after every key."""
    text, offer = "", Offer("", [])
    show(text, offer)
    for key in keys:
        if key in ENDS:
            break
        if key == "\t":
            text = f"{offer.before}{offer.words[0].word}{offer.behind}" if offer.words else text
        elif key in BACKSPACES:
            text = text[:-1]
        elif key.isprintable():
            text += key
        try:
            offer = suggest(text)
        except ValueError:  # nothing typed, or no such word
            offer = Offer(text, [])
        show(text, offer)
    return text


def show(text: str, offer: Offer) -> None:
    """The end of the text, and behind the cursor, dim, what is offered: in the last line of the terminal."""
    words = "  ".join(word for word, _ in offer.words) or "(Tab takes the first word, Enter ends)" * (not text)
    room = max(1, shutil.get_terminal_size().columns - len(words) - 3)
    print(f"\r\x1b[K{text[-room:]}\x1b7  \x1b[2m{words}\x1b[0m\x1b8", end="", flush=True)


@contextmanager
def keys_pressed() -> Iterator[Iterator[str]]:
    """Keys as they are pressed, without echo; as it was before when that ends, however it ends."""
    terminal = sys.stdin.fileno()
    before = termios.tcgetattr(terminal)
    try:
        tty.setcbreak(terminal)
        mode = termios.tcgetattr(terminal)
        mode[3] &= ~termios.ISIG  # Ctrl-C is a key among others
        termios.tcsetattr(terminal, termios.TCSADRAIN, mode)
        yield read_keys(terminal)
    finally:
        termios.tcsetattr(terminal, termios.TCSADRAIN, before)


def read_keys(terminal: int) -> Iterator[str]:
    decoder = codecs.getincrementaldecoder("utf-8")("ignore")
    while burst := os.read(terminal, 1024):
        yield from ARROWS.sub("", decoder.decode(burst))
