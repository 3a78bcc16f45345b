"""Background learning: an autoencoder learns what is common in a scene, so that targets are what it reconstructs badly.

The pipeline follows BLTSC (IEEE JSTARS 13:5887-5897, 2020) without its adversarial part, distributed as in GCC (IEEE
TNNLS, doi 10.1109/TNNLS.2024.3517535): every node holds a strip of the scene, and statistics are all-reduced.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import pairwise
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional

from node_agent.collectives import Collectives
from node_agent.job import BackgroundSettings, ShardSettings
from node_agent.workloads.base import Workload
from node_agent.workloads.cleaning import BandStatistics, band_statistics, clean
from node_agent.workloads.detection import cem_filter, clean_prior, spectral_angle
from node_agent.workloads.scenes import open_scene
from node_agent.workloads.shard import open_shard

SUPPRESSED = 20
"""reconstructions in a batch, those most similar to the target, that the target-suppression term pushes away"""

CPU = torch.device("cpu")

CHUNK = 4096
"""pixels worked on at once, where a whole strip of them in float64 would not fit"""


class BackgroundError(ValueError):
    """A strip, prior or network that background learning cannot work with. One line, for people."""


class Autoencoder(nn.Sequential):
    """bands -> widths -> bands. Leaky ReLU (0.1) between layers, a linear latent, tanh at the end.

    Xavier weights and zero biases, drawn from `generator` alone.
    """

    def __init__(self, bands: int, widths: tuple[int, ...], generator: torch.Generator) -> None:
        sizes = (bands, *widths, *widths[-2::-1], bands)
        layers: list[nn.Module] = []
        for place, (fan_in, fan_out) in enumerate(pairwise(sizes), start=1):
            linear = nn.Linear(fan_in, fan_out, device="meta").to_empty(device="cpu")  # draws nothing by itself
            nn.init.xavier_uniform_(linear.weight, generator=generator)
            nn.init.zeros_(linear.bias)
            layers.append(linear)
            if place == 2 * len(widths):
                layers.append(nn.Tanh())
            elif place != len(widths):
                layers.append(nn.LeakyReLU(0.1))
        super().__init__(*layers)


class BackgroundLearning(Workload):
    """One node's strip of a scene.

    Pixels are scaled to [-1, 1] by the whole scene's least and greatest value, for a decoder that ends in tanh. Angles
    and cosines need an origin: they are taken in [0, 1], where it is the scene's least value, not its mid-grey.
    """

    def __init__(self, settings: BackgroundSettings, seed: int, rank: int, device: torch.device = CPU) -> None:
        self.settings = settings
        self._device = device
        self.learning_rate = settings.learning_rate
        self._initial = torch.Generator().manual_seed(seed)
        state = np.random.SeedSequence((seed, rank)).generate_state(1, np.uint64)
        self._sampler = torch.Generator().manual_seed(int(state[0]))

    def prepare(self, collectives: Collectives) -> dict[str, Any]:
        """Read the strip, agree on bands, scaling and the coarse map, choose the background, build the network.

        Raises SceneError where the scene cannot be used, and BackgroundError where the prior does not fit it, the
        network has no layer, or the strip holds no background.
        """
        settings = self.settings
        chosen = settings.scene
        scene = open_shard(chosen, settings.lines) if isinstance(chosen, ShardSettings) else open_scene(chosen)
        target = np.asarray(settings.target_spectrum, np.float64)
        if target.size != scene.shape[2] or not np.isfinite(target).all():
            raise BackgroundError(
                f"target_spectrum: found {target.size} values, {int((~np.isfinite(target)).sum())} of them not "
                f"finite, allowed one finite value for each of the {scene.shape[2]} bands of {scene.name}"
            )
        if not settings.network or min(settings.network) < 1 or settings.batch < 1:
            raise BackgroundError(
                f"network: found widths {settings.network} and batch {settings.batch}, allowed at least one "
                "layer, and nothing below 1"
            )
        strip = scene.lines(*settings.lines)
        statistics = _agreed(band_statistics(strip), collectives)
        kept = statistics.kept
        low, high = statistics.range
        cleaned = clean(strip, kept)
        self._shape = cleaned.cube.shape[:2]
        self._empty = cleaned.empty
        pixels = cleaned.cube.reshape(-1, cleaned.cube.shape[2])

        target = clean_prior(target, kept)
        weights = cem_filter(_correlation(pixels, statistics.pixels, collectives), target)
        self._coarse: NDArray[np.float32] = _coarse_scores(pixels, weights)
        background = np.flatnonzero((self._coarse <= settings.coarse_threshold) & ~cleaned.empty.ravel())
        if not background.size:
            raise BackgroundError(
                f"lines {settings.lines[0]}..{settings.lines[1]} of {scene.name} hold no background: no pixel's score "
                f"by the coarse detector (CEM) is at most {settings.coarse_threshold:g}, the least is "
                f"{self._coarse.min():.3g}"
            )
        self._background = torch.from_numpy(background)
        self._pixels = torch.from_numpy(pixels).sub_(low).mul_(2 / (high - low)).sub_(1).to(self._device)
        self._target = torch.from_numpy((target - low) / (high - low)).float().to(self._device)
        self.model = Autoencoder(int(kept.sum()), settings.network, self._initial).to(self._device)
        return {
            "scene": scene.describe,
            "pixels": len(pixels),
            "background_share": background.size / len(pixels),
            "bands_kept": int(kept.sum()),
            "bands_dropped": np.flatnonzero(~kept).tolist(),
            "non_finite": cleaned.non_finite,
            "negative": cleaned.negative,
            "empty_pixels": int(cleaned.empty.sum()),
            "scaling": [low, high],
            "parameters": sum(parameter.numel() for parameter in self.model.parameters()),
        }

    def loss(self) -> Tensor:
        """Mean squared error of `batch` background pixels, drawn with replacement, plus `suppression` times the mean of
        the greatest cosine similarities between their reconstructions and the target.

        The cosines are taken in [0, 1], where no spectrum is opposite to another. In [-1, 1] a reconstruction of
        nearly no length that points away from the target has cosine -1: a minimum in which training is caught, with
        nothing of the background reconstructed.
        """
        drawn = torch.randint(len(self._background), (self.settings.batch,), generator=self._sampler)
        pixels = self._pixels[self._background[drawn].to(self._device)]
        reconstructed = self.model(pixels)
        similarity = functional.cosine_similarity((reconstructed + 1) / 2, self._target, dim=1)
        nearest = similarity.topk(min(SUPPRESSED, len(similarity))).values
        return functional.mse_loss(reconstructed, pixels) + self.settings.suppression * nearest.mean()

    @torch.no_grad()
    def observe(self) -> dict[str, NDArray[Any]]:
        """Raw maps of the strip, (lines, W) float32, for `detection.fuse` once put together with those of the others.

        residual: spectral angle between each pixel and its reconstruction, rad; 0 where a pixel is empty, as there is
        nothing to reconstruct. coarse: CEM score, absolute value.
        """
        angles = [
            spectral_angle((pixels.cpu().numpy() + 1) / 2, (self.model(pixels).cpu().numpy() + 1) / 2)
            for pixels in self._pixels.split(CHUNK)
        ]
        residual = np.concatenate(angles).astype(np.float32).reshape(self._shape)
        residual[self._empty] = 0
        return {"residual": residual, "coarse": self._coarse.reshape(self._shape).copy()}


def _agreed(strip: BandStatistics, collectives: Collectives) -> BandStatistics:
    """The same statistics of all strips together."""
    minimum, maximum = torch.from_numpy(strip.minimum), torch.from_numpy(strip.maximum)
    counts = torch.from_numpy(np.append(strip.finite, strip.pixels))
    collectives.all_reduce(minimum, "min")
    collectives.all_reduce(maximum, "max")
    collectives.all_reduce(counts)
    return BandStatistics(minimum.numpy(), maximum.numpy(), counts[:-1].numpy(), counts[-1].item())


def _correlation(pixels: NDArray[np.float32], total: float, collectives: Collectives) -> NDArray[np.float64]:
    """R = mean of x x^T over all strips' pixels (n, B); only its upper triangle travels."""
    bands = pixels.shape[1]
    sums = np.zeros((bands, bands))
    for chunk in _chunks(pixels):
        exact = chunk.astype(np.float64)
        sums += exact.T @ exact
    upper = np.triu_indices(bands)
    packed = torch.from_numpy(sums[upper])
    collectives.all_reduce(packed)
    correlation = np.zeros((bands, bands))
    correlation[upper] = packed.numpy() / total
    return np.triu(correlation) + np.triu(correlation, 1).T


def _coarse_scores(pixels: NDArray[np.float32], weights: NDArray[np.float64]) -> NDArray[np.float32]:
    """abs(w^T x) of pixels (n, B)."""
    scores: NDArray[np.float32] = np.concatenate(
        [np.abs(chunk.astype(np.float64) @ weights).astype(np.float32) for chunk in _chunks(pixels)]
    )
    return scores


def _chunks(pixels: NDArray[np.float32]) -> Iterator[NDArray[np.float32]]:
    for start in range(0, len(pixels), CHUNK):
        yield pixels[start : start + CHUNK]
