"""pycma, bounded to the unit cube, with a random stream of its own."""

from __future__ import annotations

from typing import Annotated, Any

import cma
import numpy as np
from pydantic import Field, FiniteFloat, field_validator

from mergekit_darwin.files import Frozen
from mergekit_darwin.search.space import Array, Predictor


class SearchSettings(Frozen):
    """How to search: sigma0 in units of the search intervals, popsize None pycma's own.

    top_k of a generation are measured; patience counts generations without a better
    score (0: never stop early); max_time is in seconds.
    """

    seed: Annotated[int, Field(ge=1, lt=2**32)] = 1
    sigma0: Annotated[FiniteFloat, Field(gt=0.0, le=1.0)] = 0.2
    popsize: Annotated[int, Field(ge=4)] | None = None
    proxy_steps: Annotated[int, Field(ge=200)] = 200
    top_k: Annotated[int, Field(ge=1)] = 4
    patience: Annotated[int, Field(ge=0)] = 5
    max_evaluations: Annotated[int, Field(ge=1)] = 48
    max_time: Annotated[FiniteFloat, Field(gt=0.0)] | None = None

    @field_validator("seed", mode="before")
    @classmethod
    def _no_clock(cls, value: Any) -> Any:
        if value == 0:
            raise ValueError("0 would mean the clock; choose a whole number from 1 on")
        return value


def make_cma(start: Array, sigma: float, settings: SearchSettings, salt: int) -> Any:
    """Return a bounded pycma strategy with a random stream of its own.

    pycma's `seed` would reseed NumPy's global stream (and 0 would mean the clock), so
    the stream is handed over instead and the global one stays untouched.
    """
    stream = np.random.RandomState([settings.seed, salt])
    given: dict[str, Any] = {
        "bounds": [0.0, 1.0],
        "randn": stream.randn,
        "seed": np.nan,
        "verbose": -9,
        "verb_log": 0,
        "CMA_injections_threshold_keep_len": 1,
    }
    if settings.popsize:
        given["popsize"] = settings.popsize
    inside = np.clip(start, 0.01, 0.99)
    return cma.CMAEvolutionStrategy(inside, sigma, given)


def maximise(
    value: Predictor, start: Array, settings: SearchSettings, salt: int
) -> tuple[Array, float, int]:
    """Return the best point CMA-ES finds, its value, and the steps taken.

    value maps points [N, n] to [N]. A stopped run starts again elsewhere, until
    proxy_steps steps are done.
    """
    best, best_value = start, float(value(start[None])[0])
    stream = np.random.RandomState([settings.seed, salt, 7])
    steps = 0
    strategy = make_cma(start, settings.sigma0, settings, salt)
    while steps < settings.proxy_steps:
        if strategy.stop():
            salt += 1000
            strategy = make_cma(stream.rand(len(start)), 0.3, settings, salt)
        points = np.array(strategy.ask())
        values = value(points)
        strategy.tell(list(points), list(-values))
        top = int(np.argmax(values))
        if values[top] > best_value:
            best, best_value = points[top], float(values[top])
        steps += 1
    return best, best_value, steps
