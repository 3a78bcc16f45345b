"""One tensor reduced by a backend of torch.distributed, in a process of its own: whatever happens is an answer."""

from __future__ import annotations

import signal
import sys


def reduce_one(backend: str, device: str) -> str:
    """Make a process group of this process alone and reduce a tensor on the device. Empty, or why that failed.

    One rank takes the whole way of making a communicator, where NCCL fails on boards on which it does not work; that
    boards reach one another is not shown by it.
    """
    import torch
    import torch.distributed as dist

    if not dist.is_available():
        return f"torch.distributed is not part of this build of torch ({torch.__version__})"
    there = {"gloo": dist.is_gloo_available, "nccl": dist.is_nccl_available, "mpi": dist.is_mpi_available}
    if backend not in there or not there[backend]():
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


def main() -> None:
    """Arguments: backend, device, seconds. Exits 0 if the sum is right; else the last line of output says why."""
    backend, device, seconds = sys.argv[1:]
    # Ends this process also when nobody waits for it any more.
    signal.setitimer(signal.ITIMER_REAL, float(seconds))
    if fault := reduce_one(backend, device):
        sys.exit(fault)
