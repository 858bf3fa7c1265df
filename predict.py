"""Use a trained model. It needs the checkpoint alone: weights, vocabulary and settings are in it.

python predict.py generate --checkpoint runs/lstm/version_0/checkpoints/best.ckpt --prompt "def " --length 1000
python predict.py score --checkpoint runs/lstm/version_0/checkpoints/best.ckpt
python predict.py suggest --checkpoint runs/word/version_0/checkpoints/best.ckpt "Hi, let us set up a meeting"
python predict.py classify --checkpoint runs/sentiment/version_0/checkpoints/best.ckpt "It is a good product"
"""

import sys
from collections.abc import Callable, Iterable, Iterator
from functools import partial
from itertools import chain
from typing import Any

import torch
from jsonargparse import ArgumentParser
from jsonargparse.typing import PositiveInt

from command_line import SuggestsOptions, mistakes_in_one_line, quiet
from datamodules.labelled import load_encoder
from datamodules.tokenizers import Tokenizer, UnknownSymbols, load_tokenizer
from interactive import type_along
from models.checkpoints import classifier, language_model, read_checkpoint
from models.code_quality import judge, table
from models.sampling import check_sampling, harmless, side_by_side, unknown_symbols, until
from models.suggestions import Offer, Suggester
from prompts import add_prompt, prompt_of, unescaped, with_dashes
from terminal import cannot_write, discard
from verdicts import Format, formatted, given_texts
from verdicts import judge as verdicts_on

PROMPTS = {"generate": "\n", "score": "\n\ndef "}  # where none is given
TOGETHER = 64  # samples that are drawn in one batch


def parse_arguments(arguments: list[str] | None = None) -> Any:
    parser = SuggestsOptions(description=__doc__, exit_on_error=False)
    commands = parser.add_subcommands()
    writing = ArgumentParser(description="Go on writing from a prompt, to standard output.", exit_on_error=False)
    add_sampling(writing, prompt=PROMPTS["generate"], length=500, temperature=0.8)
    writing.add_argument("--stop", type=str, nargs="+", default=[], help="end before the first of these strings")
    writing.add_argument("--count", type=int, default=1, help="texts to write, with this seed and those after it")
    commands.add_subcommand("generate", writing, help="go on writing from a prompt")
    scoring = ArgumentParser(
        description="Judge the Python that a model writes: brackets, indentation, and whether it parses.",
        exit_on_error=False,
    )
    add_sampling(scoring, prompt=PROMPTS["score"], length=1000, temperature=0.5)
    scoring.add_argument("--samples", type=int, default=20, help="texts to judge, with this seed and those after it")
    commands.add_subcommand("score", scoring, help="judge the Python that a model writes")
    suggesting = ArgumentParser(
        description="The likeliest words after a text, or to complete its last one.", exit_on_error=False
    )
    suggesting.add_argument("--checkpoint", type=str, required=True, help="best.ckpt or last.ckpt of a run")
    suggesting.add_argument("--count", type=PositiveInt, default=3, help="words to suggest")
    suggesting.add_argument("--interactive", action="store_true", help="suggest while you type; Tab takes the first")
    suggesting.add_argument("text", type=str, nargs="?", default="", help="in quotes; a space at its end ends its word")
    commands.add_subcommand("suggest", suggesting, help="the likeliest next words of a text")
    classifying = ArgumentParser(
        description="Say of each text which class it is, how surely, and which words were looked at.",
        exit_on_error=False,
    )
    classifying.add_argument(
        "--checkpoint", type=str, required=True, help="best.ckpt or last.ckpt of a classifier's run"
    )
    classifying.add_argument("--file", type=str, default=None, help="a text a line, or a table; - for the input")
    classifying.add_argument(
        "--text_column", type=str, default="text", help="of a table: its name, or its number from 0"
    )
    classifying.add_argument("--encoding", type=str, default="utf-8", help="of the file")
    classifying.add_argument("--to", type=Format, default="text", help="what to write: for people, or for programs")
    classifying.add_argument("texts", type=str, nargs="*", help="each in quotes; after -- they may begin with dashes")
    commands.add_subcommand("classify", classifying, help="the class of each text")
    given = sys.argv[1:] if arguments is None else arguments
    return parser.parse_args(with_dashes(given, ["--prompt"], writing._option_string_actions))


def add_sampling(parser: ArgumentParser, prompt: str, length: int, temperature: float) -> None:
    parser.add_argument("--checkpoint", type=str, required=True, help="best.ckpt or last.ckpt of a run")
    add_prompt(parser, prompt)
    parser.add_argument("--length", type=int, default=length, help="symbols to write after the prompt")
    parser.add_argument(
        "--temperature", type=float, default=temperature, help="0 takes the likeliest, 1 the model's own odds"
    )
    parser.add_argument("--top_k", type=int | None, default=None, help="draw from the k likeliest symbols alone")
    parser.add_argument("--top_p", type=float, default=1.0, help="draw from the likeliest that together reach p alone")
    parser.add_argument("--seed", type=int, default=0, help="another seed, another text")
    parser.add_argument("--unknown", type=UnknownSymbols, default="refuse", help="what to do with symbols it never saw")
    parser.add_argument("--leave_out_unknown", action="store_true", help="never write the unknown symbol, as <unk>")


def samples(options: Any, command: str, count: int) -> tuple[Tokenizer, Iterator[Iterable[str]]]:
    """Texts that begin with the prompt and go on as the model does, each in pieces, as they are drawn.

    Raises ValueError or OSError, saying what to do, before the first of them is drawn.
    """
    checkpoint = read_checkpoint(options.checkpoint)
    model = language_model(checkpoint)
    tokenizer = load_tokenizer(checkpoint["TextDataModule"]["tokenizer"])
    given = prompt_of(options, tokenizer, PROMPTS[command])
    prompt = torch.tensor(tokenizer.encode(given, options.unknown), dtype=torch.int64)
    stops = [unescaped(stop, "--stop", options.escapes) for stop in options.get("stop", [])]
    until([], stops)
    length, temperature, narrowed = options.length, options.temperature, (options.top_k, options.top_p)
    excluded = unknown_symbols(tokenizer) if options.leave_out_unknown else []
    check_sampling(prompt, length, count, temperature, options.seed, *narrowed)

    def texts() -> Iterator[Iterable[str]]:
        for begin in range(0, count, TOGETHER):
            size, seed = min(TOGETHER, count - begin), options.seed + begin
            ids = side_by_side(model, prompt, length, size, temperature, seed, *narrowed, excluded)
            yield from (chain([given], until(tokenizer.decode(column), stops)) for column in ids)

    return tokenizer, texts()


def written(options: Any) -> Iterable[str]:
    """One text, or several with a line before each that names its seed. At level byte, a file or a pipe gets the bytes
    as they are, and nothing after the last one."""
    tokenizer, texts = samples(options, "generate", options.count)
    as_bytes = tokenizer.state()["level"] == "byte" and not sys.stdout.isatty()
    if as_bytes:
        sys.stdout.reconfigure(encoding="utf-8", errors="surrogateescape", newline="")  # type: ignore[union-attr]
    pieces = next(texts) if options.count == 1 else separated(options.seed, texts)
    if as_bytes:
        return pieces
    return chain(map(harmless, pieces) if sys.stdout.isatty() else pieces, ["\n"])


def separated(seed: int, texts: Iterable[Iterable[str]]) -> Iterator[str]:
    for number, text in enumerate(texts):
        yield from chain(["\n\n" if number else "", f"=== seed {seed + number} ===\n"], text)


def scored(options: Any) -> Iterable[str]:
    return judged(samples(options, "score", options.samples)[1])


def judged(texts: Iterable[Iterable[str]]) -> Iterable[str]:
    """The table, of texts that are drawn when it is asked for."""
    yield f"{table([judge(readable(''.join(text))) for text in texts])}\n"


def readable(text: str) -> str:
    """The text, with U+FFFD for bytes that are not UTF-8."""
    return text.encode("utf-8", "surrogateescape").decode("utf-8", "replace")


def suggested(options: Any) -> Iterable[str]:
    """A line on each word, with its probability; with --interactive, whatever the typing shows."""
    checkpoint = read_checkpoint(options.checkpoint)
    suggester = Suggester(language_model(checkpoint), load_tokenizer(checkpoint["TextDataModule"]["tokenizer"]))
    if options.interactive:
        return while_typing(partial(suggester.suggest, count=options.count))
    words = suggester.suggest(options.text, options.count).words
    width = max((len(word) for word, _ in words), default=0)
    if not words:
        raise ValueError("the model suggests no word here: type a letter, or another text")
    return [f"{word:{width}}  {chance:6.1%}\n" for word, chance in words]


def while_typing(suggest: Callable[[str], Offer]) -> Iterable[str]:
    """Nothing: what is typed and offered is shown as it comes."""
    type_along(suggest)
    yield "\n"


def classified(options: Any) -> Iterable[str]:
    """What the classifier says of each text, in the form that was asked for."""
    checkpoint = read_checkpoint(options.checkpoint)
    model = classifier(checkpoint)
    encoder = load_encoder(checkpoint["LabelledDataModule"]["encoder"])
    verdicts = verdicts_on(model, encoder, given_texts(options))
    return formatted(verdicts, encoder.labels, options.to, sys.stdout.isatty())


COMMANDS = {"generate": written, "score": scored, "suggest": suggested, "classify": classified}


def main() -> None:
    quiet(output_is_optional=False)
    with mistakes_in_one_line("predict.py"):
        options = parse_arguments()
        pieces = COMMANDS[options.subcommand](options[options.subcommand])
    try:
        for piece in pieces:
            print(piece, end="", flush=True)
    except KeyboardInterrupt:
        raise SystemExit(130) from None
    except OSError as error:
        discard(sys.stdout)
        if not isinstance(error, BrokenPipeError):  # a reader that has seen enough is no failure
            print(f"predict.py: {cannot_write(error)}", file=sys.stderr)
            raise SystemExit(1) from None


if __name__ == "__main__":
    main()
