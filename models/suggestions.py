"""The likeliest next words, as the keyboard of a phone suggests them, and how often the right one is among them.

A word is a run of letters, apostrophes inside it included. What is pending of it at the end of a text, the space before
it and its first letters, is not read with the rest, but asked of what the model says next:

    P(word | text) = P(lead word | context) / P(pending | context),   text = context + pending

where the lead is the pending space, or, if nothing is pending, a space or nothing. Where words are symbols,
P(lead word) is that symbol's probability, and P(pending) that of all symbols that begin so. Where they are spelled,

    P(lead word) = Π_t P(symbol_t | context, symbols before t) · P(no letter follows)

and the words are found by beam search: of each length in symbols, the WIDTH likeliest beginnings are followed, up to
LONGEST symbols, and none that is less likely than enough words found. So a word is missed only where WIDTH other
beginnings as long as one of its own were likelier, and only spellings that were not worth following (of several, by
byte pairs or with two leads, or with an apostrophe after the word) are missing in its probability. An unknown symbol is
no word.
"""

import re
import unicodedata
from bisect import bisect_left
from collections import defaultdict
from collections.abc import Iterator, Sequence
from itertools import takewhile
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.utils._pytree import tree_map_only

from models.sampling import opening

WIDTH = 8
LONGEST = 32  # symbols
CONTEXT = 64  # symbols
TOGETHER = 32  # contexts
SCRIPTS_WITHOUT_SPACES = (
    "CJK UNIFIED", "CJK COMPATIBILITY IDEOGRAPH", "HIRAGANA", "KATAKANA", "BOPOMOFO", "THAI", "LAO", "KHMER", "MYANMAR",
    "TIBETAN", "YI SYLLABLE",
)  # fmt: skip
APOSTROPHES = "'’"


class Suggestion(NamedTuple):
    word: str
    probability: float


class Offer(NamedTuple):
    """Words that may follow the text before them, with the space that leads to them."""

    before: str
    words: list[Suggestion]
    behind: str = " "  # what is typed after a word that was taken; nothing in languages without spaces


class Query(NamedTuple):
    """Words after the text of one column, which go on from `pending`; `glued` where that text ends in a letter."""

    column: int
    pending: bytes
    glued: bool = False


class Beginning(NamedTuple):
    """Symbols that spell the beginning of a word, or may become one."""

    query: int
    spelled: bytes
    probability: float
    row: int  # of the last batch: the state after all but the last symbol
    symbol: int


class Suggester:
    """Suggests words by a language model.

    Args:
        model: called as `model(tokens (T, B), state) -> (logits (T, B, V), state)`, state parts have B in second place.
        tokenizer: of its text: `encode(text, "replace")`, `pieces()`, the UTF-8 of each symbol, and `whole_words`,
            whether words are symbols.
    """

    def __init__(self, model: Any, tokenizer: Any) -> None:
        self.model, self.tokenizer = model, tokenizer
        self.pieces: list[bytes] = tokenizer.pieces()
        self.numbers = {piece: number for number, piece in enumerate(self.pieces)}
        self.order = sorted(range(len(self.pieces)), key=self.pieces.__getitem__)
        self.masks: dict[tuple[bytes, bool, bool], tuple[Tensor, Tensor]] = {}
        texts = [as_text(piece) for piece in self.pieces]
        self.goes_on = torch.tensor([text != "" and all(map(in_word, text)) for text in texts])  # (V)
        self.spaced = torch.tensor([text[:1] == " " and all(map(in_word, text[1:])) for text in texts])
        self.ends = torch.tensor([text != "" and not in_word(text[0]) for text in texts])
        self.words = torch.tensor([word_of(piece) != "" for piece in self.pieces])

    def suggest(self, text: str, count: int = 3) -> Offer:
        """The likeliest words after a text; while its last word is more likely half typed than complete, those that
        complete it. After a letter of a script that is written without spaces, where no sign tells a word's end, the
        likeliest next symbols of the model: characters, or pieces of words.

        Raises ValueError for an empty text, a count below 1, and where no word goes on from the letters typed.
        """
        if not text:
            raise ValueError("the text is empty: give what the words are to follow")
        if count < 1:
            raise ValueError(f"count is {count}: it must be at least 1")
        if written_without_spaces(text[-1]):
            return Offer(text, self.next_symbols(text, count), behind="")
        context, pending = split(text)
        typed = pending.removeprefix(" ")
        words = self.after(context, pending, count)
        if typed and not words:
            raise ValueError(
                f"the vocabulary has no word that begins with {typed!r}: type a space for what may follow it"
            )
        if typed and words[0].word == typed and words[0].probability > 0.5:
            return Offer(f"{text} ", self.after(text, "", count))
        return Offer(text.removesuffix(typed), words)

    def after(self, context: str, pending: str, count: int) -> list[Suggestion]:
        """The likeliest words after a context that go on from what is pending."""
        ids = torch.tensor(
            self.tokenizer.encode(context or opening(self.tokenizer, "\n"), "replace"), dtype=torch.int64
        )[:, None]
        glued = not pending and is_letter(context[-1:])
        return self.search(ids, [Query(0, pending.encode(), glued)], count)[0]

    @torch.inference_mode()
    def next_symbols(self, text: str, count: int) -> list[Suggestion]:
        """The likeliest symbols after a text that are whole letters.

        Raises ValueError where the vocabulary has no whole letter of a script without spaces, as at level byte.
        """
        ids = torch.tensor(self.tokenizer.encode(text, "replace"), dtype=torch.int64)[:, None]
        odds = self.model(ids.to(self.model.device))[0][-1, 0].float().cpu().softmax(dim=-1)  # (V)
        texts = [as_text(piece) for piece in self.pieces]
        letters = [number for number, piece in enumerate(texts) if piece and all(map(is_letter, piece))]
        if not any(written_without_spaces(texts[number][0]) for number in letters):
            raise ValueError("the vocabulary has no whole letter of this script: train with --data.level character")
        best = sorted(letters, key=lambda number: -float(odds[number]))[:count]
        return [Suggestion(texts[number], float(odds[number])) for number in best]

    @torch.inference_mode()
    def search(self, contexts: Tensor, queries: Sequence[Query], count: int) -> list[list[Suggestion]]:
        """The likeliest words of each query, after contexts (T, B): one call of the model a symbol, for all queries."""
        found: list[dict[str, float]] = [defaultdict(float) for _ in queries]
        pending = [0.0 if query.pending else 1.0 for query in queries]  # its probability
        beam = [Beginning(number, b"", 1.0, query.column, 0) for number, query in enumerate(queries)]
        logits, state = self.model(contexts.to(self.model.device))
        rows = torch.tensor([beginning.row for beginning in beam])
        for _ in range(LONGEST):
            odds = logits[-1, rows.to(logits.device)].float().cpu().softmax(dim=-1)  # (R, V)
            beam = self.longer(beam, odds, queries, found, pending, count)
            if not beam:
                break
            origin = torch.tensor([int(rows[beginning.row]) for beginning in beam], device=logits.device)
            state = columns(state, origin)
            symbols = torch.tensor([[beginning.symbol for beginning in beam]], device=logits.device)  # (1, R)
            logits, state = self.model(symbols, state)
            rows = torch.arange(len(beam))
        return [ranked(words, whole)[:count] for words, whole in zip(found, pending, strict=True)]

    def longer(
        self, beam: list[Beginning], odds: Tensor, queries: Sequence[Query], found: Any, pending: Any, count: int
    ) -> list[Beginning]:
        """The beginnings that are one symbol longer; the words that end here are added to those found."""
        rests = [queries[now.query].pending[len(now.spelled) :] for now in beam]
        masks = [
            self.mask(rest, not now.spelled, queries[now.query].glued) for now, rest in zip(beam, rests, strict=True)
        ]
        allowed, covering = (torch.stack(kind) for kind in zip(*masks, strict=True))
        breadth = min(2 * count if self.tokenizer.whole_words else WIDTH, len(self.pieces))
        best, symbols = (part.tolist() for part in (odds * allowed).topk(breadth))
        covered, ending = (odds * covering).sum(1).tolist(), (odds @ self.ends.to(odds)).tolist()
        open_beginnings: list[list[Beginning]] = [[] for _ in queries]
        for row, (now, rest) in enumerate(zip(beam, rests, strict=True)):
            words = found[now.query]
            if rest:
                pending[now.query] += now.probability * covered[row]
            elif word := word_of(now.spelled):
                words[word] += now.probability * ending[row]
            for chance, symbol in zip(best[row], symbols[row], strict=True):
                if chance == 0:
                    break
                spelled, probability = now.spelled + self.pieces[symbol], now.probability * chance
                if self.tokenizer.whole_words:
                    words[word_of(spelled)] += probability
                elif begins_a_word(spelled):
                    open_beginnings[now.query].append(Beginning(now.query, spelled, probability, row, symbol))
                elif not rest and (word := word_of(now.spelled)):  # bytes that make a character which is no letter
                    words[word] += probability
        return [now for begun, words in zip(open_beginnings, found, strict=True) for now in worth(begun, words, count)]

    def mask(self, rest: bytes, first: bool, glued: bool) -> tuple[Tensor, Tensor]:
        """Which symbols may come next (V) where `rest` is still to be spelled, and which of them spell all of it."""
        key = (rest, first, glued)
        if key not in self.masks:
            covering = torch.zeros(len(self.pieces), dtype=torch.bool)
            if rest:
                begin, end = (
                    bisect_left(self.order, x, key=self.pieces.__getitem__) for x in (rest, rest + b"\xff" * 4)
                )
                covering[self.order[begin:end]] = True
            allowed = covering.clone()
            for length in range(1, len(rest)):
                if rest[:length] in self.numbers:
                    allowed[self.numbers[rest[:length]]] = True
            if not rest:
                allowed = self.goes_on if not first else self.spaced if glued else self.spaced | self.goes_on
            if self.tokenizer.whole_words:
                allowed = allowed & (covering if rest else True) & self.words
            self.masks[key] = allowed, covering
        return self.masks[key]


class Accuracy(NamedTuple):
    """Of `words` words with more than `typed` letters, the share that is among the first k suggestions: `top[k]`."""

    typed: int
    words: int
    top: dict[int, float]


def accuracy(
    suggester: Suggester,
    text: str,
    positions: int = 200,
    letters: Sequence[int] = range(6),
    tops: Sequence[int] = (1, 2, 3),
) -> list[Accuracy]:
    """How often the word that a text goes on with is suggested, by how many of its letters are typed.

    Asked are `positions` words from all over the text, each after CONTEXT symbols. What the vocabulary lacks counts as
    missed. Where a text has no such words, there are no rows.
    """
    asked = list(questions(suggester, text, positions))
    ranks: dict[int, list[int]] = {typed: [] for typed in letters}
    for begin in range(0, len(asked), TOGETHER):
        together = asked[begin : begin + TOGETHER]
        contexts = torch.stack([context for context, _ in together], dim=1)  # (CONTEXT, B)
        cases = [(b, typed, word) for b, (_, word) in enumerate(together) for typed in letters if len(word) > typed]
        queries = [Query(b, f" {word[:typed]}".encode()) for b, typed, word in cases]
        answers = suggester.search(contexts, queries, max(tops))
        for (_, typed, word), answer in zip(cases, answers, strict=True):
            words = [suggestion.word for suggestion in answer]
            ranks[typed].append(words.index(word) if word in words else max(tops))
    return [
        Accuracy(typed, len(of), {top: sum(rank < top for rank in of) / len(of) for top in tops})
        for typed, of in ranks.items()
        if of
    ]


def questions(suggester: Suggester, text: str, positions: int) -> Iterator[tuple[Tensor, str]]:
    """Words of a text that follow a space, evenly spread over it, each with the symbols (CONTEXT) before that space."""
    runs = [
        (run.start(), "".join(takewhile(in_word, run[1])).rstrip(APOSTROPHES)) for run in re.finditer(r" (\S+)", text)
    ]
    places = [(begin, word) for begin, word in runs if word and is_letter(word[0])]
    for begin, word in places[:: max(1, -(-len(places) // positions))]:
        ids = suggester.tokenizer.encode(text[max(0, begin - LONGEST * CONTEXT) : begin], "replace")[-CONTEXT:]
        if len(ids) == CONTEXT:
            yield torch.from_numpy(ids.astype("int64")), word


def columns(state: Any, index: Tensor) -> Any:
    """The state of some columns of the batch, whatever it is nested of."""
    return tree_map_only(Tensor, lambda part: part[:, index], state)


def split(text: str) -> tuple[str, str]:
    """The text, and what is pending at its end: a word's first letters, and the space before them."""
    begin = len(text)
    while begin and (is_letter(text[begin - 1]) or (begin < len(text) and in_word(text[begin - 1]))):
        begin -= 1
    begin += len(text[begin:]) - len(text[begin:].lstrip(APOSTROPHES))
    begin -= text[:begin].endswith(" ")
    return text[:begin], text[begin:]


def is_letter(sign: str) -> bool:
    """Whether a sign is a letter, or a mark on one."""
    return sign != "" and unicodedata.category(sign)[0] in "LM"


def written_without_spaces(sign: str) -> bool:
    """Whether a sign is a letter of a script that puts no spaces between words."""
    return is_letter(sign) and unicodedata.name(sign, "").startswith(SCRIPTS_WITHOUT_SPACES)


def in_word(sign: str) -> bool:
    """Whether a sign may stand in a word: a letter, an apostrophe, or a byte that is a part of some sign."""
    return sign in APOSTROPHES or unicodedata.category(sign) == "Cs" or is_letter(sign)


def as_text(spelled: bytes) -> str:
    return spelled.decode("utf-8", "surrogateescape")


def begins_a_word(spelled: bytes) -> bool:
    """Whether more symbols may make it a space and a word, or a word."""
    text = as_text(spelled).removeprefix(" ")
    return not text or (text[0] not in APOSTROPHES and all(map(in_word, text)))


def word_of(spelled: bytes) -> str:
    """The word that is spelled, after a space or not; empty if it is none."""
    word = as_text(spelled).removeprefix(" ").rstrip(APOSTROPHES)
    return word if word and is_letter(word[0]) and all(sign in APOSTROPHES or is_letter(sign) for sign in word) else ""


def worth(begun: list[Beginning], words: dict[str, float], count: int) -> list[Beginning]:
    """The likeliest beginnings, unless enough words are likelier: no word is more likely than its beginning."""
    enough = sorted(words.values(), reverse=True)[count - 1] if len(words) >= count else 0.0
    begun = sorted(begun, key=lambda beginning: -beginning.probability)[:WIDTH]
    return [beginning for beginning in begun if beginning.probability > enough]


def ranked(words: dict[str, float], pending: float) -> list[Suggestion]:
    """The likeliest first; of equally likely ones, in the order of the alphabet."""
    return [Suggestion(word, words[word] / pending) for word in sorted(words, key=lambda word: (-words[word], word))]
