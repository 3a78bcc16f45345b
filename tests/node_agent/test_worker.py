from __future__ import annotations

import hashlib
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import torch
from torch import nn

from node_agent.compression import CompressorSettings, configure, create
from node_agent.compression.settings import AutomaticDensity
from node_agent.exchange import layers_of
from node_agent.job import Job, LinkSettings
from node_agent.ring import Ring
from node_agent.worker import Observer, digest, fingerprint, link_model, make_optimiser


def test_digests_cover_every_bit_of_every_parameter() -> None:
    model = nn.Sequential(nn.Linear(3, 4), nn.Linear(4, 2))
    seen = {(fingerprint(model), digest(model))}
    for parameter in model.parameters():
        for place in (0, -1):
            bits = parameter.detach().view(-1).view(torch.int32)
            bits[place] ^= 1
            seen.add((fingerprint(model), digest(model)))
    assert len(seen) == 9
    assert len({one for one, _ in seen}) == len({other for _, other in seen}) == 9


def test_the_digest_is_sha256_of_the_parameters_in_order() -> None:
    model = nn.Linear(3, 2)
    content = b"".join(p.detach().numpy().tobytes() for p in (model.weight, model.bias))
    assert digest(model) == hashlib.sha256(content).hexdigest()


class Standing:
    """A clock that notes whether it stood when it was looked at."""

    virtual = False
    standing = False

    @contextmanager
    def stopped(self) -> Iterator[None]:
        self.standing = True
        yield
        self.standing = False


def test_observing_takes_no_time_of_the_run() -> None:
    clock, seen = Standing(), []

    class Watched:
        def observe(self) -> dict[str, Any]:
            seen.append(clock.standing)
            return {}

    class OneJob:
        rank, node, steps, evaluate_every = 0, "a", 10, 4

    observer = Observer(OneJob(), Watched(), Ring(0, 1, clock), clock, None, lambda event: seen.append(event.step))  # type: ignore[arg-type, union-attr]
    observer.observe(4, 1.0)
    assert seen == [True, 4]
    assert [step for step in range(1, 11) if observer.due(step)] == [4, 8, 10]


@pytest.mark.parametrize(
    ("settings", "corrected"),
    [
        (configure("topk"), set()),
        (configure("dgc"), {"0.weight", "1.weight"}),
        (configure("dgc", momentum_correction=0.0, clip=1.0), set()),
        (configure("nsi", momentum_correction=0.5), {"0.weight", "1.weight"}),
        (configure("size-adaptive", smaller="none", larger="dgc", threshold=3000), {"1.weight"}),
    ],
)
def test_the_optimiser_adds_no_momentum_to_gradients_that_come_with_it(
    settings: CompressorSettings, corrected: set[str]
) -> None:
    model = nn.Sequential(nn.Linear(40, 50), nn.Linear(50, 80))
    for automatic in (None, AutomaticDensity()):
        compressor = create(settings, layers_of(model), automatic=automatic)
        optimiser = make_optimiser(model, 0.01, compressor)
        names = {parameter: name for name, parameter in model.named_parameters()}
        beta = {names[p]: group["betas"][0] for group in optimiser.param_groups for p in group["params"]}
        assert beta == {name: 0.0 if name in corrected else 0.9 for name in names.values()}


def test_every_link_has_a_randomness_of_its_own_that_the_seed_decides() -> None:
    def delays(seed: int, rank: int) -> list[float]:
        link = LinkSettings(source="a", target="b", delay=1.0, jitter=0.1)
        model = link_model(Job.model_construct(seed=seed, rank=rank, outgoing=link))
        assert model is not None
        return [model.transmit(1, now=10.0 * k).arrival for k in range(5)]

    assert delays(1, 0) == delays(1, 0)
    assert len({tuple(delays(seed, rank)) for seed in (1, 2) for rank in (0, 1)}) == 4
    assert link_model(Job.model_construct(seed=1, rank=0, outgoing=None)) is None
