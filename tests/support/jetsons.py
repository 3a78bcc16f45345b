"""Trees of the files that a board's kernel would show, below a folder of the test's own."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path


def lay(root: Path, files: Mapping[str, object]) -> Path:
    """Write each file's content below `root`; None: a file that cannot be read, not even by root."""
    for name, content in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        if content is None:
            path.mkdir()
        else:
            path.write_text(f"{content}\n")
    return root


def cpus(clocks_khz: Mapping[int, int | None]) -> dict[str, object]:
    """By number; None: off."""
    found: dict[str, object] = {}
    for number, clock in clocks_khz.items():
        folder = f"sys/devices/system/cpu/cpu{number}"
        if number:
            found[f"{folder}/online"] = int(clock is not None)
        if clock is not None:
            found[f"{folder}/cpufreq/scaling_cur_freq"] = clock
    return found


def zones(temperatures: Mapping[str, object]) -> dict[str, object]:
    """Thermal zones, in thousandths of a degree."""
    found: dict[str, object] = {}
    for number, (kind, value) in enumerate(temperatures.items()):
        found[f"sys/class/thermal/thermal_zone{number}/type"] = kind
        found[f"sys/class/thermal/thermal_zone{number}/temp"] = value
    return found


def hwmon(chip: str, rails: Mapping[str, tuple[object, object]], first: int = 1) -> dict[str, object]:
    """An INA3221 of L4T 34 or later: mV and mA by label."""
    folder = f"sys/bus/i2c/drivers/ina3221/{chip}/hwmon/hwmon{chip[-1]}"
    found: dict[str, object] = {f"{folder}/in7_label": "sum of shunt voltages", f"{folder}/in7_input": 9}
    for number, (label, (millivolts, milliamperes)) in enumerate(rails.items(), start=first):
        found[f"{folder}/in{number}_label"] = label
        found[f"{folder}/in{number}_input"] = millivolts
        found[f"{folder}/curr{number}_input"] = milliamperes
    return found


def iio(chip: str, rails: Mapping[str, int]) -> dict[str, object]:
    """An INA3221 of L4T 32: mW by rail."""
    folder = f"sys/bus/i2c/drivers/ina3221x/{chip}/iio:device0"
    found: dict[str, object] = {}
    for number, (rail, milliwatts) in enumerate(rails.items()):
        found[f"{folder}/rail_name_{number}"] = rail
        found[f"{folder}/in_power{number}_input"] = milliwatts
    return found


def release(major: int, minor: str) -> dict[str, object]:
    return {"etc/nv_tegra_release": f"# R{major} (release), REVISION: {minor}, GCID: 1, BOARD: generic, EABI: aarch64"}


def tree(model: str, *compatible: str) -> dict[str, object]:
    return {
        "proc/device-tree/model": f"{model}\0",
        "proc/device-tree/compatible": "".join(f"{c}\0" for c in compatible),
    }


NANO: dict[str, object] = {
    **tree("NVIDIA Jetson Nano Developer Kit", "nvidia,p3450-0000", "nvidia,jetson-nano", "nvidia,tegra210"),
    **release(32, "7.1"),
    **iio("6-0040", {"POM_5V_IN": 2310, "POM_5V_GPU": 160, "POM_5V_CPU": 640}),
    **cpus({0: 1_479_000, 1: 1_479_000, 2: None, 3: None}),
    **zones({"AO-therm": 41500, "CPU-therm": 33000, "PMIC-Die": 100000}),
    "sys/devices/gpu.0/load": 345,
    "sys/class/devfreq/57000000.gpu/cur_freq": 921600000,
    "sys/kernel/debug/bpmp/debug/clk/emc/rate": None,
    "var/lib/nvpmodel/status": "pmode:0001",
    "etc/nvpmodel.conf": "# comment ID=1 NAME=no\n< POWER_MODEL ID=0 NAME=MAXN >\n< POWER_MODEL ID=1 NAME=5W >",
}
ORIN_NANO: dict[str, object] = {
    **tree("NVIDIA Jetson Orin Nano Developer Kit", "nvidia,p3768-0000+p3767-0003", "nvidia,tegra234"),
    **release(36, "4.3"),
    **hwmon("1-0040", {"VDD_IN": (5000, 1240), "VDD_CPU_GPU_CV": (5000, -8), "VDD_SOC": (5000, 300)}),
    **cpus({0: 1_510_400, 1: 729_600}),
    **zones({"cpu-thermal": 48125, "gpu-thermal": 47250, "cv0-thermal": None, "soc0-thermal": -256000}),
    "sys/class/devfreq/17000000.gpu/cur_freq": 624750000,
    "sys/class/devfreq/17000000.gpu/device/load": 715,
    "sys/class/devfreq/15340000.vic/cur_freq": 115200000,
    "sys/kernel/debug/bpmp/debug/clk/emc/rate": 2133000000,
    "var/lib/nvpmodel/status": "pmode:0007",
    "etc/nvpmodel.conf": "< POWER_MODEL ID=0 NAME=15W >",
}
AGX_ORIN: dict[str, object] = {
    **tree("Jetson AGX Orin", "nvidia,p3737-0000+p3701-0005", "nvidia,tegra234"),
    **release(35, "4.1"),
    **hwmon("1-0040", {"VDD_GPU_SOC": (20000, 120), "VDD_CPU_CV": (20000, 40), "VIN_SYS_5V0": (5000, 700)}),
    **hwmon("1-0041", {"NC": (0, 0), "VDDQ_VDD2_1V8AO": (5000, 140)}),
    "sys/devices/platform/gpu.0/load": 0,
    "sys/class/devfreq/17000000.ga10b/cur_freq": 306000000,
}
THOR: dict[str, object] = {
    **tree("NVIDIA Jetson AGX Thor Developer Kit", "nvidia,p4071-0000+p3834-0008", "nvidia,tegra264"),
    **hwmon("2-0040", {"VDD_GPU": (12000, 400), "VDD_CPU_SOC_MSS": (12000, 500), "VIN_SYS_5V0": (5000, 900)}),
    "sys/bus/i2c/drivers/ina238/2-0044/hwmon/hwmon4/power1_input": 31_250_000,
    "sys/class/devfreq/gpu-gpc-0/cur_freq": 315000000,
    "sys/class/devfreq/bwmgr/cur_freq": 4266000000,
}
