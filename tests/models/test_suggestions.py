"""Suggestions: the same words and probabilities as by listing every word there is, whatever a symbol is."""

import csv
from itertools import product
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
import pytorch_lightning as pl
import torch
from pytorch_lightning.loggers import CSVLogger
from torch import Tensor

from datamodules.text import TextDataModule
from datamodules.tokenizers import BPETokenizer, ByteTokenizer, CharacterTokenizer, WordTokenizer
from models.callbacks import SuggestionAccuracy
from models.language_model import LanguageModel
from models.suggestions import CONTEXT, LONGEST, Offer, Query, Suggester, accuracy, split, written_without_spaces

SIGNS = "\n '.aébc"


class Last(NamedTuple):
    symbol: Tensor  # (1, B, 1)


class Nested(NamedTuple):
    last: Last
    seen: Tensor  # (t, B, 1): grows with every step


class Trigram:
    """A model whose predictions follow from the last two symbols, and need the state of the right column."""

    device = torch.device("cpu")

    def __init__(self, vocab_size: int, seed: int = 0, sharp: float = 2.0) -> None:
        dice = torch.Generator().manual_seed(seed)
        self.table = sharp * torch.randn(vocab_size, vocab_size, vocab_size, generator=dice)
        self.calls = 0

    def __call__(self, tokens: Tensor, state: Any = None) -> tuple[Tensor, Any]:
        self.calls += 1
        before = state.last.symbol[:, :, 0].long() if state else torch.zeros_like(tokens[:1])
        seen = torch.cat([state.seen, tokens[..., None]]) if state else tokens[..., None]
        logits = self.table[torch.cat([before, tokens[:-1]]), tokens]
        return logits, Nested(Last(tokens[-1:, :, None].float()), seen)

    def odds(self, before: int, last: int) -> np.ndarray:
        return self.table[before, last].double().softmax(-1).numpy()


def probability(model: Trigram, context: list[int], ids: list[int]) -> float:
    """Of these symbols after that context."""
    history, p = [0, *context], 1.0
    for number in ids:
        p *= model.odds(*history[-2:])[number]
        history.append(number)
    return p


def spelled_words(model: Trigram, tokenizer: Any, context: str, pending: str, leads: list[str]) -> dict[str, float]:
    """P(word | context + pending) of every word of up to five letters, straight from the equation."""
    before = tokenizer.encode(context).tolist()
    whole = probability(model, before, tokenizer.encode(pending).tolist())
    ends = tokenizer.encode("\n .").tolist() + ([0] if isinstance(tokenizer, CharacterTokenizer) else [])
    words: dict[str, float] = {}
    for lead, length in product(leads, range(1, 6)):
        for letters in product("aébc'", repeat=length):
            word = "".join(letters)
            if word[0] == "'" or not (lead + word).startswith(pending):
                continue
            ids = tokenizer.encode(lead + word).tolist()
            ending = sum(probability(model, before, [*ids, end]) for end in ends)
            words[word.rstrip("'")] = words.get(word.rstrip("'"), 0.0) + ending / whole
    return words


@pytest.mark.parametrize("pending, leads", [(" ", [" "]), (" b", [" "]), ("bé", [""]), ("", [" ", ""])])
@pytest.mark.parametrize("seed", range(2))
def test_spelled_words_have_the_probability_of_the_equation(pending: str, leads: list[str], seed: int) -> None:
    tokenizer = CharacterTokenizer.of(SIGNS)
    model = Trigram(tokenizer.vocab_size, seed)
    model.table[:, :, tokenizer.encode("'").tolist()] = -torch.inf
    found = Suggester(model, tokenizer).after("c.", pending, 3)
    assert model.calls < LONGEST, "enough words are found before"
    truth = spelled_words(model, tokenizer, "c.", pending, leads)
    likeliest = sorted(truth, key=lambda word: -truth[word])[:3]
    assert [suggestion.word for suggestion in found] == likeliest
    for word, p in found:  # of two leads, the less likely may not be worth following
        assert p == pytest.approx(truth[word], rel=1e-5 if len(leads) == 1 else 0.1) and p < truth[word] * (1 + 1e-5)


def test_an_apostrophe_is_of_the_word_if_a_letter_follows() -> None:
    tokenizer = CharacterTokenizer.of(SIGNS)
    model = Trigram(tokenizer.vocab_size, 0)
    model.table[:, :, tokenizer.encode("'").tolist()] = 2.0
    found = Suggester(model, tokenizer).after("c.", " ", 12)
    truth = spelled_words(model, tokenizer, "c.", " ", [" "])
    assert any("'" in word for word, _ in found) and not any(word.endswith("'") for word, _ in found)
    short = [(word, p) for word, p in found if len(word) <= 2]  # the truth is summed up to five signs, apostrophes too
    assert short and all(0.7 * truth[word] < p < 1.01 * truth[word] for word, p in short)


def test_after_a_letter_only_a_space_leads_to_another_word() -> None:
    tokenizer = CharacterTokenizer.of(SIGNS)
    model = Trigram(tokenizer.vocab_size, 1)
    model.table[:, :, tokenizer.encode("'").tolist()] = -torch.inf
    found = Suggester(model, tokenizer).after("cab", "", 2)
    truth = spelled_words(model, tokenizer, "cab", "", [" "])
    assert [s.probability for s in found] == pytest.approx(sorted(truth.values())[:-3:-1], rel=1e-5)


def test_words_that_are_symbols_are_read_off() -> None:
    tokenizer = WordTokenizer.of("a big bad bear's bed. big bad. bed\nbig", 100)
    model = Trigram(tokenizer.vocab_size)
    before = tokenizer.encode("a big").tolist()
    odds = dict(zip(tokenizer.pieces(), model.odds(*before[-2:]), strict=True))
    suggester = Suggester(model, tokenizer)

    def expected(begin: bytes) -> dict[str, float]:
        whole = sum(p for piece, p in odds.items() if piece.startswith(begin))
        return {piece.decode().strip(): p / whole for piece, p in odds.items() if piece.startswith(begin) and piece[1:]}

    for begin in (" ", " b", " be", " bear"):
        found, truth = suggester.after("a big", begin, 10), expected(begin.encode())
        assert dict(found) == pytest.approx(truth) and found[0].word == max(truth, key=lambda word: truth[word])
    dot = tokenizer.encode("a big.").tolist()
    odds = dict(zip(tokenizer.pieces(), model.odds(*dot[-2:]), strict=True))
    assert dict(suggester.after("a big.", "", 10))["big"] == pytest.approx(odds[b" big"] + odds[b"big"])
    assert "<unk>" not in dict(suggester.after("a big.", "", 100))


@pytest.mark.parametrize(
    "tokenizer", [ByteTokenizer(), BPETokenizer.of("a abc abé b'a bé bé. ab abc abc", 262)], ids=["byte", "bpe"]
)
def test_words_spelled_in_pieces_of_letters(tokenizer: Any) -> None:
    """Every way to spell a word counts; letters of two bytes are letters, signs of three end a word."""
    model = Trigram(256, sharp=0.0)
    pieces = tokenizer.pieces()
    used = [pieces.index(piece) for piece in [b" ", b".", b"a", *(bytes([byte]) for byte in "é–".encode())]]
    used += [number for number, piece in enumerate(pieces) if len(piece) > 1]
    model = Trigram(len(pieces), 3)
    model.table[:, :, [number for number in range(len(pieces)) if number not in used]] = -torch.inf
    found = Suggester(model, tokenizer).after("a.", " ", 5)
    assert found and all(word and all(sign in "abcé'" for sign in word) for word, _ in found)
    before, whole = tokenizer.encode("a.").tolist(), 0.0
    truth: dict[str, float] = {}
    spellings: list[tuple[list[int], bytes]] = [
        ([number], pieces[number]) for number in used if pieces[number][:1] == b" "
    ]
    whole = sum(probability(model, before, ids) for ids, _ in spellings)
    for _ in range(4):
        longer = []
        for ids, spelled in spellings:
            for number in used:
                text = (spelled + pieces[number]).decode(errors="surrogateescape")
                word, ended = text[1:], not all(sign.isalpha() or sign == "'" or sign > "\ud800" for sign in text[1:])
                if not ended:
                    longer.append(([*ids, number], spelled + pieces[number]))
                elif len(spelled) > 1 and spelled[1:].decode(errors="ignore").encode() == spelled[1:]:
                    word = spelled[1:].decode().rstrip("'")
                    truth[word] = truth.get(word, 0.0) + probability(model, before, [*ids, number]) / whole
        spellings = longer
    for word, p in found[:2]:
        assert len(word) <= 2 and p == pytest.approx(truth[word], rel=0.05), word


def test_what_is_pending_at_the_end_of_a_text() -> None:
    for text, pending in {
        "set up a meet": " meet", "set up ": " ", "set up.": "", "(mee": "mee", "don't": "don't", "don'": "",
        "'it": "it", "x  café": " café", "a\ncafe\u0301": "cafe\u0301", "10 ": " ", "a_b": "b", "": "", " ": " ",
    }.items():  # fmt: skip
        assert split(text) == (text[: len(text) - len(pending)], pending)


def test_a_whole_word_is_followed_and_half_a_word_completed() -> None:
    tokenizer = WordTokenizer.of("a meeting meet meets to go", 100)
    model = Trigram(tokenizer.vocab_size)
    suggester = Suggester(model, tokenizer)
    a, meeting, meet, meets = (tokenizer.encode(text)[-1] for text in ("a", "a meeting", "a meet", "a meets"))
    model.table[0, a, meeting], model.table[0, a, meet], model.table[0, a, meets] = 2.0, 2.1, 1.0
    before, words, _ = suggester.suggest("a meet")
    assert before == "a " and [word for word, _ in words] == ["meet", "meeting", "meets"]
    model.table[0, a, meet] = 3.0
    assert suggester.suggest("a meet") == Offer("a meet ", suggester.after("a meet", "", 3))
    assert suggester.suggest("a meet ") == Offer("a meet ", suggester.after("a meet", " ", 3))
    assert suggester.suggest("a (") == Offer("a (", suggester.after("a (", "", 3))


def test_each_mistake_is_named_with_the_way_out() -> None:
    for tokenizer in (WordTokenizer.of("to be or not", 100), CharacterTokenizer.of(SIGNS)):
        suggester = Suggester(Trigram(tokenizer.vocab_size), tokenizer)
        with pytest.raises(ValueError, match="no word that begins with 'xyl': type a space"):
            suggester.suggest("a xyl")
        with pytest.raises(ValueError, match="the text is empty"):
            suggester.suggest("")
        with pytest.raises(ValueError, match="count is 0"):
            suggester.suggest("a", 0)
    assert suggester.suggest("xyl ").words


def test_many_searches_at_once_find_what_each_finds_alone_in_no_more_calls() -> None:
    tokenizer = CharacterTokenizer.of(SIGNS)
    model = Trigram(tokenizer.vocab_size, 2)
    suggester = Suggester(model, tokenizer)
    contexts = torch.randint(1, tokenizer.vocab_size, (5, 6), generator=torch.Generator().manual_seed(0))
    queries = [Query(column, pending) for column in range(6) for pending in (b" ", b" a", b"b")]
    alone = []
    for query in queries:
        before = model.calls
        alone += suggester.search(contexts[:, [query.column]], [query._replace(column=0)], 3)
        most = max(model.calls - before, locals().get("most", 0))
    before = model.calls
    together = suggester.search(contexts, queries, 3)
    assert model.calls - before == most
    for one, other in zip(alone, together, strict=True):
        assert [s.word for s in one] == [s.word for s in other]
        assert [s.probability for s in one] == pytest.approx([s.probability for s in other])


class Parrot:
    """Knows the text by heart: after any context of it, it is sure of what follows."""

    device = torch.device("cpu")

    def __init__(self, ids: list[int], vocab_size: int) -> None:
        self.ids, self.vocab_size = ids, vocab_size

    def __call__(self, tokens: Tensor, state: Any = None) -> tuple[Tensor, Any]:
        read = tokens if state is None else torch.cat([state.symbol[:, :, 0], tokens])
        logits = torch.zeros(*tokens.shape, self.vocab_size)
        for column, ids in enumerate(read.T.tolist()):
            begin = next((k for k in range(len(self.ids)) if self.ids[k : k + len(ids)] == ids), None)
            if begin is not None and begin + len(ids) < len(self.ids):
                logits[-1, column, self.ids[begin + len(ids)]] = 9.0
        return logits, Last(read[..., None])


@pytest.mark.parametrize("kind", [CharacterTokenizer, WordTokenizer])
def test_who_knows_the_text_is_always_right_and_what_the_vocabulary_lacks_is_missed(kind: Any) -> None:
    dice = np.random.default_rng(0)
    words = ["".join(dice.choice(list("abcdef"), dice.integers(1, 7))) for _ in range(200)]
    text = " ".join(words) + "\n"
    tokenizer = kind.of(text) if kind is CharacterTokenizer else kind.of(text, 1000)
    suggester = Suggester(Parrot(tokenizer.encode(text).tolist(), tokenizer.vocab_size), tokenizer)
    rows = accuracy(suggester, text, positions=20, letters=range(3))
    assert [row.typed for row in rows] == [0, 1, 2] and all(set(row.top.values()) == {1.0} for row in rows)
    assert 20 >= rows[0].words >= rows[1].words > rows[2].words > 5
    lacking = text[:400] + " xyzzy" * 60
    assert accuracy(suggester, lacking, positions=50, letters=[0])[0].top[3] < 0.6
    assert accuracy(suggester, "too short", 20) == []


@pytest.mark.parametrize("level", ["word", "character"])
def test_the_accuracy_is_printed_logged_and_plotted(
    level: str, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def without_dropout(suggester: Suggester, *arguments: Any) -> Any:
        assert not suggester.model.training
        return accuracy(suggester, *arguments)

    monkeypatch.setattr("models.callbacks.accuracy", without_dropout)
    (tmp_path / "text.txt").write_text("the cat sat on the mat. a dog lay on a rug. " * 90, encoding="utf-8")
    data = TextDataModule(str(tmp_path / "text.txt"), level=level, batch_size=4, window=8)
    model = LanguageModel(data.vocab_size, hidden_size=24, learning_rate=0.03)
    asked = SuggestionAccuracy(tmp_path / "run" / "suggestions.png", positions=20)
    trainer = pl.Trainer(
        accelerator="cpu", max_steps=40, limit_val_batches=0, enable_checkpointing=False, enable_progress_bar=False,
        enable_model_summary=False, log_every_n_steps=1000, callbacks=[asked], logger=CSVLogger(tmp_path, "log"),
    )  # fmt: skip
    trainer.fit(model, data)
    first, title, *lines = capsys.readouterr().out.rstrip().splitlines()[-5:]
    assert "suggested" in first and title.split() == "letters typed words top 1 top 2 top 3".split()
    assert [int(line.split()[0]) for line in lines] == [0, 1, 2]
    assert (tmp_path / "run" / "suggestions.png").read_bytes().startswith(b"\x89PNG")
    with next(tmp_path.rglob("metrics.csv")).open(encoding="utf-8") as file:
        logged = list(csv.DictReader(file))[-1]
    shown = [float(share.rstrip("%")) / 100 for share in lines[2].split()[2:]]
    assert shown == pytest.approx([float(logged[f"suggested_top{k}_typed2"]) for k in (1, 2, 3)], abs=1e-3)
    assert shown[2] > 0.5, "of the words of this text it has learnt some"
    assert model.training


def test_accuracy_is_a_share_that_grows_with_the_number_of_suggestions() -> None:
    torch.manual_seed(0)
    text = "the cat sat on the mat. a dog lay on a rug. " * 30
    for tokenizer in (WordTokenizer.of(text, 50), CharacterTokenizer.of(text), BPETokenizer.of(text, 270)):
        model = LanguageModel(tokenizer.vocab_size, hidden_size=8).eval()
        rows = accuracy(Suggester(model, tokenizer), text, positions=10)
        assert [row.typed for row in rows] == [0, 1, 2], "no word has four letters"
        for row in rows:
            assert 0 <= row.top[1] <= row.top[2] <= row.top[3] <= 1
    assert CONTEXT == 64


@pytest.mark.parametrize("text", ["猫は魚", "ที่นี่", "ຂ້ອຍ", "猫" * 40])
def test_after_a_script_without_spaces_the_next_symbols_are_suggested(text: str) -> None:
    tokenizer = CharacterTokenizer.of("".join(sorted(set(text))) + "食べる ,a")
    model = Trigram(tokenizer.vocab_size, seed=1)
    before, words, behind = Suggester(model, tokenizer).suggest(text, 4)
    assert before == text and behind == "" and len(words) == 4
    context = tokenizer.encode(text).tolist()
    odds = dict(zip("\ufffd" + tokenizer.characters, model.odds(*[0, *context][-2:]), strict=True))
    letters = sorted((sign for sign in odds if sign not in "\ufffd ,"), key=lambda sign: -odds[sign])
    assert [word for word, _ in words] == letters[:4]
    assert [chance for _, chance in words] == pytest.approx([odds[sign] for sign in letters[:4]], rel=1e-5)


def test_letters_that_end_words_with_spaces_are_completed_as_ever() -> None:
    assert not any(map(written_without_spaces, "aé'1 .\u0301한ह"))
    assert all(map(written_without_spaces, "猫はカทກက"))


def test_bytes_are_no_letters_of_such_a_script_alone() -> None:
    with pytest.raises(ValueError, match="no whole letter of this script: train with --data.level character"):
        Suggester(Trigram(256), ByteTokenizer()).suggest("猫", 3)
