"""A calibration as a device profile: YAML, in the form of the profiles in jetson/devices."""

from __future__ import annotations

import platform
import time
from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

import psutil
import torch
import yaml

from node_agent.device import facts, power
from node_agent.device.bench import Calibration, Copied, Step, Timing

CALIBRATED, READ = "calibrated here", "this system"

_CORES = {5: 128, 6: 128, 7: 64, 8: 128, 9: 128, 10: 128, 11: 128, 12: 128}
"""FP32 units of a multiprocessor by major compute capability (CUDA C++ Programming Guide, arithmetic instructions)"""

_A100 = (8, 0)
"""the one of its major capability with 64 of them"""

AS_FOUND = "as found"
"""the mode of a system that has no nvpmodel"""


def profile(calibration: Calibration, device: torch.device) -> dict[str, Any]:
    """The profile of this board. Its figures name `calibrated here` or `this system` as their source; what is neither
    measured nor read stays out, or is marked unverified where the form needs it."""
    try:
        mode = power.current()
    except power.PowerError:  # no board with power modes: what was found is the only one
        mode = None
    peak = calibration.peak_flop_s
    gpu = _cpu_alone(peak) if device.type == "cpu" else _gpu(device, peak)
    name = AS_FOUND if mode is None else mode.name
    reached = calibration.roofline
    total, _ = facts.memory()
    frequency = psutil.cpu_freq()
    cpu: dict[str, Any] = {"kind": facts.processor(), "cores": _read(facts.cores())}
    if frequency and frequency.max:
        cpu["mhz"] = _read(frequency.max)
    chosen: dict[str, Any] = {"gpu_mhz": gpu.pop("clock"), "source": CALIBRATED}
    if device.type != "cpu":  # of the CPU, one thread is what was calibrated
        chosen["cpu_cores"] = facts.cores()
    if mode is not None:
        chosen["id"] = mode.id
    return {
        "board": facts.model() or f"{platform.machine()} host",
        "module": {"value": "unknown", "unverified": True},
        "last_jetpack": {"value": facts.release() or "none", "source": READ},
        "cpu": cpu,
        "gpu": gpu,
        "memory": {
            "gb": _read(round(total / 1e9, 3)),
            "visible_mb": _read(round(total / 2**20)),
            "gb_s": _calibrated(reached.byte_s / 1e9),
        },
        "modes": {name: chosen},
        "default_mode": name,
        "efficiency": {
            "compute": _calibrated(reached.flop_s / (2e6 * gpu["cores"]["value"] * chosen["gpu_mhz"])),
            "memory": _calibrated(1.0),
            "launch_us": _calibrated(reached.launch_s * 1e6),
        },
        "calibration": _told(calibration),
        "sources": {CALIBRATED: _how(calibration), READ: "the system of the board that was calibrated"},
    }


def as_yaml(profile: Mapping[str, Any]) -> str:
    return str(yaml.safe_dump(dict(profile), sort_keys=False, allow_unicode=True, width=120))


def _read(value: float) -> dict[str, Any]:
    return {"value": value, "source": READ}


def _calibrated(value: float) -> dict[str, Any]:
    return {"value": _rounded(value), "source": CALIBRATED}


def _rounded(value: float) -> float:
    return float(f"{value:.4g}")


def _cpu_alone(peak: float) -> dict[str, Any]:
    """For training on the CPU: one core whose clock gives the peak that was measured, as the form has no other."""
    return {
        "kind": "none; one thread of the CPU",
        "cores": {"value": 1, "source": CALIBRATED},
        "compute_capability": {"value": "none", "source": READ},
        "clock": _rounded(peak / 2e6),
    }


def _gpu(device: torch.device, peak: float) -> dict[str, Any]:
    """The peak is that of cores and clock where both are known, else the one that was measured."""
    found = torch.cuda.get_device_properties(device)
    cores = found.multi_processor_count * (
        64 if (found.major, found.minor) == _A100 else _CORES.get(found.major, _CORES[12])
    )
    khz = getattr(found, "clock_rate", 0)  # not in every version of torch
    return {
        "kind": found.name,
        "cores": _read(cores),
        "compute_capability": {"value": f"{found.major}.{found.minor}", "source": READ},
        "clock": khz / 1e3 if khz else _rounded(peak / (2e6 * cores)),
    }


def _how(calibration: Calibration) -> str:
    versions = ", ".join(f"{name} {number}" for name, number in calibration.versions.items())
    on = "the CPU, one thread" if calibration.device == "cpu" else calibration.device
    return (
        f"node-agent bench, {_date(calibration)}, on {on}, {versions}: the fastest of several repetitions; cores and "
        "clock of a CPU stand for the fastest matrix product, two operations a core and cycle; the bandwidth, of which "
        "kernels reach all, is that of the first copy, between places as large together as the working set of a step, "
        "which caches may hold; the second copy tells what memory beyond them gives"
    )


def _date(calibration: Calibration) -> str:
    return time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(calibration.at_s))


def _told(calibration: Calibration) -> dict[str, Any]:
    return {
        "date": _date(calibration),
        "device": calibration.device,
        "versions": dict(calibration.versions),
        "matrix_products": [
            {"size": product.size, "flop_s": _rounded(product.flop_s), **_timing(product.timing)}
            for product in calibration.products
        ],
        "copies": [_copy(calibration.working), _copy(calibration.large)],
        "launch": _timing(calibration.launch),
        "steps": [{"fitted": True, **_step(calibration.fitted)}, {"fitted": False, **_step(calibration.checked)}],
        "gradients": calibration.gradients,
        "compressors": {
            name: {"bytes": coding.bytes, "encode": _timing(coding.encode), "decode": _timing(coding.decode)}
            for name, coding in calibration.codings.items()
        },
    }


def _copy(copied: Copied) -> dict[str, Any]:
    return {"bytes": copied.bytes, "byte_s": _rounded(copied.byte_s), **_timing(copied.timing)}


def _step(step: Step) -> dict[str, Any]:
    return {
        "batch": step.batch,
        "parameters": step.parameters,
        "modelled_s": _rounded(step.modelled_s),
        **_timing(step.timing),
    }


def _timing(timing: Timing) -> dict[str, Any]:
    found = asdict(timing)
    repetitions = found.pop("repetitions")
    return {**{name: _rounded(value) for name, value in found.items()}, "repetitions": repetitions}
