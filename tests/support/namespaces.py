"""Two network namespaces with a relayed link between them, for tests and benchmarks; gone with this process."""

from __future__ import annotations

import os
import shutil
import socket
import struct
import subprocess
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from edgesim.network.relay import Relay, Tunnel, packets_at_once
from edgesim.network.syscalls import CLONE_NEWNET, setns
from edgesim.network.tun import DEVICE, open_tun
from node_agent.job import LinkSettings

T = TypeVar("T")

NEAR, FAR = "10.77.0.1", "10.77.0.2"

DEVICE_NAME = "tun0"

SO_TIMESTAMPNS = 35
"""of socket(7); Python does not name it"""


def missing() -> str | None:
    """Why no relayed link can be made here; None if one can."""
    if not os.access(DEVICE, os.R_OK | os.W_OK):
        return f"{DEVICE} is absent or not for this user"
    for tool in ("unshare", "nsenter", "tc", "ip"):
        if shutil.which(tool) is None:
            return f"{tool} is absent"
    tried = subprocess.run(["unshare", "--net", "tc", "qdisc"], capture_output=True, text=True)
    return None if tried.returncode == 0 else f"no network namespaces: {tried.stderr.strip()}"


def inside(namespace: str, act: Callable[[], T]) -> T:
    """What `act` returns, or raises, in the network namespace behind a path: called in a thread of its own, with which
    the stay ends."""

    def enter_and_act() -> T:
        descriptor = os.open(namespace, os.O_RDONLY | os.O_CLOEXEC)
        try:
            setns(descriptor, CLONE_NEWNET)
        finally:
            os.close(descriptor)
        return act()

    with ThreadPoolExecutor(1) as pool:
        return pool.submit(enter_and_act).result()


@dataclass
class Link:
    relay: Relay
    near: str
    """path of a network namespace"""
    far: str

    def datagrams(self) -> tuple[socket.socket, socket.socket]:
        """A socket at the near end, connected to one at the far end."""
        receiver = inside(self.far, lambda: socket.socket(socket.AF_INET, socket.SOCK_DGRAM))
        receiver.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4 * 2**20)
        receiver.setsockopt(socket.SOL_SOCKET, SO_TIMESTAMPNS, 1)
        receiver.bind((FAR, 0))
        sender = inside(self.near, lambda: socket.socket(socket.AF_INET, socket.SOCK_DGRAM))
        sender.connect(receiver.getsockname())
        return sender, receiver

    def connection(self, congestion_control: str = "cubic") -> tuple[socket.socket, socket.socket]:
        """Both ends of a TCP connection, the near one first."""
        listener = inside(self.far, lambda: socket.create_server((FAR, 0)))
        near = inside(self.near, lambda: socket.socket(socket.AF_INET, socket.SOCK_STREAM))
        near.setsockopt(socket.IPPROTO_TCP, socket.TCP_CONGESTION, congestion_control.encode())
        near.connect(listener.getsockname())
        far, _ = listener.accept()
        listener.close()
        return near, far


@contextmanager
def relayed_link(mtu: int = 1500, backward: dict[str, Any] | None = None, **forward: Any) -> Iterator[Link]:
    """A link with the settings `forward`, and the same ones backward unless others are given."""
    there = LinkSettings(source="near", target="far", **forward)
    back = LinkSettings(source="far", target="near", **(forward if backward is None else backward))
    with ExitStack() as stack:
        near, far = stack.enter_context(_namespace()), stack.enter_context(_namespace())
        first, second = (inside(namespace, lambda: open_tun(DEVICE_NAME)) for namespace in (near, far))
        for namespace, address, settings in ((near, NEAR, there), (far, FAR, back)):
            _inside(namespace, "ip", "link", "set", DEVICE_NAME, "mtu", str(mtu), "txqueuelen", "1000", "up")
            _inside(namespace, "ip", "address", "add", f"{address}/24", "dev", DEVICE_NAME)
            if settings.rate is not None:
                _shape(namespace, settings, mtu)
        relay = stack.enter_context(Relay([Tunnel(there, back, first, second)], seed=7))
        yield Link(relay, near, far)


def _shape(namespace: str, settings: LinkSettings, mtu: int) -> None:
    assert settings.rate is not None
    packets = packets_at_once(settings.rate, mtu)
    _inside(namespace, "ip", "link", "set", DEVICE_NAME, "gso_max_segs", str(packets))
    burst = 2 * packets * mtu
    limit = int(settings.rate / 8 * max(2 * settings.delay, 0.1)) + 20 * mtu
    shape = ["rate", f"{settings.rate:.0f}bit", "burst", str(burst), "limit", str(limit)]
    _inside(namespace, "tc", "qdisc", "add", "dev", DEVICE_NAME, "root", "tbf", *shape)


def delays_of(link: Link, number: int, gap: float, size: int, silence: float) -> NDArray[np.float64]:
    """One-way delays of those of `number` datagrams of `size` bytes, `gap` seconds apart, that arrive, in the order of
    their arrival; no more are waited for once none has come for `silence` seconds."""
    sender, receiver = link.datagrams()
    with sender, receiver, ThreadPoolExecutor(1) as pool:
        arriving = pool.submit(arrivals, receiver, silence)
        send(sender, number, gap, size)
        return np.array([arrived - sent for sent, arrived in arriving.result()])


def send(sender: socket.socket, number: int, gap: float, size: int = 100) -> None:
    """Send datagrams that say when they were sent."""
    for _ in range(number):
        sender.send(struct.pack("d", time.time()).ljust(size, b"\0"))
        time.sleep(gap)


def arrivals(receiver: socket.socket, silence: float) -> list[tuple[float, float]]:
    """When each datagram was sent and when the kernel had it, by the real-time clock, s; until none comes for
    `silence` seconds."""
    receiver.settimeout(silence)
    found = []
    try:
        while True:
            datagram, ancillary, _, _ = receiver.recvmsg(65536, 64)
            seconds, nanoseconds = struct.unpack("qq", ancillary[0][2])
            found.append((struct.unpack_from("d", datagram)[0], seconds + nanoseconds * 1e-9))
    except TimeoutError:
        return found


@contextmanager
def _namespace() -> Iterator[str]:
    """Path of a network namespace that lasts as long as a process that waits for the end of its input."""
    holder = subprocess.Popen(
        ["unshare", "--net", "sh", "-c", "ip link set lo up && echo ready && exec cat"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    try:
        assert holder.stdout is not None
        assert holder.stdout.readline() == "ready\n"
        yield f"/proc/{holder.pid}/ns/net"
    finally:
        holder.communicate()


def _inside(namespace: str, *command: str) -> None:
    done = subprocess.run(["nsenter", f"--net={namespace}", *command], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
