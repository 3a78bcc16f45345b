"""Which backend of torch.distributed a process group is made with: NCCL only where a probe has shown that it works.

Torch wheels for Jetson boards are built without torch.distributed, without NCCL, or with an NCCL that fails or hangs
on the integrated GPU. So a process of its own tries it first. Free of torch.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from node_agent.device.commands import GRACE, python, run_limited
from node_agent.device.facts import version
from node_agent.telemetry.host import boot_id

if TYPE_CHECKING:
    from torch._C._distributed_c10d import Store

Wanted = Literal["auto", "gloo", "nccl"]

LIMIT = 120.0
"""s that a probe may take: importing torch from an SD card is most of it"""

KEPT = "EDGESIM_PROBES"
"""environment variable with the file in which the outcomes of probes are kept; not set: they are not kept"""

BOTH = "cpu:gloo,cuda:nccl"


class BackendError(ValueError):
    """A backend that does not work here. One line, for people."""


@dataclass(frozen=True)
class Backend:
    name: Literal["gloo", "nccl"]
    init_string: str
    """what `init_process_group` takes; messages of the ring are CPU tensors, and go by Gloo in either case"""
    reason: str
    """one line: why this one"""


@dataclass(frozen=True)
class Probed:
    works: bool
    reason: str


GLOO = Backend("gloo", "gloo", "CPU tensors")


def probe(backend: str, device: str, limit: float = LIMIT, program: Sequence[str] | None = None) -> Probed:
    """Whether a tensor on the device (cpu, cuda) can be reduced by the backend; `program` is run instead of the one
    that tries it, with the same arguments."""
    program = program or python("node_agent.device.probes", "try_reduction")
    ended = run_limited([*program, backend, device, str(limit)], limit)
    return Probed(not ended.fault, ended.fault or f"a tensor was reduced on {device}")


def kept_probe(backend: str, device: str, probe: Callable[[str, str], Probed] = probe) -> Probed:
    """As `probe`, which is made once for each start of the board and version of torch, if its outcome can be kept: a
    board on which NCCL hangs does not wait for that in every job."""
    place = os.environ.get(KEPT)
    if not place:
        return probe(backend, device)
    file, key = Path(place), f"{backend} on {device}, torch {version('torch')}, boot {boot_id()}"
    try:
        kept = json.loads(file.read_text())
        return Probed(bool(kept[key][0]), str(kept[key][1]))
    except (OSError, ValueError, LookupError, TypeError):  # nothing is kept, or not of this
        found = probe(backend, device)
    with suppress(OSError):  # it is made again next time
        beside = file.with_name(f"{file.name}.{os.getpid()}")
        beside.write_text(json.dumps({key: [found.works, found.reason]}))
        beside.replace(file)
    return found


def choose(wanted: Wanted, cuda: bool, probe: Callable[[str, str], Probed] = kept_probe) -> Backend:
    """The backend for a node whose tensors are on CUDA; for one on the CPU it is Gloo, whatever is wanted for CUDA.
    Raises BackendError where NCCL is wanted and does not work."""
    if not cuda:
        return GLOO
    if wanted == "gloo":
        return Backend("gloo", "gloo", "as wanted")
    found = probe("nccl", "cuda")
    if found.works:
        return Backend("nccl", BOTH, found.reason)
    if wanted == "nccl":
        raise BackendError(f"backend: found nccl, which does not work here: {found.reason}; allowed auto or gloo")
    return Backend("gloo", "gloo", f"NCCL does not work here: {found.reason}")


def agreed(chosen: Backend, rank: int, size: int, store: Store, apart: float) -> Backend:
    """The backend of all nodes: a process group has the same one everywhere. NCCL where each of them has chosen it.

    `apart`: s by which nodes may begin to choose after one another. Raises BackendError where one of them says nothing
    for longer than that and what a probe may take.
    """
    patience = apart + LIMIT + GRACE
    keys = [f"backend/{one}" for one in range(size)]
    store.set(keys[rank], chosen.name)
    try:
        store.wait(keys, timedelta(seconds=patience))
    except RuntimeError as error:  # all that stores raise here
        raise BackendError(f"backend: not all nodes have told theirs within {patience:g} s") from error
    without = [one for one in range(size) if store.get(keys[one]) != b"nccl"]
    if chosen.name == "gloo" or not without:
        return chosen
    return Backend("gloo", "gloo", f"NCCL does not work on rank {without[0]}")


def require_distributed() -> None:
    """Raises BackendError unless torch can make a process group of CPU tensors."""
    import torch
    import torch.distributed as dist

    if not dist.is_available():
        raise BackendError(f"torch.distributed is not part of this build of torch ({torch.__version__})")
    if not dist.is_gloo_available():
        raise BackendError(f"Gloo is not part of this build of torch ({torch.__version__})")
