"""What the scripts share: a mistake in their input becomes one line that says what to do, and exit code 2."""

import logging
import sys
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, NoReturn

from jsonargparse import ArgumentError, ArgumentParser

from argument_errors import rewritten, with_suggestion
from help_texts import ShortHelp
from models.escaping import harmless
from terminal import check_arguments, prepare_streams

NO_MEMORY = "there is not enough memory: choose a smaller model, batch or window"


class SuggestsOptions(ArgumentParser):
    """A parser whose error about an option that does not exist names the one that was probably meant."""

    def __init__(self, *args: Any, formatter_class: Any = ShortHelp, **kwargs: Any) -> None:
        super().__init__(*args, formatter_class=formatter_class, **kwargs)

    def error(self, message: str, ex: Exception | None = None) -> NoReturn:
        super().error(with_suggestion(message, options_of(self)), ex)


def options_of(parser: Any) -> list[str]:
    """The long options of a parser and of its subcommands, without their dashes."""
    found: list[str] = []
    for action in parser._actions:
        found += [name[2:] for name in action.option_strings if name.startswith("--")]
        if isinstance(action.choices, dict):
            found += [name for command in action.choices.values() for name in options_of(command)]
    return list(dict.fromkeys(found))


@contextmanager
def mistakes_in_one_line(script: str, *more: type[Exception]) -> Iterator[None]:
    """Around everything that reads the user's input, and nothing else: errors of our own keep their traceback."""
    with in_one_line(script, 2, ArgumentError, OSError, ValueError, *more):
        check_arguments()
        yield


@contextmanager
def in_one_line(script: str, exit_code: int, *kinds: type[Exception]) -> Iterator[None]:
    """An error of these kinds, and its notes, on a line of its own."""
    try:
        yield
    except kinds as error:
        text = " ".join([rewritten(str(error)), *getattr(error, "__notes__", [])])
        print(f"{script}: {harmless(' '.join(text.split()))}", file=sys.stderr)
        raise SystemExit(exit_code) from None
    except (MemoryError, RuntimeError) as error:
        if not lacks_memory(error):
            raise
        print(f"{script}: {NO_MEMORY} ({harmless(' '.join(str(error).split()))[:200]})", file=sys.stderr)
        raise SystemExit(1) from None
    except KeyboardInterrupt:
        raise SystemExit(130) from None


def lacks_memory(error: Exception) -> bool:
    """Whether memory could not be had: torch has an error of its own for GPUs, and a RuntimeError on CPUs."""
    return isinstance(error, MemoryError) or any(words in str(error) for words in ("allocate memory", "out of memory"))


def quiet(output_is_optional: bool = True) -> None:
    """Prepares the standard streams as `prepare_streams` does, and leaves out what Lightning says of itself and of its
    own dependencies; its other warnings stay."""
    prepare_streams(output_is_optional)
    for name in ("pytorch_lightning", "lightning_fabric"):
        logging.getLogger(name).setLevel(logging.WARNING)
    for message in (
        ".*LeafSpec.* is deprecated",
        ".*does not have many workers",
        ".*smaller than the logging interval",
        ".*overriding `LightningModule.optimizer_",  # which is called once an update, as it has to be
        ".*exists and is not empty",  # the folder of a run that goes on
        "LightningCLI's args parameter",
    ):
        warnings.filterwarnings("ignore", message)
