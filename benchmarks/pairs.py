"""Times two things in turn, A B A B …, and compares them pair by pair: machines drift, but neighbours in time alike."""

import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial

import torch


@dataclass(frozen=True)
class Comparison:
    """Medians of what each side costs, and of theirs / ours, with its quartiles: above 1, ours are better."""

    ours: float
    theirs: float
    ratio: float
    low: float
    high: float

    def scaled(self, factor: float) -> "Comparison":
        """In another unit."""
        return replace(self, ours=factor * self.ours, theirs=factor * self.theirs)

    def rates(self, count: float) -> "Comparison":
        """How many of so many each side does in a second."""
        return replace(self, ours=count / self.ours, theirs=count / self.theirs)


def compare(ours: Callable[[], object], theirs: Callable[[], object], pairs: int) -> Comparison:
    """Seconds, of each side with the number of threads that it is fastest with, after one run to warm up."""
    return in_turn(partial(timed, ours, fastest(ours)), partial(timed, theirs, fastest(theirs)), pairs)


def in_turn(ours: Callable[[], float], theirs: Callable[[], float], pairs: int) -> Comparison:
    """Of sides that measure themselves, two pairs at least."""
    costs = [(ours(), theirs()) for _ in range(pairs)]
    our_cost, their_cost = (statistics.median(of) for of in zip(*costs, strict=True))
    low, ratio, high = statistics.quantiles((theirs / ours for ours, theirs in costs), n=4, method="inclusive")
    return Comparison(our_cost, their_cost, ratio, low, high)


def timed(run: Callable[[], object], threads: int) -> float:
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    begin = now()
    run()
    seconds = now() - begin
    torch.set_num_threads(before)
    return seconds


def now() -> float:
    """Seconds, once a GPU has done all that was asked of it."""
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    return time.perf_counter()


def fastest(run: Callable[[], object]) -> int:
    """Of one thread and all."""
    run()
    trials = {threads: min(timed(run, threads) for _ in range(3)) for threads in {1, torch.get_num_threads()}}
    return min(trials, key=lambda threads: trials[threads])
