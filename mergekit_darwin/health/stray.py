"""How far one tensor lies from anything that a mix of its parents could give."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch

_CHUNK = 1 << 20  # elements; four float32 rows of it are 16 MiB
_PIECE = 1 << 17  # elements whose rows and columns are looked at together, in cache
_SAMPLE = 1 << 16  # elements looked at one by one
_SMALLEST = 16  # elements; fewer give no statistics
_FAR = 0.7  # of its norm, that a row or column may lie off; our choice
_OFF = 4.0  # times the parents' changes of it, likewise
_RANK_TOLERANCE = 1e-6  # directions weaker than this share are the same; our choice


@dataclass(frozen=True)
class Stray:
    """Where a child's tensor lies, seen from its parents (and base).

    distance: from the child to the plane through father, mother and base, beyond
    what rounding explains, over the size of the parents' changes (with a base the
    two task vectors together, else mother - father). share: the same over the norm of
    the tensor (the larger of child's and father's). calm: mean square of that
    difference over the quarter of the elements the parents change least, over its
    mean square anywhere; 1 if it has nothing to do with what the parents changed,
    near 0 for masks (DARE, TIES), which drop or scale parents' changes. turned: 1 -
    the largest cosine with father, mother, base; apart: the same between father and
    mother. rows, columns: how many of a matrix (its last dimension against all others)
    lie off by themselves: that difference is over 0.7 of their norm and over four
    times what the parents changed in them, or all their weight; without a base, which
    shows what both changed alike, only the latter. Source: our choice.
    """

    distance: float
    share: float
    calm: float
    turned: float
    apart: float
    based: bool
    rows: int = 0
    columns: int = 0


def measure_stray(
    child: torch.Tensor,
    father: torch.Tensor,
    mother: torch.Tensor,
    base: torch.Tensor | None = None,
) -> Stray | None:
    """Return the stray of a tensor, or None where there is nothing to compare.

    All tensors are borrowed, of one shape, on one device; None if shapes differ, they
    are not floating point, or have fewer than 16 elements. Float32 inside, sums in
    float64.
    """
    given = [child, father, mother] + ([base] if base is not None else [])
    if child.numel() < _SMALLEST or any(
        row.shape != child.shape or not row.is_floating_point() for row in given
    ):
        return None
    rounding = max(torch.finfo(row.dtype).eps for row in given)
    flat = [row.detach().reshape(-1) for row in given]
    gram = _gram(flat)
    directions = list(range(2, gram.shape[0]))
    mix = _project(gram, directions)
    rest = gram[1, 1] - 2 * mix @ gram[directions, 1]
    rest += mix @ gram[np.ix_(directions, directions)] @ mix
    norms = _norms(gram)
    excess = max(0.0, math.sqrt(max(0.0, rest)) - rounding * max(norms[:2]))
    size = max(norms[:2])
    unit = max(_scale(gram), rounding * size)
    rows, columns = _lines(given, mix) if child.ndim > 1 else (0, 0)
    return Stray(
        distance=excess / unit if unit > 0.0 else 0.0,
        share=excess / size if size > 0.0 else 0.0,
        calm=_calm(flat, mix),
        turned=1.0 - max(_cosine(gram, 0, other) for other in range(1, len(given))),
        apart=1.0 - _cosine(gram, 1, 2),
        based=base is not None,
        rows=rows,
        columns=columns,
    )


def _rows(flat: list[torch.Tensor]) -> torch.Tensor:
    """Return father, child - father, mother - father (, base - father), float32."""
    child, father, *others = (row.float() for row in flat)
    return torch.stack([father, child - father, *(row - father for row in others)])


def _gram(flat: list[torch.Tensor]) -> npt.NDArray[np.float64]:
    """Return the inner products of _rows with each other, summed by chunks."""
    total = np.zeros((len(flat), len(flat)))
    for pieces in zip(*(row.split(_CHUNK) for row in flat), strict=True):
        rows = _rows(list(pieces))
        total += (rows @ rows.T).double().cpu().numpy()
    return total


def _project(
    gram: npt.NDArray[np.float64], directions: list[int]
) -> npt.NDArray[np.float64]:
    """Return the mix of directions nearest to child - father (least squares)."""
    inner = gram[np.ix_(directions, directions)]
    lengths = np.sqrt(np.maximum(np.diag(inner), 0.0))
    lengths = np.where(lengths > 0.0, lengths, 1.0)
    scaled = inner / np.outer(lengths, lengths)
    target = gram[directions, 1] / lengths
    mix = np.linalg.pinv(scaled, rcond=_RANK_TOLERANCE, hermitian=True) @ target
    return np.asarray(mix / lengths)


def _between(gram: npt.NDArray[np.float64], one: int, other: int) -> float:
    """Return the inner product of two models: 0 child, 1 father, 2 mother, 3 base."""

    def row(model: int) -> npt.NDArray[np.float64]:
        place = np.zeros(gram.shape[0])
        place[0] = 1.0
        if model != 1:
            place[1 if model == 0 else model] = 1.0
        return place

    return float(row(one) @ gram @ row(other))


def _norms(gram: npt.NDArray[np.float64]) -> list[float]:
    return [
        math.sqrt(max(0.0, _between(gram, model, model)))
        for model in range(gram.shape[0])
    ]


def _cosine(gram: npt.NDArray[np.float64], one: int, other: int) -> float:
    lengths = math.sqrt(
        max(0.0, _between(gram, one, one) * _between(gram, other, other))
    )
    return _between(gram, one, other) / lengths if lengths > 0.0 else 1.0


def _scale(gram: npt.NDArray[np.float64]) -> float:
    """Return the size of the parents' changes, as Stray.distance says."""
    if gram.shape[0] == 3:
        return math.sqrt(max(0.0, gram[2, 2]))
    father = gram[3, 3]
    mother = gram[2, 2] - 2 * gram[2, 3] + gram[3, 3]
    return math.sqrt(max(0.0, father + mother))


def _lines(given: list[torch.Tensor], mix: npt.NDArray[np.float64]) -> tuple[int, int]:
    """Return how many rows and columns lie off; of 16 elements and more only.

    Damage of a few lines (a head, a token, a block of zeros) drowns in a whole matrix.
    """
    width = given[0].shape[-1]
    height = given[0].numel() // width
    if max(width, height) < _SMALLEST:
        return 0, 0
    wide = [row.detach().reshape(height, width) for row in given]
    columns = torch.zeros((4, width), dtype=torch.float64, device=wide[0].device)
    off, based = 0, len(given) > 3
    for pieces in zip(
        *(row.split(max(1, _PIECE // width)) for row in wide), strict=True
    ):
        squares = _squares(list(pieces), mix)
        columns += squares.sum(1, dtype=torch.float64)
        off += int(_off(squares.sum(2), based).sum()) if width >= _SMALLEST else 0
    return off, int(_off(columns, based).sum()) if height >= _SMALLEST else 0


def _squares(pieces: list[torch.Tensor], mix: npt.NDArray[np.float64]) -> torch.Tensor:
    """Return squares [4, *piece]: off the plane, child, Father, parents' changes."""
    child, father = (row.float() for row in pieces[:2])
    rest = child - father
    change = torch.zeros_like(rest)
    for weight, other in zip(mix, pieces[2:], strict=True):
        moved = other.float() - father
        rest.sub_(moved, alpha=float(weight))
        change.addcmul_(moved, moved)
    return torch.stack([rest.square_(), child.square(), father.square(), change])


def _off(squares: torch.Tensor, based: bool) -> torch.Tensor:
    rest, child, father, change = squares
    beyond = child == 0.0
    if based:
        beyond |= rest > _OFF**2 * change
    return (rest > _FAR**2 * father) & beyond & (father > 0.0)


def _calm(flat: list[torch.Tensor], mix: npt.NDArray[np.float64]) -> float:
    """Return Stray.calm from a fixed sample of elements; 0 for no difference."""
    size = flat[0].numel()
    if size > _SAMPLE:
        draw = torch.Generator().manual_seed(size)
        place = torch.randint(size, (_SAMPLE,), generator=draw).to(flat[0].device)
        flat = [row[place] for row in flat]
    rows = _rows(flat)
    weights = torch.from_numpy(mix).to(rows)
    rest = (rows[1] - weights @ rows[2:]).double().square()
    change = rows[2].abs()
    if rows.shape[0] == 4:
        change = rows[3].abs() + (rows[2] - rows[3]).abs()
    quiet = change.argsort(stable=True)[: max(1, change.numel() // 4)]
    everywhere = float(rest.mean())
    return float(rest[quiet].mean()) / everywhere if everywhere > 0.0 else 0.0
