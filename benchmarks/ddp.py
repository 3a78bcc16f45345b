"""A plain DistributedDataParallel script, which runs under torchrun as under `edgesim exec`.

Gradients are averaged by DDP itself, by PyTorch's hooks, or by the one here with any of its compressors. The network
has the shape of the background learner's, or is a small residual one for images; what it learns is noise, as only bytes
and times count here. Rank 0 prints one line of JSON: the median time of a step (s), and what each step put on this
node's links (bytes).
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import time
from itertools import pairwise
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.algorithms.ddp_comm_hooks import default_hooks
from torch.distributed.algorithms.ddp_comm_hooks import powerSGD_hook as powersgd
from torch.nn.parallel import DistributedDataParallel

from node_agent.compression.settings import CATALOGUE
from node_agent.ddp import ExchangeState, exchange_hook

BATCH = 256
WARM_UP = 6
"""steps: DDP rebuilds its buckets after the first one, and PowerSGD begins with the third"""


def network(widths: list[int]) -> nn.Module:
    there_and_back = [*widths, *widths[-2::-1]]
    layers: list[nn.Module] = []
    for inputs, outputs in pairwise(there_and_back):
        layers += [nn.Linear(inputs, outputs), nn.ReLU()]
    return nn.Sequential(*layers[:-1])


class Residual(nn.Module):
    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.short = nn.Conv2d(inputs, outputs, 1, stride=2, bias=False)
        self.body = nn.Sequential(
            nn.Conv2d(inputs, outputs, 3, stride=2, padding=1, bias=False),
            nn.BatchNorm2d(outputs),
            nn.ReLU(),
            nn.Conv2d(outputs, outputs, 3, padding=1, bias=False),
            nn.BatchNorm2d(outputs),
        )

    def forward(self, images: Tensor) -> Tensor:
        return torch.relu(self.short(images) + self.body(images))


def resnet() -> nn.Module:
    """For images of 16 x 16 pixels."""
    return nn.Sequential(
        nn.Conv2d(3, 32, 3, padding=1),
        Residual(32, 64),
        Residual(64, 128),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(128, 10),
    )


def step_of(arguments: argparse.Namespace) -> tuple[nn.Module, Any]:
    """The network, and what its loss is on a batch of the generator's."""
    if arguments.model == "resnet":

        def classified(model: nn.Module, generator: torch.Generator) -> Tensor:
            images = torch.rand(BATCH // 8, 3, 16, 16, generator=generator)
            labels = torch.randint(10, (BATCH // 8,), generator=generator)
            return nn.functional.cross_entropy(model(images), labels)

        return resnet(), classified

    def reconstructed(model: nn.Module, generator: torch.Generator) -> Tensor:
        batch = torch.rand(BATCH, arguments.widths[0], generator=generator)
        return nn.functional.mse_loss(model(batch), batch)

    return network(arguments.widths), reconstructed


def register(model: DistributedDataParallel, arguments: argparse.Namespace) -> None:
    if arguments.hook == "torch-fp16":
        model.register_comm_hook(None, default_hooks.fp16_compress_hook)
    elif arguments.hook == "torch-powersgd":
        state = powersgd.PowerSGDState(None, start_powerSGD_iter=2, **arguments.settings)
        model.register_comm_hook(state, powersgd.powerSGD_hook)
    elif arguments.hook != "dense":
        model.register_comm_hook(ExchangeState(model, arguments.hook, **arguments.settings), exchange_hook)


def sent() -> int:
    """Bytes that left through this node's network devices, by the kernel's count."""
    lines = Path("/proc/self/net/dev").read_text().splitlines()[2:]
    devices = {name.strip(): counts.split() for name, counts in (line.split(":") for line in lines)}
    return sum(int(counts[8]) for name, counts in devices.items() if name != "lo")


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--hook", choices=("dense", "torch-fp16", "torch-powersgd", *CATALOGUE), default="dense")
    parser.add_argument("--settings", type=json.loads, default={}, help="of the hook, as JSON")
    parser.add_argument("--model", choices=("autoencoder", "resnet"), default="autoencoder")
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--widths", type=int, nargs="+", default=[200, 400, 400, 50], help="of the autoencoder")
    parser.add_argument("--bucket", type=float, default=25, help="MB of DDP's buckets; torch-powersgd has one")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    dist.init_process_group("gloo")
    torch.manual_seed(0)
    net, loss = step_of(arguments)
    # With more than one bucket PyTorch's PowerSGD hook waits for ever on Gloo.
    model = DistributedDataParallel(net, bucket_cap_mb=1000 if arguments.hook == "torch-powersgd" else arguments.bucket)
    register(model, arguments)
    optimiser = torch.optim.Adam(model.parameters())
    generator = torch.Generator().manual_seed(dist.get_rank())
    times, octets = [], []
    for _ in range(WARM_UP + arguments.steps):
        dist.barrier()
        before, began = sent(), time.monotonic()
        optimiser.zero_grad()
        loss(model, generator).backward()
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
