"""Other people's layouts: there and back, and as their documents describe them."""

import re

import numpy as np
import pytest

from bptt.cells import CELLS
from bptt.verify.cases import Arrays, Sizes
from bptt.verify.layouts import LAYOUTS, declared
from bptt.verify.smooth_cases import random_parameters

H, I = 3, 2


def one_layer(cell: str) -> Arrays:
    p = random_parameters(np.random.default_rng(0), cell, Sizes(I=I, H=H))
    return {name.removeprefix("cells.0."): value for name, value in p.items()}


@pytest.mark.parametrize("cell", CELLS)
@pytest.mark.parametrize("name", LAYOUTS)
def test_there_and_back(name: str, cell: str) -> None:
    p = one_layer(cell)
    for layout in (declared(cell, name), declared(cell, name, gates="".join(CELLS[cell].gates[::-1]), transposed=True)):
        back = layout.ours(layout.theirs(p))
        assert back.keys() == p.keys() - ({"bias_hh"} if layout.biases == "one" else set())
        assert all(np.array_equal(back[each], p[each]) for each in back)


def test_they_are_as_their_documents_say() -> None:
    lstm, gru = one_layer("lstm"), one_layer("gru")
    onnx = LAYOUTS["onnx"]["lstm"].theirs(lstm)
    assert {name: array.shape for name, array in onnx.items()} == {
        "W": (1, 4 * H, I),
        "R": (1, 4 * H, H),
        "B": (1, 8 * H),
    }
    assert np.array_equal(onnx["W"][0, H : 2 * H], lstm["weight_ih"][3 * H :])  # i, then o
    assert np.array_equal(onnx["B"][0, 4 * H : 5 * H], lstm["bias_hh"][:H])
    keras = LAYOUTS["keras"]["gru"].theirs(gru)
    assert {name: array.shape for name, array in keras.items()} == {
        "kernel": (I, 3 * H),
        "recurrent_kernel": (H, 3 * H),
        "bias": (2, 3 * H),
    }
    assert np.array_equal(keras["kernel"][:, :H], gru["weight_ih"][H : 2 * H].T)  # z comes first
    assert np.array_equal(keras["bias"][1, :H], gru["bias_hh"][H : 2 * H])
    keras = LAYOUTS["keras"]["lstm"].theirs(lstm)
    assert keras["bias"].shape == (4 * H,) and np.array_equal(
        keras["bias"][2 * H : 3 * H], lstm["bias_ih"][2 * H : 3 * H]
    )


def test_what_is_declared_otherwise() -> None:
    layout = declared("lstm", gates="ofig", names={"weight_ih": "U", "bias_ih": "b"}, one_bias=True, transposed=True)
    p = one_layer("lstm")
    theirs = layout.theirs(p)
    assert theirs.keys() == {"U", "weight_hh", "b"} and theirs["U"].shape == (I, 4 * H)
    assert np.array_equal(theirs["U"][:, :H], p["weight_ih"][3 * H :].T)
    assert np.array_equal(theirs["b"][H : 2 * H], p["bias_ih"][H : 2 * H])


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"layout": "mxnet"}, "layout 'mxnet' does not exist: choose torch, onnx, keras"),
        ({"gates": "ifo"}, "'ifo' are not the gates of lstm: order ifgo"),
        ({"names": {"weight": "W"}}, "'weight' is no parameter: name weight_ih, weight_hh, bias_ih, bias_hh"),
    ],
)
def test_what_does_not_exist_is_refused(options: dict[str, str], message: str) -> None:
    with pytest.raises(ValueError, match=re.escape(message)):
        declared("lstm", **options)
