"""What the relay gives against what was asked of it: TCP goodput, delay, jitter, loss, and what it costs.

Two network namespaces of this host, MTU 1500, rate by the kernel's token bucket. The delay is the one-way delay of
single datagrams, less the time that their bits take; the goodput is that of a TCP connection (cubic) once it has found
its rate, as a share of what is left of the rate after the headers of IP and TCP.
"""

from __future__ import annotations

import os
import socket
import sys
import threading
import time
from pathlib import Path
from typing import Any

import numpy as np
import psutil
from rich.console import Console
from rich.table import Table

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "tests" / "support"))

from namespaces import Link, delays_of, relayed_link  # the tests' own way of making two namespaces and a link

RATES = (0.1e6, 1e6, 10e6, 50e6, 100e6, 200e6, 500e6)
DELAYS = (0.0, 0.005, 0.05, 0.3)
PAYLOAD = 1448 / 1500
"""share of a packet that 20 bytes of IP, 20 of TCP and 12 of its time stamps leave"""
HEADERS = 28
"""bytes of IP and UDP"""
DATAGRAM = 100
SO_SNDBUFFORCE, SO_RCVBUFFORCE = 32, 33


def delay_errors(link: Link, rate: float, delay: float, number: int = 200) -> np.ndarray[Any, Any]:
    gap = max(0.005, 16 * (DATAGRAM + HEADERS) / rate)
    delays = delays_of(link, number if gap < 0.05 else number // 5, gap, DATAGRAM, delay + 1.0)
    return delays - delay - 8 * (DATAGRAM + HEADERS) / rate


def goodputs(link: Link, rate: float, delay: float, both: bool = False) -> tuple[list[float], float]:
    """Of one connection, or of one each way, bit/s, and the share of a core that the relay took meanwhile."""
    ends = [link.connection() for _ in range(1 + both)]
    ends = [pair if number == 0 else pair[::-1] for number, pair in enumerate(ends)]
    buffer = int(4 * rate / 8 * (2 * delay + 0.02)) + 2**18
    settle, measured = 4.0 + 20 * delay, max(2.0, 3e6 / rate)
    end = time.monotonic() + settle + measured
    found: dict[int, float] = {}

    def send(sender: socket.socket) -> None:
        sender.setsockopt(socket.SOL_SOCKET, SO_SNDBUFFORCE, buffer)
        block = bytes(1 << 17)
        while time.monotonic() < end:
            sender.send(block)
        sender.close()

    def receive(number: int, receiver: socket.socket) -> None:
        receiver.setsockopt(socket.SOL_SOCKET, SO_RCVBUFFORCE, buffer)
        total, points = 0, []
        while (now := time.monotonic()) < end and (got := len(receiver.recv(1 << 18))):
            total += got
            if now > end - measured:
                points.append((time.monotonic(), total))
        receiver.close()
        (first, before), (last, after) = points[0], points[-1]
        found[number] = 8 * (after - before) / (last - first)

    threads = []
    for number, (sender, receiver) in enumerate(ends):
        threads += [threading.Thread(target=send, args=(sender,), daemon=True)]
        threads += [threading.Thread(target=receive, args=(number, receiver), daemon=True)]
    for thread in threads:
        thread.start()
    time.sleep(settle)
    before, began = _cpu(link), time.monotonic()
    time.sleep(measured - 0.1)
    share = (_cpu(link) - before) / (time.monotonic() - began)
    for thread in threads:
        thread.join(30)
    return [found[number] for number in sorted(found)], share


def _cpu(link: Link) -> float:
    times = psutil.Process(link.relay.pid).cpu_times()
    return times.user + times.system


def rates_and_delays() -> Table:
    table = Table("rate", "delay", "goodput", "of rate x payload", "delay off by, median", "95 %", "relay, of a core")
    for rate in RATES:
        for delay in DELAYS:
            with relayed_link(rate=rate, delay=delay) as link:
                errors = delay_errors(link, rate, delay)
                (goodput,), share = goodputs(link, rate, delay)
            table.add_row(
                f"{rate / 1e6:g} Mbit/s",
                f"{delay * 1e3:g} ms",
                f"{goodput / 1e6:.4g} Mbit/s",
                f"{100 * goodput / rate / PAYLOAD:.1f} %",
                f"{1e3 * np.median(errors):+.2f} ms",
                f"{1e3 * np.percentile(np.abs(errors), 95):.2f} ms",
                f"{100 * share:.0f} %",
            )
    return table


def both_ways() -> Table:
    table = Table("both ways at", "goodputs, of rate x payload", "later than 1 ms", "mean", "most", "relay, of a core")
    for rate in (100e6, 200e6, 500e6):
        with relayed_link(rate=rate, delay=0.005) as link:
            found, share = goodputs(link, rate, 0.005, both=True)
            counters = list(link.relay.counters().values())
        table.add_row(
            f"{rate / 1e6:g} Mbit/s",
            ", ".join(f"{100 * goodput / rate / PAYLOAD:.1f} %" for goodput in found),
            f"{100 * sum(one.late for one in counters) / sum(one.packets_out for one in counters):.2f} %",
            f"{1e3 * max(one.lateness_mean for one in counters):.2f} ms",
            f"{1e3 * max(one.lateness_max for one in counters):.1f} ms",
            f"{100 * share:.0f} %",
        )
    return table


def jitter() -> Table:
    table = Table("jitter", "asked", "measured", "mean delay asked", "measured")
    for kind in ("normal", "uniform", "pareto"):
        with relayed_link(rate=100e6, delay=0.05, jitter=0.005, jitter_kind=kind, reorder=True) as link:
            delays = delays_of(link, 4000, 0.0005, DATAGRAM, 0.5)
        table.add_row(kind, "5 ms", f"{1e3 * delays.std():.2f} ms", "50 ms", f"{1e3 * delays.mean():.2f} ms")
    return table


def main() -> None:
    console = Console(width=110)
    for table in (rates_and_delays(), both_ways(), jitter()):
        console.print(table)
    print(f"load average {os.getloadavg()[0]:.1f}, {os.cpu_count()} cores")


if __name__ == "__main__":
    main()
