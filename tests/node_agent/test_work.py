"""Kernels, FLOPs, bytes and seconds, against what a hand counts."""

from __future__ import annotations

import threading
from collections.abc import Callable
from itertools import pairwise

import pytest
import torch
from torch import nn
from torch.nn import functional
from torch.utils.flop_counter import FlopCounterMode

from node_agent.clock import ModelledClock
from node_agent.job import Roofline
from node_agent.work import Work
from node_agent.workloads.background import Autoencoder

DEVICE = Roofline(flop_s=1e9, byte_s=1e8, launch_s=1e-5)


def counted(program: Callable[[], object], device: Roofline = DEVICE) -> Work:
    with Work(device) as work:
        program()
    return work


def test_a_product_takes_as_long_as_the_slower_of_arithmetic_and_memory() -> None:
    a, b = torch.ones(30, 40), torch.ones(40, 50)
    work = counted(lambda: a @ b)
    flops, octets = 2 * 30 * 40 * 50, 4 * (30 * 40 + 40 * 50 + 30 * 50)
    assert (work.flops, work.octets, work.kernels) == (flops, octets, 1)
    assert work.seconds == pytest.approx(octets / 1e8 + 1e-5)  # 188 us of memory, 120 us of arithmetic
    slow = counted(lambda: a @ b, Roofline(flop_s=1e8, byte_s=1e8))
    assert slow.seconds == pytest.approx(flops / 1e8)


def test_the_training_step_of_resnet_18_on_a_jetson_nano() -> None:
    # 3 x 3.64 GFLOP an image at half of 2 x 128 cores x 921.6 MHz: 92.6 ms, 10.8 images a second. Measured by
    # jetson-inference: 5000 images in 7 to 8 minutes, 10.4 to 11.9 a second.
    work = Work(Roofline(flop_s=0.5 * 2 * 128 * 921.6e6, byte_s=25.6e9))
    work.add(flops=round(3 * 3.64e9), octets=0)
    assert work.seconds == pytest.approx(0.0926, rel=0.001)
    assert 10.4 < 1 / work.seconds < 11.9


@pytest.mark.parametrize("batch", [1, 32])
def test_the_flops_of_a_step_are_those_of_its_linear_layers(batch: int) -> None:
    # Forward 2 n a b of each layer; backward as much for the weights, and for the layer's input except the first's.
    widths = (30, 48, 40, 8, 40, 48, 30)
    layers = [2 * batch * a * b for a, b in pairwise(widths)]
    model, pixels = Autoencoder(30, (48, 40, 8), torch.Generator().manual_seed(1)), torch.rand(batch, 30)

    def step() -> None:
        functional.mse_loss(model(pixels), pixels).backward()

    assert counted(step).flops == 3 * sum(layers) - layers[0]
    with FlopCounterMode(display=False) as reference:
        step()
    assert reference.get_total_flops() == 3 * sum(layers) - layers[0]


BYTES = {
    "an elementwise kernel reads and writes": (lambda x, i: x + 1, 4000 + 4000),
    "in place too": (lambda x, i: x.mul_(2), 4000 + 4000),
    "what overwrites reads nothing": (lambda x, i: x.zero_(), 4000),
    "a copy reads the other": (lambda x, i: x.copy_(torch.empty(1000)), 4000 + 4000),
    "a result's place is not read": (lambda x, i: torch.add(x, x, out=torch.empty(1000)), 8000 + 4000),
    "views are free": (lambda x, i: x.view(10, 100)[2:5].t(), 0),
    "so is memory that nobody touches": (lambda x, i: torch.empty_like(x), 0),
    "an expanded number is one number": (lambda x, i: x + torch.empty(1).expand(1000), 4000 + 4 + 4000),
    "gathering touches what it gathers": (lambda x, i: x[i], 10 * 8 + 2 * 10 * 4),
    "scattering what it scatters": (lambda x, i: x.index_put_((i,), torch.empty(10)), 10 * 8 + 2 * 10 * 4),
    "scattering one number": (lambda x, i: x.index_fill_(0, i, 1.0), 10 * 8 + 10 * 4),
    "what leaves for NumPy is read once": (lambda x, i: x.numpy(), 4000),
}


@pytest.mark.parametrize("case", BYTES)
def test_bytes_are_those_that_a_kernel_has_to_touch(case: str) -> None:
    program, octets = BYTES[case]
    x, i = torch.ones(1000), torch.arange(10)
    work = counted(lambda: program(x, i))
    assert (work.flops, work.octets) == (0, octets)


def test_each_gradient_is_ready_when_the_work_before_it_is_done() -> None:
    model, x = nn.Sequential(nn.Linear(50, 60), nn.Linear(60, 70)), torch.rand(20, 50)
    clock = ModelledClock(Work(Roofline(flop_s=1e6, byte_s=1e30)))  # so slow that arithmetic is all that counts
    ready: dict[str, float] = {}
    for name, parameter in model.named_parameters():
        parameter.register_post_accumulate_grad_hook(lambda _, name=name: ready.update({name: clock.now()}))
    with clock.counting():
        loss = model(x).sum()
        forward = clock.now()
        loss.backward()
    first, second = 2 * 20 * 50 * 60, 2 * 20 * 60 * 70
    assert forward == pytest.approx((first + second) / 1e6)
    # of the second layer two products, for its input and its weight, in whatever order; of the first one
    assert ready["1.weight"] - forward in (pytest.approx(second / 1e6), pytest.approx(2 * second / 1e6))
    assert ready["0.weight"] - forward == pytest.approx((2 * second + first) / 1e6)
    assert clock.now() == pytest.approx(ready["0.weight"])


def test_a_clock_counts_its_own_thread_alone_and_nothing_while_it_stands() -> None:
    clock = ModelledClock(Work(DEVICE))
    x = torch.ones(1000)
    other: list[float] = []

    def elsewhere() -> None:
        fork = clock.fork()
        with fork.counting():
            x.add(1)
            other.append(fork.now())

    with clock.counting():
        thread = threading.Thread(target=elsewhere)
        thread.start()
        thread.join()
        assert clock.now() == 0.0
        with clock.stopped():
            x.add(1)
        assert clock.now() == 0.0
        clock.wait_until(5.0)
        x.add(1)
        assert clock.now() == pytest.approx(5.0 + 8000 / 1e8 + 1e-5)
    x.add(1)
    assert clock.now() == pytest.approx(5.0 + 8000 / 1e8 + 1e-5)
    assert other == [pytest.approx(8000 / 1e8 + 1e-5)]


def test_counting_changes_no_bit_of_what_is_computed() -> None:
    def trained() -> list[torch.Tensor]:
        generator = torch.Generator().manual_seed(1)
        model, pixels = Autoencoder(30, (48, 40, 8), generator), torch.rand(32, 30, generator=generator)
        optimiser = torch.optim.Adam(model.parameters())
        for _ in range(3):
            optimiser.zero_grad()
            functional.mse_loss(model(pixels), pixels).backward()
            optimiser.step()
        return list(model.parameters())

    with Work(DEVICE) as work:
        watched = trained()
    assert work.kernels > 3 * 14
    assert all(torch.equal(a, b) for a, b in zip(watched, trained(), strict=True))
