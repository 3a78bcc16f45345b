"""The ring against its bounds, and against torch.distributed's own all-reduce in the same processes, turn by turn.

Prints one table: bytes and time of a dense all-reduce on shaped links (virtual and wall clock) beside the analytic
time of a ring in lock step, and unshaped on loopback the ratio to `dist.all_reduce`.
"""

from __future__ import annotations

import statistics
import sys
import time
from pathlib import Path

import torch
import torch.distributed as dist
from rich.console import Console
from rich.table import Table

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "tests" / "support"))

from processes import Place, on_nodes  # the tests' own way of starting a few nodes

NODES = 4
REPEATS = 15
SIZES_MB = (4, 25, 100)
LINKS = ((10e6, 0.0, 0.25), (10e6, 0.01, 0.25), (100e6, 0.01, 2.5), (500e6, 0.005, 12.5))
"""rate (bit/s), delay (s), buffer (MB)"""


def unshaped(place: Place) -> list[tuple[int, float, float]]:
    """Megabytes, and the median times of our ring and of Gloo's, s."""
    ring = place.ring(place.clock(virtual=False))
    found = []
    for megabytes in SIZES_MB:
        ours, theirs = torch.ones(megabytes * 250_000), torch.ones(megabytes * 250_000)
        times: tuple[list[float], list[float]] = ([], [])
        for _ in range(REPEATS):
            for taken, reduce, tensor in ((times[0], ring.all_reduce, ours), (times[1], dist.all_reduce, theirs)):
                dist.barrier()
                began = time.monotonic()
                reduce(tensor)
                dist.barrier()
                taken.append(time.monotonic() - began)
                tensor.fill_(1.0)
        found.append((megabytes, statistics.median(times[0]), statistics.median(times[1])))
    return found


def shaped(place: Place, rate: float, delay: float, length: int, virtual: bool) -> tuple[int, float]:
    """Bytes that this node sent, headers included, and the time that the all-reduce took, s."""
    clock = place.clock(virtual)
    ring = place.ring(clock, rate=rate, delay=delay)
    ring.all_reduce(torch.ones(8))
    assert ring.outgoing is not None
    dist.barrier()
    before, began = ring.outgoing.sent, clock.now()
    ring.all_reduce(torch.ones(length))
    took = clock.now() - began
    sent = ring.outgoing.sent - before
    ring.close()
    return sent.message_bytes, took


def main() -> None:
    console = Console(width=100)
    table = Table(
        "rate", "delay", "buffer", "clock", "bytes / bound", "time", "analytic", "ratio", title="shaped links"
    )
    for rate, delay, megabytes in LINKS:
        length = int(megabytes * 250_000)
        bound = 2 * (NODES - 1) / NODES * 4 * length
        analytic = 8 * bound / rate + 2 * (NODES - 1) * delay
        for virtual in (True, False):
            results = on_nodes(NODES, shaped, rate, delay, length, virtual)
            octets, took = max(sent for sent, _ in results), max(time_s for _, time_s in results)
            table.add_row(
                f"{rate / 1e6:g} Mbit/s",
                f"{delay * 1e3:g} ms",
                f"{megabytes:g} MB",
                "virtual" if virtual else "wall",
                f"{octets / bound:.4f}",
                f"{took:.4f} s",
                f"{analytic:.4f} s",
                f"{took / analytic:.3f}",
            )
    console.print(table)
    table = Table("nodes", "buffer", "ring", "dist.all_reduce", "ratio", title=f"loopback, median of {REPEATS}")
    for nodes in (2, NODES):
        for megabytes, ours, theirs in on_nodes(nodes, unshaped)[0]:
            table.add_row(
                str(nodes), f"{megabytes} MB", f"{ours * 1e3:.1f} ms", f"{theirs * 1e3:.1f} ms", f"{ours / theirs:.2f}"
            )
    console.print(table)


if __name__ == "__main__":
    main()
