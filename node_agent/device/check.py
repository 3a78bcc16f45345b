"""What this board can do: probed, for people and for scripts. This process never imports torch."""

from __future__ import annotations

import json
import platform
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal

from node_agent.daemon import settings
from node_agent.device import backend, facts, power
from node_agent.device.commands import python, run_limited
from node_agent.security.errors import IdentityError
from node_agent.security.identity import Identity
from node_agent.security.verbs import FOLDER
from node_agent.telemetry import sources
from node_agent.telemetry.jetson import PowerMode

Status = Literal["ok", "absent", "missing"]

OPTIONS = ("NET_SCH_NETEM", "NET_SCH_TBF", "NET_SCH_HTB", "IFB", "TUN", "WIREGUARD", "CFS_BANDWIDTH")
MODULES = ("sch_netem", "sch_tbf", "sch_htb", "ifb", "tun", "wireguard")
"""what shapes and encrypts traffic, and limits CPU time"""

TOLD_ANYWAY = (sources.BOARD, PowerMode.name)
"""what telemetry finds, and other looks as well"""

Probe = Callable[[str, str], backend.Probed]


@dataclass(frozen=True)
class Finding:
    """`status` is ok, absent (a job does without it) or missing (no job is possible)."""

    subject: str
    status: Status
    detail: str


@dataclass(frozen=True)
class Examined:
    """The system that is examined, and the programs that try what it can do."""

    root: Path = Path("/")
    torch_program: tuple[str, ...] = field(default_factory=lambda: python("node_agent.device.probes", "tell_facts"))
    nvpmodel: tuple[str, ...] = power.COMMAND
    probe: Probe = backend.probe


def examine(of: Examined | None = None) -> list[Finding]:
    of = of or Examined()
    return [finding for look in LOOKS for finding in look(of)]


def _board(of: Examined) -> Iterator[Finding]:
    yield Finding("board", "ok", facts.model(of.root) or "not named by its firmware")
    found = facts.release(of.root)
    yield Finding("release", "ok" if found else "absent", found or "not a Jetson: no /etc/nv_tegra_release")
    total, free = facts.memory()
    yield Finding("kernel", "ok", f"{platform.release()}, {platform.machine()}")
    yield Finding(
        "machine", "ok", f"{facts.cores()} CPUs, {total / 2**30:.1f} GiB memory, {free / 2**30:.1f} GiB of it free"
    )
    yield Finding("python", "ok", platform.python_version())


def _torch(of: Examined) -> Iterator[Finding]:
    ended = run_limited([*of.torch_program, str(backend.LIMIT)], backend.LIMIT)
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
    probed = of.probe("nccl", "cuda")
    yield Finding("nccl", "ok" if probed.works else "absent", probed.reason)


def _network(of: Examined) -> Iterator[Finding]:
    for interface in facts.interfaces():
        state: Status = "ok" if interface.up and interface.addresses else "absent"
        what = ", ".join(interface.addresses) or "no address"
        yield Finding(f"interface {interface.name}", state, what if interface.up else f"down; {what}")


def _kernel(of: Examined) -> Iterator[Finding]:
    options = facts.kernel_options(OPTIONS, of.root)
    if options is not None:
        yield Finding("kernel options", "ok", ", ".join(f"{name} {value}" for name, value in options.items()))
    modules = facts.modules(MODULES, of.root)
    if modules is not None:
        yield Finding("kernel modules", "ok" if modules else "absent", ", ".join(modules) or "no shaping, no WireGuard")
    if options is None and modules is None:
        yield Finding("kernel options", "absent", "not told: links are imposed by the node itself in any case")
    limits = facts.cpu_limits(of.root)
    yield Finding(
        "CPU limits", "ok" if limits else "absent", limits or "no cpu.max: of CPU time only a cpuset can be given"
    )


def _telemetry(of: Examined) -> Iterator[Finding]:
    for source in sources.describe(of.root):
        if source.subject not in TOLD_ANYWAY:
            yield Finding(f"telemetry {source.subject}", "ok" if source.found else "absent", source.detail)


def _power(of: Examined) -> Iterator[Finding]:
    try:
        yield Finding("power mode", "ok", str(power.current(of.nvpmodel)))
    except power.PowerError as error:
        yield Finding("power mode", "absent", str(error).removeprefix("power_mode: "))


def _time(of: Examined) -> Iterator[Finding]:
    found = facts.synchronised(of.root)
    if found:
        yield Finding("time", "ok", "synchronised")
    else:
        what = "not known to be synchronised" if found is None else "not synchronised"
        yield Finding("time", "absent", f"{what}: certificates may seem not yet valid, or expired")


def _identity(of: Examined) -> Iterator[Finding]:
    try:
        folder = settings.read(None).data / FOLDER
        if not folder.is_dir():  # looking for an identity makes no folder for it
            yield Finding("identity", "absent", "not enrolled: node-agent token, then edgesim fleet enroll")
            return
        found = Identity(folder)
        if found.enrolled:
            yield Finding("identity", "ok", f"{found.name}, enrolled until {found.ends_at:%Y-%m-%d %H:%M} UTC")
        else:
            yield Finding("identity", "absent", "not enrolled: node-agent token, then edgesim fleet enroll")
    except (settings.SettingsError, IdentityError) as error:
        yield Finding("identity", "absent", str(error))
    except PermissionError as error:
        yield Finding("identity", "absent", f"{error.filename}: not for this user to read")


LOOKS: tuple[Callable[[Examined], Iterator[Finding]], ...] = (
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
