"""Use a trained model. It needs the checkpoint alone: weights, vocabulary and settings are in it.

python predict.py generate --checkpoint runs/lstm/version_0/checkpoints/best.ckpt --prompt "def " --length 1000
"""

from typing import Any

import torch
from jsonargparse import ArgumentParser

from command_line import mistakes_in_one_line, quiet
from datamodules.tokenizers import UnknownSymbols, load_tokenizer
from models.checkpoints import language_model, read_checkpoint
from models.sampling import generate


def parse_arguments(arguments: list[str] | None = None) -> Any:
    parser = ArgumentParser(description=__doc__, exit_on_error=False)
    commands = parser.add_subcommands()
    writing = ArgumentParser(description="Go on writing from a prompt, to standard output.", exit_on_error=False)
    writing.add_argument("--checkpoint", type=str, required=True, help="best.ckpt or last.ckpt of a run")
    writing.add_argument("--prompt", type=str, default="\n", help="what the text begins with")
    writing.add_argument("--length", type=int, default=500, help="symbols to write after the prompt")
    writing.add_argument("--temperature", type=float, default=0.8, help="0 takes the likeliest, 1 the model's own odds")
    writing.add_argument("--seed", type=int, default=0, help="another seed, another text")
    writing.add_argument(
        "--unknown", type=UnknownSymbols, default="refuse", help="what to do with symbols it never saw"
    )
    commands.add_subcommand("generate", writing)
    return parser.parse_args(arguments)


def main() -> None:
    quiet()
    with mistakes_in_one_line("predict.py"):
        options = parse_arguments().generate
        checkpoint = read_checkpoint(options.checkpoint)
        tokenizer = load_tokenizer(checkpoint["TextDataModule"]["tokenizer"])
        prompt = torch.tensor(tokenizer.encode(options.prompt, options.unknown), dtype=torch.int64)
        ids = generate(language_model(checkpoint), prompt, options.length, options.temperature, options.seed)
    print(options.prompt, end="", flush=True)
    for piece in tokenizer.decode(ids):
        print(piece, end="", flush=True)
    print()


if __name__ == "__main__":
    main()
