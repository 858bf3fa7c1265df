"""Makes text safe to print on a terminal. It imports neither torch nor Lightning, so that every script can use it."""

import unicodedata


def harmless(text: str) -> str:
    r"""The text for a terminal: control characters but newline and tab become visible, as \x1b, and do nothing."""
    return "".join(
        repr(symbol)[1:-1] if unicodedata.category(symbol) == "Cc" and symbol not in "\n\t" else symbol
        for symbol in text
    )
