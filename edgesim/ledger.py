"""The bytes of a run on three levels, which have to agree: what its collectives come to by formula, what each node
handed to its outgoing link, and what the network device behind that link sent by the kernel's count."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from itertools import pairwise
from typing import Any

import numpy as np

from edgesim.network.shaping import ETHERNET, MTU
from edgesim.results import Run
from edgesim.topology.paths import Ends, ways
from node_agent.link_model import TCP_HEADERS, TRANSPORT_HEADER, TRANSPORT_NOTICE

TOLERANCE = 0.005
"""share by which what a device carried may differ from what the node handed to it"""


@dataclass(frozen=True)
class Entry:
    """Of one hop of the ring, all steps together. What is about the device is None where the node itself imposes the
    link: then none is the link's own."""

    formula_bytes: int
    """messages of the ring and their headers, as the lengths of the payloads tell (`node_agent.ring`)"""
    encoded_bytes: int
    """the same as counted message by message"""
    interface_bytes: int | None = None
    """all that left by the device of the hop's first link"""
    interface_packets: int | None = None
    header_bytes: int | None = None
    """of these, the headers of Ethernet (not of a relayed link's), IP and TCP"""
    transport_bytes: int | None = None
    """of these, what Gloo puts before messages, and its notices"""
    passing_bytes: int | None = None
    """of these, messages of other hops that go over the same link"""
    retransmitted_packets: int | None = None
    """TCP segments that the node sent again"""
    carried_bytes: int | None = None
    """what is left: this hop's messages"""

    @property
    def ratio(self) -> float | None:
        """What the device carried over what was handed to it."""
        return None if self.carried_bytes is None or not self.encoded_bytes else self.carried_bytes / self.encoded_bytes

    def described(self) -> dict[str, Any]:
        return {**asdict(self), "ratio": self.ratio}

    def deviations(self, at_rest: bool) -> list[str]:
        """What of it does not agree, in words. `at_rest`: nothing was under way any more when the device was read.

        A segment that was sent again may have been counted twice.
        """
        missed = []
        if self.formula_bytes != self.encoded_bytes:
            missed.append(f"{self.encoded_bytes:,} bytes sent instead of {self.formula_bytes:,} by formula")
        if self.carried_bytes is not None and at_rest:
            again = MTU * (self.retransmitted_packets or 0)
            beyond = self.carried_bytes - self.encoded_bytes
            if not -TOLERANCE * self.encoded_bytes <= beyond <= TOLERANCE * self.encoded_bytes + again:
                missed.append(f"{self.carried_bytes:,} bytes carried by the device of {self.encoded_bytes:,} sent")
        return missed


def ledger(run: Run, read_back: Mapping[Ends, Mapping[str, Any]]) -> dict[Ends, Entry]:
    """By source and target of each hop of the ring; `read_back` tells by what `means` the kernel imposes each link
    (`summary.read_back_links`).

    A device carries the messages of every hop that goes over its link, its own headers and Gloo's; of every hop whose
    way back goes over it Gloo's notices of receives; and acknowledgements, which are nothing but headers.
    """
    links = list(run.link_settings)
    rows = {node: run.of_node(node) for node in run.nodes}
    encoded = {ends: int(rows[ends[0]]["bytes_sent"].sum()) for ends in run.ring}
    messages = {ends: int(np.nansum(run.of_link(*ends)["messages"])) for ends in run.ring}
    there = {ends: set(hop.links) for ends, hop in run.hops.items()}
    back = {(source, target): set(pairwise(ways(run.nodes, links, target)[source])) for source, target in there}
    entries: dict[Ends, Entry] = {}
    for ends in run.ring:
        steps = rows[ends[0]]
        formula = int(steps["formula_bytes"].sum())
        first = run.hops[ends].links[0] if ends in run.hops else None
        if first is None or first not in read_back or not np.isfinite(steps["interface_bytes"]).all():
            entries[ends] = Entry(formula, encoded[ends])
            continue
        octets, packets = int(steps["interface_bytes"].sum()), int(steps["interface_packets"].sum())
        headers = packets * (TCP_HEADERS + (0 if read_back[first]["means"] == "relay" else ETHERNET))
        forward = _total(messages, (hop for hop in there if first in there[hop]))
        backward = _total(messages, (hop for hop in back if first in back[hop]))
        transport = (TRANSPORT_HEADER + TRANSPORT_NOTICE) * forward + TRANSPORT_NOTICE * backward
        passing = _total(encoded, (hop for hop in there if first in there[hop] and hop != ends))
        entries[ends] = Entry(
            formula_bytes=formula,
            encoded_bytes=encoded[ends],
            interface_bytes=octets,
            interface_packets=packets,
            header_bytes=headers,
            transport_bytes=transport,
            passing_bytes=passing,
            retransmitted_packets=int(steps["retransmitted_packets"].sum()),
            carried_bytes=octets - headers - transport - passing,
        )
    return entries


def _total(of: Mapping[Ends, int], hops: Iterable[Ends]) -> int:
    return sum(of[hop] for hop in hops)
