"""Links against what was asked of them, imposed by the nodes themselves and by the kernel: rate, delay, jitter, loss.

Each line is of a link of two nodes, both directions loaded at once, and shows the worse one. The rate is that of a
second's worth of messages back to back, against what TCP/IP headers and framing leave of it where packets are real; the
delay is the median of single messages.

    python benchmarks/links.py [--links userspace] [--links netns] [--quick]
"""

from __future__ import annotations

import argparse
import os
from collections.abc import Iterator
from typing import Any

from rich.console import Console
from rich.table import Table
from scipy.stats import binom

from edgesim.fleet.local import LocalFleet
from edgesim.network.namespaces import usable_plan
from edgesim.network.plan import Unavailable
from edgesim.proof import Proof, prove
from edgesim.topology.schema import Topology
from node_agent.job import ProbeSettings
from node_agent.judgement import asked_of

RATES = (0.1e6, 1e6, 10e6, 100e6, 500e6)
DELAYS = (0.0, 0.005, 0.05, 0.3)
JITTER = 0.005
LOSSES = ({"loss": 0.001}, {"loss": 0.01}, {"loss": 0.01, "burst_length": 2.0})
"""more, or in longer bursts, and TCP waits for ever longer times beneath which few packets are sent"""


def proofs(links: str, link: dict[str, Any], samples: int = 40, burst_time: float = 1.0) -> tuple[Proof, Proof]:
    """Both directions of a link between two nodes."""
    written = {name: f"{value} bit/s" if name == "rate" else f"{value} s" if name in ("delay", "jitter") else value
               for name, value in link.items()}  # fmt: skip
    topology = Topology.model_validate(
        {"name": "bench", "nodes": ["a", "b"], "defaults": {"link": written}, "emulation": {"links": links}}
    )
    plan = usable_plan(topology) if links == "netns" else None
    probe = ProbeSettings(samples=samples, budget=120.0, burst_time=burst_time, binding=False)
    ((there, back),) = prove(topology, LocalFleet, probe, plan=plan)
    return there, back


def off(proof: Proof) -> tuple[float, float]:
    """By how much rate (a fraction) and delay (s) miss what was asked."""
    asked, found = asked_of(proof.requested, proof.goodput), proof.measured
    assert asked.rate is not None
    assert found.rate_bit_s is not None
    assert found.delay_s is not None
    return found.rate_bit_s / asked.rate - 1, found.delay_s - asked.delay


def rates_and_delays(links: str, rates: tuple[float, ...], delays: tuple[float, ...]) -> Iterator[tuple[str, ...]]:
    for rate in rates:
        for delay in delays:
            what = (f"{rate / 1e6:g} Mbit/s", f"{delay * 1e3:g} ms")
            try:
                both = proofs(links, {"rate": rate, "delay": delay})
            except Unavailable as refused:
                yield (*what, f"refused: {refused}", "", "", "")
                continue
            by_rate = max(both, key=lambda proof: abs(off(proof)[0]))
            by_delay = max(both, key=lambda proof: abs(off(proof)[1]))
            assert by_rate.measured.rate_bit_s is not None
            assert by_delay.measured.delay_s is not None
            yield (
                *what,
                f"{by_rate.measured.rate_bit_s / 1e6:.4g} Mbit/s",
                f"{100 * off(by_rate)[0]:+.2f} %",
                f"{by_delay.measured.delay_s * 1e3:.3f} ms",
                f"{off(by_delay)[1] * 1e3:+.3f} ms",
            )


def jitters(links: str, samples: int) -> Iterator[tuple[str, ...]]:
    """Of messages: not where packets are real, as a message is there when the last of its packets is; see
    benchmarks/relay.py for these."""
    for kind, more in (("normal", 1), ("uniform", 1), ("pareto", 6)):  # the longer the tail, the more samples it takes
        both = proofs(links, {"rate": 10e6, "delay": 0.05, "jitter": JITTER, "jitter_kind": kind}, more * samples)
        found = [proof.measured.jitter_s for proof in both]
        worst = max((one for one in found if one is not None), key=lambda one: abs(one - JITTER))
        shown = (f"{JITTER * 1e3:g} ms", f"{worst * 1e3:.3f} ms", f"{100 * (worst / JITTER - 1):+.1f} %")
        yield (f"jitter, {kind}", *shown, "within 10 %" if abs(worst / JITTER - 1) <= 0.1 else "misses 10 %")


def losses(links: str, burst_time: float) -> Iterator[tuple[str, ...]]:
    for loss in LOSSES:
        for proof in proofs(links, {"rate": 10e6, "delay": 0.001, **loss}, 20, burst_time):
            assert proof.loss is not None
            low, high = (edge / proof.packets for edge in binom.interval(0.99, proof.packets, loss["loss"]))
            name = f"loss, {proof.packets} packets"
            verdict = f"99 %: {100 * low:.2f} to {100 * high:.2f} %"
            if "burst_length" in loss:  # they come together: the interval of independent losses is too narrow
                name, verdict = f"{name}, in bursts of {loss['burst_length']:g}", "no interval: not independent"
            else:
                verdict += ", inside" if low <= proof.loss <= high else ", OUTSIDE"
            off_by = f"{100 * (proof.loss / loss['loss'] - 1):+.1f} %"
            yield (name, f"{100 * loss['loss']:g} %", f"{100 * proof.loss:.3f} %", off_by, verdict)


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--links", action="append", choices=("userspace", "netns"))
    parser.add_argument("--quick", action="store_true", help="fewer rows")
    options = parser.parse_args()
    console = Console(width=110)
    for links in options.links or ("userspace", "netns"):
        title = f"links: {links}, load average {os.getloadavg()[0]:.1f}"
        table = Table("rate asked", "delay asked", "rate", "off by", "delay", "off by", title=title)
        chosen = (RATES[2:4], DELAYS[:3]) if options.quick else (RATES, DELAYS)
        for row in rates_and_delays(links, *chosen):
            table.add_row(*row)
        console.print(table)
        table = Table("", "asked", "measured", "off by", "", title=title)
        for row in jitters(links, 50 if options.quick else 400) if links == "userspace" else ():
            table.add_row(*row)
        for row in losses(links, 2.0 if options.quick else 10.0):
            table.add_row(*row)
        console.print(table)


if __name__ == "__main__":
    main()
