"""How others name, order and turn the parameters of a recurrent layer: declared by their owner, never guessed.

Ours is PyTorch's: weight_ih (G·H, I), weight_hh (G·H, H), bias_ih and bias_hh (G·H), gates i, f, g, o or r, z, n. The
others are those of the ONNX operators and the Keras layers LSTM, GRU (with the reset gate after the product) and RNN.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace

import numpy as np

from bptt.arithmetic import Array
from bptt.cells import CELLS
from bptt.verify.cases import Arrays

OURS = ("weight_ih", "weight_hh", "bias_ih", "bias_hh")
OTHER_LETTERS = {"lstm": {"c": "g"}, "gru": {"h": "n"}, "rnn": {}}  # what ONNX and Keras call our gates
SEVERAL: dict[str, Callable[[list[Array]], Array]] = {"rows": np.stack, "joined": np.concatenate}  # biases in one array


@dataclass(frozen=True)
class Layout:
    """One layer's parameters as somebody else keeps them.

    Args:
        cell: "rnn", "gru" or "lstm".
        gates: the blocks of H, in order, such as "ifgo".
        names: theirs for each of ours.
        biases: "two"; "one", where W_hh h has none; "rows", both in an array (2, G·H); "joined", both in one (2·G·H).
        transposed: weights are (I, G·H) and (H, G·H), and multiplied from the right.
        directions: arrays have a leading axis of one, for the one direction there is.

    Raises ValueError for gates that the cell does not have and names of nothing.
    """

    cell: str
    gates: str
    names: Mapping[str, str] = field(default_factory=lambda: {name: name for name in OURS})
    biases: str = "two"
    transposed: bool = False
    directions: bool = False

    def __post_init__(self) -> None:
        if sorted(self.letters()) != sorted(CELLS[self.cell].gates):
            raise ValueError(
                f"{self.gates!r} are not the gates of {self.cell}: order {''.join(CELLS[self.cell].gates)}"
            )
        for name in self.names:
            if name not in OURS:
                raise ValueError(f"{name!r} is no parameter: name {', '.join(OURS)}")

    def letters(self) -> list[str]:
        return [OTHER_LETTERS[self.cell].get(letter, letter) for letter in self.gates]

    def order(self) -> list[int]:
        """The position among our gates of each of theirs."""
        return [CELLS[self.cell].gates.index(letter) for letter in self.letters()]

    def theirs(self, p: Arrays) -> Arrays:
        """One layer's parameters in this layout."""
        found = {name: blocks(p[name], self.order()) for name in OURS}
        if self.transposed:
            found |= {name: found[name].T for name in OURS[:2]}
        if self.biases != "two":
            pair = [found["bias_ih"], found.pop("bias_hh")]
            found["bias_ih"] = SEVERAL[self.biases](pair) if self.biases in SEVERAL else pair[0]
        return {self.names[name]: value[np.newaxis] if self.directions else value for name, value in found.items()}

    def ours(self, q: Arrays) -> Arrays:
        """The other way, for what there is: parameters, or their gradients. Of one bias, bias_hh has none.

        Raises ValueError for an array that cannot be taken apart.
        """
        found = {name: q[theirs] for name, theirs in self.names.items() if theirs in q}
        if self.directions:
            found = {name: value.reshape(value.shape[1:]) for name, value in found.items()}
        if self.transposed:
            found |= {name: found[name].T for name in OURS[:2] if name in found}
        if self.biases == "one":
            found.pop("bias_hh", None)
        elif self.biases in SEVERAL and "bias_ih" in found:
            found["bias_ih"], found["bias_hh"] = found["bias_ih"].reshape(2, -1)
        back = [self.order().index(gate) for gate in range(len(self.gates))]
        return {name: blocks(value, back) for name, value in found.items()}


def blocks(array: Array, order: list[int]) -> Array:
    """The gates' blocks, along the first axis, in another order."""
    return np.concatenate([np.split(array, len(order))[gate] for gate in order])


def declared(
    cell: str,
    layout: str = "torch",
    gates: str | None = None,
    names: Mapping[str, str] | None = None,
    one_bias: bool = False,
    transposed: bool = False,
) -> Layout:
    """A known layout, with what somebody declares to be otherwise. Raises ValueError for one that does not exist."""
    if layout not in LAYOUTS:
        raise ValueError(f"layout {layout!r} does not exist: choose {', '.join(LAYOUTS)}")
    known = LAYOUTS[layout][cell]
    return replace(
        known,
        gates=known.gates if gates is None else gates,
        names={**known.names, **(names or {})},
        biases="one" if one_bias else known.biases,
        transposed=transposed or known.transposed,
    )


W_R_B = {"weight_ih": "W", "weight_hh": "R", "bias_ih": "B", "bias_hh": "B"}
KERNELS = {"weight_ih": "kernel", "weight_hh": "recurrent_kernel", "bias_ih": "bias", "bias_hh": "bias"}
LAYOUTS = {
    "torch": {cell: Layout(cell, "".join(of.gates)) for cell, of in CELLS.items()},
    "onnx": {
        cell: Layout(cell, gates, W_R_B, biases="joined", directions=True)
        for cell, gates in {"rnn": "h", "gru": "zrh", "lstm": "iofc"}.items()
    },
    "keras": {
        cell: Layout(cell, gates, KERNELS, biases=biases, transposed=True)
        for cell, gates, biases in (("rnn", "h", "one"), ("gru", "zrh", "rows"), ("lstm", "ifco", "one"))
    },
}
