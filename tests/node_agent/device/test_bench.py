"""A calibration of this machine, as a device profile."""

from __future__ import annotations

import errno
import os
import stat
from pathlib import Path

import pytest
import torch

from edgesim import devices
from edgesim.topology.computing import boards
from edgesim.topology.reader import read
from node_agent.compression.settings import CATALOGUE
from node_agent.device import bench, verbs
from node_agent.device.bench import FITTED, fit, measured_step, modelled, timed
from node_agent.job import Roofline

BOUNDS = Roofline(flop_s=1e9, byte_s=1e9, launch_s=1e-6)
KERNELS = [(4_000_000, 1000, 1), (0, 3_000_000, 1), (1000, 1000, 2)]


def test_a_step_is_the_sum_of_its_kernels() -> None:
    # 4 ms of FLOPs, 3 ms of bytes, 1 us of either, and four launches
    assert modelled(KERNELS, BOUNDS) == pytest.approx(4e-3 + 3e-3 + 1e-6 + 4e-6)


def test_the_share_of_the_peak_is_what_makes_the_step_as_long_as_it_took() -> None:
    fitted = fit(KERNELS, 11.006e-3, BOUNDS)  # the product took 8 ms, and the third kernel 2 us
    assert fitted.flop_s == pytest.approx(0.5e9, rel=1e-4)
    assert (fitted.byte_s, fitted.launch_s) == (BOUNDS.byte_s, BOUNDS.launch_s)
    assert modelled(KERNELS, fitted) == pytest.approx(11.006e-3)


def test_nothing_is_faster_than_the_peak() -> None:
    assert fit(KERNELS, 1e-3, BOUNDS) == BOUNDS


def test_repetitions_are_as_many_as_the_time_allows_and_no_fewer_than_three() -> None:
    done: list[int] = []
    found = timed(lambda: done.append(len(done)), budget=0.0)
    assert (found.repetitions, len(done)) == (3, 4)
    assert timed(lambda: None, budget=10.0, most=7).repetitions == 7
    assert 0 <= found.best_s <= found.median_s


@pytest.fixture(scope="module")
def profile(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Of few repetitions, and of a copy that takes less time."""
    path = tmp_path_factory.mktemp("bench") / "profile.yaml"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(bench, "QUICK_BUDGET", 0.01)
        patch.setattr(bench, "LARGE_COPY", 16 * 2**20)
        assert verbs.bench(path, True, "cpu") == 0
    return path


def test_it_loads_as_a_device_whose_figures_have_a_source(profile: Path) -> None:
    device = devices.load(str(profile))
    assert device.doubts(device.default_mode) == []
    assert device.marks()[0] == 1  # the module's number
    assert device.efficiency.compute.source == "calibrated here"
    assert 0 < device.efficiency.compute.value <= 1 + 1e-3
    assert device.efficiency.memory.value == 1
    assert device.modes[device.default_mode].cpu_cores is None  # one thread was calibrated
    assert device.calibration is not None
    assert device.calibration.versions["torch"]
    assert list(device.calibration.compressors) == list(CATALOGUE)
    working, _ = device.calibration.copies
    assert device.memory.gb_s.value == pytest.approx(working.byte_s / 1e9, rel=1e-3)
    assert 2 * working.bytes == 4 * 4 * device.calibration.steps[0].parameters  # with gradients and Adam's two moments
    dense = device.calibration.compressors["none"]
    assert dense.bytes > 4 * device.calibration.gradients
    assert all(one.encode.best_s > 0 and one.decode.best_s > 0 for one in device.calibration.compressors.values())
    assert stat.S_IMODE(profile.stat().st_mode) == 0o644
    assert [path.name for path in profile.parent.iterdir()] == [profile.name]


def test_its_roofline_gives_the_step_that_was_measured(profile: Path) -> None:
    calibration = devices.load(str(profile)).calibration
    assert calibration is not None
    fitted, checked = calibration.steps
    assert (fitted.fitted, checked.fitted) == (True, False)
    assert fitted.modelled_s == pytest.approx(fitted.best_s, rel=0.01)


def test_a_topology_takes_it_and_models_a_step_near_the_measured_one(
    profile: Path, scene: Path, tmp_path: Path
) -> None:
    file = tmp_path / "bench.yaml"
    file.write_text(
        f"name: bench\nnodes: [{{name: here, device: {profile}}}]\nemulation: {{clock: virtual}}\n"
        f"training: {{scene: {scene}}}\n"
    )
    board = boards(read(file))["here"]
    calibration = board.device.calibration
    assert calibration is not None
    # The kernels of a step are the same on every host, and however long they take.
    _, kernels, _ = measured_step(FITTED, torch.device("cpu"), budget=0.0)
    step = modelled(kernels, board.device.roofline(board.mode))
    assert step == pytest.approx(calibration.steps[0].best_s, rel=0.01)


@pytest.mark.alone
def test_a_step_that_was_not_fitted_is_modelled_within_a_factor_of_two(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bench, "CATALOGUE", {})
    checked = bench.calibrate(torch.device("cpu"), quick=True).checked
    assert 0.5 < checked.modelled_s / checked.timing.best_s < 2


def test_what_cannot_be_done_is_refused_at_once(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    absent = tmp_path / "absent" / "profile.yaml"
    assert verbs.bench(absent, True, "cpu") == 2
    assert capsys.readouterr().err == f"node-agent: --out {absent}: No such file or directory\n"
    assert verbs.bench(tmp_path, True, "cpu") == 2
    assert capsys.readouterr().err == f"node-agent: --out {tmp_path}: Is a directory\n"


@pytest.fixture
def measured(monkeypatch: pytest.MonkeyPatch) -> None:
    """A calibration that takes no time."""
    monkeypatch.setattr(bench, "calibrate", lambda device, quick: None)
    monkeypatch.setattr("node_agent.device.profile.profile", lambda calibration, device: {"board": "made"})


@pytest.mark.usefixtures("measured")
def test_a_profile_that_cannot_be_written_is_printed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def full(descriptor: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "fsync", full)
    out = tmp_path / "profile.yaml"
    assert verbs.bench(out, True, "cpu") == 1
    told = capsys.readouterr()
    assert told.out == "board: made\n"
    assert told.err.startswith(f"node-agent: --out {out}: No space left on device")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("error", [OSError(errno.EMFILE, "Too many open files"), RuntimeError("out of memory\nat x")])
def test_a_calibration_that_fails_says_so_in_one_line(
    error: Exception, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def failing(device: torch.device, quick: bool) -> None:
        raise error

    monkeypatch.setattr(bench, "calibrate", failing)
    assert verbs.bench(None, True, "cpu") == 1
    assert capsys.readouterr().err == f"node-agent: bench: {str(error).splitlines()[0]}\n"


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a CUDA device")
def test_cuda_is_refused_where_there_is_none(capsys: pytest.CaptureFixture[str]) -> None:
    assert verbs.bench(None, True, "cuda") == 2
    assert "node-agent: device: found cuda, allowed cpu: torch" in capsys.readouterr().err
