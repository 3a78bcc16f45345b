"""The bytes of a run on three levels, which have to agree: what its collectives come to by formula, what each node
handed to its outgoing link, and what the network device behind that link sent by the kernel's count."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from itertools import pairwise
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgesim.network.shaping import ETHERNET, MTU
from edgesim.results import Run
from edgesim.topology.paths import Ends, ways
from node_agent.link_model import TCP_HEADERS, TRANSPORT_HEADER, TRANSPORT_NOTICE

TOLERANCE = 0.005
"""share by which what a device carried may differ from what the node handed to it"""

MOST_OPTIONS = 28
"""bytes of TCP's header besides timestamps, in packets that tell of lost ones (three blocks of RFC 2018)"""


@dataclass(frozen=True)
class Carried:
    """What the device of a hop's first link sent, and what of it is not the hop's own messages."""

    interface_bytes: int
    """all that left by it"""
    interface_packets: int
    header_bytes: int
    """of Ethernet (which relayed links do not have), IP and TCP"""
    transport_bytes: int
    """what Gloo puts before messages, and its notices"""
    passing_bytes: int
    """messages of other hops that go over the same link"""
    carried_bytes: int
    """the rest: this hop's messages, and what TCP had to send again"""
    retransmitted_packets: int
    """TCP segments sent again by the nodes whose connections go over the link"""
    largest_gap_bytes: int
    """between what had been handed over and what had been carried by the end of a step, of all steps: some of it may
    still be under way then"""


@dataclass(frozen=True)
class Entry:
    """Of one hop of the ring, over all steps that every node came to the end of."""

    formula_bytes: int
    """messages of the ring, headers included, as the lengths of the payloads tell (`node_agent.ring`)"""
    encoded_bytes: int
    """the same as counted message by message"""
    carried: Carried | None
    """None: the node itself imposes the link, and no device is the link's own"""

    def described(self) -> dict[str, Any]:
        found = {"formula_bytes": self.formula_bytes, "encoded_bytes": self.encoded_bytes}
        if self.carried is None:
            return found
        ratio = self.carried.carried_bytes / self.encoded_bytes if self.encoded_bytes else None
        return {**found, **asdict(self.carried), "carried_ratio": ratio}

    def deviations(self, at_rest: bool) -> list[str]:
        """What of it does not agree, in words. `at_rest`: nothing was under way any more when the device was read."""
        missed = []
        if self.formula_bytes != self.encoded_bytes:
            missed.append(f"{self.encoded_bytes:,} bytes sent instead of {self.formula_bytes:,} by formula")
        if self.carried is not None and at_rest:
            again = self.carried.retransmitted_packets
            allowed = TOLERANCE * self.encoded_bytes
            slack = MTU * again + MOST_OPTIONS * self.carried.interface_packets if again else 0
            if not -allowed <= self.carried.carried_bytes - self.encoded_bytes <= allowed + slack:
                missed.append(f"its device carried {self.carried.carried_bytes:,} of {self.encoded_bytes:,} bytes sent")
        return missed


def ledger(run: Run, read_back: Mapping[Ends, Mapping[str, Any]]) -> dict[Ends, Entry]:
    """By source and target of each hop of the ring; `read_back` tells by what `means` the kernel imposes each link
    (`summary.read_back_links`)."""
    if not np.isfinite(run.steps["formula_bytes"]).all():  # a folder that does not know of the ledger
        return {}
    rows = {node: run.of_node(node) for node in run.nodes}
    steps = min((len(row["step"]) for row in rows.values()), default=0)
    traffic = _Traffic(run, steps)
    entries: dict[Ends, Entry] = {}
    for source, target in run.ring:
        row = {name: column[:steps] for name, column in rows[source].items()}
        first = run.hops[source, target].links[0] if (source, target) in run.hops else None
        carried = None
        if first is not None and first in read_back and np.isfinite(row["interface_bytes"]).all():
            header = TCP_HEADERS + (0 if read_back[first]["means"] == "relay" else ETHERNET)
            headers, transport = header * row["interface_packets"], traffic.transport(first)
            passing = traffic.messages_bytes(first) - row["bytes_sent"]
            own = row["interface_bytes"] - headers - transport - passing
            again = sum(int(rows[node]["retransmitted_packets"][:steps].sum()) for node in traffic.nodes(first))
            carried = Carried(
                interface_bytes=int(row["interface_bytes"].sum()),
                interface_packets=int(row["interface_packets"].sum()),
                header_bytes=int(headers.sum()),
                transport_bytes=int(transport.sum()),
                passing_bytes=int(passing.sum()),
                carried_bytes=int(own.sum()),
                retransmitted_packets=again,
                largest_gap_bytes=int(np.abs(np.cumsum(row["bytes_sent"] - own)).max(initial=0)),
            )
        entries[source, target] = Entry(int(row["formula_bytes"].sum()), int(row["bytes_sent"].sum()), carried)
    return entries


class _Traffic:
    """What goes over one direction of a link, step by step: the messages of every hop of the ring whose way there it
    lies on, each behind a header and a notice of Gloo's; the notices of receives of every hop whose way back it lies
    on; and acknowledgements, which are nothing but headers."""

    def __init__(self, run: Run, steps: int) -> None:
        links = list(run.link_settings)
        sent = {ends: run.of_link(*ends) for ends in run.hops}
        self._messages = {ends: link["messages"][:steps] for ends, link in sent.items()}
        self._bytes = {ends: (link["payload_bytes"] + link["header_bytes"])[:steps] for ends, link in sent.items()}
        self._there = {ends: set(hop.links) for ends, hop in run.hops.items()}
        self._back = {
            (source, target): set(pairwise(ways(run.nodes, links, target)[source])) for source, target in run.hops
        }
        self._none = np.zeros(steps)

    def messages_bytes(self, link: Ends) -> NDArray[Any]:
        return sum((self._bytes[hop] for hop in self._going(link)), self._none)

    def transport(self, link: Ends) -> NDArray[Any]:
        there = sum((self._messages[hop] for hop in self._going(link)), self._none)
        back = sum((self._messages[hop] for hop in self._coming(link)), self._none)
        return (TRANSPORT_HEADER + TRANSPORT_NOTICE) * there + TRANSPORT_NOTICE * back

    def nodes(self, link: Ends) -> set[str]:
        return {node for hop in (*self._going(link), *self._coming(link)) for node in hop}

    def _going(self, link: Ends) -> list[Ends]:
        return [hop for hop, links in self._there.items() if link in links]

    def _coming(self, link: Ends) -> list[Ends]:
        return [hop for hop, links in self._back.items() if link in links]
