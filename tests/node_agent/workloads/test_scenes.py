from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import h5py
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import io
from spectral.io import envi

from node_agent.job import SceneSettings
from node_agent.workloads.scenes import (
    INDIAN_PINES_CLASSES,
    Scene,
    SceneError,
    available,
    default_folders,
    open_scene,
    target_prior,
)


def opened(path: object, **settings: object) -> Scene:
    return open_scene(SceneSettings(path=str(path), **settings))


def memory(mask: np.ndarray, cube: np.ndarray) -> Scene:
    return Scene("memory", cube.shape, mask.astype(bool), "map", None, cube, (0, 1, 2))


def test_every_format_gives_the_same_scene(scene_files, cube, mask):
    for name, path in scene_files.items():
        scene = opened(path, mask="mask.npy" if path.suffix == ".hdr" else None)
        assert scene.shape == cube.shape, name
        assert np.array_equal(scene.mask, mask.astype(bool)), name
        whole, strip = scene.lines(0, cube.shape[0]), scene.lines(2, 5)
        assert whole.dtype == strip.dtype == np.float32
        assert np.array_equal(whole, cube), name
        assert np.array_equal(strip, cube[2:5]), name


@pytest.mark.parametrize("name", ["plain.npz", "bands-first.npz", "bil.hdr", "bip.hdr", "bsq.hdr"])
def test_uncompressed_cubes_are_mapped_not_read(scene_files, name):
    scene = opened(scene_files[name], mask="mask.npy" if name.endswith("hdr") else None)
    array = scene._array
    while not isinstance(array, np.memmap):
        array = array.base
    assert isinstance(array, np.memmap)


def test_matlab_73_is_sliced_in_the_file(scene_files):
    assert isinstance(opened(scene_files["seven.mat"])._array, h5py.Dataset)


def test_strips_cover_all_lines_once(cube, mask):
    scene = memory(mask, cube)
    for values in (1, 100, 200, 10**6):
        lines = [line for strip in scene.strips(values) for line in range(*strip)]
        assert lines == list(range(cube.shape[0]))
    with pytest.raises(SceneError, match=r"lines 3\.\.3"):
        scene.lines(3, 3)
    with pytest.raises(SceneError, match=r"0\.\.9"):
        scene.lines(0, 10)


@pytest.mark.parametrize(
    "name",
    ["five.mat", "five-packed.mat", "seven.mat", "seven-packed.mat", "plain.npz", "packed.npz", "bil.hdr", "bil.img"],
)
def test_a_file_cut_short_anywhere_is_refused(scene_files, tmp_path, cube, mask, name):
    path = tmp_path / name
    content = path.read_bytes()
    opens = path.with_suffix(".hdr") if path.suffix == ".img" else path
    messages = []
    for length in range(0, len(content), max(1, len(content) // 97)):
        path.write_bytes(content[:length])
        try:
            scene = opened(opens, mask="mask.npy" if opens.suffix == ".hdr" else None)
            lines = scene.lines(0, cube.shape[0])
        except SceneError as error:
            messages.append(str(error))
        else:  # nothing that matters was cut off
            assert np.array_equal(lines, cube)
            assert np.array_equal(scene.mask, mask.astype(bool))
    assert len(messages) > 50
    assert all(opens.stem in message and "\n" not in message for message in messages)


def test_a_mask_file_cut_short_is_refused(scene_files, tmp_path):
    content = (tmp_path / "mask.npy").read_bytes()
    for length in range(len(content)):
        (tmp_path / "mask.npy").write_bytes(content[:length])
        with pytest.raises(SceneError, match=r"mask\.npy"):
            opened(scene_files["bil.hdr"], mask="mask.npy")


@given(damage=st.binary(min_size=1, max_size=300), suffix=st.sampled_from([".mat", ".npz", ".npy", ".hdr"]))
def test_garbage_is_refused(tmp_path_factory, damage, suffix):
    path = tmp_path_factory.mktemp("garbage") / f"scene{suffix}"
    path.write_bytes(damage)
    with pytest.raises(SceneError, match="scene"):
        opened(path)


def test_mask_from_other_files(tmp_path, scene_files, cube, mask):
    io.savemat(tmp_path / "truth.mat", {"anything": mask})
    np.savez(tmp_path / "truth.npz", anything=mask)
    envi.save_classification(str(tmp_path / "truth.hdr"), mask, ext="img", class_names=["Other", "Blue Car"])
    for name in ("truth.mat", "truth.npz", "truth.hdr", str(tmp_path / "truth.npz")):
        assert np.array_equal(opened(scene_files["bip.hdr"], mask=name).mask, mask.astype(bool))
    assert opened(scene_files["bip.hdr"], mask="truth.hdr").target == "blue-car"
    assert opened(scene_files["bip.hdr"], mask="truth.hdr", target="blue car").mask.sum() == mask.sum()


def test_envi_header_fields(tmp_path, cube, mask):
    np.save(tmp_path / "mask.npy", mask)
    raw = cube.astype(np.int16)
    raw[0, 0, 3] = -9999
    header = {
        "wavelength": [400 + 10 * band for band in range(12)],
        "wavelength units": "Nanometers",
        "data ignore value": -9999,
        "bbl": [1] * 11 + [0],
    }
    envi.save_image(str(tmp_path / "a.hdr"), raw, metadata=header, ext="raw-data", interleave="bil")
    with pytest.raises(SceneError, match="data file"):
        opened(tmp_path / "a.hdr", mask="mask.npy")
    scene = opened(tmp_path / "a.hdr", cube="a.raw-data", mask="mask.npy")
    assert scene.wavelengths == pytest.approx(np.arange(400, 520, 10) * 1e-9)
    lines = scene.lines(0, 1)
    assert np.isnan(lines[0, 0, 3])
    assert np.isnan(lines[..., 11]).all()
    assert np.isfinite(lines[0, 1:, :11]).all()
    text = (tmp_path / "a.hdr").read_text()
    (tmp_path / "a.hdr").write_text(text.replace("bil", "bix"))
    with pytest.raises(SceneError, match="allowed bil, bip, bsq"):
        opened(tmp_path / "a.hdr", cube="a.raw-data", mask="mask.npy")


def test_envi_gains_and_offsets_are_applied(tmp_path, cube, mask):
    np.save(tmp_path / "mask.npy", mask)
    stored = cube.astype(np.float32)
    stored[0, 0, 3] = np.finfo(np.float32).min
    gains, offsets = np.linspace(0.5, 2, 12), np.linspace(-3, 3, 12)
    header = {
        "data gain values": gains.tolist(),
        "data offset values": offsets.tolist(),
        "data ignore value": "-3.40282e+38",  # rounded, as programs write it
    }
    envi.save_image(str(tmp_path / "a.hdr"), stored, metadata=header, ext="img", dtype=np.float32)
    lines = opened(tmp_path / "a.hdr", mask="mask.npy").lines(0, 9)
    assert np.isnan(lines[0, 0, 3])
    lines[0, 0, 3] = stored[0, 0, 3] = 0
    expected = gains * stored + offsets
    expected[0, 0, 3] = 0
    assert lines == pytest.approx(expected, rel=1e-6, abs=1e-5)
    header["data gain values"] = [1.0, 2.0]
    envi.save_image(str(tmp_path / "b.hdr"), stored, metadata=header, ext="img", dtype=np.float32)
    with pytest.raises(SceneError, match="data gain values: found 2 values, allowed one for each of the 12 bands"):
        opened(tmp_path / "b.hdr", mask="mask.npy")


def test_wavelengths_beside_the_cube(tmp_path, cube, mask):
    for values in (np.linspace(400, 2500, 12), np.linspace(0.4, 2.5, 12), np.linspace(0.4e-6, 2.5e-6, 12)):
        np.savez(tmp_path / "w.npz", data=cube, map=mask, wavelengths=values)
        assert opened(tmp_path / "w.npz").wavelengths == pytest.approx(np.linspace(400e-9, 2500e-9, 12))


def refusal(tmp_path: Path, arrays: dict[str, np.ndarray], **settings: object) -> str:
    np.savez(tmp_path / "scene.npz", **arrays)
    with pytest.raises(SceneError) as caught:
        opened(tmp_path / "scene.npz", **settings)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_what_a_scene_must_hold(tmp_path, cube, mask):
    two = {"data": cube, "map": mask}
    assert "no cube" in refusal(tmp_path, {"map": mask})
    assert "no mask" in refusal(tmp_path, {"data": cube})
    assert "no mask" in refusal(tmp_path, {"data": cube, "map": mask[:, 1:]})
    assert "no cube" in refusal(tmp_path, {"data": cube.astype(str), "map": mask})
    assert "no cube" in refusal(tmp_path, {"data": cube[:0], "map": mask[:0]})
    assert "complex" in refusal(tmp_path, {"data": cube * 1j, "map": mask})
    assert "no target pixels" in refusal(tmp_path, {"data": cube, "map": 0 * mask})
    assert "finite" in refusal(tmp_path, {"data": cube, "map": np.where(mask, np.nan, 0)})
    assert "did you mean 'data'" in refusal(tmp_path, two, cube="dada")
    assert "did you mean 'map'" in refusal(tmp_path, two, mask="mop")
    assert "allowed none or 1" in refusal(tmp_path, two, target=2)


def test_several_candidates_are_an_error_unless_named(tmp_path, cube, mask):
    arrays = {"first": cube, "second": cube + 1, "map": mask}
    message = refusal(tmp_path, arrays)
    assert "first (9×7×12), second (9×7×12)" in message
    assert "`cube`" in message
    assert opened(tmp_path / "scene.npz", cube="second").lines(0, 1)[0, 0, 0] == cube[0, 0, 0] + 1
    message = refusal(tmp_path, {"data": cube, "north": mask, "south": mask.copy()})
    assert "north (9×7), south (9×7)" in message
    assert "`mask`" in message
    np.savez(tmp_path / "usual.npz", data=cube, other=cube + 1, gt=mask, edge=mask)
    assert np.array_equal(opened(tmp_path / "usual.npz").lines(0, 9), cube)


def test_classes(tmp_path, cube, mask):
    classes = mask.astype(np.uint8)
    classes[7, 5:7] = 5
    message = refusal(tmp_path, {"data": cube, "gt": classes})
    assert "name one by `target`: 1, 5" in message
    for target in (5, "5"):
        scene = opened(tmp_path / "scene.npz", target=target)
        assert scene.mask.sum() == 2
        assert scene.target == "class 5"
    assert "allowed 1, 5" in refusal(tmp_path, {"data": cube, "gt": classes}, target=0)
    assert "allowed 1, 5" in refusal(tmp_path, {"data": cube, "gt": classes}, target="cars")


def test_indian_pines_is_built_in():
    scene = opened("indian-pines", target="Stone-Steel-Towers")
    assert scene.shape == (145, 145, 200)
    assert scene.mask.sum() == 93
    assert scene.target == "stone-steel-towers"
    assert "93 pixels in 1 blob" in scene.describe
    assert np.array_equal(opened("indian-pines", target=16).mask, scene.mask)
    sizes = [int(opened("indian-pines", target=name).mask.sum()) for name in INDIAN_PINES_CLASSES]
    # class sizes as published with the ground truth
    assert sizes == [46, 1428, 830, 237, 483, 730, 28, 478, 20, 972, 2455, 593, 205, 1265, 386, 93]
    with pytest.raises(SceneError, match="did you mean 'stone-steel-towers'"):
        opened("indian-pines", target="stone-stel-towers")


def test_opening_a_scene_imports_neither_torch_nor_tensorly():
    code = (
        "import sys; from node_agent.job import SceneSettings; from node_agent.workloads.scenes import open_scene;"
        "open_scene(SceneSettings(path='indian-pines', target=16)).lines(0, 1);"
        "print([name for name in ('torch', 'tensorly', 'matplotlib') if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_bare_names_are_looked_up(tmp_path, cube, mask, monkeypatch):
    (tmp_path / "hsi").mkdir()
    np.savez(tmp_path / "hsi" / "harbour.npz", data=cube, map=mask)
    np.savez(tmp_path / "field.npz", data=cube, map=mask)
    monkeypatch.setenv("EDGESIM_DATA", str(tmp_path))
    assert default_folders() == (tmp_path,)
    assert sorted(available()) == ["field", "harbour", "indian-pines"]
    assert opened("harbour").name == opened(tmp_path / "hsi" / "harbour.npz").name == "harbour"
    with pytest.raises(SceneError, match=r"field, harbour, indian-pines \(looked up in .*; did you mean 'harbour'"):
        opened("habour")
    monkeypatch.delenv("EDGESIM_DATA")
    project = Path(__file__).resolve().parents[3]
    assert default_folders() == (project.parent / "shared" / "data",)


def test_paths_that_are_no_scene(tmp_path):
    for path, message in {
        tmp_path / "none.mat": "no such file",
        tmp_path: "a folder",
        "none.npz": "no such file",
    }.items():
        with pytest.raises(SceneError, match=message):
            opened(path)
    (tmp_path / "scene.tif").write_bytes(b"II*")
    with pytest.raises(SceneError, match=r"found \.tif, allowed \.hdr, \.mat, \.npy, \.npz"):
        opened(tmp_path / "scene.tif")


def test_prior_of_the_largest_blob(cube, mask):
    scene = memory(mask, cube)
    prior = target_prior(scene, "blob", np.random.default_rng(0))
    assert np.array_equal(np.argwhere(prior.used), np.argwhere(mask[:6]))
    assert prior.spectrum == pytest.approx(cube[1:5, 1:4].reshape(-1, 12).mean(axis=0))
    assert prior.spectrum.dtype == np.float64
    assert "largest of 2 target blobs (12 pixels)" in prior.label


def test_blobs_are_8_connected(cube):
    diagonal = np.zeros(cube.shape[:2], np.uint8)
    np.fill_diagonal(diagonal, 1)
    diagonal[0, 5] = 1
    prior = target_prior(memory(diagonal, cube), "blob", np.random.default_rng(0))
    assert prior.used.sum() == 7


def test_prior_of_drawn_pixels(cube, mask):
    one_blob = mask.copy()
    one_blob[1:5, 1:6] = 1
    one_blob[7] = 0
    scene = memory(one_blob, cube)
    for kind in ("pixels", "blob"):
        prior = target_prior(scene, kind, np.random.default_rng(3))
        assert prior.used.sum() == 10
        assert not (prior.used & ~scene.mask).any()
        assert prior.spectrum == pytest.approx(cube[prior.used].mean(axis=0))
        assert "10 of 20" in prior.label
        assert np.array_equal(prior.used, target_prior(scene, kind, np.random.default_rng(3)).used)
    drawn = {target_prior(scene, "pixels", np.random.default_rng(s)).used.tobytes() for s in range(9)}
    assert len(drawn) > 1
    one_blob[1, 1] = 0
    with pytest.raises(SceneError, match=r"19 target pixels.*at least 20"):
        target_prior(memory(one_blob, cube), "blob", np.random.default_rng(0))


def test_oracle_prior(cube, mask):
    prior = target_prior(memory(mask, cube), "oracle", np.random.default_rng(0))
    assert not prior.used.any()
    assert prior.spectrum == pytest.approx(cube[mask > 0].mean(axis=0))
    assert "oracle" in prior.label


def test_prior_over_missing_values(cube, mask):
    values = cube.astype(np.float32)
    values[1, 1, 0] = np.nan  # one pixel of one band: the others tell
    values[..., 4] = np.nan  # a band without any value: its neighbours tell
    prior = target_prior(memory(mask, values), "blob", np.random.default_rng(0))
    blob = cube[1:5, 1:4].reshape(-1, 12).astype(float)
    assert prior.spectrum[0] == pytest.approx(blob[1:, 0].mean())
    assert prior.spectrum[4] == pytest.approx((blob[:, 3].mean() + blob[:, 5].mean()) / 2)
    with pytest.raises(SceneError, match="no finite value"):
        target_prior(memory(mask, values * np.nan), "blob", np.random.default_rng(0))


@pytest.mark.parametrize("kept", [136, 200, 0.3, 0.7, -1])
def test_a_matlab_file_that_ends_early_is_called_cut_short(kept: float, tmp_path: Path) -> None:
    whole = tmp_path / "whole.mat"
    io.savemat(whole, {"data": np.ones((6, 5, 40)), "map": np.eye(6, 5)})
    content = whole.read_bytes()
    length = kept if isinstance(kept, int) else int(kept * len(content))
    cut = tmp_path / "cut.mat"
    cut.write_bytes(content[:length])
    with pytest.raises(SceneError, match=r"^cut\.mat: cut short: found \d+ bytes, its variables take at least \d+$"):
        open_scene(SceneSettings(path=str(cut)))
