"""The stack of layers as a module: shapes, protocol, conversions that cannot be, mistakes."""

import pytest
import torch
from torch import nn

from models.cells import CELLS
from models.recurrent import GRU, LSTM, RNN, TORCH_LAYERS, Dropout, Recurrent


@pytest.mark.parametrize("cell", CELLS)
def test_one_protocol_for_all_cells(cell: str) -> None:
    kind = CELLS[cell](3, 5)
    state = kind.initial_state(2)
    assert all(part.shape == (2, 5) and not part.any() for part in state)
    for _ in range(3):
        state = kind(torch.randn(2, 3), state)
    assert state.h.shape == (2, 5)


@pytest.mark.parametrize("cell", CELLS)
def test_a_cells_parameters_are_those_of_torchs_cell(cell: str) -> None:
    theirs = {"rnn": nn.RNNCell, "gru": nn.GRUCell, "lstm": nn.LSTMCell}[cell](3, 5)
    ours = CELLS[cell](3, 5)
    theirs.load_state_dict(ours.state_dict())
    x, state = torch.randn(2, 3), CELLS[cell].state(*(torch.randn(2, 5) for _ in CELLS[cell].state._fields))
    expected = theirs(x, tuple(state) if cell == "lstm" else state.h)
    computed = ours(x, state)
    # float32, values of order 1, sums of eight terms: a few ULPs of 1.2e-7
    assert torch.allclose(computed.h, expected[0] if cell == "lstm" else expected, rtol=0, atol=1e-6)


def test_the_state_goes_on_where_the_last_call_ended() -> None:
    layers, x = Recurrent("lstm", 3, 5, 2), torch.randn(6, 2, 3)
    whole, final = layers(x)
    first, state = layers(x[:4])
    second, last = layers(x[4:], state)
    # the products over all steps have other numbers of rows, and may sum their eight terms, of order 1, in another
    # order: a few ULPs of 1.2e-7
    assert torch.allclose(torch.cat([first, second]), whole, rtol=0, atol=1e-6)
    assert all(torch.allclose(a, b, rtol=0, atol=1e-6) for a, b in zip(final, last, strict=True))


@pytest.mark.parametrize("kind", [RNN, GRU, LSTM])
def test_layers_are_made_and_called_as_torchs_are(kind: type[Recurrent]) -> None:
    ours, x = kind(3, 5, 2).double(), torch.randn(4, 2, 3, dtype=torch.float64)
    theirs = getattr(nn, kind.__name__)(3, 5, 2).double()
    theirs.load_state_dict(ours.to_torch().state_dict())
    h, *c = torch.randn(2 if kind is LSTM else 1, 2, 2, 5, dtype=torch.float64)
    before = (h, *c) if c else h
    computed, final = ours(x, before)
    expected, last = theirs(x, before)
    # values of order 1, sums of ten terms over four steps: fifty ULPs of 2.2e-16 are plenty
    assert torch.allclose(computed, expected, rtol=0, atol=1e-14)
    assert torch.allclose(torch.stack([*final]), torch.stack([*last] if c else [last]), rtol=0, atol=1e-14)


def test_relu_layers_convert_and_others_say_why_not() -> None:
    relu = Recurrent("rnn", 3, 5, activation="relu")
    assert relu.to_torch().nonlinearity == "relu"
    assert Recurrent.from_torch(relu.to_torch()).cells[0].activation is torch.relu
    with pytest.raises(ValueError, match="these activations cannot be converted"):
        Recurrent("lstm", 3, 5, activation="hard_tanh").to_torch()
    with pytest.raises(ValueError, match="proj_size=2 cannot be converted"):
        Recurrent.from_torch(nn.LSTM(3, 5, proj_size=2))
    with pytest.raises(ValueError, match="dropout per window cannot be converted"):
        Recurrent("lstm", 3, 5, 2, dropout=0.5, dropout_per="window").to_torch()
    theirs = Recurrent("lstm", 3, 5, 2, dropout=0.5, bidirectional=True).to_torch()
    assert theirs.dropout == 0.5 and Recurrent.from_torch(theirs).dropout.p == 0.5


@pytest.mark.parametrize("per", ["step", "window"])
def test_dropout_drops_a_share_and_keeps_the_mean(per: str) -> None:
    dropout, x = Dropout(0.3, per), torch.ones(50, 40, 30)
    y = dropout(x)
    kept = y > 0
    assert torch.equal(y[kept], torch.full_like(y[kept], 1 / 0.7))
    assert (kept == kept[:1]).all() == (per == "window")
    # 1,200 draws a window, 60,000 in all: three standard deviations of the share are 0.04 and 0.006
    assert abs(kept.float().mean() - 0.7) < (0.04 if per == "window" else 0.006)
    assert torch.equal(dropout.eval()(x), x)
    for wrong in (-0.1, 1.0):
        with pytest.raises(ValueError, match="it must be at least 0 and less than 1"):
            Dropout(wrong)
    with pytest.raises(ValueError, match="choose one of step, window"):
        Dropout(0.5, "epoch")


@pytest.mark.parametrize("cell", TORCH_LAYERS)
def test_wrong_shapes_and_names_are_refused(cell: str) -> None:
    for shape in ((2, 4), (2, 2, 4), (0, 2, 3)):
        with pytest.raises(ValueError, match=r"x has shape \(.*\): give \(T, B, 3\), T at least 1"):
            Recurrent(cell, 3, 5)(torch.zeros(shape))
    with pytest.raises(ValueError, match="'softplus' does not exist"):
        Recurrent(cell, 3, 5, activation="softplus")


def test_its_representation_shows_sizes_and_options() -> None:
    shown = repr(Recurrent("lstm", 3, 5, 2, backend="fused", bidirectional=True, dropout=0.1))
    assert "3, 5, num_layers=2, bidirectional=True, backend=fused" in shown
    assert "(dropout): Dropout(p=0.1, per=step)" in shown
    assert "(0): LSTMCell(3, 5)" in shown and "(1): LSTMCell(10, 5)" in shown
    assert repr(CELLS["gru"](4, 6)) == "GRUCell(4, 6)"
    plain = repr(Recurrent("rnn", 7, 2, backend="autograd"))
    assert "7, 2, num_layers=1, backend=autograd" in plain and "bidirectional" not in plain
