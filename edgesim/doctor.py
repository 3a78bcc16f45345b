"""What this machine can do: probed, not looked up."""

from __future__ import annotations

import socket
import statistics
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import psutil
from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from edgesim import host
from edgesim.network import tun
from edgesim.network.namespaces import NetworkError, probe
from edgesim.network.plan import CONGESTION_CONTROL
from edgesim.network.relay import MOST_RATE
from edgesim.topology.quantities import format_bytes, format_rate, format_time
from node_agent.telemetry import sources
from node_agent.workloads import scenes

NETNS = "links: netns"


@dataclass(frozen=True)
class Finding:
    """`status` is ok, absent (a run does without it) or missing (no run is possible)."""

    subject: str
    status: str
    detail: str


def examine() -> list[Finding]:
    return [finding for probe in PROBES for finding in probe()]


def _machine() -> Iterator[Finding]:
    what = host.host()
    memory = psutil.virtual_memory()
    load = what["load_average"][0]
    yield Finding(
        "machine",
        "ok",
        f"{what['machine']}, {what['cpus']} CPUs, {format_bytes(memory.total)} memory "
        f"({format_bytes(memory.available)} free), load {load:.2f}",
    )
    yield Finding("software", "ok", ", ".join(f"{name} {number}" for name, number in host.versions().items()))


def _clock() -> Iterator[Finding]:
    late = []
    for _ in range(100):
        began = time.monotonic()
        time.sleep(0.001)
        late.append(time.monotonic() - began - 0.001)
    worst = statistics.quantiles(late, n=20)[-1]
    yield Finding(
        "clock",
        "ok",
        f"resolution {format_time(time.get_clock_info('monotonic').resolution)}; a sleep of 1 ms ends "
        f"{format_time(statistics.median(late))} late (95 %: {format_time(worst)})",
    )


def _distributed() -> Iterator[Finding]:
    import torch.distributed as dist

    if not dist.is_available():
        yield Finding("torch.distributed", "missing", "this build of torch has none")
        return
    backends = {
        "gloo": dist.is_gloo_available(),
        "nccl": dist.is_nccl_available(),
        "mpi": dist.is_mpi_available(),
    }
    detail = ", ".join(f"{name} {'yes' if there else 'no'}" for name, there in backends.items())
    yield Finding("torch.distributed", "ok" if backends["gloo"] else "missing", detail)


def _loopback() -> Iterator[Finding]:
    try:
        with socket.create_server(("127.0.0.1", 0)) as server, socket.create_connection(server.getsockname()):
            control = Path("/proc/sys/net/ipv4/tcp_congestion_control")
            how = f", TCP congestion control {control.read_text().strip()}" if control.exists() else ""
            yield Finding("loopback", "ok", f"accepts connections{how}")
    except OSError as error:
        yield Finding("loopback", "missing", f"no connection over 127.0.0.1: {error.strerror}")


def _kernel() -> Iterator[Finding]:
    try:
        kernel = probe()
    except NetworkError as error:
        yield Finding(NETNS, "absent", str(error))
        return
    if kernel.forbidden is not None:
        yield Finding(NETNS, "absent", f"no network namespaces: {kernel.forbidden}")
        return
    how = "in a user namespace, without root" if kernel.unprivileged else "as this user"
    yield Finding("network namespaces", "ok", how)
    yield Finding("qdisc tbf", *_found(kernel.buckets))
    yield Finding("qdisc netem", *_found(None if kernel.netem else "not in this kernel"))
    yield Finding("TUN", *_found(kernel.tun, str(tun.DEVICE)))
    if kernel.congestion is not None or kernel.buckets is not None:
        yield Finding(NETNS, "absent", str(kernel.congestion or kernel.buckets))
        return
    relayed = f"a relay on TUN devices, up to {format_rate(MOST_RATE)}"
    beyond = {
        (True, True): f"delay and loss by netem; jitter, bursts of loss and windows by {relayed}",
        (True, False): "delay and loss by netem; no jitter, bursts of loss or windows",
        (False, True): f"delay, jitter, loss and windows by {relayed}",
        (False, False): "no delay, jitter, loss or windows",
    }[kernel.netem, kernel.tun is None]
    yield Finding(NETNS, "ok", f"rate by the kernel; {beyond}; TCP congestion control {CONGESTION_CONTROL}")


def _found(why_not: str | None, detail: str = "") -> tuple[str, str]:
    return ("ok", detail) if why_not is None else ("absent", why_not)


def _telemetry() -> Iterator[Finding]:
    for one in sources.describe():
        yield Finding("power rails" if one.subject == sources.POWER else one.subject, _there(one.found), one.detail)


def _there(found: bool) -> str:
    return "ok" if found else "absent"


def _scenes() -> Iterator[Finding]:
    found = scenes.available()
    yield Finding("scenes", "ok" if found else "absent", ", ".join(found) or "none by name; give a path")


PROBES: tuple[Callable[[], Iterator[Finding]], ...] = (
    _machine,
    _clock,
    _distributed,
    _loopback,
    _kernel,
    _telemetry,
    _scenes,
)

_COLOURS = {"ok": "green", "absent": "yellow", "missing": "red"}


def render(findings: list[Finding]) -> RenderableType:
    table = Table.grid(padding=(0, 2))
    for finding in findings:
        table.add_row(finding.subject, Text(finding.status, style=_COLOURS[finding.status]), finding.detail)
    missing = [finding.subject for finding in findings if finding.status == "missing"]
    verdict = (
        f"no run is possible here: {', '.join(missing)}"
        if missing
        else "links: userspace: imposed in user space by the sending node; no privileges needed\n"
        f"{_netns(findings)}\n"
        "clock: wall, or virtual (computed, nobody waits; with links: userspace)"
    )
    return Group(table, Text(""), Text(verdict))


def _netns(findings: list[Finding]) -> str:
    (found,) = (finding for finding in findings if finding.subject == NETNS)
    return f"{NETNS}: {found.detail if found.status == 'ok' else f'not here: {found.detail}'}"
