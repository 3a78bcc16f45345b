"""What the nodes of the tests of staging run: the same exchange with copies on the host, and without."""

from __future__ import annotations

from typing import Any
from unittest import mock

import ddp_programs
import torch
from processes import Place
from programs import model_of
from torch import Tensor, nn

from node_agent import ddp
from node_agent.compression import create
from node_agent.exchange import Exchange, layers_of
from node_agent.staging import Staging

STEPS = 2


def _averaged(place: Place, settings: Any, staging: Staging | None) -> list[list[Tensor]]:
    """The gradients of all parameters after each step. One parameter is unused, one has its gradient transposed."""
    clock = place.clock(virtual=True)
    model = model_of([40, 50, 60, 30])
    model.register_parameter("idle", nn.Parameter(torch.ones(3, 3)))
    model.register_parameter("turned", nn.Parameter(torch.ones(30, 7)))
    exchanged = Exchange(model, create(settings, layers_of(model)), place.ring(clock), 12_000, clock, staging)
    generator = torch.Generator().manual_seed(place.rank)
    found = []
    for step in range(STEPS):
        model.zero_grad()
        exchanged.start(step)
        outputs = model(torch.randn(16, 40, generator=generator))
        (outputs.square().mean() + (model.turned.t() @ outputs.t()).square().mean()).backward()
        exchanged.finish()
        found.append([parameter.grad.clone() for parameter in model.parameters() if parameter.grad is not None])
    exchanged.close()
    assert len(exchanged.buckets) > 1
    return found


def both_ways(place: Place, settings: list[Any]) -> dict[str, tuple[list[list[Tensor]], list[list[Tensor]]]]:
    """By compressor, without and with staging."""
    cpu = torch.device("cpu")
    return {one.name: (_averaged(place, one, None), _averaged(place, one, Staging(cpu))) for one in settings}


def hooks_both_ways(place: Place, settings: list[Any]) -> dict[str, tuple[str, str]]:
    """Digests of DDP scripts, without and with staging."""
    found = {}
    for one in settings:
        without = ddp_programs.with_hook(one, 3).digest
        with mock.patch.object(ddp, "staging_for", Staging):
            found[one.name] = (without, ddp_programs.with_hook(one, 3).digest)
    return found
