"""Which jobs a board takes: registered workloads and compressors with bounded settings, never a path and never code.

Pydantic has refused unknown fields and kinds before; here is what a valid job may still not say to a board.
"""

from __future__ import annotations

import math
import re
from collections.abc import Collection, Iterator
from typing import Any, Literal

from pydantic_core import from_json

from node_agent.job import Job, ShardSettings

RENDEZVOUS = re.compile(
    r"tcp://(?:[A-Za-z0-9](?:[A-Za-z0-9.-]{0,251}[A-Za-z0-9])?|\[[0-9A-Fa-f:.]{2,45}\]):([0-9]{1,5})"
)

MOST: dict[str, float] = {
    "steps": 10**7,
    "evaluate_every": 10**7,
    "bucket_bytes": 2**32,
    "payload_bytes": 2**32,
    "timeout": 3600.0,
    "telemetry_interval": 3600.0,
    "probe.samples": 10**5,
    "probe.budget": 3600.0,
    "probe.burst_time": 3600.0,
    "probe.warm_up": 3600.0,
    "workload.batch": 2**24,
}
LEAST: dict[str, float] = {
    "evaluate_every": 0,
    "bucket_bytes": 1,
    "payload_bytes": 1,
    "timeout": 0.001,
    "telemetry_interval": 0.01,
    "compute_factor": 0.0,
    "workload.batch": 1,
}
"""by the field's place in the job"""

MOST_NODES, MOST_LAYERS, WIDEST = 64, 32, 2**16
MOST_VALUES = 10**5
"""in a job altogether: texts, numbers, lists, and what holds them"""
MOST_NAMES = 128
"""of fields in one place"""
LONGEST = 1024
"""characters of any text in a job"""
NARROWEST = 1


Backend = Literal["auto", "gloo", "nccl"]


class Inadmissible(ValueError):
    """A job that this board does not take; its text is one line that begins with the field."""


def few(content: bytes) -> None:
    """That JSON holds no more than can be validated within a moment. What is no JSON at all is another's to refuse.

    Raises Inadmissible.
    """
    try:
        waiting = [from_json(content)]
    except ValueError:
        return
    seen = 0
    while waiting:
        value = waiting.pop()
        inside = value.values() if isinstance(value, dict) else value if isinstance(value, list) else ()
        seen += 1 + len(inside)
        if isinstance(value, dict) and len(value) > MOST_NAMES:
            raise Inadmissible(f"body: found an object of {len(value)} fields, allowed at most {MOST_NAMES}")
        if seen > 2 * MOST_VALUES:  # each is counted where it stands and by itself
            raise Inadmissible(f"body: found more than {MOST_VALUES} values, allowed at most as many")
        waiting.extend(inside)


def admit(job: Job, files: Collection[str], interface: str, backend: Backend = "auto") -> Job:
    """The job as it may run here, on the board's own interface and by its backend. `files` are the names of those that
    came with it.

    Raises Inadmissible.
    """
    for name in ("entrance", "egress", "aside"):
        if getattr(job, name) is not None:
            raise Inadmissible(f"{name}: found {getattr(job, name)!r}, allowed null on a board")
    if job.imposed != "node":
        raise Inadmissible(f"imposed: found {job.imposed!r}, allowed 'node' on a board")
    port = RENDEZVOUS.fullmatch(job.rendezvous)
    if port is None or not 0 < int(port.group(1)) < 2**16:
        raise Inadmissible(f"rendezvous: found {job.rendezvous[:64]!r}, allowed tcp://HOST:PORT")
    if len(job.nodes) > MOST_NODES:
        raise Inadmissible(f"nodes: found {len(job.nodes)}, allowed at most {MOST_NODES}")
    if len(set(job.nodes)) < len(job.nodes):
        raise Inadmissible("nodes: found a name twice, allowed different ones")
    for place, value in _values(job.model_dump()):
        _bounded(place, value)
    if job.workload is not None:
        _workload(job.workload, files)
    return job.model_copy(update={"interface": interface, "backend": _backend(job, backend)})


def _backend(job: Job, configured: Backend) -> Backend:
    if job.backend == "auto" and job.device != "cpu":
        return configured
    if "auto" not in (job.backend, configured) and job.backend != configured:
        raise Inadmissible(f"backend: found {job.backend}, allowed auto or {configured} on this board")
    return job.backend


def _workload(workload: Any, files: Collection[str]) -> None:
    scene = workload.scene
    if not isinstance(scene, ShardSettings):
        raise Inadmissible("workload.scene: found a path, allowed a shard among the files of the claim")
    if scene.file not in files:
        allowed = f"one of {', '.join(sorted(files))}" if files else "none: the claim announced no files"
        raise Inadmissible(f"workload.scene.file: found {scene.file!r}, allowed {allowed}")
    if not 1 <= len(workload.network) <= MOST_LAYERS:
        raise Inadmissible(f"workload.network: found {len(workload.network)} layers, allowed 1 to {MOST_LAYERS}")
    for width in workload.network:
        if not NARROWEST <= width <= WIDEST:
            raise Inadmissible(f"workload.network: found a width of {width}, allowed {NARROWEST} to {WIDEST}")


def _bounded(place: str, value: Any) -> None:
    if isinstance(value, str) and (len(value) > LONGEST or not value.isprintable()):
        raise Inadmissible(f"{place}: found {value[:32]!r}…, allowed at most {LONGEST} printable characters")
    if isinstance(value, bool) or not isinstance(value, int | float):
        return
    if not math.isfinite(value):
        raise Inadmissible(f"{place}: found {value}, allowed finite numbers")
    if abs(value) >= 2**63:
        raise Inadmissible(f"{place}: found a number of more than 63 bits, allowed smaller ones")
    if value > MOST.get(place, math.inf) or value < LEAST.get(place, -math.inf):
        least, most = LEAST.get(place, 1), MOST.get(place, 2**63)
        allowed = f"{least:g} to {most:g}" if isinstance(value, float) else f"{least} to {most}"
        raise Inadmissible(f"{place}: found {value}, allowed {allowed}")


def _values(value: Any, place: str = "") -> Iterator[tuple[str, Any]]:
    """All values inside, with where they are."""
    yield place or "job", value
    inside: list[tuple[str, Any]] = []
    if isinstance(value, dict):
        inside = [(f"{place}.{key}" if place else str(key), item) for key, item in value.items()]
    elif isinstance(value, list | tuple):
        inside = [(f"{place}.{index}", item) for index, item in enumerate(value)]
    for where, item in inside:
        yield from _values(item, where)
