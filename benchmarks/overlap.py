"""How much of a transfer vanishes behind backward: two nodes whose dense gradients take as long to travel as backward
takes to compute them, under the wall clock.

Nodes are processes of this host with one thread of computation each; links are shaped in user space. Turn by turn, each
node does a backward pass alone, an exchange of all its gradients alone (encoding and decoding included), and a step:
backward with the exchange behind it. Of each, the median over the turns of the later node. A step cannot take less than
the larger of the first two, nor, as the first bucket leaves when it is computed and the last one when backward is over,
than backward and the last bucket's exchange.
"""

from __future__ import annotations

import argparse
import os
import statistics
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from rich.console import Console
from rich.table import Table
from torch import Tensor, nn

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "tests" / "support"))

from processes import Place, on_nodes  # the tests' own way of starting a few nodes

from node_agent.clock import Clock
from node_agent.compression import configure, create
from node_agent.compression.settings import CompressorSettings
from node_agent.exchange import Exchange, bucket_bytes, layers_of
from node_agent.job import LinkSettings
from node_agent.link_model import payload_bytes

NODES = 2
WIDTH, LAYERS = 512, 8
COMPRESSORS = (configure("none"), configure("gcc", density=0.5), configure("topk", density=0.01))


def network() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(*(layer for _ in range(LAYERS) for layer in (nn.Linear(WIDTH, WIDTH), nn.ReLU())))


def latest(moment: float) -> float:
    """Of all nodes."""
    moments = torch.tensor(moment, dtype=torch.float64)
    dist.all_reduce(moments, dist.ReduceOp.MAX)
    return float(moments)


def timed(work: Callable[[], object], clock: Clock) -> float:
    """s by the run's clock until all nodes have done it, which begin together."""
    together = latest(clock.now())
    if clock.virtual:  # clocks of the wall do not agree, but pass alike
        clock.wait_until(together)
    began = clock.now()
    work()
    return latest(clock.now() - began)


def overlap(
    place: Place,
    settings: CompressorSettings,
    virtual: bool,
    backward_s: float,
    delay: float,
    bucket: int | None,
    turns: int,
) -> tuple[float, float, float, int]:
    """Medians of backward alone, of the exchange alone, and of a step, s; buckets."""
    clock = place.clock(virtual, factor=1.0)
    plain, model = network(), network()
    inputs = torch.randn(64, WIDTH)

    def loss(of: nn.Module) -> Tensor:
        return of(inputs).square().mean()

    def backward() -> float:
        computed = loss(plain)
        return timed(computed.backward, clock)

    # As many rows as take backward so long; it takes some time more for none at all.
    short = statistics.median(backward() for _ in range(5))
    inputs = torch.randn(64 * 16, WIDTH)
    longer = statistics.median(backward() for _ in range(5))
    inputs = torch.randn(64 + int(64 * 15 * max(0.0, backward_s - short) / (longer - short)), WIDTH)
    expected = statistics.median(backward() for _ in range(5))

    octets = 2 * (NODES - 1) / NODES * 4 * sum(parameter.numel() for parameter in model.parameters())
    rate = 8 * octets / latest(expected)
    ring = place.ring(clock, rate=rate, delay=delay)
    compressor = create(settings, layers_of(model))
    links = [LinkSettings(source="a", target="b", rate=rate, delay=delay)] * NODES
    limit = bucket or bucket_bytes(compressor, list(model.parameters()), payload_bytes(links), NODES)
    exchange = Exchange(model, compressor, ring, limit, clock)

    def alone() -> None:
        exchange.start(0)
        exchange.finish()

    def step() -> float:
        computed = loss(model)

        def behind() -> None:
            exchange.start(0)
            computed.backward()
            exchange.finish()

        return timed(behind, clock)

    step()
    times = [(backward(), timed(alone, clock), step()) for _ in range(turns)]
    exchange.close()
    ring.close()
    backwards, exchanges, steps = (statistics.median(column) for column in zip(*times, strict=True))
    return backwards, exchanges, steps, len(exchange.buckets)


def measured(
    virtual: bool = False,
    backward_s: float = 0.4,
    delay: float = 0.0,
    bucket: int | None = None,
    turns: int = 9,
) -> list[dict[str, Any]]:
    """For each compressor backward alone, the exchange alone and a step, s, and the step over the larger of the two."""
    found = []
    for settings in COMPRESSORS:
        backward, exchange, step, buckets = on_nodes(
            NODES, overlap, settings, virtual, backward_s, delay, bucket, turns
        )[0]
        found.append(
            {
                "compressor": settings.name,
                "buckets": buckets,
                "backward_s": backward,
                "exchange_s": exchange,
                "step_s": step,
                "of_the_larger": step / max(backward, exchange),
            }
        )
    return found


def rendered(rows: list[dict[str, Any]]) -> Table:
    table = Table("compressor", "buckets", "backward", "exchange", "step", "of the larger", title="overlap")
    for row in rows:
        times = (f"{row[f'{what}_s'] * 1e3:.0f} ms" for what in ("backward", "exchange", "step"))
        table.add_row(row["compressor"], str(row["buckets"]), *times, f"{row['of_the_larger']:.2f}")
    return table


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--backward", type=float, default=0.4, help="s that backward takes, about")
    parser.add_argument("--delay", type=float, default=0.0, help="of the links, s")
    parser.add_argument("--bucket", type=int, help="bytes gathered before an exchange starts, if not by the links")
    parser.add_argument("--turns", type=int, default=9)
    parser.add_argument("--clock", choices=("wall", "virtual"), default="wall", help="virtual: for a host that is busy")
    options = parser.parse_args()
    table = rendered(
        measured(options.clock == "virtual", options.backward, options.delay, options.bucket, options.turns)
    )
    Console(width=100).print(table)
    print(f"load of this host at the end: {os.getloadavg()[0]:.1f} on {os.cpu_count()} cores")


if __name__ == "__main__":
    main()
