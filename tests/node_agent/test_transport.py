"""Messages and their headers, and when a held-back one is let go."""

from __future__ import annotations

import threading
import time
from typing import Any

import pytest
import torch
from torch import Tensor

from node_agent.clock import WallClock
from node_agent.link import DelayLine, IncomingLink
from node_agent.link_model import LinkError
from node_agent.transport import HEADER_BYTES, FramePool


def test_a_header_survives() -> None:
    pool = FramePool(1000)
    frame = pool.take().fill(torch.arange(7, dtype=torch.uint8), total=9)
    frame.write_header(1.25, 2.5, back_to_back=True)
    received = pool.take()
    received.octets[: HEADER_BYTES + 7] = frame.on_the_wire
    assert received.read_header() == (7, 9, 1.25, 2.5, True)
    assert received.payload.tolist() == list(range(7))


def test_what_is_no_message_is_refused() -> None:
    pool = FramePool(1000)
    frame = pool.take().fill(torch.zeros(5, dtype=torch.uint8), total=5)
    frame.write_header(0.0, 0.0, back_to_back=False)
    frame.octets[0] ^= 1
    with pytest.raises(LinkError, match="not a message"):
        frame.read_header()
    long = FramePool(2000).take().fill(torch.zeros(1500, dtype=torch.uint8), total=1500)
    long.write_header(0.0, 0.0, back_to_back=False)
    frame.octets[:] = long.octets[: HEADER_BYTES + 1000]
    with pytest.raises(LinkError, match="length 1500"):
        frame.read_header()


def test_frames_are_as_large_as_asked_and_used_again() -> None:
    pool = FramePool(1000)
    frame = pool.take()
    assert frame.octets.numel() == HEADER_BYTES + 1000
    pool.give(frame)
    assert pool.take() is frame


class Noting:
    """A channel that only notes when it was handed a message."""

    name = "a->b"

    def __init__(self) -> None:
        self.sent: list[float] = []
        self.done = threading.Event()

    def send(self, octets: Tensor) -> None:
        self.sent.append(time.monotonic())

    def finish(self, work: Any) -> None:
        self.done.set()


def test_a_message_is_let_go_as_much_earlier_as_the_transport_takes() -> None:
    channel, pool = Noting(), FramePool(100)
    line = DelayLine(channel, pool, latency=10.0)  # type: ignore[arg-type]
    began = time.monotonic()
    line.hold(pool.take(), began + 10.3)
    assert channel.done.wait(timeout=240)
    line.close()
    assert 0.29 <= channel.sent[0] - began < 10


def test_a_failed_delivery_is_told_to_whoever_sends_next() -> None:
    class Broken(Noting):
        def send(self, octets: Tensor) -> None:
            self.done.set()
            raise LinkError("gone")

    channel, pool = Broken(), FramePool(100)
    line = DelayLine(channel, pool)  # type: ignore[arg-type]
    line.hold(pool.take(), 0.0)
    assert channel.done.wait(timeout=240)
    with pytest.raises(LinkError, match="gone"):
        line.close()


class Feeding:
    """A channel whose messages are there after `seconds`, due `early` seconds before that."""

    def __init__(self, seconds: float, early: float) -> None:
        self.seconds, self.early = seconds, early

    def receive(self, octets: Tensor) -> Tensor:
        return octets

    def finish(self, octets: Tensor) -> None:
        due = time.monotonic() + self.seconds - self.early
        frame = FramePool(100).take().fill(torch.zeros(10, dtype=torch.uint8), total=10)
        frame.write_header(due - 0.5, due, back_to_back=False)
        octets[: HEADER_BYTES + 10] = frame.on_the_wire
        time.sleep(self.seconds)


@pytest.mark.parametrize(("seconds", "early", "seen"), [(0.1, 0.0, 1), (0.1, 5.0, 0)])
def test_an_arrival_is_seen_by_those_who_asked_before_it_was_due(seconds: float, early: float, seen: int) -> None:
    link = IncomingLink(Feeding(seconds, early), FramePool(100))  # type: ignore[arg-type]
    link.receive(WallClock())
    assert link.meter.measured().delay_samples == seen


def test_a_thread_that_is_woken_late_is_woken_earlier(monkeypatch: pytest.MonkeyPatch) -> None:
    now = [100.0]
    monkeypatch.setattr("node_agent.link.time.monotonic", lambda: now[0])
    monkeypatch.setattr("node_agent.link.sleep_until", lambda moment: now.__setitem__(0, moment + 0.001))
    channel = Noting()
    line = DelayLine(channel, FramePool(100))  # type: ignore[arg-type]
    reached = []
    for _ in range(300):
        line._sleep_until(now[0] + 1)
        reached.append(now[0])
    late = [moment - 1 - before for before, moment in zip([100.0, *reached], reached, strict=False)]
    assert late[0] == pytest.approx(0.001)
    assert late[-1] == pytest.approx(0.0, abs=2 * DelayLine.LEARNING)
    line.close()
