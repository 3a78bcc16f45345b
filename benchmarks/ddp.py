"""A plain DistributedDataParallel script: it knows nothing of edgesim, and runs under torchrun as under `edgesim exec`.

The network has the shape of the background learner's; what it learns is noise, as only bytes and times count here.
Rank 0 prints one line of JSON: the median time of a step (s), and what each step put on this node's links (bytes).
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import time
from itertools import pairwise
from pathlib import Path

import torch
import torch.distributed as dist
from torch import nn
from torch.distributed.algorithms.ddp_comm_hooks import powerSGD_hook as powersgd
from torch.nn.parallel import DistributedDataParallel

WARM_UP = 6
"""steps: DDP rebuilds its buckets after the first one, and PowerSGD begins with the third"""


def network(widths: list[int]) -> nn.Module:
    there_and_back = [*widths, *widths[-2::-1]]
    layers: list[nn.Module] = []
    for inputs, outputs in pairwise(there_and_back):
        layers += [nn.Linear(inputs, outputs), nn.ReLU()]
    return nn.Sequential(*layers[:-1])


def sent() -> int:
    """Bytes that left through this node's network devices, by the kernel's count."""
    lines = Path("/proc/self/net/dev").read_text().splitlines()[2:]
    devices = {name.strip(): counts.split() for name, counts in (line.split(":") for line in lines)}
    return sum(int(counts[8]) for name, counts in devices.items() if name != "lo")


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--hook", choices=("dense", "powersgd"), default="dense")
    parser.add_argument("--rank", type=int, default=1, help="of PowerSGD")
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--widths", type=int, nargs="+", default=[200, 400, 400, 50])
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    dist.init_process_group("gloo")
    torch.manual_seed(0)
    # One bucket: with more, PowerSGD's hook waits for ever on Gloo.
    model = DistributedDataParallel(network(arguments.widths), bucket_cap_mb=1000)
    if arguments.hook == "powersgd":
        state = powersgd.PowerSGDState(None, matrix_approximation_rank=arguments.rank, start_powerSGD_iter=2)
        model.register_comm_hook(state, powersgd.powerSGD_hook)
    optimiser = torch.optim.Adam(model.parameters())
    generator = torch.Generator().manual_seed(dist.get_rank())
    times, octets = [], []
    for _ in range(WARM_UP + arguments.steps):
        batch = torch.rand(256, arguments.widths[0], generator=generator)
        dist.barrier()
        before, began = sent(), time.monotonic()
        optimiser.zero_grad()
        nn.functional.mse_loss(model(batch), batch).backward()
        optimiser.step()
        times.append(time.monotonic() - began)
        octets.append(sent() - before)
    if dist.get_rank() == 0:
        measured = {
            "hook": arguments.hook,
            "step_s": statistics.median(times[WARM_UP:]),
            "bytes": statistics.median(octets[WARM_UP:]),
            "parameters": sum(parameter.numel() for parameter in model.parameters()),
        }
        print(json.dumps(measured), flush=True)
    dist.barrier()
    dist.destroy_process_group()
    os._exit(0)


if __name__ == "__main__":
    main()
