"""Which backend of torch.distributed a process group is made with: NCCL only where a probe has shown that it works.

Torch wheels for Jetson boards are built without torch.distributed, without NCCL, or with an NCCL that fails or hangs
on the integrated GPU. So a process of its own tries it first. Free of torch.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import TYPE_CHECKING, Literal

from node_agent.device.commands import python, run_limited

if TYPE_CHECKING:
    from torch._C._distributed_c10d import Store

Wanted = Literal["auto", "gloo", "nccl"]

LIMIT = 120.0
"""s that a probe may take: importing torch from an SD card is most of it"""

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
    program = program or python("node_agent.device.reduction")
    ended = run_limited([*program, backend, device, str(limit)], limit)
    return Probed(not ended.fault, ended.fault or f"a tensor was reduced on {device}")


def choose(wanted: Wanted, cuda: bool, probe: Callable[[str, str], Probed] = probe) -> Backend:
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


def agreed(chosen: Backend, rank: int, size: int, store: Store) -> Backend:
    """The backend of all nodes: a process group has the same one everywhere. NCCL where each of them has chosen it.
    Raises BackendError where one of them says nothing for longer than a probe may take."""
    keys = [f"backend/{one}" for one in range(size)]
    store.set(keys[rank], chosen.name)
    try:
        store.wait(keys, timedelta(seconds=LIMIT))
    except RuntimeError as error:  # all that stores raise here
        raise BackendError(f"backend: not all nodes have told theirs within {LIMIT:g} s") from error
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
