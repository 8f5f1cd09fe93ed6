"""pycma, bounded to the unit cube, with a random stream of its own."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

import cma
import numpy as np
import numpy.typing as npt

from mergekit_darwin.errors import DarwinError
from mergekit_darwin.search.belief import Predictor

Array = npt.NDArray[np.float64]
Strategy = Literal["proxy", "lq", "plain"]


@dataclass(frozen=True)
class SearchOptions:
    """How to search: seed >= 1; sigma0 in units of the search intervals.

    popsize 0 means pycma's own; top_k of a generation are measured; patience counts
    generations without a better score (0: never stop early).
    """

    seed: int = 1
    sigma0: float = 0.2
    popsize: int = 0
    proxy_steps: int = 200
    top_k: int = 4
    patience: int = 5
    max_evaluations: int = 48
    strategy: Strategy = "proxy"
    noise: float = 0.02


def make_cma(start: Array, sigma: float, options: SearchOptions, salt: int) -> Any:
    """Return a bounded pycma strategy with a random stream of its own.

    pycma's `seed` would reseed NumPy's global stream (and 0 would mean the clock), so
    the stream is handed over instead and the global one stays untouched.
    """
    if options.seed < 1:
        raise DarwinError(
            f"search.seed must be a whole number from 1 on; got {options.seed}."
            " (0 would mean the clock.)"
        )
    stream = np.random.RandomState([options.seed, salt])
    settings: dict[str, Any] = {
        "bounds": [0.0, 1.0],
        "randn": stream.randn,
        "seed": np.nan,
        "verbose": -9,
        "verb_log": 0,
        "CMA_injections_threshold_keep_len": 1,
    }
    if options.popsize:
        settings["popsize"] = options.popsize
    inside = np.clip(start, 0.01, 0.99)
    return cma.CMAEvolutionStrategy(inside, sigma, settings)


def maximise(
    value: Predictor, start: Array, options: SearchOptions, salt: int
) -> tuple[Array, float, int]:
    """Return the best point CMA-ES finds, its value, and the steps taken.

    value maps points [N, n] to [N]. A stopped run starts again elsewhere, until
    proxy_steps steps are done.
    """
    best, best_value = start, float(value(start[None])[0])
    stream = np.random.RandomState([options.seed, salt, 7])
    steps = 0
    strategy = make_cma(start, options.sigma0, options, salt)
    while steps < options.proxy_steps:
        if strategy.stop():
            salt += 1000
            strategy = make_cma(stream.rand(len(start)), 0.3, options, salt)
        points = np.array(strategy.ask())
        values = value(points)
        strategy.tell(list(points), list(-values))
        top = int(np.argmax(values))
        if values[top] > best_value:
            best, best_value = points[top], float(values[top])
        steps += 1
    return best, best_value, steps
