"""`--help` of every script is short, and has a text for every argument."""

import argparse
import inspect
import sys
from collections.abc import Iterator
from typing import Any

import pytest
import pytorch_lightning as pl

import check
import explore
import predict
import train
from command_line import SuggestsOptions
from help_texts import TRAINER
from tasks import TASKS
from tests.scripts import run


class Parsed(Exception):
    """Ends a script once its parser is complete."""


@pytest.fixture
def parser_of(monkeypatch: pytest.MonkeyPatch) -> Any:
    """The parser that a script makes, by its main()."""

    def parser_of(main: Any, *arguments: str) -> Any:
        def stop(parser: Any, *_: Any, **__: Any) -> None:
            raise Parsed(parser)

        with monkeypatch.context() as context, pytest.raises(Parsed) as caught:
            context.setattr(SuggestsOptions, "parse_args", stop)
            context.setattr(sys, "argv", ["script", *arguments])
            main()
        return caught.value.args[0]

    return parser_of


def actions(parser: Any, place: str = "") -> Iterator[tuple[str, Any]]:
    """The arguments of a parser and of all its subcommands, each with where it is; and the subcommands."""
    for action in parser._actions:
        if isinstance(action.choices, dict):
            for name, command in action.choices.items():
                yield from actions(command, f"{place}{name} ")
            for choice in action._choices_actions:
                yield f"{place}{choice.dest}", choice
        else:
            yield f"{place}{action.option_strings or action.dest}", action


def assert_complete(parser: Any) -> None:
    texts = dict(actions(parser))
    assert len(texts) > 5
    for place, action in texts.items():
        if action.help != argparse.SUPPRESS:
            assert action.help and len(action.help) >= 8 and len(action.help.split()) >= 2, (place, action.help)


@pytest.mark.parametrize("task", TASKS)
def test_train_has_a_short_text_for_every_argument(parser_of: Any, task: str, monkeypatch: pytest.MonkeyPatch) -> None:
    parser = parser_of(train.main, "--task", task, "--help")
    monkeypatch.setenv("COLUMNS", "80")
    lines = parser.format_help().splitlines()
    assert_complete(parser)
    assert len(lines) <= 230, len(lines)
    shown = "\n".join(lines)
    for name in inspect.signature(pl.Trainer.__init__).parameters:
        assert name == "self" or (name in TRAINER and f"--trainer.{name} " in shown), name
    for part, kind in (("model", TASKS[task].model), ("data", TASKS[task].data)):
        for name in inspect.signature(kind.__init__).parameters:
            assert name in ("self", "training", *TASKS[task].linked) or f"--{part}.{name} " in shown, name
    assert "Union[" not in shown and "Literal[" not in shown and "pytorch_lightning." not in shown


@pytest.mark.parametrize("script", [predict, explore, check])
def test_the_other_scripts_have_a_text_for_every_argument(parser_of: Any, script: Any) -> None:
    assert_complete(parser_of(script.main))


def test_help_is_printed_with_the_lines_of_the_description() -> None:
    done = run("train.py", "--help", env={"COLUMNS": "80"})
    assert done.returncode == 0 and done.stderr == ""
    assert done.stdout.startswith("usage: train.py --config FILE [--KEY VALUE ...]\n\nTrain a model")
    assert "\npython train.py --config configs/lstm.yaml" in done.stdout
    assert "--model.cell {rnn,gru,lstm}   the recurrent cell [lstm]\n" in done.stdout


@pytest.mark.parametrize(
    ("script", "arguments", "meant"),
    [
        ("train.py", ["--config", "configs/lstm.yaml", "--batch_size", "3"], "--data.batch_size"),
        ("train.py", ["--config", "configs/lstm.yaml", "--lr=3"], "--model.learning_rate"),
        ("train.py", ["--config", "configs/lstm.yaml", "--model.hidden_dim", "3"], "--model.hidden_size"),
        ("predict.py", ["generate", "--checkpoint", "a.ckpt", "--top-k", "3"], "--top_k"),
        ("explore.py", ["--checkpoint", "a.ckpt", "--tekst", "3"], "--text"),
        ("check.py", ["candidate", "a.py:A", "--cell", "gru", "--layrs", "3"], "--layers"),
    ],
)
def test_an_option_that_does_not_exist(script: str, arguments: list[str], meant: str) -> None:
    done = run(script, *arguments)
    assert done.returncode == 2 and done.stderr.count("\n") == 1, done.stderr
    assert f"did you mean {meant}?" in done.stderr
