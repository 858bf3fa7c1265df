"""Whatever autograd's room is tried on is tried on each of its backends."""

import pytest


@pytest.fixture(params=["autograd", "fused", "compiled"], scope="session")
def backend(request: pytest.FixtureRequest) -> str:
    return str(request.param)
