"""Runs a function on every node of a small ring, each in a process of its own, over real sockets: of this host, or of
namespaces whose links the kernel imposes."""

from __future__ import annotations

import dataclasses
import io
import multiprocessing
import os
import tempfile
import time
import traceback
from collections.abc import Callable, Sequence
from datetime import timedelta
from multiprocessing import connection
from typing import Any

import numpy as np
import torch
import torch.distributed as dist

from edgesim.fleet.local import SHARED
from edgesim.network.syscalls import enter
from node_agent.clock import Clock, VirtualClock, WallClock
from node_agent.job import Entrance, LinkSettings
from node_agent.link import IncomingLink, OutgoingLink
from node_agent.link_model import LinkModel, frame_bytes
from node_agent.ring import Ring
from node_agent.transport import Channel, FramePool, Handshake

LIMIT = 240.0
"""s that a test may take before its processes are ended"""


class _Hasty(Handshake):
    """Where nobody waits, what a message takes over the bare transport is of no account."""

    PAUSE = 0.0


class Place:
    """Where a function runs: its rank, the ring's size, and how to make a ring."""

    def __init__(self, rank: int, size: int, data: dist.ProcessGroup | None = None) -> None:
        """`data` goes over links that the kernel imposes; None: nodes impose them."""
        self.rank = rank
        self.size = size
        self._data = data
        self._tag = 0

    def clock(self, virtual: bool, factor: float = 0.0) -> Clock:
        return VirtualClock(factor) if virtual else WallClock()

    def ring(self, clock: Clock, timeout: float = 20.0, step: int = 1, **link: Any) -> Ring:
        """A new ring over links of these settings; `step` -1 runs it the other way round."""
        if self.size == 1:
            return Ring(0, 1, clock)
        self._tag += 1
        following, previous = (self.rank + step) % self.size, (self.rank - step) % self.size
        settings = LinkSettings(source=str(self.rank), target=str(following), **link)
        to_next = Channel(following, self._tag, settings.name, timeout, self._data)
        from_previous = Channel(previous, self._tag, f"{previous}->{self.rank}", timeout, self._data)
        aside = (dataclasses.replace(one, tag=0, group=None) for one in (to_next, from_previous))
        handshake = (_Hasty if clock.virtual else Handshake)(self.rank, self.size, *aside)
        pool = FramePool(frame_bytes([settings]))
        model = LinkModel(settings, np.random.default_rng([1, self.rank]))
        outgoing, incoming = (
            OutgoingLink(model, to_next, pool, clock, handshake.latency, imposed=self._data is None),
            IncomingLink(from_previous, pool),
        )
        rank = self.rank if step == 1 else -self.rank % self.size
        bare = None
        if settings.bare and not clock.virtual:
            bare = (
                dataclasses.replace(to_next, tag=1000 + self._tag),
                dataclasses.replace(from_previous, tag=1000 + self._tag),
            )
        return Ring(rank, self.size, clock, outgoing, incoming, pool, bare)


def on_nodes(
    size: int, function: Callable[..., Any], *arguments: Any, entrances: Sequence[Entrance] | None = None
) -> list[Any]:
    """What `function(place, *arguments)` returns on each node; raises what the first failing one raised.

    `entrances` are those of a network's nodes; None: this host's own network."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["processes", *SHARED])
    with tempfile.TemporaryDirectory() as folder:
        nodes = []
        for rank in range(size):
            receiving, sending = context.Pipe(duplex=False)
            process = context.Process(
                target=_main,
                args=(rank, size, f"file://{folder}/rendezvous", function, arguments, sending, entrances),
                daemon=True,
            )
            process.start()
            sending.close()
            nodes.append((process, receiving))
        try:
            results: dict[int, Any] = {}
            waiting = {receiving: rank for rank, (_, receiving) in enumerate(nodes)}
            while waiting:
                ready = connection.wait(list(waiting), timeout=LIMIT)
                assert ready, f"nodes {sorted(waiting.values())} said nothing for {LIMIT:.0f} s"
                for one in ready:
                    rank = waiting.pop(one)  # type: ignore[index]
                    failed, value = torch.load(io.BytesIO(one.recv()), weights_only=False)  # type: ignore[union-attr]
                    assert not failed, f"node {rank}: {value}"
                    results[rank] = value
            return [results[rank] for rank in range(size)]
        finally:
            for process, receiving in nodes:
                process.kill()
                process.join()
                receiving.close()


def _main(
    rank: int,
    size: int,
    rendezvous: str,
    function: Callable[..., Any],
    arguments: tuple[Any, ...],
    sending: Any,
    entrances: Sequence[Entrance] | None,
) -> None:
    torch.set_num_threads(1)
    os.environ.update(TORCH_GLOO_LAZY_INIT="1", GLOO_SOCKET_IFNAME="lo")
    try:
        if entrances is not None:
            from edgesim.network.plan import ASIDE, DATA  # it takes longer than all else that a node does

            enter(entrances[rank].network, entrances[rank].user)
            os.environ["GLOO_SOCKET_IFNAME"] = ASIDE
        timeout = timedelta(seconds=LIMIT)
        dist.init_process_group("gloo", init_method=rendezvous, rank=rank, world_size=size, timeout=timeout)
        data = None
        if entrances is not None:
            os.environ["GLOO_SOCKET_IFNAME"] = DATA
            data = dist.new_group(backend="gloo", timeout=timeout)
        outcome = (False, function(Place(rank, size, data), *arguments))
    except Exception:
        outcome = (True, traceback.format_exc())
    content = io.BytesIO()  # tensors sent as they are would share memory with a process that is about to end
    torch.save(outcome, content)
    sending.send(content.getvalue())
    sending.close()
    store = dist.distributed_c10d._get_default_store()
    store.add("done", 1)
    while store.add("done", 0) < size and not outcome[0]:
        time.sleep(0.01)
    os._exit(0)
