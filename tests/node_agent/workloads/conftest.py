from __future__ import annotations

from pathlib import Path

import h5py
import numpy as np
import pytest
from scipy import io
from spectral.io import envi

from node_agent.workloads.scenes import available, default_folders

H, W, B = 9, 7, 12


@pytest.fixture
def cube() -> np.ndarray:
    """(H, W, B) uint16, every value distinct, so that a wrong axis order cannot go unseen."""
    return np.random.default_rng(1).permutation(H * W * B).reshape(H, W, B).astype(np.uint16)


@pytest.fixture
def mask() -> np.ndarray:
    """(H, W): a blob of 12 pixels and, touching no corner of it, one of 2."""
    mask = np.zeros((H, W), np.uint8)
    mask[1:5, 1:4] = 1
    mask[7, 5:7] = 1
    return mask


@pytest.fixture
def scene_files(tmp_path: Path, cube: np.ndarray, mask: np.ndarray) -> dict[str, Path]:
    """The same scene in every format; those of ENVI take their mask from mask.npy."""
    io.savemat(tmp_path / "five.mat", {"data": cube, "map": mask})
    io.savemat(tmp_path / "five-packed.mat", {"data": cube, "map": mask}, do_compression=True)
    for name, options in {"seven": {}, "seven-packed": {"compression": "gzip", "chunks": True}}.items():
        with h5py.File(tmp_path / f"{name}.mat", "w", userblock_size=512) as file:
            file.create_dataset("data", data=cube.transpose(), **options)
            file.create_dataset("map", data=mask.transpose(), **options)
    np.savez(tmp_path / "plain.npz", data=cube, map=mask)
    np.savez_compressed(tmp_path / "packed.npz", data=cube, map=mask)
    np.savez(tmp_path / "bands-first.npz", data=np.ascontiguousarray(cube.transpose(2, 0, 1)), map=mask)
    np.savez(tmp_path / "by-columns.npz", data=np.asfortranarray(cube), map=mask)
    np.savez(tmp_path / "odd-names.npz", a=mask, b=cube, c=np.arange(5))
    np.save(tmp_path / "mask.npy", mask)
    for interleave in ("bil", "bip", "bsq"):
        envi.save_image(str(tmp_path / f"{interleave}.hdr"), cube, interleave=interleave, ext="img")
    return {path.name: path for path in tmp_path.iterdir() if path.suffix in (".mat", ".npz", ".hdr")}


@pytest.fixture
def real_scenes() -> list[str]:
    """Names of the scenes with masks that stand in the data folder."""
    names = [n for n, path in available().items() if path is not None and path.suffix == ".mat"]
    names = [name for name in names if not name.startswith("jasper")]
    if not names:
        pytest.skip(f"no scenes in {default_folders()[0]}")
    return names
