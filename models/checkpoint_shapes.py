"""The names and shapes of a model's parameters, computed from its options: nothing is built, no memory is taken.

Letters: V symbols, E embedding size, H hidden size, L layers, G gates, C classes, D directions.
"""

from typing import Any

Shape = tuple[int, ...]
GATES = {"rnn": 1, "gru": 3, "lstm": 4}
STATES = {"rnn": 1, "gru": 1, "lstm": 2}  # tensors of a cell's state


def shapes(options: dict[str, Any], tensors: int) -> dict[str, Shape]:
    """Of a model with these options, where a checkpoint has so many tensors.

    Raises ValueError where there are more layers than tensors, before one name for each is made.
    """
    layers = options["num_layers"]
    if not 1 <= layers <= tensors:
        raise ValueError(f"num_layers is {layers}, but the weights are {tensors} tensors")
    return classifier(options) if "num_classes" in options else language_model(options)


def language_model(options: dict[str, Any]) -> dict[str, Shape]:
    V, H, E = options["vocab_size"], options["hidden_size"], options.get("embedding_size")
    found: dict[str, Shape] = {"embedding.weight": (V, E)} if E else {}
    found |= recurrent(options, E or V, ["cells"])
    if options.get("attention_span"):
        found |= {"attention.query.weight": (H, H), "attention.query.bias": (H,)}
        found |= {"attention.value.weight": (H, H), "attention.value.bias": (H,), "attention.key.weight": (H, H)}
    return found | {"head.weight": (V, H), "head.bias": (V,)}


def classifier(options: dict[str, Any]) -> dict[str, Shape]:
    V, E, H, C = (options[name] for name in ("vocab_size", "embedding_size", "hidden_size", "num_classes"))
    found: dict[str, Shape] = {"embedding.weight": (V, E)}
    found |= recurrent(options, E, ["cells", "reverse_cells"]) | {"attention.vector": (2 * H,)}
    if options["pooling"] == "additive":
        found |= {"attention.inner.weight": (2 * H, 2 * H), "attention.inner.bias": (2 * H,)}
    return found | {"head.weight": (C, 2 * H), "head.bias": (C,)}


def recurrent(options: dict[str, Any], inputs: int, directions: list[str]) -> dict[str, Shape]:
    """In the order of the module's parameters: all layers of one direction, then those of the other."""
    H, rows = options["hidden_size"], GATES[options["cell"]] * options["hidden_size"]
    found: dict[str, Shape] = {}
    for direction in directions:
        for layer in range(options["num_layers"]):
            name, size = f"recurrent.{direction}.{layer}.", inputs if layer == 0 else len(directions) * H
            found |= {name + "weight_ih": (rows, size), name + "weight_hh": (rows, H)}
            found |= {name + "bias_ih": (rows,), name + "bias_hh": (rows,)}
    return found


def trained(options: dict[str, Any], of_model: dict[str, Shape]) -> list[str]:
    """The names of the parameters as an optimizer counts them: a weight that is tied to another counts once, where it
    comes first."""
    return [name for name in of_model if not (options.get("tied") and name == "head.weight")]
