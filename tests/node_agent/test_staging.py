"""Copies on the host, forced between two places of the CPU's memory: the path that gradients of an accelerator take."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Any

import pytest
import staged_programs
import torch
from processes import on_nodes

from node_agent import ddp
from node_agent.clock import WallClock
from node_agent.compression import configure, create
from node_agent.compression.settings import CATALOGUE
from node_agent.exchange import Exchange, layers_of
from node_agent.ring import Ring
from node_agent.staging import Staging, staging_for

DENSITIES = {"topk": 0.1, "randomk": 0.2, "dgc": 0.1, "nsi": 0.1}


def test_means_are_those_without_staging_bit_for_bit() -> None:
    settings = [configure(name, **({"density": DENSITIES[name]} if name in DENSITIES else {})) for name in CATALOGUE]
    for found in on_nodes(2, staged_programs.both_ways, settings):
        assert list(found) == list(CATALOGUE)
        for without, staged in found.values():
            assert len(without) == staged_programs.STEPS
            for some, others in zip(without, staged, strict=True):
                assert all(torch.equal(one, other) for one, other in zip(some, others, strict=True))


def test_a_ddp_script_ends_with_the_same_parameters() -> None:
    settings = [configure("none"), configure("topk", density=0.1), configure("powersgd")]
    for found in on_nodes(2, staged_programs.hooks_both_ways, settings):
        assert all(without == staged for without, staged in found.values())


def test_what_is_fetched_is_a_copy_and_goes_back() -> None:
    staging = Staging(torch.device("cpu"))
    tensors = [torch.arange(6.0).view(2, 3).t(), torch.tensor(3, dtype=torch.int64), torch.ones(0)]
    hosts = staging.fetch(tensors, staging.mark())
    assert [host.tolist() for host in hosts] == [tensor.tolist() for tensor in tensors]
    assert [host.dtype for host in hosts] == [tensor.dtype for tensor in tensors]
    assert all(host.is_contiguous() for host in hosts)
    hosts[0].mul_(2)
    assert tensors[0].tolist() == [[0, 3], [1, 4], [2, 5]]
    staging.put(hosts, tensors)
    staging.arrived()
    assert tensors[0].tolist() == [[0, 6], [2, 8], [4, 10]]


class Slow(Staging):
    """Over a bus that takes its time."""

    TAKES = 0.03

    def fetch(self, tensors: Sequence[torch.Tensor], *after: Any) -> list[torch.Tensor]:
        time.sleep(self.TAKES)
        return super().fetch(tensors, *after)

    def put(self, hosts: Sequence[torch.Tensor], tensors: Sequence[torch.Tensor]) -> None:
        time.sleep(2 * self.TAKES)
        super().put(hosts, tensors)


def test_copies_are_part_of_what_encoding_and_decoding_take() -> None:
    clock, model = WallClock(), torch.nn.Linear(3, 2)
    exchange = Exchange(
        model, create("none", layers_of(model)), Ring(0, 1, clock), 10**6, clock, Slow(torch.device("cpu"))
    )
    exchange.start(0)
    model(torch.ones(1, 3)).sum().backward()
    account = exchange.finish()
    exchange.close()
    assert account.encode >= Slow.TAKES
    assert account.decode >= 2 * Slow.TAKES
    assert account.ring < Slow.TAKES


def test_its_buffer_is_used_again() -> None:
    staging = Staging(torch.device("cpu"))
    (first,) = staging.fetch([torch.zeros(100)], None)
    (second,) = staging.fetch([torch.ones(50)], None)
    assert first.data_ptr() == second.data_ptr()
    (third,) = staging.fetch([torch.ones(1000)], None)
    assert third.sum() == 1000


def test_tensors_on_the_host_are_not_staged() -> None:
    assert staging_for(torch.device("cpu")) is None


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
def test_gradients_of_a_cuda_device_come_and_go() -> None:
    device = torch.device("cuda")
    staging = Staging(device)
    tensors = [torch.full((1000, 1000), float(number), device=device) for number in range(4)]
    for tensor in tensors:
        tensor.add_(1)
    hosts = staging.fetch(tensors, staging.mark())
    assert all(host.is_pinned() for host in hosts)
    assert [float(host.mean()) for host in hosts] == [1, 2, 3, 4]
    for host in hosts:
        host.mul_(10)
    staging.put(hosts, tensors)
    staging.arrived()
    assert [float(tensor.mean()) for tensor in tensors] == [10, 20, 30, 40]


def test_a_network_on_several_devices_is_refused() -> None:
    network = torch.nn.Sequential(torch.nn.Linear(2, 2), torch.nn.Linear(2, 2, device="meta"))
    with pytest.raises(
        ValueError, match=r"layer 1\.weight: found torch\.float32 on meta, allowed torch\.float32 on cpu"
    ):
        ddp._names_of(network)
