"""What this board can do: probed, for people and for scripts. This process never imports torch."""

from __future__ import annotations

import json
import platform
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, field
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Literal

from node_agent.device import backend, facts, power
from node_agent.device.commands import python, run_limited
from node_agent.telemetry import sources
from node_agent.telemetry.jetson import PowerMode

Status = Literal["ok", "absent", "missing"]

SHAPING = ("NET_SCH_NETEM", "NET_SCH_TBF", "WIREGUARD", "CFS_BANDWIDTH")
TOLD_ANYWAY = (sources.BOARD, PowerMode.name)
"""what telemetry finds, and other looks as well"""
SHAPING_MODULES = ("sch_netem", "sch_tbf", "wireguard")

Probe = Callable[[str, str], backend.Probed]


@dataclass(frozen=True)
class Finding:
    """`status` is ok, absent (a job does without it) or missing (no job is possible)."""

    subject: str
    status: Status
    detail: str


@dataclass(frozen=True)
class Place:
    """What is examined, and by what."""

    root: Path = Path("/")
    torch_program: tuple[str, ...] = field(default_factory=lambda: python("node_agent.device.torch_facts"))
    nvpmodel: tuple[str, ...] = power.COMMAND
    probe: Probe = backend.probe


def examine(place: Place | None = None) -> list[Finding]:
    place = place or Place()
    return [finding for look in LOOKS for finding in look(place)]


def _board(place: Place) -> Iterator[Finding]:
    yield Finding("board", "ok", facts.model(place.root) or "not named by its firmware")
    found = facts.release(place.root)
    yield Finding("release", "ok" if found else "absent", found or "not a Jetson: no /etc/nv_tegra_release")
    total, free = facts.memory()
    yield Finding("kernel", "ok", f"{platform.release()}, {platform.machine()}")
    yield Finding(
        "machine", "ok", f"{facts.cores()} CPUs, {total / 2**30:.1f} GiB memory, {free / 2**30:.1f} GiB of it free"
    )
    yield Finding("python", "ok", platform.python_version())


def _torch(place: Place) -> Iterator[Finding]:
    ended = run_limited([*place.torch_program, str(backend.LIMIT)], backend.LIMIT)
    if ended.fault:
        yield Finding("torch", "missing", ended.fault)
        return
    told = [line for line in ended.output.splitlines() if line.startswith("{")]  # libraries may print theirs besides
    if not told:
        yield Finding("torch", "missing", f"found no answer, but {ended.output.strip()[:200]!r}")
        return
    found: dict[str, Any] = json.loads(told[-1])
    yield Finding("torch", "ok", found["version"])
    if not found["distributed"]:
        yield Finding("torch.distributed", "missing", found["gloo"])
        return
    yield Finding("torch.distributed", "ok", f"backends {', '.join(found['backends']) or 'none'}")
    yield Finding("gloo", "missing" if found["gloo"] else "ok", found["gloo"] or "a tensor was reduced on cpu")
    device = found["device"]
    if device is None:
        why = "this build of torch has no CUDA" if found["cuda"] is None else "no CUDA device"
        yield Finding("CUDA", "absent", why)
        yield Finding("nccl", "absent", "NCCL needs a CUDA device")
        return
    yield Finding(
        "CUDA",
        "ok",
        f"{device['name']}, compute capability {device['compute_capability']}, {device['multiprocessors']} "
        f"multiprocessors, {device['memory_bytes'] / 2**30:.1f} GiB, CUDA {found['cuda']}",
    )
    probed = place.probe("nccl", "cuda")
    yield Finding("nccl", "ok" if probed.works else "absent", probed.reason)


def _network(place: Place) -> Iterator[Finding]:
    for interface in facts.interfaces():
        state: Status = "ok" if interface.up and interface.addresses else "absent"
        what = ", ".join(interface.addresses) or "no address"
        yield Finding(f"interface {interface.name}", state, what if interface.up else f"down; {what}")


def _kernel(place: Place) -> Iterator[Finding]:
    options = facts.kernel_options(SHAPING, place.root)
    if options is not None:
        yield Finding("kernel options", "ok", ", ".join(f"{name} {value}" for name, value in options.items()))
    modules = facts.modules(SHAPING_MODULES, place.root)
    if modules is not None:
        yield Finding("kernel modules", "ok" if modules else "absent", ", ".join(modules) or "no shaping, no WireGuard")
    if options is None and modules is None:
        yield Finding("kernel options", "absent", "not told: links are imposed by the node itself in any case")
    limits = facts.cpu_limits(place.root)
    yield Finding(
        "CPU limits", "ok" if limits else "absent", limits or "no cpu.max: of CPU time only a cpuset can be given"
    )


def _telemetry(place: Place) -> Iterator[Finding]:
    for source in sources.describe(place.root):
        if source.subject not in TOLD_ANYWAY:
            yield Finding(f"telemetry {source.subject}", "ok" if source.found else "absent", source.detail)


def _power(place: Place) -> Iterator[Finding]:
    try:
        yield Finding("power mode", "ok", str(power.current(place.nvpmodel)))
    except power.PowerError as error:
        yield Finding("power mode", "absent", str(error).removeprefix("power_mode: "))


def _time(place: Place) -> Iterator[Finding]:
    found = facts.synchronised(place.root)
    if found:
        yield Finding("time", "ok", "synchronised")
    else:
        what = "not known to be synchronised" if found is None else "not synchronised"
        yield Finding("time", "absent", f"{what}: certificates may seem not yet valid, or expired")


def _identity(place: Place) -> Iterator[Finding]:
    if find_spec("node_agent.security") is None or find_spec("node_agent.daemon.settings") is None:
        return
    settings, identity = (import_module(f"node_agent.{name}") for name in ("daemon.settings", "security.identity"))
    try:
        folder = settings.read(None).data / "identity"
        if not folder.is_dir():  # looking for an identity makes no folder for it
            yield Finding("identity", "absent", "not enrolled: node-agent token, then edgesim fleet enroll")
            return
        found = identity.Identity(folder)
        if found.enrolled:
            yield Finding("identity", "ok", f"{found.name}, enrolled until {found.ends_at:%Y-%m-%d %H:%M} UTC")
        else:
            yield Finding("identity", "absent", "not enrolled: node-agent token, then edgesim fleet enroll")
    except (settings.SettingsError, identity.IdentityError) as error:
        yield Finding("identity", "absent", str(error))
    except PermissionError as error:
        yield Finding("identity", "absent", f"{error.filename}: not for this user to read")


LOOKS: tuple[Callable[[Place], Iterator[Finding]], ...] = (
    _board,
    _torch,
    _network,
    _kernel,
    _telemetry,
    _power,
    _time,
    _identity,
)


def missing(findings: list[Finding]) -> list[Finding]:
    """Why no job is possible here; empty if one is."""
    return [finding for finding in findings if finding.status == "missing"]


def as_json(findings: list[Finding]) -> str:
    why = missing(findings)
    told = {
        "can_run": not why,
        "reason": "; ".join(f"{finding.subject}: {finding.detail}" for finding in why) or None,
        "findings": [asdict(finding) for finding in findings],
    }
    return json.dumps(told, indent=2)


def as_text(findings: list[Finding]) -> str:
    width = max(len(finding.subject) for finding in findings)
    lines = [f"{finding.subject:<{width}}  {finding.status:<7}  {finding.detail}" for finding in findings]
    why = missing(findings)
    verdict = "; ".join(f"{finding.subject}: {finding.detail}" for finding in why)
    lines += ["", f"no job can run here: {verdict}" if why else "a job can run here"]
    return "\n".join(lines)
