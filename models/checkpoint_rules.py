"""Rules for plain data: functions of a value and its place, which raise ValueError where the value breaks the rule."""

import math
import re
import types
import typing
from collections.abc import Callable, Iterator
from inspect import Parameter, signature
from typing import Any, Literal

import torch
from torch import Tensor

Rule = Callable[[Any, str], None]
MAX_WHOLE = 1 << 53
MAX_TEXT = 1 << 26
MAX_NAME = 200


def broken(value: Any, place: str, expected: str) -> ValueError:
    return ValueError(f"{place} is {described(value)}: expected {expected}")


def described(value: Any) -> str:
    """A few words on one line, however large the value is."""
    if isinstance(value, Tensor):
        return f"a tensor {tuple(value.shape)}"
    if isinstance(value, dict | list | tuple):
        return f"a {type(value).__name__} of {len(value):,}"
    if isinstance(value, str) and len(value) > 60:
        return f"{value[:57]!r}..."
    return repr(value)


def whole(low: int = 0, high: int = MAX_WHOLE) -> Rule:
    def rule(value: Any, place: str) -> None:
        if type(value) is not int or not low <= value <= high:
            raise broken(value, place, f"a whole number from {low} to {high}")

    return rule


def number(low: float = -1e300, high: float = 1e300, infinite: bool = False) -> Rule:
    def rule(value: Any, place: str) -> None:
        fits = type(value) in (int, float) and (low <= value <= high or infinite and abs(value) == math.inf)
        if not fits:
            raise broken(value, place, f"a number from {low:g} to {high:g}")

    return rule


def any_number(value: Any, place: str) -> None:
    """NaN and infinity are numbers, too."""
    if type(value) not in (int, float):
        raise broken(value, place, "a number")


def text(at_most: int = MAX_NAME) -> Rule:
    def rule(value: Any, place: str) -> None:
        if type(value) is not str or len(value) > at_most:
            raise broken(value, place, f"a text of at most {at_most:,} characters")

    return rule


def matching(pattern: str) -> Rule:
    def rule(value: Any, place: str) -> None:
        if type(value) is not str or len(value) > MAX_NAME or not re.fullmatch(pattern, value):
            raise broken(value, place, f"a text like {pattern}")

    return rule


def one_of(*values: Any) -> Rule:
    def rule(value: Any, place: str) -> None:
        if not any(type(value) is type(choice) and value == choice for choice in values):
            raise broken(value, place, f"one of {', '.join(map(repr, values))}")

    return rule


short_text = text()
flag = one_of(False, True)
nothing = one_of(None)
scalar: Rule


def either(*rules: Rule) -> Rule:
    def rule(value: Any, place: str) -> None:
        errors = []
        for choice in rules:
            try:
                return choice(value, place)
            except ValueError as error:
                errors.append(str(error))
        raise ValueError(errors[0])

    return rule


scalar = either(nothing, flag, whole(-MAX_WHOLE), number(infinite=True), text(1000))


def listing(item: Rule, at_most: int, at_least: int = 0) -> Rule:
    def rule(value: Any, place: str) -> None:
        if type(value) not in (list, tuple) or not at_least <= len(value) <= at_most:
            raise broken(value, place, f"a list of {at_least} to {at_most:,}")
        for position, part in enumerate(value):
            item(part, f"{place}[{position}]")

    return rule


def fields(required: dict[str, Rule], optional: dict[str, Rule] | None = None, others: Rule | None = None) -> Rule:
    """A dict with these names; `others` is the rule for names that are not listed, which are refused without one."""
    known = required | (optional or {})

    def rule(value: Any, place: str) -> None:
        if type(value) is not dict:
            raise broken(value, place, "a dict")
        for name in required:
            if name not in value:
                raise ValueError(f"{place} has no {name}")
        for name, part in value.items():
            of_part = known.get(name, others)
            if of_part is None:
                raise ValueError(f"{place} has an unknown entry {shortened(name)}")
            of_part(part, f"{place}.{shortened(name)}" if place else shortened(name))

    return rule


def shortened(name: Any) -> str:
    return str(name) if len(str(name)) <= 60 else str(name)[:57] + "..."


def keyed(key: Rule, item: Rule) -> Rule:
    """A dict of any length."""

    def rule(value: Any, place: str) -> None:
        if type(value) is not dict:
            raise broken(value, place, "a dict")
        for name, part in value.items():
            key(name, f"a name in {place}")
            item(part, f"{place}.{shortened(name)}")

    return rule


def tensor(*shape: int | None, dtype: torch.dtype | None = None, finite: bool = True) -> Rule:
    """A tensor of this shape, where None is any size, and dtype; its values are finite, or may be anything."""

    def rule(value: Any, place: str) -> None:
        if not isinstance(value, Tensor):
            raise broken(value, place, "a tensor")
        fits = len(value.shape) == len(shape) and all(n in (None, m) for n, m in zip(shape, value.shape, strict=True))
        if not fits:
            raise broken(value, place, f"a tensor ({', '.join('any' if n is None else str(n) for n in shape)})")
        if dtype is not None and value.dtype != dtype:
            raise ValueError(f"{place} has the dtype {value.dtype}: expected {dtype}")
        if finite and not torch.isfinite(value).all():
            raise ValueError(f"{place} has NaN or infinite values")

    return rule


def plain(value: Any, place: str) -> None:
    """Anything that a checkpoint can hold. `models.checkpoint_archive` has limited its size and depth."""


def parameters_of(models: list[type[Any]], of_text: Rule = short_text) -> tuple[dict[str, Rule], dict[str, Any]]:
    """A rule for each argument of the constructors of classes, from its annotation, and the defaults of those that have
    one. `**options` are the arguments of the base class."""
    rules: dict[str, Rule] = {}
    defaults: dict[str, Any] = {}
    for kind in (kind for model in models for kind in constructors(model)):
        hints = typing.get_type_hints(kind.__init__)
        for argument in named_arguments(kind):
            rules.setdefault(argument.name, of_annotation(hints.get(argument.name, Any), of_text))
            if argument.default is not Parameter.empty:
                defaults.setdefault(argument.name, argument.default)
    return rules, defaults


def constructors(model: type[Any]) -> Iterator[Any]:
    """The class, and the bases that its `**options` go to."""
    for kind in model.__mro__:
        if "__init__" in vars(kind):
            yield kind
            if len(named_arguments(kind)) == len(arguments_of(kind)):
                return


def named_arguments(kind: Any) -> list[Parameter]:
    return [argument for argument in arguments_of(kind) if argument.kind is not Parameter.VAR_KEYWORD]


def arguments_of(kind: Any) -> list[Parameter]:
    return list(signature(kind.__init__).parameters.values())[1:]


def of_annotation(annotation: Any, of_text: Rule) -> Rule:
    """The rule for values of a type that a config can hold. A path or a class has none: no value is right."""
    origin, arguments = typing.get_origin(annotation), typing.get_args(annotation)
    if origin is Literal:
        return one_of(*arguments)
    if origin in (typing.Union, types.UnionType):
        return either(*(of_annotation(argument, of_text) for argument in arguments))
    if origin is list:
        return listing(of_annotation(arguments[0], of_text), 100_000)
    simple: dict[Any, Rule] = {
        bool: flag, int: whole(-MAX_WHOLE), float: number(), str: of_text, type(None): nothing,
    }  # fmt: skip
    return simple.get(annotation, one_of())
