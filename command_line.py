"""What the scripts share: a mistake in their input becomes one line that says what to do, and exit code 2."""

import logging
import sys
import warnings
from collections.abc import Iterator
from contextlib import contextmanager

from jsonargparse import ArgumentError


@contextmanager
def mistakes_in_one_line(script: str, *more: type[Exception]) -> Iterator[None]:
    """Around everything that reads the user's input, and nothing else: errors of our own keep their traceback."""
    mistakes: tuple[type[Exception], ...] = (ArgumentError, OSError, ValueError, *more)
    try:
        yield
    except mistakes as error:
        print(f"{script}: {' '.join(str(error).split())}", file=sys.stderr)
        raise SystemExit(2) from None


def quiet() -> None:
    """Leaves out what Lightning says of itself and of its own dependencies; its other warnings stay."""
    for name in ("pytorch_lightning", "lightning_fabric"):
        logging.getLogger(name).setLevel(logging.WARNING)
    for message in (
        ".*LeafSpec.* is deprecated",
        ".*does not have many workers",
        ".*smaller than the logging interval",
    ):
        warnings.filterwarnings("ignore", message)
