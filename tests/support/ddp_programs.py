"""What the processes of the tests of the DDP hook run: plain training of a network that is no workload of ours."""

from __future__ import annotations

import hashlib
import io
import os
import runpy
from contextlib import redirect_stdout
from typing import Any, NamedTuple

import torch
import torch.distributed as dist
from processes import Place
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from node_agent.ddp import ExchangeState, exchange_hook

SMALL = 0.02
"""MB of a bucket: the network has several"""


class Residual(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.body = nn.Sequential(
            nn.Conv2d(width, width, 3, padding=1, bias=False),
            nn.BatchNorm2d(width),
            nn.ReLU(),
            nn.Conv2d(width, width, 3, padding=1, bias=False),
            nn.BatchNorm2d(width),
        )

    def forward(self, images: Tensor) -> Tensor:
        return torch.relu(images + self.body(images))


def resnet() -> nn.Module:
    """About 20,000 parameters, and statistics of batches besides; the same on every process."""
    torch.manual_seed(5)
    return nn.Sequential(
        nn.Conv2d(3, 16, 3, padding=1),
        nn.ReLU(),
        Residual(16),
        nn.MaxPool2d(2),
        nn.Conv2d(16, 32, 3, padding=1),
        Residual(32),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(32, 5),
    )


class Trained(NamedTuple):
    losses: list[float]
    digest: str
    """of all parameters' bytes"""
    weights: list[Tensor]


class Script:
    """Training on images of this process's own, step after step; each has its label written over it in brightness."""

    def __init__(self, group: dist.ProcessGroup | None = None, cap: float = SMALL, rate: float = 0.05) -> None:
        self.model = DistributedDataParallel(resnet(), process_group=group, bucket_cap_mb=cap)
        self.optimiser = torch.optim.SGD(self.model.parameters(), lr=rate, momentum=0.5)
        generator = torch.Generator().manual_seed(dist.get_rank())
        self.labels = torch.randint(5, (16,), generator=generator)
        self.images = torch.randn(16, 3, 8, 8, generator=generator) + self.labels.view(-1, 1, 1, 1)

    def steps(self, count: int) -> Trained:
        losses = []
        for _ in range(count):
            self.optimiser.zero_grad()
            loss = nn.functional.cross_entropy(self.model(self.images), self.labels)
            loss.backward()
            self.optimiser.step()
            losses.append(loss.item())
        return self.trained(losses)

    def trained(self, losses: list[float]) -> Trained:
        sha = hashlib.sha256()
        weights = [parameter.detach().clone() for parameter in self.model.parameters()]
        for weight in weights:
            sha.update(weight.numpy().data)
        return Trained(losses, sha.hexdigest(), weights)


def with_hook(compressor: Any, count: int, group: dist.ProcessGroup | None = None, cap: float = SMALL) -> Trained:
    # An average of signs has entries of magnitude 1.
    script = Script(group, cap, 0.002 if compressor.name == "signsgd" else 0.05)
    state = ExchangeState(script.model, compressor)
    script.model.register_comm_hook(state, exchange_hook)
    trained = script.steps(count)
    assert state.step == count
    state.close()
    return trained


def own_average(count: int) -> Trained:
    """DDP without a hook."""
    return Script().steps(count)


def in_groups(compressor: Any, parts: list[list[int]]) -> Trained:
    """The same script in groups of some of the processes."""
    return with_hook(compressor, 3, own_group(parts))


def own_group(parts: list[list[int]]) -> dist.ProcessGroup:
    groups = {rank: group for ranks in parts for group in [dist.new_group(ranks)] for rank in ranks}
    return groups[dist.get_rank()]


def interrupted(compressor: Any, how: str) -> tuple[Trained, Trained]:
    """Six steps at a stretch, and six of which the last three are another script's that goes on from what the first
    one saved. In pairs: sums of more depend on how DDP fills its buckets, and those of a first step are others."""
    pair = own_group([[0, 1], [2, 3]])
    whole = with_hook(compressor, 6, pair)
    first, second = Script(pair), Script(pair)
    state = ExchangeState(first.model, compressor)
    first.model.register_comm_hook(state, exchange_hook)
    losses = first.steps(3).losses
    second.model.load_state_dict(first.model.state_dict())
    second.optimiser.load_state_dict(first.optimiser.state_dict())
    content = io.BytesIO()
    torch.save(state if how == "pickled" else state.state_dict(), content)
    state.close()
    saved = torch.load(io.BytesIO(content.getvalue()), weights_only=False)
    if how == "pickled":
        saved.attach(second.model)
    else:
        saved, loaded = ExchangeState(second.model, compressor), saved
        saved.load_state_dict(loaded)
    second.model.register_comm_hook(saved, exchange_hook)
    further = second.steps(3)
    saved.close()
    return whole, Trained(losses + further.losses, further.digest, further.weights)


def poisoned(compressor: Any) -> list[str]:
    """What two steps raise of which the first has NaN on process 1 in the bias of the last layer, which comes first."""
    script = Script()
    state = ExchangeState(script.model, compressor)
    script.model.register_comm_hook(state, exchange_hook)
    script.steps(1)
    if dist.get_rank() == 1:
        bias = script.model.module[-1].bias
        bias.register_hook(lambda gradient: torch.full_like(gradient, torch.nan))
    said = []
    for _ in range(2):
        try:
            script.steps(1)
        except RuntimeError as error:
            said.append(str(error).splitlines()[0])
    state.close()
    return said


def abandoned() -> str:
    """What a step says in which process 1 takes no part."""
    script = Script()
    state = ExchangeState(script.model, "none", timeout=2.0)
    script.model.register_comm_hook(state, exchange_hook)
    if dist.get_rank() == 1:
        state.close()
    try:
        script.steps(1)
    except RuntimeError as error:
        return str(error).splitlines()[0]
    return ""


def refused(make: str) -> str:
    """What making a state says."""
    script = Script()
    if make == "double":
        script.model.module[-1].double()
        compressor = "none"
    elif make == "unknown":
        compressor = "tokp" if dist.get_rank() == 1 else "none"
    else:
        compressor = "topk" if dist.get_rank() == 1 else "none"
    try:
        ExchangeState(script.model, compressor)
    except ValueError as error:
        return str(error)
    return ""


def apart(compressor: Any) -> str:
    """What going on from different steps says."""
    script = Script()
    state = ExchangeState(script.model, compressor)
    saved = state.state_dict()
    try:
        state.load_state_dict(saved | {"step": dist.get_rank()})
    except ValueError as error:
        return str(error)
    finally:
        state.close()
    return ""


def everything(place: Place, compressors: list[Any]) -> dict[str, Any]:
    """All of it in one go: DDP's first backward in a process imports for seconds."""
    found: dict[str, Any] = {one.name: with_hook(one, 4) for one in compressors}
    by_name = {one.name: one for one in compressors}
    found["own average"] = own_average(5)
    found["one bucket"] = with_hook(by_name["none"], 5, cap=100)
    found["3 and 1"] = in_groups(by_name["none"], [[0, 1, 2], [3]])
    found["2 and 2"] = in_groups(by_name["topk"], [[0, 3], [1, 2]])
    found["saved"] = interrupted(by_name["topk"], "saved")
    found["pickled"] = interrupted(by_name["nsi"], "pickled")
    found["poisoned none"], found["poisoned topk"] = poisoned(by_name["none"]), poisoned(by_name["topk"])
    found |= {make: refused(make) for make in ("double", "differing", "unknown")}
    found["steps"] = apart(by_name["randomk"])
    found["abandoned"] = abandoned()
    return found


def script(place: Place, path: str, port: int) -> str:
    """What a whole program prints, started as torchrun would start it."""
    dist.destroy_process_group()
    here = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    os.environ.update(here, RANK=str(place.rank), WORLD_SIZE=str(place.size))
    printed = io.StringIO()
    with redirect_stdout(printed):
        runpy.run_path(path, run_name="__main__")
    return printed.getvalue()
