"""The vocabulary of another run, which data uses instead of making one of its own text.

A data module creates its vocabulary when it is first asked for its size, which is before anybody could set one. So the
vocabulary is set around its creation: `with vocabulary_of(state): data = TextDataModule(...)`.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any

WAY_OUT = "or train its weights on this one, anew, with --init_from instead of --ckpt_path"

_state: ContextVar[dict[str, Any] | None] = ContextVar("vocabulary", default=None)


@contextmanager
def vocabulary_of(state: dict[str, Any] | None) -> Iterator[None]:
    """Data modules that are created in the body use the vocabulary of this state of a data module, if there is one."""
    token = _state.set(state)
    try:
        yield
    finally:
        _state.reset(token)


def given_vocabulary() -> dict[str, Any] | None:
    """The state of a data module whose vocabulary is to be used."""
    return _state.get()
