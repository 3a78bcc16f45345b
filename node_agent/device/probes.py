"""Programs that try this build of torch, each in a process of its own: whatever happens to it is an answer. Some builds
hang, or end their process with an illegal instruction."""

from __future__ import annotations

import json
import signal
import sys
from typing import Any


def reduce_one(backend: str, device: str) -> str:
    """Make a process group of this process alone and reduce a tensor on the device. Empty, or why that failed.

    One rank takes the whole way of making a communicator, where NCCL fails on boards on which it does not work; that
    boards reach one another is not shown by it.
    """
    import torch
    import torch.distributed as dist

    if not dist.is_available():
        return f"torch.distributed is not part of this build of torch ({torch.__version__})"
    if backend not in _backends():
        return f"{backend} is not part of this build of torch ({torch.__version__})"
    if device == "cuda" and not torch.cuda.is_available():
        return "no CUDA device"
    from torch._C._distributed_c10d import HashStore  # not part of every build of torch

    try:
        dist.init_process_group(backend, store=HashStore(), rank=0, world_size=1)
        tensor = torch.arange(1.0, 9.0, device=device)
        dist.all_reduce(tensor)
        total = float(tensor.sum())
        dist.destroy_process_group()
    except (RuntimeError, ValueError) as error:
        return f"{type(error).__name__}: {(str(error).strip().splitlines() or [''])[0]}"
    return "" if total == 36.0 else f"the sum is {total:g}, expected 36"


def facts() -> dict[str, Any]:
    """What this build of torch is, and has for a device."""
    import torch
    import torch.distributed as dist

    found: dict[str, Any] = {"version": torch.__version__, "distributed": dist.is_available()}
    found["backends"] = _backends() if found["distributed"] else []
    found["gloo"] = reduce_one("gloo", "cpu")
    found["cuda"] = torch.version.cuda
    found["device"] = None
    if torch.cuda.is_available():
        of = torch.cuda.get_device_properties(torch.cuda.current_device())
        found["device"] = {
            "name": of.name,
            "compute_capability": f"{of.major}.{of.minor}",
            "multiprocessors": of.multi_processor_count,
            "memory_bytes": of.total_memory,
        }
    return found


def _backends() -> list[str]:
    import torch.distributed as dist

    there = {"gloo": dist.is_gloo_available, "nccl": dist.is_nccl_available, "mpi": dist.is_mpi_available}
    return [name for name, built in there.items() if built()]


def try_reduction() -> None:
    """Arguments: backend, device, seconds. Exits 0 if the sum is right; else the last line of output says why."""
    backend, device, seconds = sys.argv[1:]
    _end_within(float(seconds))
    if fault := reduce_one(backend, device):
        sys.exit(fault)


def tell_facts() -> None:
    """Argument: seconds. Prints the facts as a line of JSON."""
    _end_within(float(sys.argv[1]))
    print(json.dumps(facts()))


def _end_within(seconds: float) -> None:
    """Ends this process also when nobody waits for it any more."""
    signal.setitimer(signal.ITIMER_REAL, seconds)
