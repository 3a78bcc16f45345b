"""Hyperspectral scenes with target masks: found, opened, read strip by strip. Free of torch."""

from __future__ import annotations

import difflib
import importlib.util
import os
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from node_agent.job import SceneSettings
from node_agent.workloads.formats import READERS, SceneError, Variable, metres, read_variables, reading

PriorKind = Literal["blob", "pixels", "oracle"]

PRIOR_PIXELS = 10
"""pixels that make up the prior where the targets cannot be told apart as blobs"""

INDIAN_PINES = "indian-pines"
INDIAN_PINES_CLASSES = (
    "alfalfa",
    "corn-notill",
    "corn-mintill",
    "corn",
    "grass-pasture",
    "grass-trees",
    "grass-pasture-mowed",
    "hay-windrowed",
    "oats",
    "soybean-notill",
    "soybean-mintill",
    "soybean-clean",
    "wheat",
    "woods",
    "buildings-grass-trees-drives",
    "stone-steel-towers",
)
"""Classes 1 to 16 of AVIRIS Indian Pines (Purdue University, 1992; CC BY 3.0)."""

_USUAL_NAMES = {"cube": {"data", "cube", "hsi"}, "mask": {"map", "mask", "gt"}}


@dataclass(frozen=True)
class Scene:
    """An opened scene. Raw units; nothing of the cube need be in memory until `lines` asks for it."""

    name: str
    shape: tuple[int, int, int]
    """lines H, samples W, bands B"""
    mask: NDArray[np.bool_] = field(repr=False)
    """(H, W), true on target pixels"""
    target: str
    """the class that the mask shows"""
    wavelengths: NDArray[np.float64] | None = field(repr=False)
    """(B,) centre of each band in m; None where the file does not tell"""
    _array: Any = field(repr=False)
    _axes: tuple[int, int, int] = field(repr=False)
    _missing: float | None = field(default=None, repr=False)
    _bad_bands: NDArray[np.bool_] | None = field(default=None, repr=False)
    _gain: NDArray[np.float32] | None = field(default=None, repr=False)
    _offset: NDArray[np.float32] | None = field(default=None, repr=False)

    def lines(self, start: int, stop: int) -> NDArray[np.float32]:
        """Read lines start to stop - 1 only: (stop - start, W, B), NaN where the file marks data as missing.

        Raises SceneError where the lines lie outside the scene or the file turns out to be damaged.
        """
        if not 0 <= start < stop <= self.shape[0]:
            raise SceneError(
                f"{self.name}: found lines {start}..{stop}, allowed a non-empty range in 0..{self.shape[0]}"
            )
        index: list[slice] = [slice(None)] * 3
        index[self._axes[0]] = slice(start, stop)
        with reading(self.name):
            strip = np.asarray(self._array[tuple(index)]).transpose(self._axes)
        with np.errstate(over="ignore"):  # float64 beyond the range of float32 becomes inf, and is cleaned as such
            cube = np.array(strip, dtype=np.float32, order="C")
        missing = None if self._missing is None else _equal(strip, self._missing)
        if self._gain is not None:
            cube *= self._gain
        if self._offset is not None:
            cube += self._offset
        if missing is not None:
            cube[missing] = np.nan
        if self._bad_bands is not None:
            cube[..., self._bad_bands] = np.nan
        return cube

    def strips(self, values: int = 2**23) -> Iterator[tuple[int, int]]:
        """Ranges of lines that cover the scene in order, each of about `values` entries."""
        height, width, bands = self.shape
        step = max(1, values // (width * bands))
        for start in range(0, height, step):
            yield start, min(start + step, height)

    @property
    def describe(self) -> str:
        height, width, bands = self.shape
        count, blobs = int(self.mask.sum()), _blobs(self.mask)[1]
        span = (
            f", {1e9 * self.wavelengths.min():.0f}-{1e9 * self.wavelengths.max():.0f} nm"
            if self.wavelengths is not None
            else ""
        )
        return (
            f"{self.name}: {height} × {width} pixels, {bands} bands{span}, target {self.target}: "
            f"{_count(count, 'pixel')} in {_count(blobs, 'blob')}"
        )


@dataclass(frozen=True)
class Prior:
    """What is known of the target beforehand."""

    spectrum: NDArray[np.float64]
    """(B,) mean of the chosen pixels, raw units"""
    used: NDArray[np.bool_] = field(repr=False)
    """(H, W): pixels that gave the spectrum and are therefore left out of the score; none for the oracle"""
    label: str


def default_folders() -> tuple[Path, ...]:
    """Where bare scene names are looked up: $EDGESIM_DATA, or `shared/data` beside the project's root."""
    chosen = os.environ.get("EDGESIM_DATA")
    return (Path(chosen) if chosen else Path(__file__).resolve().parents[3] / "shared" / "data",)


def available(folders: Sequence[Path] | None = None) -> dict[str, Path | None]:
    """Every scene that a bare name reaches, with its file; None for the one that is built in."""
    found: dict[str, Path | None] = {INDIAN_PINES: None}
    for folder in default_folders() if folders is None else folders:
        for place in (folder / "hsi", folder):
            for suffix in (".mat", ".npz", ".hdr"):
                for path in sorted(place.glob(f"*{suffix}")):
                    found.setdefault(path.stem, path)
    return found


def open_scene(settings: SceneSettings, folders: Sequence[Path] | None = None) -> Scene:
    """Open a scene by built-in name, by bare name in `folders` (default: `default_folders()`) or by path.

    Formats: MATLAB .mat version 5 (read whole) and 7.3, ENVI .hdr, .npz (memory-mapped unless compressed), .npy.
    Cube and mask are found by shape: a 3-D array, (H, W, B) or (B, H, W), and a 2-D one of the same H and W. Several
    that fit are told apart by their usual names (data, cube, hsi; map, mask, gt) or by `settings.cube` and
    `settings.mask`; the latter may also name a file of its own, relative to the scene's folder, as ENVI cubes need. The
    `cube` of an ENVI header is its data file, where that has an unusual name.

    Raises SceneError, in one line, where there is no such scene, the file is cut short or damaged, no or several
    arrays fit, the cube is complex, or the mask shows no targets.
    """
    path = _find(settings.path, folders)
    name = INDIAN_PINES if path is None else str(path)
    if path is None:
        variables = _indian_pines()
    elif path.suffix.lower() == ".hdr" and settings.cube is not None:
        variables = read_variables(path, _beside(path, settings.cube))
    else:
        variables = read_variables(path)
    return _assemble(name, path, variables, settings)


def target_prior(scene: Scene, kind: PriorKind, generator: np.random.Generator) -> Prior:
    """The target spectrum that a detector may know, and the pixels that it was taken from.

    blob: the mean of the largest 8-connected blob of target pixels, to be scored on all others. pixels, and blob where
    the mask is a single blob: the mean of ten target pixels drawn by `generator`, to be scored on the others. oracle:
    the mean of all target pixels, nothing left out (optimistic).

    Raises SceneError where fewer than twenty target pixels would have to give ten and leave as many to be scored, or
    none holds a finite value.
    """
    labels, blobs = _blobs(scene.mask)
    total = int(scene.mask.sum())
    used = np.zeros_like(scene.mask)
    if kind == "oracle":
        chosen, label = scene.mask, f"oracle: mean of all {total} target pixels"
    elif kind == "blob" and blobs > 1:
        largest = 1 + int(np.argmax(np.bincount(labels.ravel())[1:]))
        chosen = used = labels == largest
        label = f"largest of {blobs} target blobs ({_count(int(used.sum()), 'pixel')})"
    else:
        if total < 2 * PRIOR_PIXELS:
            raise SceneError(
                f"{scene.name}: found {_count(total, 'target pixel')} ({scene.target}), allowed at least "
                f"{2 * PRIOR_PIXELS} for a prior from {PRIOR_PIXELS} of them, so that as many are left to be scored; "
                "the oracle prior takes any number"
            )
        used.flat[generator.choice(np.flatnonzero(scene.mask), PRIOR_PIXELS, replace=False)] = True
        chosen, label = used, f"{PRIOR_PIXELS} of {total} target pixels drawn by the seed"
    return Prior(_mean_spectrum(scene, chosen), used, label)


def _equal(values: NDArray[Any], number: float) -> NDArray[np.bool_]:
    """Where real numbers equal one that was written down with six digits or more."""
    if values.dtype.kind == "f":
        return np.isclose(values, number, rtol=5e-6, atol=0)
    same: NDArray[np.bool_] = values == number
    return same


def _mean_spectrum(scene: Scene, chosen: NDArray[np.bool_]) -> NDArray[np.float64]:
    """Mean over the finite values of each band; a band without any is interpolated along the spectrum."""
    total, count = np.zeros(scene.shape[2]), np.zeros(scene.shape[2])
    for line in np.flatnonzero(chosen.any(axis=1)):
        pixels = scene.lines(line, line + 1)[0][chosen[line]].astype(np.float64)
        finite = np.isfinite(pixels)
        total += np.where(finite, pixels, 0).sum(axis=0)
        count += finite.sum(axis=0)
    known = np.flatnonzero(count)
    if not known.size:
        raise SceneError(f"{scene.name}: no finite value in the {_count(int(chosen.sum()), 'target pixel')}")
    spectrum: NDArray[np.float64] = np.interp(np.arange(count.size), known, total[known] / count[known])
    return spectrum


def _blobs(mask: NDArray[np.bool_]) -> tuple[NDArray[np.int32], int]:
    labels: NDArray[np.int32]
    labels, count = ndimage.label(mask, structure=np.ones((3, 3)))
    return labels, int(count)


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}{'' if number == 1 else 's'}"


# Finding the file


def _find(name: str, folders: Sequence[Path] | None) -> Path | None:
    """The file that a scene's name or path means; None for the built-in scene."""
    path = Path(name).expanduser()
    if name == INDIAN_PINES:
        return None
    if path.is_file():
        return path
    if path.suffix.lower() in READERS or path.name != name:
        raise SceneError(f"{path}: " + ("a folder, not a file" if path.is_dir() else "no such file"))
    scenes = available(folders)
    if name in scenes:
        return scenes[name]
    raise SceneError(
        f"scene: found {name!r}, allowed a file ({', '.join(sorted(READERS))}) or one of {', '.join(sorted(scenes))}"
        f" (looked up in {', '.join(map(str, default_folders() if folders is None else folders))})"
        + _did_you_mean(name, scenes)
    )


def _did_you_mean(name: str, known: Iterable[str]) -> str:
    close = difflib.get_close_matches(name, list(known), n=1)
    return f"; did you mean {close[0]!r}?" if close else ""


def _indian_pines() -> list[Variable]:
    package = importlib.util.find_spec("tensorly")  # finds the data without importing the library
    if package is None or package.origin is None:
        raise SceneError(f"{INDIAN_PINES}: comes with the package tensorly, which is not installed")
    folder = Path(package.origin).parent / "datasets" / "data"
    (cube,), (mask,) = (read_variables(folder / f"Indian_pines_{part}.npy") for part in ("corrected", "gt"))
    return [
        replace(cube, name="data"),
        replace(mask, name="gt", class_names=("unlabelled", *INDIAN_PINES_CLASSES)),
    ]


# Putting a scene together


def _assemble(name: str, path: Path | None, variables: list[Variable], settings: SceneSettings) -> Scene:
    names = [variable.name for variable in variables]
    masks, mask_name = variables, settings.mask
    if settings.mask is not None and settings.mask not in names:
        mask_path = _beside(path, settings.mask)
        if not mask_path.is_file():
            raise SceneError(
                f"{name}: mask: found {settings.mask!r}, allowed a file or one of {_listed(variables)}"
                + _did_you_mean(settings.mask, names)
            )
        masks, mask_name = [variable.flat for variable in read_variables(mask_path)], None
    cube_name = settings.cube if path is None or path.suffix.lower() != ".hdr" else None
    if cube_name is not None and cube_name not in names:
        raise SceneError(
            f"{name}: cube: found {cube_name!r}, allowed one of {_listed(variables)}" + _did_you_mean(cube_name, names)
        )
    cubes = [v for v in variables if len(v.shape) == 3 and 0 not in v.shape and cube_name in (None, v.name)]
    masks = [v for v in masks if len(v.shape) == 2 and mask_name in (None, v.name)]
    if not cubes:
        raise SceneError(f"{name}: no cube (3-D array of numbers) among {_listed(variables)}")
    pairs = [(cube, mask, axes) for cube in cubes for mask in masks if (axes := _orientation(cube, mask))]
    if not pairs:
        hint = "; an ENVI cube needs `mask`, the file that holds it" if masks is variables else ""
        raise SceneError(
            f"{name}: no mask (2-D array) of the lines and samples of {_listed(cubes)}, found {_listed(masks)}{hint}"
        )
    cube = _only(name, "cube", [pair[0] for pair in pairs])
    mask = _only(name, "mask", [pair[1] for pair in pairs if pair[0] is cube])
    axes = next(axes for c, m, axes in pairs if c is cube and m is mask)
    with reading(name):
        array, classes = cube.load(), mask.values()
    if array.dtype.kind not in "iufb":
        raise SceneError(f"{name}: cube {cube} holds {array.dtype}, allowed real numbers")
    height, width, bands = (cube.shape[axis] for axis in axes)
    wavelengths = cube.wavelengths if cube.wavelengths is not None else _wavelengths(name, variables, bands)
    targets, target = _targets(name, mask, classes, settings.target)
    return Scene(
        name=path.stem if path else name,
        shape=(height, width, bands),
        mask=targets,
        target=target,
        wavelengths=wavelengths,
        _array=array,
        _axes=(cube.order[axes[0]], cube.order[axes[1]], cube.order[axes[2]]),
        _missing=cube.missing,
        _bad_bands=cube.bad_bands,
        _gain=cube.gain,
        _offset=cube.offset,
    )


def _beside(path: Path | None, name: str) -> Path:
    """A file named by an option: relative to the scene's folder, or else to the working directory."""
    chosen = Path(name).expanduser()
    beside = path.parent / chosen if path else chosen
    return beside if beside.is_file() else chosen


def _orientation(cube: Variable, mask: Variable) -> tuple[int, int, int] | None:
    """Which axes of the cube are lines, samples and bands; (H, W, B) is tried first."""
    if cube.shape[:2] == mask.shape:
        return 0, 1, 2
    return (1, 2, 0) if cube.shape[1:] == mask.shape else None


def _only(name: str, what: str, candidates: list[Variable]) -> Variable:
    distinct = list({id(variable): variable for variable in candidates}.values())
    usual = [variable for variable in distinct if variable.name.lower() in _USUAL_NAMES[what]]
    if len(distinct) > 1 and len(usual) != 1:
        raise SceneError(f"{name}: several arrays could be the {what}: {_listed(distinct)}; name one by `{what}`")
    return usual[0] if len(distinct) > 1 else distinct[0]


def _listed(variables: Sequence[Variable]) -> str:
    return ", ".join(map(str, variables)) or "nothing"


def _wavelengths(name: str, variables: Sequence[Variable], bands: int) -> NDArray[np.float64] | None:
    for variable in variables:
        if variable.name.lower().startswith("wavelength") and np.prod(variable.shape) == bands:
            with reading(name):
                return metres(variable.values(), None, bands)
    return None


def _targets(
    name: str, mask: Variable, classes: NDArray[Any], target: str | int | None
) -> tuple[NDArray[np.bool_], str]:
    """The pixels of one class, and its name. Zero is never a class but what is not labelled."""
    if classes.dtype.kind not in "iufb" or not np.isfinite(classes).all():
        raise SceneError(f"{name}: mask {mask} holds values that are not finite real numbers")
    numbers = np.unique(classes[classes != 0]).tolist()
    if not numbers:
        raise SceneError(f"{name}: no target pixels, mask {mask} is zero everywhere")
    names = {_slug(label): number for number, label in enumerate(mask.class_names) if number in numbers}
    shown = [f"{number:g} ({label})" for label, number in names.items()] or [f"{number:g}" for number in numbers]
    listed = ", ".join(shown[:20]) + (f", … ({len(shown)} in all)" if len(shown) > 20 else "")
    if target is None:
        if len(numbers) > 1:
            raise SceneError(f"{name}: mask {mask} holds several classes, name one by `target`: {listed}")
        number = numbers[0]
    else:
        try:
            number = names[_slug(target)] if _slug(target) in names else float(target)
        except ValueError:
            number = None
        if number not in numbers:
            allowed = listed if len(numbers) > 1 else f"none or {listed}: mask {mask} holds a single class"
            raise SceneError(
                f"{name}: target: found {target!r}, allowed {allowed}" + _did_you_mean(_slug(target), names)
            )
    label = next((label for label, value in names.items() if value == number), None)
    return classes == number, label or (f"class {number:g}" if len(numbers) > 1 else mask.name)


def _slug(label: str | int) -> str:
    return "-".join(str(label).lower().replace("_", " ").split())
