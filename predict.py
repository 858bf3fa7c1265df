"""Use a trained model. It needs the checkpoint alone: weights, vocabulary and settings are in it.

python predict.py generate --checkpoint runs/lstm/version_0/checkpoints/best.ckpt --prompt "def " --length 1000
python predict.py score --checkpoint runs/lstm/version_0/checkpoints/best.ckpt
python predict.py suggest --checkpoint runs/word/version_0/checkpoints/best.ckpt "Hi, let us set up a meeting"
python predict.py classify --checkpoint runs/sentiment/version_0/checkpoints/best.ckpt "It is a good product"
"""

import sys
from collections.abc import Callable, Iterable
from functools import partial
from itertools import chain
from typing import Any

import torch
from jsonargparse import ArgumentParser
from jsonargparse.typing import PositiveInt

from command_line import SuggestsOptions, mistakes_in_one_line, quiet
from datamodules.labelled import batch_of, load_encoder
from datamodules.tokenizers import UnknownSymbols, load_tokenizer
from interactive import type_along
from models.checkpoints import classifier, language_model, read_checkpoint
from models.code_quality import judge, table
from models.sampling import harmless, side_by_side, until
from models.suggestions import Offer, Suggester
from terminal import cannot_write, discard

LOOKS = 5  # words that a verdict names, at most


def parse_arguments(arguments: list[str] | None = None) -> Any:
    parser = SuggestsOptions(description=__doc__, exit_on_error=False)
    commands = parser.add_subcommands()
    writing = ArgumentParser(description="Go on writing from a prompt, to standard output.", exit_on_error=False)
    add_sampling(writing, prompt="\n", length=500, temperature=0.8)
    writing.add_argument("--stop", type=str, nargs="+", default=[], help="end before the first of these strings")
    writing.add_argument("--count", type=int, default=1, help="texts to write, with this seed and those after it")
    commands.add_subcommand("generate", writing)
    scoring = ArgumentParser(
        description="Judge the Python that a model writes: brackets, indentation, and whether it parses.",
        exit_on_error=False,
    )
    add_sampling(scoring, prompt="\n\ndef ", length=1000, temperature=0.5)
    scoring.add_argument("--samples", type=int, default=20, help="texts to judge, with this seed and those after it")
    commands.add_subcommand("score", scoring)
    suggesting = ArgumentParser(
        description="The likeliest words after a text, or to complete its last one.", exit_on_error=False
    )
    suggesting.add_argument("--checkpoint", type=str, required=True, help="best.ckpt or last.ckpt of a run")
    suggesting.add_argument("--count", type=PositiveInt, default=3, help="words to suggest")
    suggesting.add_argument("--interactive", action="store_true", help="suggest while you type; Tab takes the first")
    suggesting.add_argument("text", type=str, nargs="?", default="", help="in quotes; a space at its end ends its word")
    commands.add_subcommand("suggest", suggesting)
    classifying = ArgumentParser(
        description="Say of each text which class it is, how surely, and which words were looked at.",
        exit_on_error=False,
    )
    classifying.add_argument(
        "--checkpoint", type=str, required=True, help="best.ckpt or last.ckpt of a classifier's run"
    )
    classifying.add_argument("texts", type=str, nargs="+", help="each in quotes")
    commands.add_subcommand("classify", classifying)
    return parser.parse_args(arguments)


def add_sampling(parser: ArgumentParser, prompt: str, length: int, temperature: float) -> None:
    parser.add_argument("--checkpoint", type=str, required=True, help="best.ckpt or last.ckpt of a run")
    parser.add_argument("--prompt", type=str, default=prompt, help="what the text begins with")
    parser.add_argument("--length", type=int, default=length, help="symbols to write after the prompt")
    parser.add_argument(
        "--temperature", type=float, default=temperature, help="0 takes the likeliest, 1 the model's own odds"
    )
    parser.add_argument("--top_k", type=int | None, default=None, help="draw from the k likeliest symbols alone")
    parser.add_argument("--top_p", type=float, default=1.0, help="draw from the likeliest that together reach p alone")
    parser.add_argument("--seed", type=int, default=0, help="another seed, another text")
    parser.add_argument("--unknown", type=UnknownSymbols, default="refuse", help="what to do with symbols it never saw")


def samples(options: Any, count: int) -> list[Iterable[str]]:
    """Texts that begin with the prompt and go on as the model does, each in pieces, as they are drawn."""
    checkpoint = read_checkpoint(options.checkpoint)
    model = language_model(checkpoint)
    tokenizer = load_tokenizer(checkpoint["TextDataModule"]["tokenizer"])
    prompt = torch.tensor(tokenizer.encode(options.prompt, options.unknown), dtype=torch.int64)
    drawn = side_by_side(
        model, prompt, options.length, count, options.temperature, options.seed, options.top_k, options.top_p
    )
    stops = options.get("stop", [])
    return [chain([options.prompt], until(tokenizer.decode(ids), stops)) for ids in drawn]


def written(options: Any) -> Iterable[str]:
    """One text, or several with a line before each that names its seed."""
    texts = samples(options, options.count)
    titles = [f"=== seed {seed} ===\n" for seed in range(options.seed, options.seed + options.count)]
    pieces = texts[0] if len(texts) == 1 else separated(titles, texts)
    return map(harmless, pieces) if sys.stdout.isatty() else pieces


def separated(titles: list[str], texts: list[Iterable[str]]) -> Iterable[str]:
    for number, (title, text) in enumerate(zip(titles, texts, strict=True)):
        yield from chain(["\n\n" if number else "", title], text)


def scored(options: Any) -> Iterable[str]:
    return judged(samples(options, options.samples))


def judged(texts: list[Iterable[str]]) -> Iterable[str]:
    """The table, of texts that are drawn when it is asked for."""
    yield table([judge("".join(text)) for text in texts])


def suggested(options: Any) -> Iterable[str]:
    """A line on each word, with its probability; with --interactive, whatever the typing shows."""
    checkpoint = read_checkpoint(options.checkpoint)
    suggester = Suggester(language_model(checkpoint), load_tokenizer(checkpoint["TextDataModule"]["tokenizer"]))
    if options.interactive:
        return while_typing(partial(suggester.suggest, count=options.count))
    words = suggester.suggest(options.text, options.count).words
    width = max((len(word) for word, _ in words), default=0)
    return ["\n".join(f"{word:{width}}  {chance:6.1%}" for word, chance in words)]


def while_typing(suggest: Callable[[str], Offer]) -> Iterable[str]:
    """Nothing: what is typed and offered is shown as it comes."""
    type_along(suggest)
    yield ""


def classified(options: Any) -> Iterable[str]:
    """Three lines on each text: its class, the probability of every class, and what the pooling looked at."""
    checkpoint = read_checkpoint(options.checkpoint)
    model = classifier(checkpoint)
    encoder = load_encoder(checkpoint["LabelledDataModule"]["encoder"])
    encoded = [encoder.encode(text, f"text {number}") for number, text in enumerate(options.texts, 1)]
    with torch.inference_mode():
        logits, weights = model(*batch_of(encoded, [0] * len(encoded))[:2])
    labels = [harmless(label) for label in encoder.labels]
    width = max(map(len, labels)) + 2
    verdicts = []
    for text, p, w in zip(options.texts, logits.softmax(dim=-1), weights.T, strict=True):
        looks = list(zip(encoder.pieces(text), w.tolist(), strict=False))  # what is beyond its length has no weight
        most = [look for look in sorted(looks, key=lambda look: -look[1])[:LOOKS] if look[1] >= 0.01]
        shares = ", ".join(f"{label} {share:.1%}" for label, share in zip(labels, p.tolist(), strict=True))
        verdicts += [
            f"{labels[int(p.argmax())]:{width}}{in_bold(text, looks) if sys.stdout.isatty() else text}",
            f"{'':{width}}{shares}",
            f"{'':{width}}looked at {', '.join(f'{harmless(piece)} {weight:.0%}' for piece, weight in most)}",
        ]
    return ["\n".join(verdicts)]


def in_bold(text: str, looks: list[tuple[str, float]]) -> str:
    """The text, with what has more than its share of the weight in bold, for a terminal."""
    marked, end = "", 0
    for piece, weight in looks:
        begin = text.index(piece, end)
        bold = weight > 1 / len(looks)
        marked += harmless(text[end:begin]) + (f"\033[1m{harmless(piece)}\033[0m" if bold else harmless(piece))
        end = begin + len(piece)
    return marked + harmless(text[end:])


COMMANDS = {"generate": written, "score": scored, "suggest": suggested, "classify": classified}


def main() -> None:
    quiet(output_is_optional=False)
    with mistakes_in_one_line("predict.py"):
        options = parse_arguments()
        pieces = COMMANDS[options.subcommand](options[options.subcommand])
    try:
        for piece in pieces:
            print(piece, end="", flush=True)
        print(flush=True)
    except KeyboardInterrupt:
        raise SystemExit(130) from None
    except OSError as error:
        discard(sys.stdout)
        if not isinstance(error, BrokenPipeError):  # a reader that has seen enough is no failure
            print(f"predict.py: {cannot_write(error)}", file=sys.stderr)
            raise SystemExit(1) from None


if __name__ == "__main__":
    main()
