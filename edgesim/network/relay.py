"""Delay, jitter, loss and contact windows between network namespaces on a kernel without netem.

A link is two TUN devices, one at each end. The kernel imposes the rate (a token bucket on the device) and hands over
each packet as it leaves; a process of its own imposes the rest and writes the packet to the other device. Nothing of it
outlives the process that started it. A packet that waits for contact waits for as long as it takes: deadlines are their
sender's.

One process serves all links of a run better than one each does: what several links have to do at about the same time is
one wake-up (eight links at 100 Mbit/s: 0.6 of a core, against 1.7).
"""

from __future__ import annotations

import json
import os
import select
import signal
import subprocess
import sys
import threading
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from types import TracebackType
from typing import Any

from edgesim.network import helpers
from edgesim.network.passage import Counters
from edgesim.topology.problems import Refusal
from edgesim.topology.quantities import format_fraction, format_rate, format_time
from node_agent.impairments import Jitter
from node_agent.job import LinkSettings, LinkState

MOST_RATE = 500e6
"""bit/s in each direction of a link. Measured on two cores, which the ends of the connections shared with the relay and
with other work (load average 5): with TCP both ways at once 99 % of the payload's share of the rate in each direction,
less than 0.1 % of the packets more than a millisecond late, a third of a core. `benchmarks/relay.py` measures it."""

AT_ONCE = 1e-3
"""s; the longest that packets of a TCP connection gather at their link's rate to be handed over together"""

WEAKEST_JITTER = 0.95
"""least share of a jitter's standard deviation that may be left after no packet arrives before it was sent"""

ANSWER = 30.0
"""s; the longest that a relay may take to start or to answer"""


class NotCarried(Refusal):
    """What a link asks for and the relay cannot impose within its tolerance."""


class RelayFailed(RuntimeError):
    """The relay's process has ended, or does not answer."""


def carried(settings: LinkSettings) -> None:
    """Whether the relay can impose what a link asks for. Raises NotCarried."""
    where = "through the relay, on a kernel without netem"
    for state in (settings, *settings.changes):
        if state.rate is None:
            raise NotCarried("no limit of the rate", f"at most {format_rate(MOST_RATE)} {where}")
        if state.rate > MOST_RATE:
            raise NotCarried(format_rate(state.rate), f"at most {format_rate(MOST_RATE)} {where}")
        _check_jitter(settings, state)


def _check_jitter(settings: LinkSettings, state: LinkState) -> None:
    if not state.jitter:
        return
    mean, deviation = Jitter(settings.jitter_kind).clipped(state.delay, state.jitter)
    if deviation < WEAKEST_JITTER * state.jitter:
        raise NotCarried(
            f"{settings.jitter_kind} jitter of {format_time(state.jitter)} around a delay of "
            f"{format_time(state.delay)}, of which {format_time(deviation)} would be left around {format_time(mean)} "
            "as no packet arrives before it was sent",
            f"a jitter of which {format_fraction(WEAKEST_JITTER)} are left",
        )


def packets_at_once(rate: float, mtu: int) -> int:
    """How many packets of a TCP connection the kernel should hand over as one frame (a device's gso_max_segs), as
    many as leave within AT_ONCE. The token bucket has to hold two such frames: it cuts those that it cannot hold."""
    return max(1, int(rate * AT_ONCE / 8 / mtu))


@dataclass(frozen=True)
class Tunnel:
    """A link and its two devices' descriptors."""

    forward: LinkSettings
    backward: LinkSettings
    near: int
    """where packets enter that go forward"""
    far: int


class Relay:
    """A process that imposes what links ask for beyond their rate, on one link or several.

    It takes the descriptors over: they are closed here, and the devices go with the process. `real_time` says whether
    the kernel lets it go before ordinary processes; where not, a busy host makes packets late.
    """

    def __init__(self, tunnels: Sequence[Tunnel], seed: int) -> None:
        """Returns once packets are relayed. Raises RelayFailed."""
        self._lock = threading.Lock()
        order = {
            "parent": os.getpid(),
            "seed": seed,
            "tunnels": [
                {
                    "forward": tunnel.forward.model_dump(),
                    "backward": tunnel.backward.model_dump(),
                    "near": tunnel.near,
                    "far": tunnel.far,
                }
                for tunnel in tunnels
            ],
        }
        descriptors = [descriptor for tunnel in tunnels for descriptor in (tunnel.near, tunnel.far)]
        try:
            self._process = subprocess.Popen(
                [sys.executable, "-m", "edgesim.network.forwarding"],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                pass_fds=descriptors,
                env=helpers.environment(OPENBLAS_NUM_THREADS="1", OMP_NUM_THREADS="1"),
                cwd=helpers.FOLDER,
                text=True,
            )
        finally:
            for descriptor in descriptors:
                os.close(descriptor)
        try:
            self.real_time = bool(self._ask(order)["real_time"])
        except BaseException:
            self._process.kill()
            self.close()
            raise

    @property
    def pid(self) -> int:
        return self._process.pid

    def start_clock(self, origin: float) -> None:
        """The run's clock shows 0 when the host's monotonic clock shows `origin`; may be called again when the run's
        clock was set. Until the first time the state of moment 0 holds, and all links have contact.

        Raises RelayFailed.
        """
        self._ask({"origin": origin})

    def counters(self) -> dict[str, Counters]:
        """What happened so far, by the name of the link's direction. Raises RelayFailed."""
        return {name: Counters(**values) for name, values in self._ask({})["counters"].items()}

    def close(self) -> None:
        """End the process, whatever it is doing. The devices are gone afterwards, packets on the way are lost."""
        self._process.terminate()
        with suppress(BrokenPipeError):
            self._process.communicate()

    def _ask(self, order: dict[str, Any]) -> dict[str, Any]:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        with self._lock:
            try:
                self._process.stdin.write(json.dumps(order) + "\n")
                self._process.stdin.flush()
            except (BrokenPipeError, ValueError):
                raise RelayFailed(self._end()) from None
            if not select.select([self._process.stdout], [], [], ANSWER)[0]:
                raise RelayFailed(f"the relay (process {self.pid}) has not answered for {ANSWER:g} s")
            line = self._process.stdout.readline()
        if not line:
            raise RelayFailed(self._end())
        answer: dict[str, Any] = json.loads(line)
        return answer

    def _end(self) -> str:
        code = self._process.wait()
        assert self._process.stderr is not None
        last = "" if self._process.stderr.closed else self._process.stderr.read().strip().rpartition("\n")[2]
        how = f"was killed by {signal.Signals(-code).name}" if code < 0 else f"ended with exit code {code}"
        return f"the relay (process {self.pid}) {how}" + (f": {last}" if last else "")

    def __enter__(self) -> Relay:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()
