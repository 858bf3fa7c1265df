"""Tier E7: the checker is checked. Every published bug is caught by an exact case, and what is right is not."""

import pytest

from bptt.verify.matrix import SETTINGS, cells_of, exact_cases, is_noticed, wrong_results
from bptt.verify.mutants import MUTANTS, Mutant, applied
from tests.equivalence.exact_cases import CELLS

NO_CHANGE = MUTANTS[3]._replace(name="none", false=MUTANTS[3].true)


@pytest.mark.parametrize("mutant", MUTANTS, ids=str)
def test_every_published_bug_is_caught_in_every_cell_that_can_have_it(mutant: Mutant) -> None:
    for cell in cells_of(mutant):
        assert any(wrong_results(case, mutant) for case in exact_cases(cell)), cell


@pytest.mark.parametrize("cell", CELLS)
def test_the_true_code_is_not_caught(cell: str) -> None:
    assert not any(wrong_results(case, NO_CHANGE) for case in exact_cases(cell))
    assert not any(is_noticed(setting, NO_CHANGE, cell) for setting in SETTINGS)


def test_the_true_code_is_back_after_the_bug() -> None:
    before = MUTANTS[0].function.__code__
    with pytest.raises(KeyError), applied(MUTANTS[0]):
        assert MUTANTS[0].function.__code__ is not before
        raise KeyError
    assert MUTANTS[0].function.__code__ is before


def test_each_way_that_others_test_lets_some_bug_pass() -> None:
    for setting in SETTINGS:
        assert not all(is_noticed(setting, mutant, cell) for mutant in MUTANTS for cell in cells_of(mutant))


def test_bugs_have_names_of_their_own() -> None:
    assert len({mutant.name for mutant in MUTANTS}) == len(MUTANTS)
