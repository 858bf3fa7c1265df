"""Errors in arguments: short, and with the option that was probably meant."""

import pytest

from argument_errors import rewritten, similar, with_suggestion

UNION = """Parser key "trainer.max_epochs":
  Does not validate against any of the Union subtypes
  Subtypes: [<class 'int'>, <class 'NoneType'>]
  Errors:
    - Expected a <class 'int'>
    - Expected a <class 'NoneType'>
  Given value type: <class 'str'>
  Given value: two"""
LOGGER = """Does not validate against any of the Union subtypes
Subtypes: [<class 'pytorch_lightning.loggers.logger.Logger'>, <class 'bool'>, <class 'NoneType'>]
Errors:
  - Problem with given class_path 'pytorch_lightning.loggers.WandbLogger':
      Requirement 'wandb>=0.12.10' not met. HINT: Try running `pip install -U 'wandb>=0.12.10'`
  - Expected a <class 'bool'>
Given value type: <class 'jsonargparse._namespace.Namespace'>
Given value: Namespace(class_path='pytorch_lightning.loggers.WandbLogger')"""
CALLBACK = """Parser key "trainer.callbacks":
  Does not validate against any of the Union subtypes
  Errors:
    - Problem with given class_path 'pytorch_lightning.callbacks.EarlyStopping':
        Parser key "patience":
          Expected a <class 'int'>. Got value: many
    - Problem with given class_path 'pytorch_lightning.Callback':
        Option 'patience' is not accepted
    - Expected a <class 'NoneType'>
  Given value type: <class 'str'>
  Given value: many"""


@pytest.mark.parametrize(
    ("message", "short"),
    [
        (UNION, "--trainer.max_epochs is two: expected a whole number or null"),
        (
            "Parser key \"model.cell\":\n  Expected a typing.Literal['rnn', 'gru', 'lstm']. Got value: gru2",
            "--model.cell is gru2: expected rnn or gru or lstm",
        ),
        ("Parser key \"save_every\":\n  Expected a <class 'int'>. Got value: x", "--save_every is x: expected a whole"),
        (LOGGER, "WandbLogger: Requirement 'wandb>=0.12.10' not met. HINT: Try running `pip install -U 'wandb>=0.12"),
        (CALLBACK, "--trainer.callbacks: EarlyStopping: --patience is many: expected a whole number"),
        ("text.txt: is empty", "text.txt: is empty"),
    ],
)
def test_messages_are_short(message: str, short: str) -> None:
    assert rewritten(message).startswith(short) and len(rewritten(message)) < 200


OPTIONS = ["config", "ckpt_path", "save_every", "seed_everything", "trainer.max_epochs", "trainer.max_steps"]
OPTIONS += ["model.learning_rate", "model.dropout", "data.batch_size", "data.window", "top_k", "trainer.devices"]


@pytest.mark.parametrize(
    ("name", "meant"),
    [
        ("batch_size", ["data.batch_size"]),
        ("model.batch_size", ["data.batch_size"]),
        ("batch-size", ["data.batch_size"]),
        ("lr", ["model.learning_rate"]),
        ("model.lr", ["model.learning_rate"]),
        ("top-k", ["top_k"]),
        ("learning_rat", ["model.learning_rate"]),
        ("trainer.max_epoch", ["trainer.max_epochs"]),
        ("epochs", ["trainer.max_epochs"]),
        ("modell.dropout", ["model.dropout"]),
        ("resume", ["ckpt_path"]),
        ("quantum", []),
    ],
)
def test_the_option_that_was_meant(name: str, meant: list[str]) -> None:
    assert similar(name.replace("-", "_"), OPTIONS) == meant
    told = with_suggestion(f"unrecognized arguments: --{name} 3", OPTIONS)
    end = f"did you mean --{meant[0]}?" if meant else "see --help"
    assert told == f"there is no option --{name}: {end}"


def test_keys_of_a_config_and_other_messages() -> None:
    assert with_suggestion("Group 'model' does not accept option 'lr'", OPTIONS).endswith("mean model.learning_rate?")
    assert with_suggestion("Option 'modell.dropout' is not accepted", OPTIONS).endswith("mean model.dropout?")
    assert with_suggestion("no such file", OPTIONS) == "no such file"


def test_an_option_is_not_suggested_in_its_own_place() -> None:
    """`check.py candidate --config X`: another subcommand has that option."""
    assert with_suggestion("unrecognized arguments: --config x", ["config", "cell"]) == (
        "there is no option --config: see --help"
    )
