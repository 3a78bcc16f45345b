"""A node's own strip of a scene, as a file: what a board gets, which never sees the rest, nor which pixels are targets.

The file is a NumPy array (.npy, little-endian float32, lines x samples x bands) as `Scene.lines` gives it, so that
training on it is the same, bit for bit, as on the scene itself.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from node_agent.job import ShardSettings
from node_agent.workloads.formats import SceneError
from node_agent.workloads.scenes import Scene

DTYPE = np.dtype("<f4")


@dataclass(frozen=True)
class Shard:
    """An opened strip of a scene, behind the scene's own interface."""

    name: str
    shape: tuple[int, int, int]
    """lines, samples, bands of the whole scene"""
    describe: str
    _first: int
    _cube: NDArray[np.float32] = field(repr=False)

    def lines(self, start: int, stop: int) -> NDArray[np.float32]:
        """As `Scene.lines`, within the strip. Raises SceneError outside."""
        if not self._first <= start < stop <= self._first + len(self._cube):
            raise SceneError(
                f"{self.name}: found lines {start}..{stop}, allowed a non-empty range in "
                f"{self._first}..{self._first + len(self._cube)}"
            )
        return np.array(self._cube[start - self._first : stop - self._first], dtype=np.float32, order="C")


def write_shard(scene: Scene, lines: tuple[int, int], path: Path) -> ShardSettings:
    """Write lines first to last - 1 of a scene to `path`, a few at a time. Raises SceneError as `Scene.lines`, and
    OSError."""
    first, last = lines
    _, width, bands = scene.shape
    cube: NDArray[np.float32] = np.lib.format.open_memmap(  # type: ignore[no-untyped-call]
        path, mode="w+", dtype=DTYPE, shape=(last - first, width, bands)
    )
    for start, stop in scene.strips():
        low, high = max(start, first), min(stop, last)
        if low < high:
            cube[low - first : high - first] = scene.lines(low, high)
    cube.flush()  # type: ignore[attr-defined]
    return ShardSettings(file=path.name, name=scene.name, describe=scene.describe, shape=scene.shape)


def open_shard(settings: ShardSettings, lines: tuple[int, int], folder: Path = Path()) -> Shard:
    """The strip of these lines that was written as `write_shard` does. Raises SceneError where the file is absent, is
    damaged, or holds anything else."""
    path = folder / settings.file
    expected = (lines[1] - lines[0], *settings.shape[1:])
    try:
        cube = np.load(path, mmap_mode="r", allow_pickle=False)
    except (OSError, ValueError, EOFError) as error:
        reason = getattr(error, "strerror", None) or str(error).splitlines()[0]
        raise SceneError(f"{settings.file}: not a strip of a scene: {reason}") from error
    if not isinstance(cube, np.ndarray) or cube.shape != expected or cube.dtype != DTYPE:
        found = f"{cube.dtype} of {' × '.join(map(str, cube.shape))}" if isinstance(cube, np.ndarray) else "an archive"
        raise SceneError(
            f"{settings.file}: found {found}, allowed {DTYPE.name} of {' × '.join(map(str, expected))}, the lines "
            f"{lines[0]}..{lines[1]} of {settings.name}"
        )
    return Shard(settings.name, settings.shape, settings.describe, lines[0], cube)
