"""Numeric arrays by name, in each of the file formats that hyperspectral scenes come in. Free of torch."""

from __future__ import annotations

import struct
import tokenize
import warnings
import zipfile
import zlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.io.matlab import MatReadError
from spectral.utilities.errors import SpyException

_MATLAB_NUMERIC = {"double", "single", "logical"} | {
    f"{sign}int{bits}" for sign in ("", "u") for bits in (8, 16, 32, 64)
}
_UNITS = {"nanometers": 1e-9, "nm": 1e-9, "micrometers": 1e-6, "um": 1e-6, "µm": 1e-6}


class SceneError(ValueError):
    """A scene that cannot be used: not found, damaged, ambiguous or without targets. One line, for people."""


@dataclass(frozen=True)
class Variable:
    """An array in a file. `load` gives something that slices like an array, with its axes in `order`."""

    name: str
    shape: tuple[int, ...]
    """as its author sees it"""
    load: Callable[[], Any]
    order: tuple[int, ...]
    """place of each of the author's axes in what `load` gives"""
    class_names: tuple[str, ...] = ()
    """of a mask, from class 0 on"""
    wavelengths: NDArray[np.float64] | None = None
    missing: float | None = None
    """the value that marks what is missing, as it is stored"""
    bad_bands: NDArray[np.bool_] | None = None
    gain: NDArray[np.float32] | None = None
    offset: NDArray[np.float32] | None = None
    """(B,): a value is gain times what is stored, plus offset"""

    @classmethod
    def of(cls, name: str, shape: Sequence[int], load: Callable[[], Any]) -> Variable:
        return cls(name, tuple(shape), load, tuple(range(len(shape))))

    def values(self) -> NDArray[Any]:
        return np.asarray(self.load()[...]).transpose(self.order)

    @property
    def flat(self) -> Variable:
        """An image of a single band, (H, W, 1), as (H, W); anything else as it is."""
        if len(self.shape) != 3 or self.shape[2] != 1:
            return self
        return replace(self, shape=self.shape[:2], load=lambda: self.values()[..., 0], order=(0, 1))

    def __str__(self) -> str:
        return f"{self.name} ({'×'.join(map(str, self.shape))})"


DAMAGE = (
    OSError,  # all
    ValueError,  # all
    EOFError,  # npy, zip
    zipfile.BadZipFile,
    zlib.error,  # npz, mat 5
    struct.error,  # npz
    tokenize.TokenError,  # npy
    MatReadError,  # mat 5
    TypeError,  # mat 5
    LookupError,  # mat, ENVI
    OverflowError,  # mat 5, npy
    RuntimeError,  # mat 7.3, npz (encrypted, unknown compression)
    SpyException,  # ENVI
    MemoryError,  # a damaged size asks for more than there is
)
"""What the libraries raise on files that are cut short or damaged, and where."""


@contextmanager
def reading(name: str | Path) -> Iterator[None]:
    """Turn what the libraries raise on damaged files into SceneError."""
    try:
        yield
    except SceneError:
        raise
    except DAMAGE as error:
        reason = " ".join(str(error).split()) or type(error).__name__
        raise SceneError(f"{name}: cannot be read, it may be cut short or damaged ({reason})") from error


def read_variables(path: Path, image: Path | None = None) -> list[Variable]:
    """All numeric arrays of a file; `image` is the data file of an ENVI header where its name does not tell.

    Raises SceneError where the file is of another format, or cut short or damaged as far as this is seen without
    reading the arrays themselves.
    """
    reader = READERS.get(path.suffix.lower())
    if reader is None:
        raise SceneError(f"{path}: found {path.suffix or 'no suffix'}, allowed {', '.join(sorted(READERS))}")
    with reading(path):
        return reader(path) if image is None else _envi(path, image)


def _mat(path: Path) -> list[Variable]:
    import h5py
    from scipy import io

    if h5py.is_hdf5(path):
        return _hdf5(path)
    _refuse_cut_short(path)
    return [
        Variable.of(name, shape, partial(_from_mat, path, name))
        for name, shape, kind in io.whosmat(path)
        if kind in _MATLAB_NUMERIC
    ]


def _refuse_cut_short(path: Path) -> None:
    """scipy takes a MATLAB 5 file that ends early for one of fewer variables; the elements' own lengths tell."""
    with path.open("rb") as file:
        head = file.read(128)
        if not head.startswith(b"MATLAB 5"):
            return
        lengths = struct.Struct("<4xI" if head[126:128] == b"IM" else ">4xI")
        size, end = path.stat().st_size, 128
        while end < size:
            file.seek(end)
            tag = file.read(8)
            end += 8 + (lengths.unpack(tag)[0] if len(tag) == 8 else 0)
    if end > size:
        raise SceneError(f"{path.name}: cut short: found {size} bytes, its variables take at least {end}")


def _from_mat(path: Path, name: str) -> Any:
    from scipy import io

    return io.loadmat(path, variable_names=[name])[name]


def _hdf5(path: Path) -> list[Variable]:
    """MATLAB 7.3 is HDF5 whose axes run the other way round, since MATLAB stores its arrays by columns."""
    import h5py

    file = h5py.File(path, "r")  # stays open as long as one of its datasets is in use
    found: list[Variable] = []

    def visit(name: str, item: Any) -> None:
        # compound types: complex numbers are stored as pairs
        if isinstance(item, h5py.Dataset) and item.dtype.kind in "iufbV" and not name.startswith("#"):
            order = tuple(reversed(range(item.ndim)))
            found.append(Variable(name, item.shape[::-1], lambda: item, order))

    file.visititems(visit)
    return found


def _npz(path: Path) -> list[Variable]:
    found: list[Variable] = []
    load: Callable[[], Any]
    with zipfile.ZipFile(path) as archive:
        for member in archive.infolist():
            if not member.filename.endswith(".npy"):
                continue
            name = member.filename[: -len(".npy")]
            with archive.open(member) as stream:
                shape, fortran, dtype = _npy_header(stream)
                header = stream.tell()
            if dtype.kind not in "iufbc":
                continue
            if member.compress_type == zipfile.ZIP_STORED:
                offset = _content(path, member) + header
                load = partial(np.memmap, path, dtype, "r", offset, shape, "F" if fortran else "C")
            else:
                load = partial(_from_npz, path, name)
            found.append(Variable.of(name, shape, load))
    return found


def _npy_header(stream: Any) -> tuple[tuple[int, ...], bool, np.dtype[Any]]:
    npy: Any = np.lib.format
    read = npy.read_array_header_1_0 if npy.read_magic(stream) == (1, 0) else npy.read_array_header_2_0
    shape, fortran, dtype = read(stream)
    return shape, fortran, dtype


def _content(path: Path, member: zipfile.ZipInfo) -> int:
    """Where a member's bytes begin: behind its local header, whose two last fields tell how much follows it."""
    with path.open("rb") as file:
        file.seek(member.header_offset + 26)
        name, extra = struct.unpack("<HH", file.read(4))
    return member.header_offset + 30 + int(name) + int(extra)


def _from_npz(path: Path, name: str) -> Any:
    with np.load(path, allow_pickle=False) as archive:
        return archive[name]


def _npy(path: Path) -> list[Variable]:
    array = np.load(path, mmap_mode="r", allow_pickle=False)
    return [Variable.of(path.stem, array.shape, lambda: array)] if array.dtype.kind in "iufbc" else []


def _envi(path: Path, image: Path | None = None) -> list[Variable]:
    from spectral.io import envi, spyfile

    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Parameters with non-lowercase names")
        file = envi.open(str(path.absolute()), None if image is None else str(image.absolute()))
    if not isinstance(file, spyfile.SpyFile):
        raise SceneError(f"{path}: a spectral library, not an image")
    header, bands = file.metadata, file.shape[2]
    if header["interleave"].lower() not in ("bil", "bip", "bsq"):
        raise SceneError(f"{path}: found interleave {header['interleave']!r}, allowed bil, bip, bsq")
    data = Path(file.filename)
    if not file.using_memmap:
        size = "×".join(map(str, file.shape))
        raise SceneError(f"{path}: {data.name} is shorter than {size} {np.dtype(file.dtype).name}, as the header tells")
    array = file.open_memmap(interleave="bip")
    bad, missing = header.get("bbl", ()), header.get("data ignore value")
    variable = Variable.of(data.name, array.shape, lambda: array)
    return [
        replace(
            variable,
            class_names=tuple(header.get("class names", ())),
            wavelengths=metres(file.bands.centers, file.bands.band_unit, bands),
            missing=None if missing is None else float(missing),
            bad_bands=np.asarray(bad, float) == 0 if len(bad) == bands else None,
            gain=_per_band(path, header, "data gain values", bands),
            offset=_per_band(path, header, "data offset values", bands),
        )
    ]


def _per_band(path: Path, header: Mapping[str, Any], key: str, bands: int) -> NDArray[np.float32] | None:
    values = np.asarray(header.get(key, ()), np.float32).ravel()
    if values.size not in (0, bands):
        raise SceneError(f"{path}: {key}: found {values.size} values, allowed one for each of the {bands} bands")
    return values if values.size else None


READERS: dict[str, Callable[[Path], list[Variable]]] = {
    ".mat": _mat,
    ".npz": _npz,
    ".npy": _npy,
    ".hdr": _envi,
}


def metres(values: Any, unit: str | None, bands: int) -> NDArray[np.float64] | None:
    """Wavelengths in m. Where no unit is given the magnitude tells it: no imager sees beyond 100 µm."""
    if values is None or np.size(values) != bands:
        return None
    centres = np.asarray(values, np.float64).ravel()
    if unit is None or unit.lower() == "unknown":
        return centres * (1e-9 if centres.max() > 100 else 1e-6 if centres.max() > 1e-3 else 1.0)
    factor = _UNITS.get(unit.lower())
    return None if factor is None else centres * factor
