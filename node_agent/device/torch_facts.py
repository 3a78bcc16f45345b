"""What this build of torch is, told as JSON by a process of its own: some end it with an illegal instruction."""

from __future__ import annotations

import json
import signal
import sys
from typing import Any


def facts() -> dict[str, Any]:
    import torch
    import torch.distributed as dist

    from node_agent.device.reduction import reduce_one

    found: dict[str, Any] = {"version": torch.__version__, "distributed": dist.is_available(), "backends": []}
    if found["distributed"]:
        there = {"gloo": dist.is_gloo_available(), "nccl": dist.is_nccl_available(), "mpi": dist.is_mpi_available()}
        found["backends"] = [name for name, built in there.items() if built]
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


def main() -> None:
    """Argument: seconds."""
    signal.setitimer(signal.ITIMER_REAL, float(sys.argv[1]))
    print(json.dumps(facts()))
