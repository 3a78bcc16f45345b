"""Links as requested, as applied and as measured, one beside the other."""

from __future__ import annotations

import os
from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import asdict, dataclass, replace
from typing import Any

from rich import box
from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from edgesim.fleet.base import Fleet
from edgesim.network.namespaces import Network, NetworkError, warm_up
from edgesim.network.plan import Applied, Plan
from edgesim.network.records import Record, RecordError, recorded
from edgesim.network.shaping import payload_rate
from edgesim.topology.links import Link
from edgesim.topology.quantities import format_fraction, format_rate, format_time
from edgesim.topology.schema import Topology
from node_agent.compression.settings import NoneSettings
from node_agent.events import Measured, Probed, Started
from node_agent.job import Job, LinkSettings, ProbeSettings
from node_agent.judgement import at_rest
from node_agent.link_model import PACKET, frame_bytes, patience
from node_agent.plain import plain


@dataclass(frozen=True)
class Proof:
    """One direction of a link."""

    requested: LinkSettings
    """at the moment that was asked about"""
    applied: LinkSettings
    """read back from what imposes it"""
    measured: Measured
    packets: int
    """that were sent to measure it, those of 1,500 bytes that came again included"""
    loss: float | None
    """share of them that was lost; None: none was sent"""
    deviations: tuple[str, ...]
    """beyond the tolerance, in words"""
    goodput: float = 1.0
    """share of the rate that messages get"""

    def as_json(self) -> dict[str, Any]:
        def state(link: LinkSettings) -> dict[str, Any]:
            return {
                "rate_bit_s": link.rate,
                "delay_s": link.delay,
                "jitter_s": link.jitter,
                "loss": link.loss,
                "overhead_bytes": link.overhead,
            }

        content: dict[str, Any] = plain(
            {
                "link": self.requested.name,
                "requested": state(self.requested),
                "applied": state(self.applied),
                "measured": {**asdict(self.measured), "packets": self.packets, "loss": self.loss},
                "deviations": list(self.deviations),
            }
        )
        return content


def jobs(
    topology: Topology,
    link: Link,
    probe: ProbeSettings,
    moment: float,
    rendezvous: str,
    network: Network | None = None,
) -> list[Job]:
    """One for each end of a link: a ring of two that trains nothing. The link is as it is at `moment`, s."""
    ends = tuple(link.between)
    there, back = (at_rest(topology.link(*pair), moment) for pair in (ends, ends[::-1]))
    frame = frame_bytes((there, back))
    silence = topology.emulation.timeout + sum(patience(one, frame, network is not None) for one in (there, back))
    if network is not None:
        probe = probe.model_copy(update={"warm_up": warm_up((there, back))})
    return [
        Job(
            run=topology.name,
            rank=rank,
            nodes=ends,
            seed=topology.seed,
            steps=1,
            outgoing=outgoing,
            incoming=incoming,
            frame=frame,
            rendezvous=rendezvous,
            timeout=silence,
            probe=probe,
            compressor=NoneSettings(),
            **(network.inside(topology.ring.index(ends[rank])) if network is not None else {}),
        )
        for rank, (outgoing, incoming) in enumerate(((there, back), (back, there)))
    ]


def prove(
    topology: Topology,
    fleet: Callable[[], Fleet],
    probe: ProbeSettings,
    moment: float = 0.0,
    plan: Plan | None = None,
) -> Generator[tuple[Proof, Proof], None, None]:
    """Measure every link of a topology, one after the other, both directions at once; with a plan, as the kernel
    imposes them.

    Raises NodeFailure where a link cannot be measured, NetworkError where the network or a record of it cannot be made.
    """
    with _recorded(f"links-{os.getpid()}") as record, _network(plan, moment, record) as network:
        for link in topology.links:
            with fleet() as nodes:
                record.leave(nodes.folders())
                meeting = record.folder()
                asked = jobs(topology, link, probe, moment, f"file://{meeting}/rendezvous", network)
                nodes.start(asked, [meeting / f"{job.rank}.log" for job in asked])
                probed = []
                for event in nodes.events():
                    if isinstance(event, Started):
                        record.add(event.pid)
                    elif isinstance(event, Probed):
                        probed.append(event)
            first, second = sorted(probed, key=lambda event: event.rank)
            # What arrives at the second node left the first.
            there, back = proof_of(asked[0], first, second), proof_of(asked[1], second, first)
            if network is not None:
                applied = {one.link.name: one for one in network.applied()}
                there, back = (by_kernel(proof, applied[proof.requested.name]) for proof in (there, back))
            yield there, back


@contextmanager
def _recorded(name: str) -> Iterator[Record]:
    try:
        with recorded(name) as record:
            yield record
    except RecordError as error:
        raise NetworkError(str(error)) from error


def _network(plan: Plan | None, moment: float, record: Record) -> AbstractContextManager[Network | None]:
    return nullcontext() if plan is None else Network(replace(plan_at(plan, moment), run=record.run), record)


def plan_at(plan: Plan, moment: float) -> Plan:
    """With every link as it is at one moment, with contact."""
    wires = (
        replace(wire, forward=at_rest(wire.forward, moment), backward=at_rest(wire.backward, moment))
        for wire in plan.wires
    )
    return replace(plan, wires=tuple(wires))


def by_kernel(proof: Proof, applied: Applied) -> Proof:
    """The proof of a link that the kernel imposes: as it was read back, and with the packets that were lost."""
    relayed = applied.relayed
    packets = applied.counters.packets if relayed is None else relayed.packets_in
    lost = applied.counters.dropped if relayed is None else relayed.lost
    loss = lost / packets if packets and applied.means != "netem" else None
    goodput = payload_rate(1.0, proof.requested.overhead) * (1 + proof.requested.overhead / PACKET)
    return judged(replace(proof, applied=applied.link, packets=packets, loss=loss, goodput=goodput))


def proof_of(job: Job, sender: Probed, receiver: Probed) -> Proof:
    """Of the outgoing link of a job."""
    assert job.outgoing is not None
    wire = sender.sent.message_bytes + sender.sent.retransmitted_bytes
    loss = sender.sent.retransmitted_bytes / wire if wire else None
    asked = at_rest(job.outgoing)
    return judged(Proof(asked, sender.applied, receiver.found, wire // PACKET, loss, receiver.deviations))


def judged(proof: Proof) -> Proof:
    """With its loss, where each packet is lost on its own and they were enough to tell."""
    missed = tuple(one for one in proof.deviations if not one.startswith("loss"))
    interval = loss_interval(proof)
    if interval is None or proof.loss is None or interval[0] <= proof.loss <= interval[1]:
        return replace(proof, deviations=missed)
    found, asked = format_fraction(proof.loss), format_fraction(proof.requested.loss)
    text = f"loss {found} of {proof.packets} packets instead of {asked}"
    return replace(proof, deviations=(*missed, text))


def loss_interval(proof: Proof) -> tuple[float, float] | None:
    """Where the share of lost packets lies once in a thousand measurements not; None: not to be told."""
    from scipy.stats import binom

    asked = proof.requested
    if asked.bursts is not None or not proof.packets or (asked.loss and asked.loss * proof.packets < 1):
        return None
    low, high = binom.interval(0.999, proof.packets, asked.loss) if asked.loss else (0, 0)
    return float(low / proof.packets), float(high / proof.packets)


def render(proofs: Sequence[Proof], tolerance: float) -> RenderableType:
    """A table of three columns a quantity, and what to make of it."""
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    table.add_column("link", overflow="fold")
    for heading in ("rate", "delay", "jitter", "loss"):
        table.add_column(heading, justify="right")
    table.add_column("")
    for proof in proofs:
        rows = (
            ("requested", _cells(proof.requested)),
            ("applied", _cells(proof.applied)),
            ("measured", _measured(proof)),
        )
        for number, (word, cells) in enumerate(rows):
            name = proof.requested.name if number == 0 else ""
            table.add_row(name, *cells, Text.assemble((word, "dim"), _verdict(proof) if word == "measured" else ""))
        table.add_section()
    missed = [f"{proof.requested.name}: {', '.join(proof.deviations)}" for proof in proofs if proof.deviations]
    kept = (
        f"all {len(proofs)} directions are as asked: within {format_fraction(tolerance)} and what so few samples tell"
    )
    return Group(table, Text("\n".join(missed) or kept))


def _verdict(proof: Proof) -> tuple[str, str]:
    return (" misses", "red") if proof.deviations else (" ok", "green")


def _cells(link: LinkSettings) -> list[str]:
    return [
        format_rate(link.rate),
        format_time(link.delay),
        format_time(link.jitter),
        format_fraction(link.loss),
    ]


def _measured(proof: Proof) -> list[str]:
    found = proof.measured
    return [
        format_rate(found.rate_bit_s) if found.rate_bit_s is not None else "-",
        format_time(found.delay_s) if found.delay_s is not None else "-",
        format_time(found.jitter_s) if found.jitter_s is not None else "-",
        format_fraction(proof.loss) if proof.loss is not None else "-",
    ]
