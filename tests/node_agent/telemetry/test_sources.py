"""Boards by their files, as their kernels lay them out."""

from __future__ import annotations

import errno
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from jetsons import AGX_ORIN, NANO, ORIN_NANO, THOR, hwmon, lay, tree, zones

from node_agent.telemetry.jetson import Board, Temperatures, identify
from node_agent.telemetry.rails import Rails
from node_agent.telemetry.rapl import SOURCE, Rapl
from node_agent.telemetry.sources import describe, open_sources

BOARDS = {"nano": NANO, "orin nano": ORIN_NANO, "agx orin": AGX_ORIN, "thor": THOR}


def read(root: Path) -> dict[str, Any]:
    """Everything once, the first source that knows a field having the say."""
    found: dict[str, Any] = {}
    opened = open_sources("lo", root, 1.0, root)
    assert opened.failed == []
    for source in opened.sources:
        found = {**source.read(), **{name: value for name, value in found.items() if value is not None}}
        source.close()
    return found


def only(found: dict[str, Any], wanted: dict[str, Any]) -> dict[str, Any]:
    return {name: found.get(name) for name in wanted}


@pytest.mark.parametrize(
    ("name", "wanted"),
    [
        (
            "nano",
            {
                "total_w": 2.31,
                "power_source": "POM_5V_IN by ina3221x iio",
                "gpu_percent": 34.5,
                "gpu_hz": 921.6e6,
                "cpus_on": 2,
                "cpu_hz": 1479e6,
                "emc_hz": None,
                "temperatures_c": {"AO-therm": 41.5, "CPU-therm": 33.0},
                "temperature_c": 41.5,
                "mode": "5W",
            },
        ),
        (
            "orin nano",
            {
                "rails_w": pytest.approx({"VDD_IN": 6.2, "VDD_CPU_GPU_CV": -0.04, "VDD_SOC": 1.5}),
                "total_w": pytest.approx(6.2),
                "power_source": "VDD_IN by ina3221 hwmon",
                "gpu_percent": 71.5,
                "gpu_hz": 624.75e6,
                "cpus_on": 2,
                "cpu_hz": pytest.approx(1120e6),
                "emc_hz": 2133e6,
                "temperatures_c": {"cpu-thermal": 48.125, "gpu-thermal": 47.25},
                "mode": "mode 7",
            },
        ),
        (
            "agx orin",
            {
                "total_w": pytest.approx(2.4 + 0.8 + 3.5),
                "power_source": "VDD_GPU_SOC + VDD_CPU_CV + VIN_SYS_5V0 by ina3221 hwmon",
                "gpu_percent": 0,
                "gpu_hz": 306e6,
                "mode": None,
            },
        ),
        (
            "thor",
            {
                "total_w": pytest.approx(31.25),
                "power_source": "VIN by ina238 hwmon",
                "gpu_percent": None,
                "gpu_hz": 315e6,
                "emc_hz": 4266e6,
                "temperature_c": None,
            },
        ),
    ],
)
def test_a_board_tells_what_its_files_have(tmp_path: Path, name: str, wanted: dict[str, Any]) -> None:
    assert only(read(lay(tmp_path, BOARDS[name])), wanted) == wanted


def test_rails_that_are_not_connected_are_none(tmp_path: Path) -> None:
    assert set(read(lay(tmp_path, AGX_ORIN))["rails_w"]) == {
        *("VDD_GPU_SOC", "VDD_CPU_CV", "VIN_SYS_5V0", "VDDQ_VDD2_1V8AO")
    }


@pytest.mark.parametrize(("board", "silent"), [(AGX_ORIN, "hwmon0/curr2_input"), (THOR, "power1_input")])
def test_a_rail_that_does_not_answer_costs_the_total_but_no_other_rail(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, board: dict[str, object], silent: str
) -> None:
    """Nor is the total of Thor then that of other rails, which would be another power."""
    root = lay(tmp_path, board)
    source = Rails(root, identify(root))
    whole = source.read()
    answer = Path.read_text

    def refuse(self: Path, *args: Any) -> str:
        if str(self).endswith(silent):
            raise OSError(errno.EREMOTEIO, os.strerror(errno.EREMOTEIO))
        return answer(self, *args)

    with monkeypatch.context() as patch:
        patch.setattr(Path, "read_text", refuse)
        partly = source.read()
    (lost,) = set(whole["rails_w"]) - set(partly["rails_w"])
    assert [*partly["failures"]] == [f"power rail {lost}"]
    assert (partly["total_w"], partly["power_source"]) == (None, None)
    assert partly["rails_w"] == {rail: watts for rail, watts in whole["rails_w"].items() if rail != lost}
    assert source.read() == whole


def test_a_board_is_told_by_its_device_tree_or_its_release(tmp_path: Path) -> None:
    assert identify(lay(tmp_path / "none", {"etc/hostname": "pc"})) is None
    assert identify(lay(tmp_path / "arm", tree("Raspberry Pi 5", "raspberrypi,5-model-b"))) is None
    assert str(identify(lay(tmp_path / "nano", NANO))) == "NVIDIA Jetson Nano Developer Kit, L4T 32.7.1"
    contained = identify(lay(tmp_path / "container", tree("Jetson TX2", "nvidia,quill", "nvidia,tegra186")))
    assert contained == Board("Jetson TX2", ("nvidia,quill", "nvidia,tegra186"), None)


def test_rails_for_root_alone_are_no_failure(tmp_path: Path) -> None:
    files = {**ORIN_NANO, **hwmon("1-0040", {"VDD_IN": (None, None), "VDD_SOC": (5000, 300)})}
    files = {name: content for name, content in files.items() if "3_" not in name}
    lay(tmp_path, files)
    assert only(read(tmp_path), {"total_w": None, "power_source": None}) == {"total_w": None, "power_source": None}
    power = next(one for one in describe(tmp_path) if one.subject == "power")
    assert not power.found
    assert power.detail == "no energy is measured: this user may not read VDD_IN"


def test_a_zone_that_is_gated_for_a_while_is_left_out_for_that_while(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = Temperatures(lay(tmp_path, zones({"cpu": 40000, "gpu": 50000})))
    gated, whole = tmp_path / "sys/class/thermal/thermal_zone1/temp", Path.read_text

    def refuse(self: Path, *args: Any) -> str:
        if self == gated:
            raise BlockingIOError(errno.EAGAIN, os.strerror(errno.EAGAIN), str(self))
        return whole(self, *args)

    with monkeypatch.context() as patch:
        patch.setattr(Path, "read_text", refuse)
        assert source.read() == {"temperature_c": 40.0, "temperatures_c": {"cpu": 40.0}}
    assert source.read()["temperature_c"] == 50.0


def test_what_is_measured_is_described(tmp_path: Path) -> None:
    found = {one.subject: (one.found, one.detail) for one in describe(lay(tmp_path, AGX_ORIN))}
    assert found["board"] == (True, "Jetson AGX Orin, L4T 35.4.1")
    assert found["power"] == (
        True,
        "total is VDD_GPU_SOC + VDD_CPU_CV + VIN_SYS_5V0 by ina3221 hwmon; besides: VDDQ_VDD2_1V8AO",
    )
    assert found["GPU"] == (True, "load and clock")
    assert found["power mode"][0] is found["tegrastats"][0] is found["memory clock"][0] is False


def rapl(counts: dict[str, int | None]) -> dict[str, object]:
    files: dict[str, object] = {}
    for zone, count in counts.items():
        folder = f"sys/class/powercap/intel-rapl:{zone}"
        name = "core" if ":" in zone else f"package-{zone}"
        files |= {f"{folder}/name": name, f"{folder}/energy_uj": count, f"{folder}/max_energy_range_uj": 9_999_999}
    return files


def test_energy_counters_of_packages_are_added_and_may_start_again(tmp_path: Path) -> None:
    lay(tmp_path, rapl({"0": 9_000_000, "1": 1_000_000, "0:0": 5}))
    meter = Rapl(tmp_path)
    assert meter.read()["counted_j"] == 0
    lay(tmp_path, rapl({"0": 2_000_000, "1": 1_500_000, "0:0": 9_000_000}))
    found = meter.read()
    assert found["counted_j"] == pytest.approx(3.5)  # 1 J to the end, 2 J from the start; 0.5 J
    assert found["total_w"] > 0
    assert found["power_source"] == SOURCE


def test_energy_counters_of_which_one_cannot_be_read_are_no_total(tmp_path: Path) -> None:
    lay(tmp_path, rapl({"0": 1, "1": None}))
    assert Rapl(tmp_path).total is None
    (power,) = (one for one in describe(tmp_path) if one.subject == "power")
    assert power.detail == "no energy is measured: RAPL is for root to read"


def test_a_machine_without_anything_is_told_so(tmp_path: Path) -> None:
    assert not any(one.found for one in describe(tmp_path))
    found = read(tmp_path)
    assert found["rss_bytes"] > 2**20
    assert found["memory_available_bytes"] > 0
    assert found["disk_free_bytes"] > 0
    assert found["interface_sent_bytes"] == 0
    assert found.get("total_w") is None


def test_telling_what_there_is_needs_neither_torch_nor_numpy() -> None:
    code = (
        "import sys; from node_agent.telemetry import sources; sources.describe(); "
        "print([name for name in ('torch', 'numpy') if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
