from __future__ import annotations

import json
from pathlib import Path

import pytest
import yaml
from typer.testing import CliRunner

from edgesim import devices
from edgesim.cli import app
from edgesim.devices import DeviceError, known, load
from edgesim.topology.problems import Refusal

PEAKS = {
    # 2 x cores x clock, as the boards' makers round it
    ("jetson-nano-4gb", "MAXN"): 0.236e12,
    ("jetson-tx2", "MAXN"): 0.666e12,
    ("jetson-xavier-nx-8gb", "15W_6CORE"): 0.852e12,
    ("jetson-agx-xavier-32gb", "MAXN"): 1.41e12,
    ("jetson-orin-nano-8gb", "15W"): 1.28e12,
    ("jetson-orin-nano-8gb", "MAXN_SUPER"): 2.09e12,
    ("jetson-orin-nx-16gb", "40W"): 2.40e12,
    ("jetson-agx-orin-64gb", "MAXN"): 5.33e12,
    ("jetson-thor-t5000", "MAXN"): 8.06e12,
    # 3 and 4 of 8 clusters left on: 2 x 768 x 408 MHz, 2 x 1024 x 612 MHz
    ("jetson-agx-orin-64gb", "15W"): 0.627e12,
    ("jetson-agx-orin-64gb", "30W"): 1.253e12,
}


@pytest.mark.parametrize(("device", "mode"), PEAKS)
def test_peaks_are_those_of_cores_and_clocks(device: str, mode: str) -> None:
    assert load(device).peak_flop_s(mode) == pytest.approx(PEAKS[device, mode], rel=0.005)


@pytest.mark.parametrize("name", known())
def test_every_profile_is_sound_and_marks_each_of_its_figures(name: str) -> None:
    device = load(name)
    unverified, figures = device.marks()
    assert 10 < figures < 30
    assert 2 <= unverified < figures
    roofline = device.roofline(device.default_mode)
    assert 1e10 < roofline.flop_s < 1e13
    assert 1e10 < roofline.byte_s < 1e12
    assert "efficiency.memory" in device.doubts(device.default_mode)


def test_memory_is_as_fast_as_its_clock() -> None:
    orin = load("jetson-orin-nano-8gb")
    assert orin.byte_s("MAXN_SUPER") == 102e9
    assert orin.byte_s("15W") == pytest.approx(68e9, rel=0.001)  # 102 GB/s x 2133 / 3199


def test_the_efficiency_that_was_derived_is_not_doubted() -> None:
    nano = load("jetson-nano-4gb")
    assert nano.efficiency.compute.value == 0.5
    assert "efficiency.compute" not in nano.doubts("MAXN")
    assert "efficiency.compute" in load("jetson-tx2").doubts("MAXN")


def test_what_is_not_known_is_refused_and_not_guessed() -> None:
    thor = load("jetson-thor-t5000")
    assert thor.peak_flop_s("120W") is None
    with pytest.raises(DeviceError, match="the GPU's clock in mode 120W is not known"):
        thor.roofline("120W")
    assert thor.power_w("MAXN") is None  # power was seen, but in which mode is not known
    orin = load("jetson-orin-nano-8gb")
    assert orin.power_w("15W") == (4.8, 12.5)
    assert orin.power_w("7W") is None


def test_an_unknown_device_is_refused_with_the_closest_name() -> None:
    with pytest.raises(Refusal, match=r"found 'jetson-orin-nano-8g', .* did you mean 'jetson-orin-nano-8gb'\?"):
        load("jetson-orin-nano-8g")


UNSOUND = {
    "an unknown key": ({"colour": "green"}, "colour: found 'green': Extra inputs are not permitted"),
    "both marks": (
        {"gpu": {"cores": {"value": 128, "source": "nvpmodel", "unverified": True}}},
        "gpu.cores: found both or neither, allowed either a source or unverified: true",
    ),
    "no mark": ({"gpu": {"cores": {"value": 128}}}, "gpu.cores: found both or neither"),
    "a source that is not given": (
        {"gpu": {"cores": {"value": 128, "source": "hearsay"}}},
        "gpu.cores: found source 'hearsay', allowed",
    ),
    "no such mode": ({"default_mode": "MAXM"}, "default_mode: found 'MAXM', allowed 5W or MAXN"),
    "a negative figure": (
        {"memory": {"gb_s": {"value": -1, "unverified": True}}},
        "memory.gb_s.value: found -1: Input should be greater than 0",
    ),
}


@pytest.mark.parametrize("case", UNSOUND)
def test_an_unsound_profile_is_one_line_with_its_place(case: str, tmp_path: Path) -> None:
    change, message = UNSOUND[case]
    content = yaml.safe_load(known()["jetson-nano-4gb"].read_text())
    for key, value in change.items():
        content[key] = {**content[key], **value} if isinstance(value, dict) else value
    path = tmp_path / "mine.yaml"
    path.write_text(yaml.safe_dump(content))
    with pytest.raises(DeviceError) as error:
        load(str(path))
    assert str(error.value).startswith(f"{path}: ")
    assert message in str(error.value)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(("text", "message"), [(": [", "not YAML"), ("7", "found 7"), (None, "cannot read: No such")])
def test_a_file_that_is_no_profile(text: str | None, message: str, tmp_path: Path) -> None:
    path = tmp_path / "mine.yaml"
    if text is not None:
        path.write_text(text)
    with pytest.raises(DeviceError, match=message):
        load(str(path))


def test_they_are_listed_for_people_and_for_scripts() -> None:
    told = CliRunner().invoke(app, ["devices"])
    assert told.exit_code == 0
    assert "jetson-orin-nano-8gb" in told.output
    assert "1.28 TFLOP/s" in told.output
    entries = json.loads(CliRunner().invoke(app, ["devices", "--json"]).output)
    assert [entry["name"] for entry in entries] == list(known())
    orin = next(entry for entry in entries if entry["name"] == "jetson-orin-nano-8gb")
    assert orin["modes"]["15W"]["power_w"] == {"idle": 4.8, "loaded": 12.5}
    assert orin["modes"]["15W"]["peak_flop_s"] == 2 * 1024 * 625e6
    assert "efficiency.launch_us (not known, taken as 0)" in orin["modes"]["15W"]["doubts"]


def test_profiles_of_an_installed_package_come_first(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "mine.yaml").write_text(known()["jetson-tx2"].read_text())
    monkeypatch.setattr(devices, "_PLACES", (tmp_path, *devices._PLACES))
    assert list(known()) == ["mine"]
    monkeypatch.setattr(devices, "_PLACES", (tmp_path / "none", tmp_path / "neither"))
    with pytest.raises(DeviceError, match="no device profiles"):
        known()
