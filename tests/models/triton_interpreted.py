"""The Triton kernels, for tests: on the GPU that is there, or in Triton's interpreter, which has to be asked for before
they are imported. Where triton is not installed, the tests that import this are skipped."""

import pytest
import torch

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
with pytest.MonkeyPatch.context() as environment:
    if DEVICE == "cpu":
        environment.setenv("TRITON_INTERPRET", "1")
    pytest.importorskip("triton", reason="triton is not installed")
    from models import triton_kernels as kernels

__all__ = ["DEVICE", "kernels"]
