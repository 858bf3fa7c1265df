"""The backends of recurrent layers under autograd that this machine can run: `compiled` needs a C++ compiler."""

import shutil

import pytest

from models import cpu_kernels

HAS_COMPILER = shutil.which(cpu_kernels.COMPILER) is not None
BACKENDS = ("autograd", "fused", "compiled") if HAS_COMPILER else ("autograd", "fused")
PARAMETERS = ["autograd", "fused", pytest.param("compiled", marks=pytest.mark.compiler)]
