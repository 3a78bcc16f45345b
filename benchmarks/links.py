"""Rate and delay of a shaped link against what was asked of it, as a receiver on the wall clock measures them.

The rate is of a second's worth of messages back to back; the delay is the median over single small messages. Both ways
round a ring of two carry traffic at once.
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

RATES = (0.1e6, 1e6, 10e6, 100e6, 500e6)
DELAYS = (0.0, 0.005, 0.05, 0.3, 0.6)
SINGLE = 30
"""small messages whose delay is measured"""


def probe(place: Place, rate: float, delay: float) -> tuple[float, float]:
    """The rate, bit/s, and the median delay, s, of the link that this node receives from."""
    clock = place.clock(virtual=False)
    ring = place.ring(clock, rate=rate, delay=delay)
    assert ring.incoming is not None
    delays = []
    for _ in range(SINGLE if delay < 0.1 else SINGLE // 3):
        dist.barrier()
        ring.all_gather(torch.zeros(1, dtype=torch.uint8))
        delays.append(ring.incoming.meter.measured().delay_s)
        time.sleep(0.005)
    for _ in range(2):  # the first one brings the memory
        dist.barrier()
        ring.incoming.meter.measured()
        ring.all_gather(torch.zeros(max(int(rate / 8), 4 * 16384), dtype=torch.uint8))
    burst = ring.incoming.meter.measured()
    ring.close()
    return burst.rate_bits / burst.rate_s, statistics.median(one for one in delays if one is not None)


def main() -> None:
    table = Table(
        "rate asked", "measured", "off by", "delay asked", "measured", "off by", title="userspace links, wall clock"
    )
    for rate in RATES:
        for delay in DELAYS:
            results = on_nodes(2, probe, rate, delay)
            got_rate = max((found for found, _ in results), key=lambda found: abs(found - rate))
            got_delay = max((found for _, found in results), key=lambda found: abs(found - delay))
            table.add_row(
                f"{rate / 1e6:g} Mbit/s",
                f"{got_rate / 1e6:.4g} Mbit/s",
                f"{100 * (got_rate / rate - 1):+.2f} %",
                f"{delay * 1e3:g} ms",
                f"{got_delay * 1e3:.3f} ms",
                f"{(got_delay - delay) * 1e3:+.3f} ms",
            )
    Console(width=100).print(table)
    print("each line shows the worse of the two directions")


if __name__ == "__main__":
    main()
