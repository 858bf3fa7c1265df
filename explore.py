"""See inside a trained model: one HTML page that needs nothing else, for any browser, without a network.

python explore.py --checkpoint runs/lstm/version_0/checkpoints/best.ckpt --text train.py
python explore.py --checkpoint best.ckpt --compare runs/rnn/version_0/checkpoints/best.ckpt
python explore.py --checkpoint runs/sentiment/version_0/checkpoints/best.ckpt --text "It is a good product"
"""

import json
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jsonargparse.typing import PositiveInt
from rich.console import Console
from torch import Tensor

from command_line import SuggestsOptions, in_one_line, mistakes_in_one_line, quiet
from datamodules.given_text import STANDARD_INPUT, read_bytes, read_text
from datamodules.labelled import load_encoder
from datamodules.tokenizers import Tokenizer, UnknownSymbols, load_tokenizer
from models.checkpoints import classifier, language_model, read_checkpoint
from models.escaping import harmless
from models.insight.figures import pictures, save_png, texts
from models.insight.flow import read_flow
from models.insight.page import page, plain, room, text_page
from models.insight.report import analyse, analyse_text
from models.insight.run import run_of
from models.language_model import LanguageModel
from models.sampling import generate, opening
from prompts import NOT_AN_OPTION, with_dashes

SAMPLE, TEMPERATURE = 1000, 0.8  # of the text that a model writes where none is given
CHARACTERS = 64  # to read of a file for each symbol that is wanted of it: words are shorter
NAMED = 12  # of the unknown symbols that were left out
WORDS = 20_000  # of a classifier's text: a browser holds each as an element
Tell = Callable[[str], Any]  # what comes next
Look = Callable[[Tell], tuple[dict[str, Any], str]]  # gives the numbers, and the page


def parse_arguments(arguments: list[str] | None = None) -> Any:
    parser = SuggestsOptions(description=__doc__, exit_on_error=False)
    parser.add_argument("--checkpoint", type=str, required=True, help="best.ckpt or last.ckpt of a run")
    parser.add_argument("--compare", type=str | None, default=None, help="another, with the same vocabulary")
    parser.add_argument("--text", type=str, default=None, help="a file, - for the input, or a text in quotes")
    parser.add_argument("--encoding", type=str, default="utf-8", help="of the file; level byte needs none")
    parser.add_argument("--length", type=PositiveInt | None, default=None, help="symbols of the text, at most")
    parser.add_argument("--unknown", type=UnknownSymbols, default="refuse", help="what to do with symbols it never saw")
    parser.add_argument("--out", type=str, default="report.html", help="where the page is written")
    parser.add_argument("--png", type=str | None, default=None, help="a folder for its figures")
    parser.add_argument("--json", type=str | None, default=None, help="a file for its numbers")
    given = sys.argv[1:] if arguments is None else arguments
    return parser.parse_args(with_dashes(given, ["--text"], parser._option_string_actions))


def into_model(options: Any, checkpoint: dict[str, Any]) -> Look:
    """What is seen of a language model. Raises ValueError or OSError for what cannot be read, or carried by a page."""
    model, compared = language_model(checkpoint), None
    state = checkpoint["TextDataModule"]["tokenizer"]
    if options.compare is not None:
        other = read_checkpoint(options.compare)
        compared = language_model(other)
        if other["TextDataModule"]["tokenizer"] != state:
            raise ValueError(f"{options.compare} has another vocabulary: compare runs that were trained on one text")
    tokenizer = load_tokenizer(state)
    ids, source = text_for(model, tokenizer, options)
    symbols = [piece.decode(errors="backslashreplace") for piece in tokenizer.pieces()]
    flow = Path(options.checkpoint).absolute().parent.parent / "flow.npz"
    epochs = read_flow(flow) if flow.is_file() else None
    if flow.is_file() and epochs is None:
        print(f"explore.py: {flow} is damaged, or not of train.py: the page has no gradients by epoch", file=sys.stderr)
    runs = {"trained": run_of(Path(options.checkpoint), checkpoint)}
    if options.compare is not None:
        runs["compared"] = run_of(Path(options.compare), other)

    def look(tell: Tell) -> tuple[dict[str, Any], str]:
        report = analyse(
            model, untrained(checkpoint), ids, symbols, compared=compared, flow_over_epochs=epochs, progress=tell
        ) | {"runs": runs}
        tell("drawing")
        return report, page(report, source)

    return look


def text_for(model: LanguageModel, tokenizer: Tokenizer, options: Any) -> tuple[Tensor, str]:
    """Symbols (T,), and where they are from. Raises ValueError for too few, and for more than a page can carry."""
    at_most = room(model)
    if options.text is None:
        prompt = torch.tensor(tokenizer.encode(opening(tokenizer, "\n"), "replace"), dtype=torch.int64)
        drawn = generate(model, prompt, min(options.length or SAMPLE, at_most + 1), TEMPERATURE)
        ids = torch.tensor(list(drawn), dtype=torch.int64)
        source = f"the model wrote it itself, at temperature {TEMPERATURE} with seed 0"
    else:
        as_bytes = tokenizer.state()["level"] == "byte"
        text, source = given_text(options.text, options, as_bytes, CHARACTERS * (options.length or at_most + 1))
        ids = torch.tensor(tokenizer.encode(text, options.unknown)[: options.length], dtype=torch.int64)
        if options.unknown == "skip" and (omission := left_out(tokenizer, text, len(ids))):
            source += omission
            print(f"explore.py: {harmless(source)}", file=sys.stderr)
    if len(ids) < 2:
        raise ValueError(f"the text has fewer than two symbols that the model knows: {len(ids)}; give a longer one")
    if len(ids) > at_most:
        raise ValueError(f"the text is too long: a page carries {at_most:,} symbols of this model; --length {at_most}")
    return ids, source


def left_out(tokenizer: Tokenizer, text: str, kept: int) -> str:
    """Which symbols `--unknown skip` left out of a text, of which so many known symbols are shown; empty for none."""
    known = np.asarray(tokenizer.encode(text, "replace")) != 0
    if not kept or len(tokenizer.encode(text, "skip")) == len(known):  # byte and bpe know every symbol
        return ""
    end = int(np.flatnonzero(known)[kept - 1]) + 1 if kept < known.sum() else len(known)
    count = int((~known[:end]).sum())
    units = dict.fromkeys(text.split() if tokenizer.whole_words else text[:end])
    names = [repr(unit) for unit in units if 0 in tokenizer.encode(f" {unit}", "replace")]
    named = ", ".join([*names[:NAMED], *["…"] * (len(names) > NAMED)])
    if not count:
        return ""
    return f", without {count:,} of its first {end:,} symbols, which the vocabulary does not have: {named}"


def given_text(given: str, options: Any, as_bytes: bool, at_most: int) -> tuple[str, str]:
    """A file's content, of at most so many characters, or what was given itself; and which."""
    given = given.removeprefix(NOT_AN_OPTION)
    one_word = not any(map(str.isspace, given))
    named = os.path.exists(given) or one_word and (os.sep in given or Path(given).suffix)  # or should exist
    if given != STANDARD_INPUT and not named:
        return given, "as given on the command line"
    source = "standard input" if given == STANDARD_INPUT else Path(given).name
    if as_bytes:
        return read_bytes(given, "--text", at_most).decode("utf-8", "surrogateescape"), source
    return read_text(given, options.encoding, "--text", "--encoding", at_most), source


def untrained(checkpoint: dict[str, Any]) -> LanguageModel:
    """A model of the same shape, with weights drawn from the seed of the run."""
    options = {name: value for name, value in checkpoint["hyper_parameters"].items() if not name.startswith("_")}
    config = checkpoint.get("config")
    seed = config.get("seed_everything") if isinstance(config, dict) else None
    with torch.random.fork_rng([]):
        torch.manual_seed(int(seed or 0))
        return LanguageModel(**options).eval()


def into_classifier(options: Any, checkpoint: dict[str, Any]) -> Look:
    """What is seen of a classifier. Raises ValueError or OSError for what cannot be read."""
    if options.text is None or options.compare or options.png:
        raise ValueError("a classifier is shown alone, without figures, on a text that is given: --text FILE or a text")
    model, encoder = classifier(checkpoint), load_encoder(checkpoint["LabelledDataModule"]["encoder"])
    text, source = given_text(options.text, options, False, CHARACTERS * WORDS)
    ids, pieces = encoder.encode(text)[: options.length], encoder.pieces(text)[: options.length]
    if len(ids) > WORDS:
        raise ValueError(f"the text is too long: a page carries {WORDS:,} words of a classifier; --length {WORDS}")

    def look(tell: Tell) -> tuple[dict[str, Any], str]:
        tell("reading the text")
        report = analyse_text(model, ids, ["", *encoder.words], encoder.labels) | {"text": pieces}  # as it is written
        report["runs"] = {"trained": run_of(Path(options.checkpoint), checkpoint)}
        return report, text_page(report, source)

    return look


def main() -> None:
    quiet()
    with mistakes_in_one_line("explore.py"):
        options = parse_arguments()
        checkpoint = read_checkpoint(options.checkpoint)
        into = into_classifier if "num_classes" in checkpoint["hyper_parameters"] else into_model
        look = into(options, checkpoint)
    with Console(stderr=True).status("") as status:
        report, html = look(status.update)
        with in_one_line("explore.py", 1, OSError):
            write(Path(options.out), html)
            print(f"{options.out}  {len(html.encode()) / 1e6:.1f} MB; open it in a browser")
            if options.json:
                write(Path(options.json), json.dumps(plain(report), ensure_ascii=False, allow_nan=False))
                print(f"{options.json}  its numbers")
            if options.png:
                drawn = [*pictures(report), *texts(report)]
                for picture in drawn:
                    save_png(picture, Path(options.png))
                print(f"{options.png}  {len(drawn)} figures")


def write(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
