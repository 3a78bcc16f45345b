"""The relay's own process: one loop over TUN devices that passes packets on when they are due.

Started by `edgesim.network.relay`; told what to do, and asked what happened, by lines of JSON on its standard input and
output. It ends when its input does, or when the process that started it is gone.
"""

from __future__ import annotations

import ctypes
import gc
import json
import os
import select
import signal
import sys
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any, TextIO
from zlib import crc32

import numpy as np

from edgesim.network.passage import Passage
from node_agent.job import LinkSettings

NAP = 0.2e-3
"""s; where one piece of work follows on another within twice this, the relay sleeps for so long before it looks for
more, so that dense traffic wakes it 5,000 times a second at most. Packets are written up to half of this early or late.
"""

LONGEST_WAIT = 1.0
"""s; how long the relay sleeps at most while nothing comes"""

LOOK = 0.05
"""s between two looks, while packets come, at what has been asked for, and at whether the process that started the
relay still lives"""

PACKETS_AT_ONCE = 256
"""read from one device before the others have their turn"""

LARGEST_PACKET = 65_536 + 64

_PR_SET_TIMERSLACK = 29


@dataclass
class _Direction:
    passage: Passage
    source: int
    target: int


class _Serving:
    """What runs in the relay's own process: one loop over all devices."""

    def __init__(self, directions: Sequence[_Direction], parent: int, orders: TextIO, answers: TextIO) -> None:
        self._directions = directions
        self._by_source = {direction.source: direction for direction in directions}
        self._parent = parent
        self._orders = orders
        self._answers = answers
        self._devices = select.epoll()
        for direction in directions:
            self._devices.register(direction.source, select.EPOLLIN)

    def run(self) -> None:
        """Returns when the process that started this one is gone."""
        looked = worked = last_obeyed = time.monotonic()
        waiting_for = [self._devices.fileno(), self._orders.fileno()]
        napping = False
        while True:
            if napping:
                time.sleep(NAP)
            else:
                moment = min(direction.passage.next_moment for direction in self._directions)
                left = moment - NAP / 2 - time.monotonic()
                select.select(waiting_for, (), (), max(0.0, min(left, LONGEST_WAIT)))
            now = time.monotonic()
            # What came while it slept came in the middle of the nap, on average.
            arrival = (looked + now) / 2 if napping else now
            looked = now
            some = self._read(arrival)
            some |= self._write(now + NAP / 2)
            napping = some and now - worked < 2 * NAP
            if some:
                worked = now
            if not some or now > last_obeyed + LOOK:
                last_obeyed = now
                if os.getppid() != self._parent or not self._obey():
                    return

    def _read(self, now: float) -> bool:
        ready = self._devices.poll(0)
        for source, _ in ready:
            arrive = self._by_source[source].passage.arrive
            try:
                for _ in range(PACKETS_AT_ONCE):
                    arrive(os.read(source, LARGEST_PACKET), now)
            except BlockingIOError:
                pass
            except OSError:  # the device is gone, and its namespace with it
                self._devices.unregister(source)
        return bool(ready)

    def _write(self, until: float) -> bool:
        worked = False
        for direction in self._directions:
            passage = direction.passage
            if passage.next_moment > until:
                continue
            worked = True
            for due, packet in passage.due(until):
                try:
                    os.write(direction.target, packet)
                except OSError:
                    passage.refused(packet)
                    continue
                passage.sent(packet, time.monotonic() - due)
        return worked

    def _obey(self) -> bool:
        """Do what has been asked for; False: nothing will be any more."""
        if not select.select([self._orders], (), (), 0)[0]:
            return True
        line = self._orders.readline()
        if not line:
            return False
        order = json.loads(line)
        if "origin" in order:
            for direction in self._directions:
                direction.passage.start_clock(order["origin"], time.monotonic())
        _say(
            self._answers,
            {"counters": {one.passage.settings.name: asdict(one.passage.counters) for one in self._directions}},
        )
        return True


def _say(answers: TextIO, answer: dict[str, Any]) -> None:
    answers.write(json.dumps(answer) + "\n")
    answers.flush()


def _directions(tunnels: Sequence[dict[str, Any]], seed: int) -> list[_Direction]:
    directions = []
    for tunnel in tunnels:
        for settings, source, target in (
            (tunnel["forward"], tunnel["near"], tunnel["far"]),
            (tunnel["backward"], tunnel["far"], tunnel["near"]),
        ):
            link = LinkSettings.model_validate(settings)
            # A link's randomness is its own, whichever relay it is in.
            generator = np.random.default_rng([seed, 0x7E1A, crc32(link.name.encode())])
            directions.append(_Direction(Passage(link, generator), source, target))
    return directions


def _go_first() -> bool:
    """Run before ordinary processes; False: not permitted."""
    ctypes.CDLL(None).prctl(_PR_SET_TIMERSLACK, 1000, 0, 0, 0)  # ns that a sleep may be longer; else 50,000
    try:
        os.sched_setscheduler(0, os.SCHED_RR, os.sched_param(1))
    except PermissionError:
        return False
    return True


def main() -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # whoever started it is told, and ends it in order
    order = json.loads(sys.stdin.readline())
    serving = _Serving(_directions(order["tunnels"], order["seed"]), order["parent"], sys.stdin, sys.stdout)
    gc.freeze()
    gc.disable()  # no pause for what makes no cycles
    _say(sys.stdout, {"real_time": _go_first()})
    serving.run()


if __name__ == "__main__":
    main()
