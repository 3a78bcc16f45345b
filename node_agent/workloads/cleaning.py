"""Bands without information are dropped, and what is missing or negative in the others is mended. Free of torch.

The decision which bands to keep works on the statistics of the whole scene, however these were gathered, so that every
node of a run takes the same one.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import reduce

import numpy as np
from numpy.typing import NDArray

from node_agent.workloads.formats import SceneError
from node_agent.workloads.scenes import Scene


@dataclass(frozen=True)
class BandStatistics:
    """Of some pixels, each band's own, over its finite values."""

    minimum: NDArray[np.float64]
    """(B,); +inf where no value is finite"""
    maximum: NDArray[np.float64]
    """(B,); -inf where no value is finite"""
    finite: NDArray[np.float64]
    """(B,) number of finite values"""
    pixels: float

    def __or__(self, other: BandStatistics) -> BandStatistics:
        """Of both sets of pixels together."""
        return BandStatistics(
            np.minimum(self.minimum, other.minimum),
            np.maximum(self.maximum, other.maximum),
            self.finite + other.finite,
            self.pixels + other.pixels,
        )

    @property
    def kept(self) -> NDArray[np.bool_]:
        """(B,): bands that are neither constant nor non-finite in more than half of the pixels.

        Raises SceneError where no band is left.
        """
        kept = (2 * self.finite > self.pixels) & (self.maximum.clip(0) > self.minimum.clip(0))
        if not kept.any():
            raise SceneError(
                f"cube: none of its {kept.size} bands can be used, each is constant, negative or mostly non-finite"
            )
        return kept

    @property
    def range(self) -> tuple[float, float]:
        """Least and greatest value of the kept bands, once negative values are clipped to zero."""
        return float(self.minimum[self.kept].clip(0).min()), float(self.maximum[self.kept].clip(0).max())


@dataclass(frozen=True)
class Cleaned:
    """Mended pixels and what had to be mended in them."""

    cube: NDArray[np.float32]
    """(lines, W, kept bands), finite and not negative"""
    non_finite: int
    """values interpolated along their spectrum"""
    negative: int
    """values clipped to zero"""
    empty: NDArray[np.bool_]
    """(lines, W): pixels without any finite value, set to zero"""


def band_statistics(cube: NDArray[np.float32]) -> BandStatistics:
    """Of a cube or strip (lines, W, B)."""
    finite = np.isfinite(cube)
    return BandStatistics(
        np.min(cube, axis=(0, 1), where=finite, initial=np.inf).astype(np.float64),
        np.max(cube, axis=(0, 1), where=finite, initial=-np.inf).astype(np.float64),
        finite.sum(axis=(0, 1), dtype=np.float64),
        float(cube.shape[0] * cube.shape[1]),
    )


def clean(cube: NDArray[np.float32], kept: NDArray[np.bool_]) -> Cleaned:
    """Mend a strip (lines, W, B): keep these bands, interpolate along the spectrum what is not finite, clip at zero."""
    cube = np.ascontiguousarray(cube[..., kept])
    finite = np.isfinite(cube)
    empty: NDArray[np.bool_] = np.logical_not(finite.any(axis=-1))
    damaged = ~finite.all(axis=-1) & ~empty
    if damaged.any():
        cube[damaged] = _interpolate(cube[damaged], np.flatnonzero(kept))
    cube[empty] = 0
    negative = int((cube < 0).sum())
    if negative:
        cube.clip(0, out=cube)
    return Cleaned(cube, int((~finite).sum()), negative, empty)


def scene_statistics(scene: Scene) -> BandStatistics:
    """Of a whole scene, read strip by strip."""
    return reduce(BandStatistics.__or__, (band_statistics(scene.lines(*strip)) for strip in scene.strips()))


def cleaned_strips(scene: Scene, kept: NDArray[np.bool_]) -> Iterator[tuple[slice, Cleaned]]:
    """The whole scene, strip by strip: which lines, and what they hold once cleaned."""
    for start, stop in scene.strips():
        yield slice(start, stop), clean(scene.lines(start, stop), kept)


def _interpolate(spectra: NDArray[np.float32], bands: NDArray[np.intp]) -> NDArray[np.float32]:
    """Fill what is not finite in spectra (n, K), linearly over band numbers (K,), the ends held. Each spectrum has at
    least one finite value."""
    finite, index = np.isfinite(spectra), np.arange(bands.size)
    before = np.maximum.accumulate(np.where(finite, index, -1), axis=1)
    after = np.minimum.accumulate(np.where(finite, index, bands.size)[:, ::-1], axis=1)[:, ::-1]
    before, after = np.where(before < 0, after, before), np.where(after == bands.size, before, after)
    left, right = (np.take_along_axis(spectra, place, axis=1) for place in (before, after))
    weight = (bands - bands[before]) / np.maximum(bands[after] - bands[before], 1)
    return np.where(finite, spectra, left + weight * (right - left)).astype(np.float32)
