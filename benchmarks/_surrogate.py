"""A Gaussian process of what is known of a function, and the point to look at next.

Points lie in the unit cube, and less is better.  It is as small as will do: one length in all
directions, chosen by its likelihood out of a few.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

Array = np.ndarray[Any, np.dtype[np.float64]]

LENGTHS = (0.1, 0.2, 0.4, 0.8, 1.6, 3.2)
NOISE = 1e-3
"""The variance that is not explained, of 1 in all."""
CANDIDATES = 1_000
NEAR = 0.1
"""How far from the best point half of the candidates are, in each direction."""


def covariance(a: Array, b: Array, length: float) -> Array:
    """Return how much the values at some points have to do with those at others."""
    squares = ((a[:, None] - b[None]) ** 2).sum(axis=2)
    return np.exp(-squares / (2 * length**2))


@dataclass(frozen=True)
class Process:
    """What is believed of a function whose values have the mean 0 and the variance 1."""

    points: Array
    length: float
    factor: Array
    """The lower triangle whose square is the covariance of the points."""
    whitened: Array
    """The values, freed of what they have to do with each other."""

    @classmethod
    def fit(cls, points: Array, values: Array, length: float) -> Process:
        """Return the process that knows these values."""
        factor = np.linalg.cholesky(
            covariance(points, points, length) + NOISE * np.eye(len(points))
        )
        return cls(points, length, factor, np.linalg.solve(factor, values))

    @property
    def likelihood(self) -> float:
        """The logarithm of how likely its values are, but for a constant."""
        return float(-(self.whitened**2).sum() / 2 - np.log(np.diag(self.factor)).sum())

    def predict(self, points: Array) -> tuple[Array, Array]:
        """Return the values that are expected at points, and by how much they may be others."""
        known = np.linalg.solve(self.factor, covariance(self.points, points, self.length))
        variance = 1 - (known**2).sum(axis=0)
        return known.T @ self.whitened, np.sqrt(np.maximum(variance, 0))


def propose(draw: np.random.Generator, points: Array, values: Array, pending: Array) -> Array:
    """Return the point to evaluate next, given what is known, and what others evaluate now.

    These are taken to be as they are expected, so that nobody looks where somebody looks already.
    How much is dared is drawn anew each time: so workers that know the same go different ways.
    """
    scaled = (values - values.mean()) / (values.std() or 1.0)
    process = max(
        (Process.fit(points, scaled, length) for length in LENGTHS),
        key=lambda process: process.likelihood,
    )
    if len(pending):
        believed = np.concatenate([scaled, process.predict(pending)[0]])
        process = Process.fit(np.concatenate([points, pending]), believed, process.length)
    far = draw.random((CANDIDATES // 2, points.shape[1]))
    near = points[values.argmin()] + NEAR * draw.standard_normal(far.shape)
    candidates = np.concatenate([far, near.clip(0, 1)])
    expected, deviation = process.predict(candidates)
    return candidates[(expected - draw.exponential() * deviation).argmin()]
