"""What is tested under autograd is tested with each backend; tests whose reference is costly loop over all of them."""

import pytest

from tests.backends import PARAMETERS


@pytest.fixture(params=PARAMETERS, scope="session")
def backend(request: pytest.FixtureRequest) -> str:
    return str(request.param)
