from __future__ import annotations

import threading
import time
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from jetsons import ORIN_NANO, lay
from waiting import eventually

from node_agent import events
from node_agent.job import Job
from node_agent.telemetry.sampler import GAP, Open, Sampler
from node_agent.telemetry.sources import Measurable, Opened, Source, open_sources


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


def opening(fakes: Sequence[Source], failed: Sequence[tuple[str, str]] = ()) -> Open:
    return lambda interface, folder, interval: Opened(list(fakes), list(failed))


def during(
    samples: int, fakes: Sequence[Source], failed: Sequence[tuple[str, str]] = (), **changes: Any
) -> tuple[list[Any], Sampler]:
    """What is told until there are so many samples and one at the end: samples and lost sensors."""
    told: list[Any] = []
    with Sampler(job(**changes), told.append, opening(fakes, failed)) as sampler:
        eventually(lambda: len(taken(told)) >= samples)
    return [event for event in told if not isinstance(event, events.Sensors)], sampler


def taken(told: Sequence[Any]) -> list[events.Telemetry]:
    return [event for event in told if isinstance(event, events.Telemetry)]


def lost(told: Sequence[Any]) -> list[tuple[str, str]]:
    return [(event.sensor, event.error) for event in told if isinstance(event, events.SensorLost)]


def test_power_is_integrated_from_beginning_to_end() -> None:
    began = time.monotonic()
    samples, sampler = during(4, [Fake("rails", rails(10.0))])
    took = time.monotonic() - began
    assert len(samples) > 4
    assert 0 < samples[0].host_s < samples[-2].host_s < samples[-1].host_s <= took
    assert sampler.energy.joules == pytest.approx(10 * samples[-1].host_s)
    assert sampler.energy.unmeasured_s == 0
    assert sampler.energy.source == "VDD_IN"
    assert [sample.energy_j for sample in samples] == pytest.approx([10 * sample.host_s for sample in samples])


def test_the_shortest_of_runs_has_a_sample_and_an_energy() -> None:
    samples, sampler = during(0, [Fake("rails", rails(10.0))], telemetry_interval=60.0)
    assert len(samples) == 2
    assert sampler.energy.joules == pytest.approx(10 * samples[-1].host_s)


GONE = OSError(5, "Input/output error")
TOLD = "OSError: [Errno 5] Input/output error"


def test_a_source_that_fails_is_asked_again_and_told_once() -> None:
    broken = Fake("rails", rails(5.0), *[GONE] * (GAP + 2), rails(5.0))
    told, sampler = during(GAP + 5, [broken, Fake("host", {"threads": 3})])
    assert lost(told) == [("rails", TOLD)]
    samples = taken(told)
    assert [sample.total_w for sample in samples][: GAP + 4] == [5.0, *[None] * (GAP + 2), 5.0]
    assert {sample.threads for sample in samples} == {3}
    assert broken.closed == 1
    assert sampler.energy.joules == pytest.approx(5 * samples[-1].host_s)  # of less than the longest gap


def test_a_source_that_fails_for_a_moment_is_not_lost() -> None:
    fakes = [Fake("rails", rails(5.0), *[GONE, rails(5.0)] * GAP)]
    told, sampler = during(2 * GAP + 1, fakes)
    assert lost(told) == []
    assert sampler.energy.unmeasured_s == 0


def test_a_source_that_fails_at_the_end_of_a_short_run_is_told() -> None:
    told, _ = during(0, [Fake("rails", GONE)], telemetry_interval=60.0)
    assert lost(told) == [("rails", TOLD)]


def test_a_part_of_a_source_that_fails_is_told_and_the_rest_kept() -> None:
    told, _ = during(GAP + 1, [Fake("rails", {"rails_w": {"VDD_SOC": 1.5}, "failures": {"power rail VDD_IN": GONE}})])
    assert lost(told) == [("power rail VDD_IN", TOLD)]
    assert {tuple(sample.rails_w or ()) for sample in taken(told)} == {("VDD_SOC",)}


def test_a_sensor_that_is_lost_for_good_leaves_time_unmeasured(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("node_agent.telemetry.sampler.SHORTEST_GAP", 0.0)
    _, sampler = during(30, [Fake("rails", rails(5.0), OSError("gone"))], telemetry_interval=0.02)
    assert sampler.energy.unmeasured_s > 0.3
    assert sampler.energy.joules is not None


def test_energy_after_the_end_of_telemetry_itself_is_not_taken_for_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    """5 W are known up to the failure, and beyond it for no longer than the longest gap: the rest is unmeasured."""
    monkeypatch.setattr("node_agent.telemetry.sampler.SHORTEST_GAP", 0.0)
    told: list[Any] = []

    def emit(event: Any) -> None:
        if isinstance(event, events.Telemetry) and len(taken(told)) == 3:
            raise TypeError("not to be encoded")
        told.append(event)

    began = time.monotonic()
    source = Fake("rails", rails(5.0))
    with Sampler(job(telemetry_interval=0.02), emit, opening([source])) as sampler:
        eventually(lambda: lost(told))
        time.sleep(0.3)
    took = time.monotonic() - began
    assert lost(told) == [("telemetry", "TypeError: not to be encoded")]
    assert source.closed == 1
    assert 0.3 <= sampler.energy.unmeasured_s <= took
    assert sampler.energy.joules is not None
    assert sampler.energy.joules == pytest.approx(5 * (took - sampler.energy.unmeasured_s), abs=0.1)


def test_sources_that_cannot_be_opened_are_told_and_leave_training_alone() -> None:
    def refuse(interface: str, folder: Path, interval: float) -> Opened:
        raise RuntimeError("no sources")

    told: list[Any] = []
    with Sampler(job(), told.append, refuse) as sampler:
        pass
    assert lost(told) == [("telemetry", "RuntimeError: no sources")]
    assert sampler.energy.joules is None


def test_what_could_not_be_opened_is_told() -> None:
    told, _ = during(0, [], [("tegrastats", "Exec format error")])
    assert lost(told) == [("tegrastats", "Exec format error")]


def test_what_was_opened_is_what_is_described() -> None:
    told: list[Any] = []
    measurable = [Measurable("power", True, "total is VDD_IN"), Measurable("GPU", False, "in no file")]
    with Sampler(job(), told.append, lambda *_: Opened([], [], measurable, "boot")):
        pass
    (sensors,) = (event for event in told if isinstance(event, events.Sensors))
    assert (sensors.machine, sensors.found) == ("boot", {"power": "total is VDD_IN"})


def test_the_first_source_that_knows_a_field_has_the_say() -> None:
    samples, _ = during(
        0, [Fake("files", {"gpu_percent": None, "gpu_hz": 1.0}), Fake("program", {"gpu_percent": 9.0, "gpu_hz": 2.0})]
    )
    assert (samples[0].gpu_percent, samples[0].gpu_hz) == (9.0, 1.0)


def test_powers_of_different_definitions_are_not_added_up() -> None:
    samples, sampler = during(4, [Fake("program", rails(3.0, "sum"), rails(900.0, "VIN"))])
    assert samples[-1].power_source == "VIN"
    assert sampler.energy.source == "sum"
    assert sampler.energy.joules == pytest.approx(3 * samples[-1].host_s)


def test_what_a_meter_counts_is_the_energy() -> None:
    meter = Fake("meter", *({"counted_j": joules, "power_source": "meter"} for joules in (0.0, 2.5, 1.0, 0.0)))
    _, sampler = during(4, [meter])
    assert sampler.energy.joules == 3.5


def test_under_a_virtual_clock_no_energy_is_measured() -> None:
    samples, sampler = during(2, [Fake("rails", rails(10.0))], clock="virtual")
    assert sampler.energy.joules is None
    assert sampler.energy.source is None
    assert samples[-1].total_w == 10.0
    assert samples[-1].energy_j is None


def test_this_machine_and_process_are_sampled() -> None:
    told: list[Any] = []
    busy = threading.Event()
    with Sampler(job(telemetry_interval=0.15), told.append):
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
    with Sampler(job(), told.append, partial(open_sources, root=tmp_path)) as sampler:
        eventually(lambda: len(told) >= 4)
    sample = told[-1]
    assert (sample.total_w, sample.gpu_percent, sample.mode) == (pytest.approx(6.2), 71.5, "mode 7")
    assert sample.temperatures_c == {"cpu-thermal": 48.125, "gpu-thermal": 47.25}
    assert sampler.energy.source == "VDD_IN by ina3221 hwmon"
    assert sampler.energy.joules == pytest.approx(6.2 * sample.host_s)


def test_an_interface_that_is_not_there_costs_no_more_than_its_bytes() -> None:
    told: list[Any] = []
    with Sampler(job(interface="none9"), told.append):
        pass
    ((sensor, error),) = lost(told)
    assert sensor == "network"
    assert error.startswith("ValueError: interface: found none9, allowed ")
    assert taken(told)[-1].rss_bytes
