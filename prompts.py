"""The prompt of a model that writes: given in the command, in a file, or on standard input."""

import re
import sys
from collections.abc import Collection
from typing import Any

from jsonargparse import ArgumentParser

from datamodules.given_text import read_bytes, read_text
from datamodules.tokenizers import Tokenizer
from models.sampling import opening

NOT_AN_OPTION = "\0"  # before a value that begins with dashes; no argument can contain it
ESCAPE = re.compile(r"\\(?:([nrt\\])|x([0-9a-fA-F]{2})|u([0-9a-fA-F]{4}))")
CHARACTERS = {"n": "\n", "r": "\r", "t": "\t", "\\": "\\"}


def add_prompt(parser: ArgumentParser, default: str) -> None:
    parser.add_argument("--prompt", type=str, default=None, help=f"what the text begins with; else {default!r}")
    parser.add_argument("--prompt_file", type=str, default=None, help="a file with the prompt; - for the input")
    parser.add_argument("--encoding", type=str, default="utf-8", help="of the prompt's file; level byte needs none")
    parser.add_argument(
        "--escapes",
        action="store_true",
        help=r"read \n, \r, \t, \\, \xNN and \uNNNN in --prompt and --stop as in Python",
    )


def with_dashes(arguments: list[str], options: Collection[str], known: Collection[str]) -> list[str]:
    """The arguments, where a value that begins with dashes is joined to the option before it: else it would be taken
    for an option, or left out. NOT_AN_OPTION precedes the value. `options` are those whose values may begin so, and
    `known` all that there are."""
    joined: list[str] = []
    for argument in arguments:
        name = argument.split("=")[0]
        if joined and joined[-1] in options and argument.startswith("-") and name not in known:
            joined[-1] += f"={NOT_AN_OPTION}{argument}"
        else:
            joined.append(argument)
    return joined


def prompt_of(options: Any, tokenizer: Tokenizer, default: str) -> str:
    """The prompt. At level byte, bytes that are not UTF-8 are lone surrogates, as Python's `surrogateescape` has it.

    Raises ValueError or OSError, saying what to do, where it is given twice or cannot be read.
    """
    as_bytes = tokenizer.state()["level"] == "byte"
    if options.prompt is not None and options.prompt_file is not None:
        raise ValueError("--prompt and --prompt_file both give a prompt: leave one of them out")
    if options.prompt_file is not None:
        if as_bytes:
            return read_bytes(options.prompt_file, "--prompt_file").decode("utf-8", "surrogateescape")
        return read_text(options.prompt_file, options.encoding, "--prompt_file", "--encoding")
    if options.prompt is not None:
        return unescaped(options.prompt.removeprefix(NOT_AN_OPTION), "--prompt", options.escapes, as_bytes)
    prompt = opening(tokenizer, default, default.strip("\n"))
    if prompt != default:
        tell(f"the vocabulary lacks the usual prompt {default!r}: the text begins with {prompt!r}; see --prompt")
    return prompt


def unescaped(text: str, option: str, escapes: bool, as_bytes: bool = False) -> str:
    r"""The text with \n and other escapes replaced, if asked for; else a line on standard error where it has some."""

    def character(found: re.Match[str]) -> str:
        letter, byte, code = found.groups()
        if letter:
            return CHARACTERS[letter]
        if code:
            return chr(int(code, 16))
        number = int(byte, 16)
        return bytes([number]).decode("utf-8", "surrogateescape") if as_bytes else chr(number)

    if escapes:
        replaced = ESCAPE.sub(character, text)
        # Bytes that make a character together are that character.
        return replaced.encode("utf-8", "surrogateescape").decode("utf-8", "surrogateescape") if as_bytes else replaced
    if found := re.search(r"\\[nrt]", text):
        tell(rf"{option} has {found[0]} as two characters; with --escapes it is one, as in Python")
    return text


def tell(message: str) -> None:
    print(f"predict.py: {message}", file=sys.stderr)
