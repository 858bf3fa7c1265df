"""What all tests share. Public text may lie beside a checkout; tests that need it skip where it is absent.

`make test` runs few Hypothesis examples, `make proof` many (`--hypothesis-profile proof`).
"""

import os
from collections import Counter
from pathlib import Path

import pytest
import torch
from hypothesis import settings

from models import cpu_kernels
from tests.backends import HAS_COMPILER

torch.set_num_threads(int(os.environ.get("OMP_NUM_THREADS", "1")))  # one: tensors are small
settings.register_profile("quick", max_examples=40, deadline=None, derandomize=True)
settings.register_profile("proof", max_examples=700, deadline=None, derandomize=True)
settings.load_profile("quick")
cpu_kernels.can_compile()  # prints its line about a missing compiler now, not inside a test that reads stderr

SHARED = Path(__file__).parents[2] / "shared" / "data"


def pytest_runtest_setup(item: pytest.Item) -> None:
    if item.get_closest_marker("gpu") and not torch.cuda.is_available():
        pytest.skip("there is no GPU")
    if item.get_closest_marker("compiler") and not HAS_COMPILER:
        pytest.skip("there is no C++ compiler")


@pytest.hookimpl(trylast=True)
def pytest_unconfigure(config: pytest.Config) -> None:
    """The last line says how many tests were skipped, and why."""
    reporter = config.pluginmanager.get_plugin("terminalreporter")
    if reporter is None or hasattr(config, "workerinput"):
        return
    skipped = (report.longrepr for report in reporter.stats.get("skipped", []))
    reasons = Counter(str(where[2]).removeprefix("Skipped: ") for where in skipped)
    if reasons:
        listed = "; ".join(f"{count} because {reason}" for reason, count in reasons.most_common())
        reporter.write_line(f"{reasons.total()} tests were skipped: {listed}")


@pytest.fixture
def tinyshakespeare() -> Path:
    path = SHARED / "tinyshakespeare.txt"
    if not path.exists():
        pytest.skip("shared/data/tinyshakespeare.txt does not lie beside the project")
    return path
