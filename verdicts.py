"""What a classifier says of texts from the command, a file or standard input: for people, as CSV or as JSON."""

import csv
import io
import json
from collections.abc import Callable, Iterable, Iterator
from typing import Any, Literal, NamedTuple

import torch

from datamodules.given_text import read_text
from datamodules.labelled import Encoder, batch_of
from datamodules.tables import as_text, is_table, rows_of
from models.sampling import harmless

Format = Literal["text", "csv", "json"]

LOOKS = 5  # words that a verdict names, at most
SMALLEST_SHARE = 0.01  # of the attention, of a word that is named besides the one with most
BATCH = 64  # texts that are classified together


class Verdict(NamedTuple):
    text: str
    label: str
    probabilities: dict[str, float]  # by class
    attention: list[tuple[str, float]]  # words in order, each with its share
    unknown: int  # words that the model never saw

    @property
    def looked_at(self) -> list[tuple[str, float]]:
        """The words with the largest shares of the attention."""
        most = sorted(self.attention, key=lambda look: -look[1])[:LOOKS]
        return most[:1] + [look for look in most[1:] if look[1] >= SMALLEST_SHARE]


def given_texts(options: Any) -> list[tuple[str, str]]:
    """Texts, each with its place for messages: those of the command, the lines of a file, or a column of a table.

    Raises ValueError or OSError, saying what to do, where there are none.
    """
    if bool(options.texts) == (options.file is not None):
        raise ValueError("give texts, each in quotes, or --file FILE (- for standard input), and not both")
    if options.file is None:
        return [(text, f"text {number}") for number, text in enumerate(options.texts, 1)]
    path = options.file
    content = read_text(path, options.encoding, "--file", "--encoding")
    if is_table(path):
        rows = rows_of(content, path, [options.text_column], [])
        return [(as_text(text), f"{path}, line {line}: the text") for line, (text,) in rows]
    lines = enumerate(content.split("\n"), 1)
    texts = [(line, f"{path}, line {number}: the text") for number, line in lines if line.strip()]
    if not texts:
        raise ValueError(f"{path}: has no texts")
    return texts


def judge(model: Any, encoder: Encoder, texts: list[tuple[str, str]]) -> Iterator[Verdict]:
    """A verdict on each text, in their order. Raises ValueError, before the first one, for a text without words."""
    encoded = [encoder.encode(text, place) for text, place in texts]
    return judged(model, encoder, [text for text, _ in texts], encoded)


@torch.inference_mode()
def judged(model: Any, encoder: Encoder, texts: list[str], encoded: list[torch.Tensor]) -> Iterator[Verdict]:
    for begin in range(0, len(texts), BATCH):
        numbers = encoded[begin : begin + BATCH]
        logits, weights = model(*batch_of(numbers, [0] * len(numbers))[:2])
        rows = zip(texts[begin : begin + BATCH], numbers, logits.softmax(dim=-1), weights.T, strict=True)
        for text, ids, p, w in rows:
            attention = list(zip(encoder.pieces(text), w.tolist(), strict=False))  # padding has no weight
            shares = dict(zip(encoder.labels, p.tolist(), strict=True))
            yield Verdict(text, encoder.labels[int(p.argmax())], shares, attention, int((ids == 0).sum()))


def for_people(verdicts: Iterable[Verdict], bold: bool) -> Iterator[str]:
    """Three lines on each text: its class, the probability of every class, and the words with most attention."""
    for verdict in verdicts:
        shares = {harmless(label): share for label, share in verdict.probabilities.items()}
        width = max(map(len, shares)) + 2
        text = in_bold(verdict.text, verdict.attention) if bold else verdict.text
        looks = ", ".join(f"{harmless(word)} {percent(share)}" for word, share in verdict.looked_at)
        if verdict.unknown == len(verdict.attention):
            looks = "nothing: the model knows no word of this text, so that the class means little"
        yield f"{harmless(verdict.label):{width}}{text}\n"
        yield f"{'':{width}}{', '.join(f'{label} {share:.1%}' for label, share in shares.items())}\n"
        yield f"{'':{width}}looked at {looks}\n"


def percent(share: float) -> str:
    return f"{share:.0%}" if share >= SMALLEST_SHARE else f"{share:.2%}"


def in_bold(text: str, attention: list[tuple[str, float]]) -> str:
    """The text, with what has more than its share of the attention in bold, for a terminal."""
    marked, end = "", 0
    for piece, weight in attention:
        begin = text.index(piece, end)
        bold = weight > 1 / len(attention)
        marked += harmless(text[end:begin]) + (f"\033[1m{harmless(piece)}\033[0m" if bold else harmless(piece))
        end = begin + len(piece)
    return marked + harmless(text[end:])


def as_csv(verdicts: Iterable[Verdict], labels: list[str]) -> Iterator[str]:
    """A table: the text, its class, the number of its words and of unknown ones, and the probability of each class."""
    yield csv_line(["text", "label", "words", "unknown_words", *(f"p({label})" for label in labels)])
    for verdict in verdicts:
        counts = [len(verdict.attention), verdict.unknown]
        shares = [f"{share:.6f}" for share in verdict.probabilities.values()]
        yield csv_line([verdict.text, verdict.label, *counts, *shares])


def csv_line(cells: list[Any]) -> str:
    line = io.StringIO()
    csv.writer(line, lineterminator="\n").writerow(cells)
    return line.getvalue()


def as_json(verdicts: Iterable[Verdict]) -> Iterator[str]:
    """One object a line."""
    for verdict in verdicts:
        facts = {
            "text": verdict.text,
            "label": verdict.label,
            "probabilities": verdict.probabilities,
            "looked_at": [{"word": word, "share": share} for word, share in verdict.looked_at],
            "words": len(verdict.attention),
            "unknown_words": verdict.unknown,
        }
        yield json.dumps(facts, ensure_ascii=False) + "\n"


def formatted(verdicts: Iterable[Verdict], labels: list[str], to: Format, terminal: bool) -> Iterator[str]:
    writers: dict[Format, Callable[[], Iterator[str]]] = {
        "text": lambda: for_people(verdicts, terminal),
        "csv": lambda: as_csv(verdicts, labels),
        "json": lambda: as_json(verdicts),
    }
    return writers[to]()
