from __future__ import annotations

import threading
import time
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from jetsons import ORIN_NANO, lay

from node_agent import events
from node_agent.job import Job
from node_agent.telemetry.process import Telemetry
from node_agent.telemetry.sources import Source, open_sources


def job(**changes: Any) -> Job:
    alone: dict[str, Any] = {"run": "t", "rank": 0, "nodes": ("a",), "seed": 1, "steps": 1, "rendezvous": "file:///x"}
    rest: dict[str, Any] = {"outgoing": None, "incoming": None, "compressor": {"name": "none"}, "probe": {}}
    return Job(**{**alone, **rest, "telemetry_interval": 0.05, **changes})


class Fake:
    """A source that gives one reading after another, the last one again and again; an exception is raised."""

    def __init__(self, name: str, *readings: dict[str, Any] | Exception) -> None:
        self.name = name
        self._readings = list(readings)
        self.closed = 0

    def read(self) -> dict[str, Any]:
        reading = self._readings.pop(0) if len(self._readings) > 1 else self._readings[0]
        if isinstance(reading, Exception):
            raise reading
        return dict(reading)

    def close(self) -> None:
        self.closed += 1


def rails(watts: float, source: str = "VDD_IN") -> dict[str, Any]:
    return {"total_w": watts, "power_source": source}


def during(
    samples: int, fakes: Sequence[Source], failed: Sequence[tuple[str, str]] = (), **changes: Any
) -> tuple[list[Any], Telemetry]:
    """What is told until there are so many samples and one at the end: samples and lost sensors."""
    told: list[Any] = []

    def opened(interface: str, folder: Path, interval: float) -> tuple[list[Source], list[tuple[str, str]]]:
        return list(fakes), list(failed)

    with Telemetry(job(**changes), told.append, opened) as telemetry:
        while sum(isinstance(event, events.Telemetry) for event in told) < samples:
            time.sleep(0.005)
    return [event for event in told if not isinstance(event, events.Sensors)], telemetry


def test_power_is_integrated_from_beginning_to_end() -> None:
    began = time.monotonic()
    samples, telemetry = during(4, [Fake("rails", rails(10.0))])
    took = time.monotonic() - began
    assert len(samples) > 4
    assert 0 < samples[0].host_s < samples[-2].host_s < samples[-1].host_s <= took
    assert telemetry.energy.joules == pytest.approx(10 * samples[-1].host_s)
    assert telemetry.energy.unmeasured_s == 0
    assert telemetry.energy.source == "VDD_IN"
    assert [sample.energy_j for sample in samples] == pytest.approx([10 * sample.host_s for sample in samples])


def test_the_shortest_of_runs_has_a_sample_and_an_energy() -> None:
    samples, telemetry = during(0, [Fake("rails", rails(10.0))], telemetry_interval=60.0)
    assert len(samples) == 2
    assert telemetry.energy.joules == pytest.approx(10 * samples[-1].host_s)


def test_a_source_that_fails_is_told_once_and_left_out() -> None:
    broken = Fake("rails", rails(5.0), OSError(5, "Input/output error"))
    told, telemetry = during(4, [broken, Fake("host", {"threads": 3})])
    (lost,) = (event for event in told if isinstance(event, events.SensorLost))
    assert (lost.node, lost.sensor, lost.error) == ("a", "rails", "OSError: [Errno 5] Input/output error")
    samples = [event for event in told if isinstance(event, events.Telemetry)]
    assert [sample.total_w for sample in samples][:2] == [5.0, None]
    assert {sample.threads for sample in samples} == {3}
    assert broken.closed == 1
    assert telemetry.energy.joules == pytest.approx(5 * samples[-1].host_s)  # of less than the longest gap


def test_a_sensor_that_is_lost_for_good_leaves_time_unmeasured(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("node_agent.telemetry.process.SHORTEST_GAP", 0.0)
    _, telemetry = during(30, [Fake("rails", rails(5.0), OSError("gone"))], telemetry_interval=0.02)
    assert telemetry.energy.unmeasured_s > 0.3
    assert telemetry.energy.joules is not None


def test_what_could_not_be_opened_is_told() -> None:
    told, _ = during(0, [], [("tegrastats", "Exec format error")])
    (lost,) = (event for event in told if isinstance(event, events.SensorLost))
    assert (lost.sensor, lost.error) == ("tegrastats", "Exec format error")


def test_the_first_source_that_knows_a_field_has_the_say() -> None:
    samples, _ = during(
        0, [Fake("files", {"gpu_percent": None, "gpu_hz": 1.0}), Fake("program", {"gpu_percent": 9.0, "gpu_hz": 2.0})]
    )
    assert (samples[0].gpu_percent, samples[0].gpu_hz) == (9.0, 1.0)


def test_powers_of_different_definitions_are_not_added_up() -> None:
    samples, telemetry = during(4, [Fake("program", rails(3.0, "sum"), rails(900.0, "VIN"))])
    assert samples[-1].power_source == "VIN"
    assert telemetry.energy.source == "sum"
    assert telemetry.energy.joules == pytest.approx(3 * samples[-1].host_s)


def test_what_a_meter_counts_is_the_energy() -> None:
    meter = Fake("meter", *({"counted_j": joules, "power_source": "meter"} for joules in (0.0, 2.5, 1.0, 0.0)))
    _, telemetry = during(4, [meter])
    assert telemetry.energy.joules == 3.5


def test_under_a_virtual_clock_no_energy_is_measured() -> None:
    samples, telemetry = during(2, [Fake("rails", rails(10.0))], clock="virtual")
    assert telemetry.energy.joules is None
    assert telemetry.energy.source is None
    assert samples[-1].total_w == 10.0
    assert samples[-1].energy_j is None


def test_this_machine_and_process_are_sampled() -> None:
    told: list[Any] = []
    busy = threading.Event()
    with Telemetry(job(telemetry_interval=0.15), told.append):
        until = time.monotonic() + 0.5
        while time.monotonic() < until:
            busy.is_set()
    (sensors,) = (event for event in told if isinstance(event, events.Sensors))
    assert sensors.machine
    samples = [event for event in told if isinstance(event, events.Telemetry)]
    assert samples[0].cpu_percent is None  # of no time yet
    assert samples[-2].cpu_percent > 5
    assert any(sample.host_cpu_percent for sample in samples)
    last = samples[-1]
    assert last.threads >= 2
    assert min(last.rss_bytes, last.memory_used_bytes, last.memory_available_bytes, last.disk_free_bytes) > 0
    assert last.interface_sent_bytes >= 0


def test_a_board_is_sampled_and_its_energy_integrated(tmp_path: Path) -> None:
    lay(tmp_path, ORIN_NANO)
    told: list[Any] = []
    with Telemetry(job(), told.append, partial(open_sources, root=tmp_path)) as telemetry:
        while len(told) < 4:
            time.sleep(0.005)
    sample = told[-1]
    assert (sample.total_w, sample.gpu_percent, sample.mode) == (pytest.approx(6.2), 71.5, "mode 7")
    assert sample.temperatures_c == {"cpu-thermal": 48.125, "gpu-thermal": 47.25}
    assert telemetry.energy.source == "VDD_IN by ina3221 hwmon"
    assert telemetry.energy.joules == pytest.approx(6.2 * sample.host_s)


def test_an_interface_that_is_not_there_costs_no_more_than_its_bytes() -> None:
    told: list[Any] = []
    with Telemetry(job(interface="none9"), told.append):
        pass
    (lost,) = (event for event in told if isinstance(event, events.SensorLost))
    assert lost.sensor == "network"
    assert lost.error.startswith("ValueError: interface: found none9, allowed ")
    assert told[-1].rss_bytes > 0
