"""The truth about gradients, from code that shares no backward pass with anything: three ways to differentiate.

* the forward pass in 60 digits, central differences of 10⁻²⁰: an error near 10⁻³⁹ (its third derivative), the truth as
  far as float64 is concerned;
* a complex step (Squire & Trapp, 1998), Im f(x + ih) / h with h = 10⁻²⁰⁰: no difference, so no cancellation; as exact
  as the float64 forward pass itself;
* real-time recurrent learning (Williams & Zipser, 1989): ∂state/∂parameters carried forward with the sequence, so that
  the chain of Jacobians is multiplied from the other end.
"""

from collections.abc import Callable, Iterator
from decimal import Decimal, localcontext
from typing import Any

import numpy as np

from bptt.arithmetic import Array
from bptt.cells import CELLS
from bptt.layers import Gradients, Recurrent, layer_forward
from bptt.losses import per_step_cross_entropy
from bptt.networks import Classifier, LanguageModel
from bptt.verify.cases import Arrays, Case, layers_forward, masks_of, model_forward, parts_of, state_of

DIGITS, DIFFERENCE, COMPLEX_STEP = 60, Decimal("1e-20"), 1e-200


def objective(case: Case, arrays: Arrays) -> Any:
    """The number that a case's gradients are the gradient of: Σ cotangent · result, or the model's loss and Σ of the
    final state's. `arrays` holds inputs, parameters and cotangents, in any arithmetic."""
    network, whole = case.network, case.inputs | arrays
    if isinstance(network, Classifier):
        logits, _, _ = network.forward(whole, whole["tokens"], whole["lengths"], masks_of(whole))
        return (logits * arrays["d.logits"]).sum()
    if isinstance(network, LanguageModel):
        logits, trace = model_forward(network, whole)
        total, _ = per_step_cross_entropy(logits, case.inputs["targets"], network.loss)
        final = trace.final_state.recurrent if network.attention_span else trace.final_state
    else:
        output, final, _ = layers_forward(network, whole)
        total = (output * arrays["d.output"]).sum()
    for name, part in parts_of(final, "d.final.").items():
        total = total + (part * arrays[name]).sum()
    return total


def entries(case: Case, arrays: Arrays) -> Iterator[tuple[str, tuple[int, ...]]]:
    """Every number that a gradient is asked for."""
    for name in [*case.inputs, *case.parameters]:
        if name in arrays and not name.startswith("mask."):
            yield from ((name, index) for index in np.ndindex(arrays[name].shape))


def everything(case: Case, convert: Callable[[Array], Array]) -> Arrays:
    given = case.inputs | case.parameters | case.cotangents
    return {name: convert(value) for name, value in given.items() if value.dtype.kind == "f"}


def differentiate(case: Case, arrays: Arrays, slope: Callable[[Array, tuple[int, ...]], Any]) -> Arrays:
    """`slope` moves one entry of an array, and says what that does to the objective."""
    gradients = {f"d.{name}": np.zeros(arrays[name].shape) for name, _ in entries(case, arrays)}
    for name, index in entries(case, arrays):
        kept = arrays[name][index]
        gradients[f"d.{name}"][index] = float(slope(arrays[name], index))
        arrays[name][index] = kept
    return gradients


def central_differences(case: Case) -> Arrays:
    """The gradients, by (L(x + h) − L(x − h)) / 2h in 60 digits, rounded to float64 once, at the end."""
    with localcontext() as context:
        context.prec = DIGITS
        arrays = everything(case, np.frompyfunc(Decimal, 1, 1))

        def slope(array: Array, index: tuple[int, ...]) -> Any:
            array[index] += DIFFERENCE
            above = objective(case, arrays)
            array[index] -= 2 * DIFFERENCE
            return (above - objective(case, arrays)) / (2 * DIFFERENCE)

        return differentiate(case, arrays, slope)


def complex_step(case: Case) -> Arrays:
    """The gradients of the float64 forward pass, by Im L(x + ih) / h."""
    arrays = everything(case, lambda array: array.astype(np.complex128))

    def slope(array: Array, index: tuple[int, ...]) -> Any:
        array[index] += 1j * COMPLEX_STEP
        return np.imag(objective(case, arrays)) / COMPLEX_STEP

    return differentiate(case, arrays, slope)


def real_time_recurrent_learning(case: Case) -> Gradients:
    """The parameters' gradients of a single layer, by forward accumulation.

        P' = J P + ∂s'/∂θ

    P is ∂s/∂θ for every unit of the state s, parameter θ and member of the batch; J = ∂s'/∂s, read off one step back
    from each unit of s'.
    """
    network = case.network
    assert isinstance(network, Recurrent) and network.num_layers == 1
    cell, act, p = CELLS[network.cell], network.activations(), network.parameters_of(0, case.parameters)
    start = state_of(network, case.inputs, "initial.")
    first = type(start)(*(part[0] for part in start))
    _, _, trace = layer_forward(case.inputs["x"], first, p, cell, act)
    shape = first.h.shape  # (B, H)
    nothing = {name: np.zeros((*shape, *value.shape)) for name, value in p.items()}  # (B, H, ...)
    sensitivity = {part: nothing for part in first._fields}
    gradients = {f"d.cells.0.{name}": np.zeros_like(value) for name, value in p.items()}
    for t, saved in enumerate(trace.saved):
        after = {part: {name: array.copy() for name, array in nothing.items()} for part in first._fields}
        for part in first._fields:
            for unit in range(shape[1]):
                one = first._replace(**{each: np.zeros(shape) for each in first._fields})
                getattr(one, part)[:, unit] = 1
                d_x_part, d_h_part, row_of_j = cell.step_backward(one, saved, p, act)
                direct = {
                    "weight_ih": d_x_part[:, :, np.newaxis] * trace.x[t][:, np.newaxis],
                    "weight_hh": d_h_part[:, :, np.newaxis] * trace.h_before[t][:, np.newaxis],
                    "bias_ih": d_x_part,
                    "bias_hh": d_h_part,
                }
                for name in p:
                    through = sum(
                        np.einsum("bj,bj...->b...", row, sensitivity[source][name])
                        for source, row in row_of_j._asdict().items()
                    )
                    after[part][name][:, unit] = direct[name] + through
        sensitivity = after
        for name in p:
            gradients[f"d.cells.0.{name}"] += weighted(case.cotangents["d.output"][t], sensitivity["h"][name])
    for part in first._fields:
        for name in p:
            gradients[f"d.cells.0.{name}"] += weighted(case.cotangents[f"d.final.{part}"][0], sensitivity[part][name])
    return gradients


def weighted(cotangent: Array, sensitivity: Array) -> Array:
    return np.tensordot(cotangent, sensitivity, ((0, 1), (0, 1)))
