"""What a direction of a link does to packets, moment by moment, against cases worked out by hand."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from frames import frame
from hypothesis import given
from hypothesis import strategies as st

from edgesim.network.passage import PACE, Passage
from edgesim.network.segments import HEADER
from node_agent.job import Bursts, Change, LinkSettings, Window

PACKET = bytes(HEADER.size + 1000)


def passage(seed: int = 0, **settings: Any) -> Passage:
    return Passage(LinkSettings(source="a", target="b", **settings), np.random.default_rng(seed))


def moments(link: Passage, until: float = 1e9) -> list[float]:
    return [moment for moment, _ in link.due(until)]


def test_a_packet_is_due_a_delay_after_it_came() -> None:
    link = passage(delay=0.05)
    link.arrive(PACKET, 10.0)
    assert link.next_moment == pytest.approx(10.05)
    assert link.due(10.049) == []
    assert link.due(10.051) == [(pytest.approx(10.05), PACKET)]
    assert link.next_moment == float("inf")
    assert (link.counters.packets_in, link.counters.bytes_in) == (1, 1000)


def test_a_link_without_delay_passes_on_at_once() -> None:
    link = passage()
    link.arrive(PACKET, 3.0)
    assert moments(link, 3.0) == [3.0]


def test_jitter_has_its_deviation_and_keeps_the_order() -> None:
    link = passage(delay=0.05, jitter=0.004)
    sent = np.arange(20_000) * 0.1  # further apart than any jitter
    for moment in sent:
        link.arrive(PACKET, float(moment))
    delays = np.array(moments(link)) - sent
    assert delays.mean() == pytest.approx(0.05, rel=0.01)
    assert delays.std() == pytest.approx(0.004, rel=0.03)
    dense = passage(delay=0.05, jitter=0.004)
    packets = [bytes(HEADER.size) + number.to_bytes(2, "big") for number in range(1000)]
    for number, packet in enumerate(packets):
        dense.arrive(packet, number * 1e-4)
    arrived = dense.due(1e9)
    assert [packet for _, packet in arrived] == packets
    assert [moment for moment, _ in arrived] == sorted(moment for moment, _ in arrived)


def test_jitter_may_reorder_where_that_is_asked_for() -> None:
    link = passage(delay=0.05, jitter=0.004, jitter_kind="uniform", reorder=True)
    packets = [bytes(HEADER.size) + number.to_bytes(2, "big") for number in range(1000)]
    for number, packet in enumerate(packets):
        link.arrive(packet, number * 1e-4)
    assert link.next_moment < 0.05
    arrived = link.due(1e9)
    assert [packet for _, packet in arrived] != packets
    assert sorted(packet for _, packet in arrived) == packets
    assert [moment for moment, _ in arrived] == sorted(moment for moment, _ in arrived)


def test_no_packet_is_due_before_it_came() -> None:
    link = passage(delay=0.001, jitter=0.01)
    for number in range(1000):
        link.arrive(PACKET, float(number))
    assert all(moment >= number for number, moment in enumerate(moments(link)))


@pytest.mark.parametrize(
    ("settings", "loss"), [({"loss": 0.05}, 0.05), ({"bursts": Bursts(enter=0.02, leave=0.2)}, 0.02 / 0.22)]
)
def test_packets_are_lost_as_often_as_asked_for(settings: dict[str, Any], loss: float) -> None:
    link = passage(**settings)
    for number in range(50_000):
        link.arrive(PACKET, number * 1e-3)
    assert link.counters.lost / 50_000 == pytest.approx(loss, rel=0.06)
    assert len(moments(link)) == 50_000 - link.counters.lost


def test_the_same_seed_loses_the_same_packets() -> None:
    def arrived(seed: int) -> list[float]:
        link = passage(seed, loss=0.3)
        for number in range(100):
            link.arrive(PACKET, float(number))
        return moments(link)

    assert arrived(1) == arrived(1) != arrived(2)


def test_a_packet_occupies_the_link_for_as_long_as_its_bits_take() -> None:
    # 1,000 bytes at 80 kbit/s, paced at 1.01 times that: 100 ms / 1.01. The token bucket let three pass at once.
    link = passage(rate=80e3, delay=0.5)
    for moment in (7.0, 7.0, 7.0, 8.0):
        link.arrive(PACKET, moment)
    one = 0.1 / PACE
    assert moments(link) == pytest.approx([7.5 + one, 7.5 + 2 * one, 7.5 + 3 * one, 8.5 + one])


def test_a_frame_occupies_the_link_for_all_its_packets() -> None:
    # two packets of 1,000 bytes with 52 bytes of headers each, and 198 bytes of framing: 2,500 bytes, 100 ms
    link = passage(rate=200e3, overhead=198)
    link.arrive(frame(bytes(2000)), 3.0)
    assert moments(link) == pytest.approx([3 + 0.1 / PACE])
    assert (link.counters.packets_in, link.counters.bytes_in) == (2, 2104)


def test_of_a_frame_only_the_lost_packets_are_missing() -> None:
    link = passage(seed=1, loss=0.3)
    for number in range(2000):
        link.arrive(frame(bytes(5000)), float(number))
    parts = [packet for _, packet in link.due(1e9)]
    for part in parts:
        link.sent(part, 0.0)
    assert link.counters.packets_in == 10_000
    assert link.counters.lost == pytest.approx(3000, abs=120)  # 2.6 times √(10,000 x 0.3 x 0.7)
    assert link.counters.packets_out == 10_000 - link.counters.lost
    assert len(parts) < link.counters.packets_out  # neighbours stayed together


def test_a_frame_comes_apart_where_packets_may_overtake() -> None:
    link = passage(delay=1.0, jitter=0.1, reorder=True)
    link.arrive(frame(bytes(5000)), 0.0)
    assert len(set(moments(link))) == 5


def test_a_closed_link_keeps_packets_and_then_sends_them_at_its_rate() -> None:
    # 1,010 bytes at 80 kbit/s, paced at 1.01 times that: 100 ms each, and 10 ms of delay
    packet = bytes(HEADER.size + 1010)
    link = passage(rate=80e3, delay=0.01, schedule=(Window(start=0, end=1), Window(start=5, end=9)))
    link.start_clock(100.0, 100.0)
    for moment in (100.5, 101.0, 102.0, 103.0):
        link.arrive(packet, moment)
    assert moments(link, 104.9) == pytest.approx([100.61])
    assert link.next_moment == 105.0
    assert moments(link, 105.25) == pytest.approx([105.11, 105.21])
    link.arrive(packet, 105.26)  # behind the third that waited, which is sent from 105.2 to 105.3
    assert moments(link, 107) == pytest.approx([105.31, 105.41])
    link.arrive(packet, 107.0)
    assert moments(link, 108) == pytest.approx([107.11])
    assert link.counters.held == 3


def test_what_a_window_is_too_short_for_waits_for_the_next_one() -> None:
    # 100 ms a packet: they begin at 2.0, 2.1 and 2.2, where the window ends at 2.15
    link = passage(rate=80e3, schedule=(Window(start=2, end=2.15), Window(start=4, end=5)))
    link.start_clock(0.0, 0.0)
    for _ in range(3):
        link.arrive(bytes(HEADER.size + 1010), 1.0)
    assert moments(link, 3) == pytest.approx([2.1, 2.2])
    assert moments(link, 6) == pytest.approx([4.1])


def test_what_comes_before_those_that_waited_were_looked_at_stays_behind_them() -> None:
    link = passage(schedule=(Window(start=1, end=9),))
    link.start_clock(0.0, 0.0)
    first, second = bytes(HEADER.size) + b"1", bytes(HEADER.size) + b"2"
    link.arrive(first, 0.5)
    link.arrive(second, 1.2)
    assert [packet for _, packet in link.due(2.0)] == [first, second]


def test_what_has_been_sent_makes_room_in_the_queue() -> None:
    link = passage(queue=2500, schedule=(Window(start=1, end=2), Window(start=3, end=9)))
    link.start_clock(0.0, 0.0)
    for moment in (0.1, 0.2, 2.1, 2.2):
        link.due(moment)
        link.arrive(PACKET, moment)
    assert len(moments(link)) == 2
    assert (link.counters.held, link.counters.overflowed) == (4, 0)


def test_a_change_of_loss_holds_from_its_first_packet_on() -> None:
    link = passage(loss=0.1, changes=(Change(at=1, loss=1.0),))
    link.start_clock(0.0, 0.0)
    for moment in (0.5, *np.linspace(1, 2, 50)):
        link.arrive(PACKET, float(moment))
    assert link.counters.lost >= 50


def test_after_the_last_window_packets_wait_up_to_the_queue() -> None:
    link = passage(rate=80e3, queue=2500, schedule=(Window(start=0, end=1),))
    link.start_clock(0.0, 0.0)
    for _ in range(4):
        link.arrive(PACKET, 2.0)
    assert moments(link) == []
    assert link.next_moment == float("inf")
    assert (link.counters.held, link.counters.overflowed) == (2, 2)


def test_what_comes_faster_than_the_link_sends_waits_up_to_the_queue() -> None:
    # a kernel that lets too much pass is not believed: 5,000 bytes hold five packets
    link = passage(rate=80e3, queue=5000)
    for _ in range(9):
        link.arrive(PACKET, 2.0)
    assert (len(moments(link)), link.counters.overflowed) == (5, 4)


def test_before_the_clock_starts_there_is_contact_and_the_state_of_its_beginning() -> None:
    link = passage(delay=0.01, schedule=(Window(start=5, end=6),), changes=(Change(at=0, delay=0.02),))
    link.arrive(PACKET, 1.0)
    assert moments(link, 2) == pytest.approx([1.02])


def test_a_clock_set_again_moves_windows_and_changes() -> None:
    link = passage(delay=0.01, schedule=(Window(start=0, end=1), Window(start=5, end=9)), changes=(Change(at=6),))
    link.start_clock(0.0, 0.0)
    link.arrive(PACKET, 2.0)
    assert link.next_moment == 5.0
    link.start_clock(-4.0, 2.0)  # it is 6 by the run's clock: contact, and no delay any more
    assert moments(link, 2.0) == [2.0]
    link.start_clock(2.0, 2.5)  # it is 0.5: contact, and the delay
    link.arrive(PACKET, 2.5)
    assert moments(link, 3) == pytest.approx([2.51])


def test_a_change_leaves_what_is_on_the_way_alone_and_keeps_the_order() -> None:
    link = passage(delay=0.5, changes=(Change(at=1, delay=0.1), Change(at=2, delay=0.1, loss=1.0), Change(at=3)))
    link.start_clock(0.0, 0.0)
    for moment in (0.9, 1.0, 1.5, 2.5, 3.0):
        link.arrive(PACKET, moment)
    # the second would come at 1.1, and waits for the first
    assert moments(link) == pytest.approx([1.4, 1.4, 1.6, 3.0])
    assert link.counters.lost == 1


@given(
    st.lists(st.tuples(st.floats(0, 0.5), st.integers(20, 1500)), max_size=60),
    st.lists(st.floats(0.01, 2), min_size=2, max_size=8),
    st.booleans(),
)
def test_nothing_is_lost_sent_without_contact_or_overtaken(
    arrivals: list[tuple[float, int]], edges: list[float], jittered: bool
) -> None:
    bounds = np.cumsum(edges)
    windows = tuple(
        Window(start=float(start), end=float(end)) for start, end in zip(bounds[::2], bounds[1::2], strict=False)
    )
    forever = Window(start=float(bounds[-1]) + 1, end=1e9)
    link = passage(rate=1e9 if jittered else None, jitter=0.01 * jittered, schedule=(*windows, forever))
    link.start_clock(0.0, 0.0)
    now, sent, got = 0.0, [], []
    for number, (gap, size) in enumerate(arrivals):
        while link.next_moment <= now + gap:
            got += link.due(link.next_moment)
        now += gap
        sent.append(bytes(HEADER.size) + number.to_bytes(2, "big").ljust(size, b"\0"))
        link.arrive(sent[-1], now)
    while link.next_moment < float("inf"):
        got += link.due(link.next_moment)
    assert [packet for _, packet in got] == sent
    due = [moment for moment, _ in got]
    assert due == sorted(due)
    if not jittered:
        assert all(any(one.start <= moment < one.end for one in (*windows, forever)) for moment in due)
