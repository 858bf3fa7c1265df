"""The text to learn by heart, and what it means to hold nothing out."""

from pathlib import Path

import pytest
import torch

from datamodules.corpora import CORPORA
from datamodules.text import TextDataModule


def test_the_text_to_memorise_is_as_long_and_as_varied_as_the_reference_says() -> None:
    text = CORPORA["memorise"]().decode()
    assert len(text) == 559 and len(set(text)) == 44 and text.isascii()


@pytest.mark.parametrize("level", ["character", "byte"])
def test_with_nothing_held_out_the_held_out_part_is_the_training_text_itself(level: str) -> None:
    data = TextDataModule(corpus="memorise", level=level, batch_size=1, window=25, val_fraction=0)
    trained, held_out = ([*loader] for loader in (data.train_dataloader(), data.val_dataloader()))
    assert len(trained) == len(held_out) == 23
    for window, same in zip(trained, held_out, strict=True):
        assert torch.equal(window.tokens, same.tokens) and window.fresh == same.fresh
    text = "".join(data.tokenizer.decode(torch.cat([w.tokens[:-1, 0] for w in trained] + [trained[-1].tokens[-1]])))
    assert text == CORPORA["memorise"]().decode()


def test_a_share_below_zero_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="--data.val_fraction is -0.1: it must be at least 0, and less than 1"):
        TextDataModule(corpus="memorise", val_fraction=-0.1)
