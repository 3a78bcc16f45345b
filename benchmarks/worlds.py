"""One ring all-reduce, five times: by formula, by SimGrid, and run in every world that can impose its links: the
virtual clock, the nodes themselves (userspace), and the kernel (network namespaces).

    python benchmarks/worlds.py [MBIT …]

Times are of the slowest node; under the wall clock the median of REPEATS. In namespaces TCP and IP take 52 of each
1,500 bytes, so all others are given the share that is left: the links that nodes impose by a framing of OVERHEAD bytes
per 1,500 bytes of a message, formula and SimGrid by its part of the rate.
"""

from __future__ import annotations

import json
import os
import statistics
import subprocess
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import product
from pathlib import Path

import psutil
import torch
import torch.distributed as dist
from rich.console import Console
from rich.table import Table

from edgesim.network.namespaces import Network, probe
from edgesim.network.plan import make_plan
from edgesim.network.shaping import MTU, TCP_HEADERS, payload_rate
from edgesim.topology.schema import Topology
from node_agent.job import LinkSettings
from node_agent.link_model import frame_bytes
from node_agent.ring import chunk_bounds
from node_agent.transport import HEADER_BYTES

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "tests" / "support"))

from processes import Place, on_nodes  # the tests' own way of starting a few nodes

RATES = (10, 100)
"""Mbit/s"""

CASES = ((2, 0.005), (4, 0.005), (4, 0.0), (8, 0.005))
"""nodes, delay (s); without delay the kernel alone imposes the links of namespaces, else a relay may have to"""
SIZES = (1, 4)
"""MB of single-precision values"""
REPEATS = 3
GOAL = 0.05
"""by which the longest time of a row may exceed the shortest"""

OVERHEAD = round(MTU * MTU / (MTU - TCP_HEADERS)) - MTU
"""bytes of framing per 1,500 bytes, after which as much is left for messages as TCP and IP leave of a packet"""

WORLDS = ("analytic", "SimGrid", "virtual", "userspace", "netns")

SIMGRID = Path(__file__).with_name("simgrid_ring.py")


@dataclass(frozen=True)
class Taken:
    time: float
    """s"""
    busy: float
    """share of the host's processors that were, whoever used them"""


@dataclass(frozen=True)
class Links:
    """A ring of `nodes` with the same link everywhere, in both directions."""

    nodes: int
    rate: float
    """bit/s"""
    delay: float
    """s"""

    @property
    def frame(self) -> int:
        """Payload bytes of the largest message."""
        return frame_bytes([LinkSettings(source="", target="", rate=self.rate)])

    def chunks(self, megabytes: int) -> list[int]:
        """Payload bytes of each."""
        return [4 * (stop - start) for start, stop in chunk_bounds(values(megabytes), self.nodes)]

    def analytic(self, megabytes: int) -> float:
        """Time of a ring that passes on each frame as it comes, and computes at no cost, s.

        A chunk occupies a link for C, a frame for F. Each of the 2 (N-1) hops begins when the link is free again (C
        after the hop before) and the first frame has come from the previous node (F + delay after), whichever is later,
        and the last hop's last frame arrives a delay after it was sent. Without delay and framing, this is the bound
        2 (N-1)/N S/B of Patarasuk and Yuan (JPDC 69(2), 2009).
        """
        rate = payload_rate(self.rate)
        largest = max(self.chunks(megabytes))
        chunk, frame = 8 * largest / rate, 8 * min(self.frame, largest) / rate
        return chunk + (2 * self.nodes - 3) * max(chunk, frame + self.delay) + self.delay

    def simgrid(self, megabytes: int, python: str) -> float:
        ring = {
            "chunks": self.chunks(megabytes),
            "frame": self.frame,
            "header": HEADER_BYTES,
            "rate": payload_rate(self.rate),
            "delay": self.delay,
        }
        done = subprocess.run([python, SIMGRID, json.dumps(ring)], capture_output=True, text=True)
        if done.returncode:
            raise RuntimeError(done.stderr)
        return float(done.stdout)

    def run(self, virtual: bool, network: Network | None = None) -> list[Taken]:
        """For each of SIZES."""
        entrances = None if network is None else network.entrances
        arguments = (self.rate, self.delay, virtual, 1 if virtual else REPEATS)
        of_nodes = on_nodes(self.nodes, reduce, *arguments, entrances=entrances)
        found = []
        for of_size in zip(*of_nodes, strict=True):
            slowest = map(max, zip(*(times for times, _ in of_size), strict=True))
            found.append(Taken(statistics.median(slowest), of_size[0][1]))
        return found

    def network(self) -> Network:
        names = [f"n{rank}" for rank in range(self.nodes)]
        link = {"rate": f"{self.rate / 1e6:g} Mbit/s"}
        if self.delay:
            link["delay"] = f"{1e3 * self.delay:g} ms"
        topology = Topology.model_validate({"nodes": names, "defaults": {"link": link}})
        return Network(make_plan(topology, f"worlds-{os.getpid()}", probe()))


def values(megabytes: int) -> int:
    return megabytes * 10**6 // 4


def reduce(place: Place, rate: float, delay: float, virtual: bool, repeats: int) -> list[tuple[list[float], float]]:
    """On a node, for each of SIZES: how long every all-reduce took it, s, and how busy the host was meanwhile."""
    clock = place.clock(virtual)
    ring = place.ring(clock, rate=rate, delay=delay, overhead=OVERHEAD)
    ring.all_reduce(torch.ones(place.size))  # opens connections
    found = []
    for megabytes in SIZES:
        times = []
        psutil.cpu_percent()
        for _ in range(repeats):
            tensor = torch.ones(values(megabytes))
            clock.wait_until(ring.quiet_at)
            latest = torch.tensor([clock.now()], dtype=torch.float64)
            dist.all_reduce(latest, dist.ReduceOp.MAX)  # past the links
            if virtual:
                clock.wait_until(float(latest))
            began = clock.now()
            ring.all_reduce(tensor)
            times.append(clock.now() - began)
            if not bool((tensor == place.size).all()):
                raise RuntimeError(f"node {place.rank} has a wrong sum")
        found.append((times, psutil.cpu_percent() / 100))
    ring.close()
    dist.barrier()
    return found


def python_with_simgrid() -> str | None:
    """An interpreter; distributions install SimGrid for their own."""
    for python in (sys.executable, "/usr/bin/python3"):
        if (
            Path(python).exists()
            and not subprocess.run([python, "-c", "import simgrid"], capture_output=True).returncode
        ):
            return python
    return None


def why_no_namespaces() -> str | None:
    kernel = probe()
    return kernel.forbidden or kernel.buckets or kernel.congestion or (None if kernel.netem else kernel.tun)


def measure(links: Links, python: str | None, namespaces: bool) -> Iterator[tuple[dict[str, float], list[float]]]:
    """For each of SIZES: s by world, and how busy the host was in those under the wall clock."""
    virtual, wall = links.run(virtual=True), {"userspace": links.run(virtual=False)}
    if namespaces:
        with links.network() as network:
            wall["netns"] = links.run(virtual=False, network=network)
    for index, megabytes in enumerate(SIZES):
        times = {"analytic": links.analytic(megabytes), "virtual": virtual[index].time}
        if python is not None:
            times["SimGrid"] = links.simgrid(megabytes, python)
        times |= {world: taken[index].time for world, taken in wall.items()}
        yield times, [taken[index].busy for taken in wall.values()]


def main(asked: Sequence[str]) -> None:
    console = Console(width=120)
    python, forbidden = python_with_simgrid(), why_no_namespaces()
    table = Table("Mbit/s", "ms", "nodes", "MB", *WORLDS, "max / min", "busy", "load", title="Ring all-reduce, s")
    for column in table.columns:
        column.justify = "right"
    missed = 0
    for rate, (nodes, delay) in product(map(float, asked or RATES), CASES):
        measured = measure(Links(nodes, 1e6 * rate, delay), python, forbidden is None)
        for megabytes, (times, busy) in zip(SIZES, measured, strict=True):
            spread = max(times.values()) / min(times.values()) - 1
            missed += spread > GOAL
            table.add_row(
                f"{rate:g}",
                f"{1e3 * delay:g}",
                str(nodes),
                str(megabytes),
                *(f"{times[world]:.4f}" if world in times else "-" for world in WORLDS),
                f"{1 + spread:.3f}{'*' if spread > GOAL else ' '}",
                " / ".join(f"{share:.0%}" for share in busy),
                f"{os.getloadavg()[0]:.1f}",
            )
    console.print(table)
    console.print(f"*: more than {GOAL:.0%} between the shortest and the longest ({missed} rows)")
    console.print("busy: share of the host's processors that were, in userspace / netns; load: load average afterwards")
    if python is None:
        console.print("SimGrid is not here (on Debian and Ubuntu: apt-get install python3-simgrid)")
    if forbidden is not None:
        console.print(f"no namespaces with such links here: {forbidden}")


if __name__ == "__main__":
    main(sys.argv[1:])
