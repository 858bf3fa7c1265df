"""What tests share. Public text lies beside a checkout, or not: tests that need it say so and skip."""

from pathlib import Path

import pytest
import torch

torch.set_num_threads(1)  # small tensors: a second thread costs more than it brings

SHARED = Path(__file__).parents[2] / "shared" / "data"


def pytest_runtest_setup(item: pytest.Item) -> None:
    if item.get_closest_marker("gpu") and not torch.cuda.is_available():
        pytest.skip("there is no GPU")


@pytest.fixture
def tinyshakespeare() -> Path:
    path = SHARED / "tinyshakespeare.txt"
    if not path.exists():
        pytest.skip(f"{path} is not there")
    return path
