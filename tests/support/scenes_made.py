"""A small scene with a target in it, made for tests."""

from __future__ import annotations

from pathlib import Path

import numpy as np


def write_scene(path: Path, lines: int = 24, samples: int = 20, bands: int = 32) -> Path:
    """Two smooth background materials mixed at random, and three blobs of a third one; saved as .npz."""
    generator = np.random.default_rng(0)
    wave = np.linspace(0, 1, bands)
    materials = np.stack([1.0 + wave, 2.0 - wave, 1.0 + np.exp(-(((wave - 0.5) / 0.1) ** 2))])
    share = generator.random((lines, samples, 1))
    cube = share * materials[0] + (1 - share) * materials[1]
    mask = np.zeros((lines, samples), dtype=bool)
    for line, sample in ((3, 3), (12, 9), (20, 15)):
        mask[line : line + 2, sample : sample + 3] = True
    cube[mask] = 0.4 * cube[mask] + 0.6 * materials[2]
    cube += 0.02 * generator.standard_normal(cube.shape)
    np.savez(path, data=(1000 * cube).astype(np.uint16), map=mask)
    return path
