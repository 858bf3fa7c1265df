"""Times two things in turn, A B A B …, and compares them pair by pair: machines drift, but neighbours in time alike."""

import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass

import torch


@dataclass(frozen=True)
class Comparison:
    """Seconds are medians; the ratio is theirs / ours: above 1, ours are faster. Low and high are its quartiles."""

    ours: float
    theirs: float
    ratio: float
    low: float
    high: float


def compare(ours: Callable[[], object], theirs: Callable[[], object], pairs: int) -> Comparison:
    """Each side with the number of threads that it is fastest with, after one run to warm up."""
    our_threads, their_threads = fastest(ours), fastest(theirs)
    seconds = [(timed(ours, our_threads), timed(theirs, their_threads)) for _ in range(pairs)]
    ratios = [b / a for a, b in seconds]
    low, _, high = statistics.quantiles(ratios, n=4)
    ours_seconds, theirs_seconds = (statistics.median(of) for of in zip(*seconds, strict=True))
    return Comparison(ours_seconds, theirs_seconds, statistics.median(ratios), low, high)


def timed(run: Callable[[], object], threads: int) -> float:
    torch.set_num_threads(threads)
    begin = time.perf_counter()
    run()
    return time.perf_counter() - begin


def fastest(run: Callable[[], object]) -> int:
    """Of one thread and all."""
    everything = torch.get_num_threads()
    run()
    trials = {threads: min(timed(run, threads) for _ in range(3)) for threads in {1, everything}}
    torch.set_num_threads(everything)
    return min(trials, key=lambda threads: trials[threads])
