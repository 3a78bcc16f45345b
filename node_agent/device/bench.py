"""Calibrates a device profile: what kernels reach on this board, and how long a step of training and each compressor
take.

Three bounds of the roofline (see `node_agent.work`) are measured one by one: matrix products for the peak, copies for
the bandwidth, a step of a tiny network for the launch. What share of the peak kernels reach is taken from a step of
training, as the one free figure with which the roofline gives what it took. A step of another size, which is not
fitted, stands beside it with what the roofline makes of that.
"""

from __future__ import annotations

import statistics
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import psutil
import torch

from node_agent.clock import VirtualClock
from node_agent.compression import create
from node_agent.compression.settings import CATALOGUE
from node_agent.device.accelerator import finish
from node_agent.device.facts import version
from node_agent.job import BackgroundSettings, Roofline, SceneSettings
from node_agent.optimiser import Adam
from node_agent.ring import Ring
from node_agent.work import Work
from node_agent.workloads.background import BackgroundLearning

LINES, BANDS = 64, 200

FITTED, CHECKED = 256, 64
"""pixels of the step that is fitted, and of the one that is not"""

MOST_HALVINGS = 60

SIZES = (64, 128, 256, 512, 1024, 2048, 4096, 8192)
"""of square matrices, as far as they fit"""

QUICK = 256
"""the largest of them for a quick calibration"""

SHARE = 0.25
"""of the free memory that a measurement may take"""

LONG_PRODUCT = 2.0
"""s: a matrix product that takes longer is the last one"""

STATE = 16
"""bytes of a step's working set a parameter: itself, its gradient, and the two moments of Adam"""

LARGE_COPY = 64 * 2**20
"""bytes: what no cache holds"""

TINY, TINY_BATCH = (8, 8, 4), 8
"""a network whose kernels take no time but to be launched"""

GRADIENTS = ((400, 400), (400,))
"""the step's largest layer, weights and biases: what compressors are given"""

BUDGET, QUICK_BUDGET = 0.5, 0.05
"""s for the repetitions of each measurement; four times as much for those of a step"""

AT_LEAST = 3
"""repetitions, however long each takes"""


@dataclass(frozen=True)
class Timing:
    best_s: float
    median_s: float
    spread: float
    """distance between the quartiles, as a share of the median"""
    repetitions: int


@dataclass(frozen=True)
class Product:
    """A product of two square matrices."""

    size: int
    timing: Timing

    @property
    def flop_s(self) -> float:
        return 2 * self.size**3 / self.timing.best_s


@dataclass(frozen=True)
class Copied:
    bytes: int
    timing: Timing

    @property
    def byte_s(self) -> float:
        """Read and written."""
        return 2 * self.bytes / self.timing.best_s


@dataclass(frozen=True)
class Step:
    """A step of background learning with the default network, without its exchange."""

    batch: int
    parameters: int
    timing: Timing
    modelled_s: float
    """what the roofline makes of it"""


@dataclass(frozen=True)
class Coding:
    """A compressor's work on one set of gradients."""

    encode: Timing
    decode: Timing
    bytes: int


@dataclass(frozen=True)
class Calibration:
    device: str
    """cpu (one thread, as a node trains), or the name of the CUDA device"""
    at_s: float
    """s since 1970"""
    versions: dict[str, str]
    products: tuple[Product, ...]
    working: Copied
    """between places that are together as large as the working set of a step: caches may hold them, as they do that"""
    large: Copied
    launch: Timing
    """of one kernel"""
    roofline: Roofline
    """what kernels of a step reach"""
    fitted: Step
    checked: Step
    codings: dict[str, Coding]
    gradients: int
    """values that each compressor was given"""

    @property
    def peak_flop_s(self) -> float:
        return max(product.flop_s for product in self.products)


Kernels = list[tuple[int, int, int]]
"""FLOPs, bytes and number of the kernels that follow one another"""


def modelled(kernels: Kernels, roofline: Roofline) -> float:
    """What the roofline makes of these kernels, one after the other, s."""
    work = Work(roofline)
    for flops, octets, count in kernels:
        work.add(flops, octets, count)
    return work.seconds


def fit(kernels: Kernels, took: float, bounds: Roofline) -> Roofline:
    """The bounds, with so many FLOP/s that the kernels take as long as they `took`, s; never more than the bounds'."""
    low, high = 0.0, bounds.flop_s
    if modelled(kernels, bounds) >= took:
        return bounds
    for _ in range(MOST_HALVINGS):
        middle = (low + high) / 2
        if modelled(kernels, bounds.model_copy(update={"flop_s": middle})) > took:
            low = middle
        else:
            high = middle
    return bounds.model_copy(update={"flop_s": high})


def timed(
    do: Callable[[], object], budget: float, most: int = 1000, finish: Callable[[], object] | None = None
) -> Timing:
    """Do it once, untimed, then again until `budget` s are over or it was done `most` times; `finish` waits for what
    has only been asked for."""
    do()
    if finish:
        finish()
    found: list[float] = []
    ends = time.monotonic() + budget
    while len(found) < max(AT_LEAST, most) and (len(found) < AT_LEAST or time.monotonic() < ends):
        began = time.perf_counter()
        do()
        if finish:
            finish()
        found.append(time.perf_counter() - began)
    median = statistics.median(found)
    first, _, third = statistics.quantiles(found, n=4)
    return Timing(min(found), median, (third - first) / median if median else 0.0, len(found))


def calibrate(device: torch.device, quick: bool = False) -> Calibration:
    """Measure this board; nothing else should run meanwhile. `quick`: smaller matrices and fewer repetitions."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        return _calibrate(device, quick)
    finally:
        torch.set_num_threads(threads)


def _calibrate(device: torch.device, quick: bool) -> Calibration:
    budget = QUICK_BUDGET if quick else BUDGET
    products = _products(device, budget, quick)
    launch = _launch(device, budget)
    peak = max(product.flop_s for product in products)
    taken = {batch: measured_step(batch, device, budget) for batch in (FITTED, CHECKED)}
    timing, kernels, trained = taken[FITTED]
    working, large = (_copied(octets, device, budget) for octets in (STATE // 2 * trained, LARGE_COPY))
    reached = fit(kernels, timing.best_s, Roofline(flop_s=peak, byte_s=working.byte_s, launch_s=launch.best_s))
    fitted, checked = (
        Step(batch, parameters, timing, modelled(kernels, reached))
        for batch, (timing, kernels, parameters) in taken.items()
    )
    return Calibration(
        device="cpu" if device.type == "cpu" else torch.cuda.get_device_name(device),
        at_s=time.time(),
        versions={name: version(name) or "unknown" for name in ("edgesim", "torch", "numpy")},
        products=tuple(products),
        working=working,
        large=large,
        launch=launch,
        roofline=reached,
        fitted=fitted,
        checked=checked,
        codings={name: _coding(name, budget) for name in CATALOGUE},
        gradients=sum(int(np.prod(shape)) for shape in GRADIENTS),
    )


def _free(device: torch.device) -> float:
    if device.type == "cuda":
        return float(torch.cuda.mem_get_info(device)[0])
    return float(psutil.virtual_memory().available)


def _products(device: torch.device, budget: float, quick: bool) -> list[Product]:
    found: list[Product] = []
    for size in SIZES:
        if (quick and size > QUICK) or 3 * 4 * size**2 > SHARE * _free(device):
            break
        found.append(_product(size, device, budget))
        if found[-1].timing.best_s > LONG_PRODUCT / 8:  # the next one takes eight times as long
            break
    return found


def _product(size: int, device: torch.device, budget: float) -> Product:
    generator = torch.Generator().manual_seed(0)
    left, right = (torch.randn(size, size, generator=generator).to(device) for _ in range(2))
    out = torch.empty_like(left)
    return Product(size, timed(lambda: torch.mm(left, right, out=out), budget, finish=lambda: finish(device)))


def _copied(octets: int, device: torch.device, budget: float) -> Copied:
    octets = int(min(octets, SHARE * _free(device) / 2)) // 4 * 4
    source = torch.ones(octets // 4, device=device)
    target = torch.empty_like(source)
    return Copied(octets, timed(lambda: target.copy_(source), budget, finish=lambda: finish(device)))


def _launch(device: torch.device, budget: float) -> Timing:
    """A kernel of a step that has next to nothing to compute."""
    found, kernels, _ = measured_step(TINY_BATCH, device, budget, TINY)
    count = sum(of for _, _, of in kernels)
    return Timing(found.best_s / count, found.median_s / count, found.spread, found.repetitions)


class _Listed(Work):
    """Work whose kernels are kept one by one."""

    def __init__(self) -> None:
        super().__init__(Roofline(flop_s=1, byte_s=1))
        self.each: Kernels = []

    def add(self, flops: int, octets: int, kernels: int = 1) -> None:
        self.each.append((flops, octets, kernels))


def measured_step(
    batch: int, device: torch.device, budget: float, network: tuple[int, ...] | None = None
) -> tuple[Timing, Kernels, int]:
    """A step of background learning of a made scene: what it takes, of which kernels it is made, and how many
    parameters are trained."""
    with tempfile.TemporaryDirectory() as folder:
        path, target = _scene(Path(folder))
        settings = BackgroundSettings(
            scene=SceneSettings(path=str(path)), lines=(0, LINES), target_spectrum=target, batch=batch
        )
        if network is not None:
            settings = settings.model_copy(update={"network": network})
        workload = BackgroundLearning(settings, 0, 0, device)
        workload.prepare(Ring(0, 1, VirtualClock()))
        optimiser = Adam(workload.model.parameters(), lr=workload.learning_rate)

        def step() -> None:
            optimiser.zero_grad()
            workload.loss().backward()
            optimiser.step()

        found = timed(step, 4 * budget, finish=lambda: finish(device))
        work = _Listed()
        with work:
            step()
        return found, work.each, sum(parameter.numel() for parameter in workload.model.parameters())


def _scene(folder: Path) -> tuple[Path, tuple[float, ...]]:
    """Two smooth materials mixed at random with a little noise, and a third one in one place; with its spectrum."""
    generator = np.random.default_rng(0)
    wave = np.linspace(0, 1, BANDS)
    target = 1 + np.exp(-(((wave - 0.5) / 0.1) ** 2))
    share = generator.random((LINES, LINES, 1))
    cube = share * (1 + wave) + (1 - share) * (2 - wave)
    cube += 0.02 * generator.standard_normal(cube.shape)
    mask = np.zeros((LINES, LINES), dtype=bool)
    mask[30:33, 30:33] = True
    cube[mask] = target
    path = folder / "made.npz"
    np.savez(path, data=(1000 * cube).astype(np.uint16), map=mask)
    return path, tuple(map(float, 1000 * target))


def _coding(name: str, budget: float) -> Coding:
    generator = torch.Generator().manual_seed(0)
    gradients = [torch.randn(shape, generator=generator) * 1e-3 for shape in GRADIENTS]
    compressor = create(name)
    encode = timed(lambda: compressor.encode(gradients), budget)
    payload = compressor.encode(gradients)
    return Coding(encode, timed(lambda: compressor.decode(payload), budget), len(payload))
