"""How one tensor is blended, and the few numbers that this comes down to."""

from __future__ import annotations

from dataclasses import dataclass

from mergekit_darwin.kernel.masks import STEPS, threshold


@dataclass(frozen=True)
class Blend:
    """How one tensor is blended; ratio, densities and weight as the genes of a genome.

    seed and name choose the mask; masked False keeps every entry.
    """

    ratio: float
    density_a: float
    density_b: float
    weight: float
    lambda_: float
    rescale: bool
    normalize: bool
    seed: str
    name: str
    masked: bool = True


Pair = tuple[float, float]  # the Father's and the Mother's


@dataclass(frozen=True)
class Scalars:
    """The numbers of a blend in double precision; each is rounded once, where used.

    steps are kept of 65536; shares are (1 - r, r); grown are shares over kept shares;
    mix is (w, 1 - w), None where w is 1; alone is one over each share (0 for a share
    of 0), None without normalize.
    """

    steps: tuple[int, int]
    shares: Pair
    grown: Pair
    mix: Pair | None
    alone: Pair | None
    lambda_: float

    @property
    def masked(self) -> bool:
        """Return whether any entry can be dropped."""
        return self.steps != (STEPS, STEPS)


def scalars_of(blend: Blend) -> Scalars:
    """Return the numbers that a blend comes down to."""
    densities = (blend.density_a, blend.density_b) if blend.masked else (1.0, 1.0)
    steps_a, steps_b = (threshold(density) for density in densities)
    share_a, share_b = shares = (1.0 - blend.ratio, blend.ratio)
    grow_a, grow_b = (
        STEPS / steps if blend.rescale else 1.0 for steps in (steps_a, steps_b)
    )
    alone = (1.0 / share_a if share_a else 0.0, 1.0 / share_b if share_b else 0.0)
    return Scalars(
        steps=(steps_a, steps_b),
        shares=shares,
        grown=(share_a * grow_a, share_b * grow_b),
        mix=(blend.weight, 1.0 - blend.weight) if blend.weight != 1.0 else None,
        alone=alone if blend.normalize else None,
        lambda_=blend.lambda_,
    )
