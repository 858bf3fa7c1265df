"""How weights are drawn before training, by name."""

import torch
from torch import nn

from models.recurrent import Recurrent

INITIALIZATIONS = ("uniform", "gaussian", "he", "orthogonal")


@torch.no_grad()
def initialize(module: nn.Module, how: str) -> None:
    """Draws the weights of a model anew.

        uniform:     as torch draws them, U(−1/√n, 1/√n) for layers and N(0, 1) for embeddings
        gaussian:    W ~ N(0, 0.01²), b = 0
        he:          W ~ N(0, 2/n_in), b = 0, where n_in is the number of W's columns; embeddings as in uniform
        orthogonal:  each gate's H × H block of W_hh has orthonormal rows, all else as in uniform

    He et al., *Delving deep into rectifiers* (2015); Saxe et al., *Exact solutions to the nonlinear dynamics of
    learning in deep linear neural networks* (2014). Raises ValueError for another name.
    """
    if how not in INITIALIZATIONS:
        raise ValueError(f"{how!r} does not exist: choose one of {', '.join(INITIALIZATIONS)}")
    if how in ("gaussian", "he"):
        for name, parameter in module.named_parameters():
            if parameter.dim() == 1:
                parameter.zero_()
            elif how == "gaussian":
                parameter.normal_(0, 0.01)
            elif name != "embedding.weight":
                parameter.normal_(0, (2 / parameter.shape[1]) ** 0.5)
    if how == "orthogonal":
        for layers in module.modules():
            if isinstance(layers, Recurrent):
                for cell in (cell for cells in layers.layers() for cell in cells):
                    for block in cell.weight_hh.split(cell.hidden_size):
                        nn.init.orthogonal_(block)
