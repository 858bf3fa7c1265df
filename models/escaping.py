"""Makes text safe to print on a terminal. It imports neither torch nor Lightning, so that every script can use it."""

import unicodedata

BIDIRECTIONAL = "\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069"  # controls that change the direction of text


def harmless(text: str) -> str:
    r"""The text for a terminal: control characters but newline and tab become visible, as \x1b, and do nothing. So do
    characters that change the direction of writing, as \u202e. Bytes that are not UTF-8 become U+FFFD."""
    return "".join(map(harmless_symbol, text))


def harmless_symbol(symbol: str) -> str:
    category = unicodedata.category(symbol)
    if category == "Cs":
        return "\ufffd"
    if category == "Cc" and symbol not in "\n\t" or symbol in BIDIRECTIONAL:
        return repr(symbol)[1:-1]
    return symbol
