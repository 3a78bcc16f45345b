"""The link's arithmetic, against cases worked out by hand."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from node_agent.job import FRAME, Bursts, Change, LinkSettings, Window
from node_agent.link_model import (
    SMALLEST_FRAME,
    LinkError,
    LinkModel,
    expected,
    frame_bytes,
    framed,
    patience,
    payload_bytes,
)
from node_agent.timeline import Timeline


def link(seed: int = 0, **settings: Any) -> LinkModel:
    return LinkModel(LinkSettings(source="a", target="b", **settings), np.random.default_rng(seed))


def test_a_message_occupies_the_link_and_arrives_a_delay_later() -> None:
    # 1,250 bytes = 10,000 bits at 1 Mbit/s: 10 ms; then 5 ms of propagation
    t = link(rate=1e6, delay=0.005).transmit(1250, now=2.0)
    assert (t.ended, t.arrival) == (pytest.approx(2.010), pytest.approx(2.015))
    assert (t.busy, t.queued, t.closed) == (pytest.approx(0.010), 0.0, 0.0)
    assert not t.back_to_back


def test_messages_queue_behind_one_another() -> None:
    model = link(rate=1e6, delay=0.005)
    model.transmit(1250, now=2.0)
    second = model.transmit(1250, now=2.004)
    assert second.arrival == pytest.approx(2.025)
    assert second.queued == pytest.approx(0.006)
    assert second.back_to_back
    assert not model.transmit(1250, now=3.0).back_to_back


def test_an_unlimited_link_only_delays() -> None:
    t = link(delay=0.3).transmit(10**9, now=1.0)
    assert (t.ended, t.arrival, t.busy) == (1.0, 1.3, 0.0)


def test_a_closed_link_waits_for_the_next_window() -> None:
    model = link(rate=8e3, schedule=(Window(start=10, end=12), Window(start=20, end=30)))
    first = model.transmit(1000, now=0.0)  # one second of transmission, ten of waiting
    assert (first.ended, first.closed) == (pytest.approx(11.0), pytest.approx(10.0))
    second = model.transmit(3000, now=11.0)  # one second is left of this window, two more in the next
    assert (second.ended, second.closed) == (pytest.approx(22.0), pytest.approx(8.0))
    assert not second.back_to_back  # it was on the way for longer than its bits take
    assert model.transmit(1000, now=21.0).back_to_back


def test_a_message_after_the_last_window_is_an_error_that_says_when() -> None:
    model = link(rate=8e3, schedule=(Window(start=0, end=2),))
    with pytest.raises(LinkError, match=r"link a->b: .*ready at 0\.500 s, .*window ends at 2\.000 s"):
        model.transmit(2000, now=0.5)


def test_lost_packets_are_sent_again_and_cost_round_trips() -> None:
    # ten packets, each lost with probability 1/2: retransmissions are counted, and no message is ever lost
    model = link(rate=1e6, delay=0.01, loss=0.5)
    sent = [model.transmit(15_000, now=10.0 * k) for k in range(400)]
    again = sum(t.retransmitted for t in sent) / (400 * 15_000)
    assert again == pytest.approx(1.0, abs=0.1)  # 1/2 + 1/4 + … of what was sent
    for k, t in enumerate(sent):
        assert t.busy == pytest.approx(8 * (15_000 + t.retransmitted) / 1e6)
        rounds = (t.arrival - t.ended - 0.01) / 0.02
        assert rounds == pytest.approx(round(rounds), abs=1e-6)
        assert t.ended == pytest.approx(10.0 * k + t.busy)


def test_a_short_last_packet_is_sent_again_at_its_own_size() -> None:
    # one whole packet and one of 32 bytes: both are lost as often, 1/19 of the bytes are sent again
    model = link(seed=1, rate=1e6, loss=0.05)
    again = sum(model.transmit(1532, now=float(k)).retransmitted for k in range(20_000)) / (20_000 * 1532)
    assert again == pytest.approx(1 / 19, rel=0.1)


def test_messages_back_to_back_are_so_at_any_time() -> None:
    model = link(rate=1e7)
    for k in range(1000):
        assert model.transmit(2000 + k, now=1e5).back_to_back == (k > 0)


def test_jitter_has_the_requested_spread_and_keeps_the_order() -> None:
    model = link(delay=0.1, jitter=0.01)
    delays = [model.transmit(1, now=float(k)).arrival - k for k in range(2000)]
    assert np.std(delays) == pytest.approx(0.01, rel=0.1)
    assert np.mean(delays) == pytest.approx(0.1, rel=0.01)
    close = [model.transmit(1, now=5000 + 1e-6 * k).arrival for k in range(500)]
    assert close == sorted(close)


def test_nothing_arrives_before_it_has_left() -> None:
    model = link(delay=0.001, jitter=1.0)
    sent = [model.transmit(1, now=10.0 * k) for k in range(200)]
    assert all(t.arrival >= t.ended for t in sent)
    assert any(t.arrival == t.ended for t in sent)


def test_the_same_seed_gives_the_same_times() -> None:
    a, b = (link(seed=5, rate=1e6, delay=0.01, jitter=0.001, loss=0.1) for _ in range(2))
    assert [a.transmit(5000, k) for k in range(50)] == [b.transmit(5000, k) for k in range(50)]


@given(
    messages=st.lists(st.tuples(st.integers(1, 100_000), st.floats(0, 1.0)), min_size=1, max_size=20),
    rate=st.floats(1e3, 1e9),
    windows=st.lists(st.floats(0.1, 50.0), min_size=0, max_size=3),
)
def test_nothing_is_sent_outside_the_windows_and_capacity_is_never_exceeded(
    messages: list[tuple[int, float]], rate: float, windows: list[float]
) -> None:
    schedule, at = [], 0.0
    for length in windows:
        schedule.append(Window(start=at + 1.0, end=at + 1.0 + length))
        at += 1.0 + length
    schedule.append(Window(start=at + 1.0, end=1e9))
    model = link(rate=rate, delay=0.01, schedule=tuple(schedule))
    now, ended = 0.0, 0.0
    for nbytes, pause in messages:
        now += pause
        t = model.transmit(nbytes, now)
        assert t.ended >= max(now, ended) + t.busy - 1e-6
        assert t.busy == pytest.approx(8 * nbytes / rate)
        assert t.queued + t.closed + t.busy == pytest.approx(t.ended - now, abs=1e-6)
        assert any(w.start <= t.ended <= w.end + 1e-6 for w in schedule)
        ended = t.ended


@pytest.mark.parametrize(
    ("rate", "expected"), [(None, FRAME), (1e5, SMALLEST_FRAME), (1e8, 3 * SMALLEST_FRAME), (1e12, FRAME)]
)
def test_messages_are_short_on_slow_links(rate: float | None, expected: int) -> None:
    # at 100 Mbit/s 4 ms are 50,000 bytes: three times 16 KiB fit
    fast = LinkSettings(source="a", target="b", rate=None)
    assert frame_bytes([fast, LinkSettings(source="b", target="a", rate=rate)]) == expected
    faster = LinkSettings(source="c", target="b", rate=1e12)
    assert frame_bytes([faster, LinkSettings(source="b", target="a", rate=rate)]) == expected


def test_what_is_exchanged_at_once_takes_ten_times_the_latency_of_its_ring() -> None:
    links = [LinkSettings(source=a, target=b, rate=10e6, delay=0.0045) for a, b in pairwise("abcda")]
    # four times 4.5 ms and 0.5 ms of handling: 20 ms, in ten of which 10 Mbit/s carry 250,000 bytes
    assert payload_bytes(links) == 250_000
    slow = LinkSettings(source="x", target="y", rate=1e6, delay=0.0045)
    assert payload_bytes([*links[:3], slow]) == 25_000
    assert payload_bytes([link.model_copy(update={"rate": None}) for link in links]) == 25 * 2**20


def test_patience_covers_the_longest_closure_and_a_slow_message() -> None:
    settings = LinkSettings(
        source="a", target="b", rate=9600.0, delay=0.2, schedule=(Window(start=5, end=6), Window(start=96, end=200))
    )
    # ready at once, it waits for both windows: the first is too short for it
    assert patience(settings, 32768) == pytest.approx(5 + 90 + 8 * 32768 / 9600 + 0.2)
    # 27.3 s of transmission in windows of 5 s every 600 s: ready when one of them ends, it ends in the sixth after it
    short = tuple(Window(start=600 * k, end=600 * k + 5) for k in range(20))
    assert patience(LinkSettings(source="a", target="b", rate=9600.0, schedule=short), 32768) == pytest.approx(
        6 * 600 - 5 + 8 * 32768 / 9600 - 25
    )
    # 5 s of transmission: ready at 7 s, the last moment for it, it needs all of the 2 s that are left after the closure
    tight = (Window(start=0, end=10), Window(start=100, end=102))
    assert patience(LinkSettings(source="a", target="b", rate=8e3, schedule=tight), 5000) == pytest.approx(95)
    shaking = LinkSettings(source="a", target="b", delay=0.2, jitter=0.03)
    assert patience(shaking, 16384) == pytest.approx(0.2 + 13 * 0.03)
    lossy = LinkSettings(source="a", target="b", rate=9600.0, delay=0.2, loss=0.1)
    # 11 packets; the chance that one of them is lost ten times in a row is 1.1e-9, eleven times 1.1e-10
    assert patience(lossy, 16384) == pytest.approx(8 * 16384 / 9600 * 2.1 + 23 * 0.2)


def test_a_message_under_way_meets_a_change_of_rate() -> None:
    # 8,000 bits: 4,000 in the first half second at 8 kbit/s, the other 4,000 at 4 kbit/s take a whole second
    model = link(rate=8e3, changes=(Change(at=10.5, rate=4e3, delay=0.25),))
    t = model.transmit(1000, now=10.0)
    assert (t.ended, t.busy, t.closed) == (pytest.approx(11.5), pytest.approx(1.5), 0.0)
    assert t.arrival == pytest.approx(11.75)  # delayed as the link is when it leaves
    assert model.transmit(1000, now=20.0).busy == pytest.approx(2.0)


def test_a_change_to_an_unlimited_rate_lets_the_rest_through_at_once() -> None:
    t = link(rate=8e3, changes=(Change(at=10.5, rate=None),)).transmit(10**6, now=10.0)
    assert (t.ended, t.busy) == (pytest.approx(10.5), pytest.approx(0.5))


def test_a_change_counts_while_no_contact_is_scheduled() -> None:
    settings = {"schedule": (Window(start=10, end=20),), "changes": (Change(at=5, rate=1e3),)}
    t = link(rate=8e3, **settings).transmit(1000, now=0.0)
    assert (t.ended, t.closed, t.opened) == (pytest.approx(18.0), pytest.approx(10.0), 10.0)


def test_a_message_that_waits_says_until_when() -> None:
    model = link(rate=8e3, schedule=(Window(start=10, end=12), Window(start=20, end=30)))
    assert [model.transmit(1500, now=0.0).opened for _ in range(3)] == [10, 20, None]


def test_a_deadline_turns_waiting_into_an_error_that_says_until_when() -> None:
    windows = (Window(start=0, end=2), Window(start=600, end=700))
    assert link(rate=8e3, schedule=windows, deadline=600).transmit(2000, now=1.0).closed == pytest.approx(598)
    with pytest.raises(
        LinkError, match=r"ready at 1\.000 s, would wait 598\.000 s .*until 600\.000 s.*deadline of 60 s"
    ):
        link(rate=8e3, schedule=windows, deadline=60).transmit(2000, now=1.0)


def test_framing_takes_time_and_is_counted_apart() -> None:
    # 3,100 bytes are three packets, each with 68 bytes of framing
    t = link(rate=8e3, overhead=68).transmit(3100, now=0.0)
    assert (t.framing, t.busy) == (204, pytest.approx(3.304))
    lossy = link(rate=8e6, overhead=68, loss=0.3)
    for k in range(50):
        t = lossy.transmit(15_000, now=float(k))
        assert t.framing == 68 * (10 + t.retransmitted // 1500)
        assert t.busy == pytest.approx(8 * (15_000 + t.retransmitted + t.framing) / 8e6)


def test_a_sender_waits_for_room_in_the_queue() -> None:
    # a message of 1,000 bytes takes a second; two of them fill the queue
    model = link(rate=8e3, queue=2000)
    assert [model.transmit(1000, now=0.0).accepted for _ in range(4)] == pytest.approx([0, 0, 1, 2])
    assert model.transmit(1000, now=10.0).accepted == 10.0  # it is empty again
    # one that is longer than the whole queue waits until it is alone
    assert model.transmit(5000, now=10.5).accepted == pytest.approx(11.0)
    assert [link(rate=8e3).transmit(10**6, now=0.0).accepted for _ in range(3)] == [0, 0, 0]


@given(
    lengths=st.lists(st.tuples(st.integers(1, 5000), st.floats(0, 2)), min_size=1, max_size=20),
    queue=st.integers(1500, 20_000),
)
def test_never_more_than_the_queue_holds_is_waiting(lengths: list[tuple[int, float]], queue: int) -> None:
    model = link(rate=8e3, queue=queue)
    now, under_way = 0.0, []
    for nbytes, pause in lengths:
        t = model.transmit(nbytes, now)
        assert t.accepted >= now
        under_way.append((t.ended, nbytes))
        now = t.accepted + pause
        waiting = [length for ended, length in under_way if ended > t.accepted]
        assert sum(waiting) <= max(queue, nbytes)


def test_losses_in_bursts_cost_fewer_rounds_than_as_many_on_their_own() -> None:
    # the same share of packets, in bursts of ten: they share their round trips
    def rounds(**settings: Any) -> tuple[float, float]:
        model = link(rate=1e9, delay=0.5, **settings)
        sent = [model.transmit(150_000, now=100.0 * k) for k in range(2000)]
        again = sum(t.retransmitted for t in sent) / (2000 * 150_000)
        return again, sum((t.arrival - t.ended - 0.5) for t in sent) / 2000

    alone, together = rounds(loss=0.05), rounds(loss=0.05, bursts=Bursts(enter=0.1 * 0.05 / 0.95, leave=0.1))
    assert alone[0] == pytest.approx(0.05 / 0.95, rel=0.05)
    assert together[0] == pytest.approx(0.05 / 0.95, rel=0.2)
    assert together[1] < 0.7 * alone[1]


@pytest.mark.parametrize("kind", ["normal", "uniform", "pareto"])
def test_every_kind_of_jitter_has_the_requested_spread(kind: str) -> None:
    model = link(delay=0.1, jitter=0.005, jitter_kind=kind)
    delays = [model.transmit(1, now=float(k)).arrival - k for k in range(4000)]
    assert np.std(delays) == pytest.approx(0.005, rel=0.1)
    assert np.mean(delays) == pytest.approx(0.1, rel=0.01)


@given(
    edges=st.lists(st.floats(0.5, 20), min_size=1, max_size=8),
    rates=st.lists(st.sampled_from([1e3, 8e3, 1e6, None]), min_size=8, max_size=8),
    bits=st.integers(1, 10**6),
    ready=st.floats(0, 100),
)
def test_what_a_timeline_lets_through_is_what_its_pieces_carry(
    edges: list[float], rates: list[float | None], bits: int, ready: float
) -> None:
    """Against a sum over the pieces between every two moments at which anything changes."""
    moments = np.cumsum(edges).tolist()
    windows = tuple(Window(start=a, end=b) for a, b in zip(moments[::2], moments[1::2], strict=False))
    changes = tuple(Change(at=at, rate=rate) for at, rate in zip(moments, rates, strict=False))
    settings = LinkSettings(source="a", target="b", rate=8e3, schedule=windows or None, changes=changes)
    passage = Timeline(settings).through(bits, ready)
    end = passage.ended if passage is not None else 1e9
    carried, busy = 0.0, 0.0
    inner = sorted({ready, end, *(moment for moment in moments if ready < moment < end)})
    for start, stop in pairwise(inner):
        middle = (start + stop) / 2
        if not windows or any(window.start <= middle < window.end for window in windows):
            rate = settings.state_at(middle).rate
            carried += float("inf") if rate is None else rate * (stop - start)
            busy += stop - start
    if passage is None:
        assert carried < bits
    else:
        assert passage.busy == pytest.approx(busy, abs=1e-6)
        unlimited = settings.state_at(end).rate is None
        assert carried == pytest.approx(bits, rel=1e-6) or (unlimited and carried <= bits)


@given(st.lists(st.floats(0.5, 20), min_size=2, max_size=8), st.integers(1, 10**5))
def test_the_last_moment_is_the_last_from_which_a_message_gets_through(edges: list[float], bits: int) -> None:
    moments = np.cumsum(edges).tolist()
    windows = tuple(Window(start=a, end=b) for a, b in zip(moments[::2], moments[1::2], strict=False))
    timeline = Timeline(LinkSettings(source="a", target="b", rate=8e3, schedule=windows))
    last = timeline.last_moment(bits)
    if last is None:
        assert timeline.through(bits, 0.0) is None
    else:
        assert timeline.through(bits, last - 1e-6) is not None
        assert timeline.through(bits, last + 1e-6) is None


def test_patience_covers_the_worst_of_all_changes() -> None:
    settings = LinkSettings(source="a", target="b", rate=1e6, changes=(Change(at=5, rate=1e3, delay=2.0, jitter=0.1),))
    # 1,000 bytes at 1 kbit/s, and then 2 s of delay
    assert patience(settings, 1000) == pytest.approx(8 + 2 + 1.3)
    bursts = Bursts(enter=0.1, leave=0.5)
    lossy = LinkSettings(source="a", target="b", delay=0.5, loss=bursts.mean, bursts=bursts)
    # a packet that was lost is lost again with probability 1/2: thirty times in a row once in a billion
    assert patience(lossy, 1500) == pytest.approx((1 + 2 * 30) * 0.5)
    # TCP would wait 1.2 s, twice as long each time, two minutes at most, and give up after 924.6 s
    assert patience(lossy, 1500, over_tcp=True) == pytest.approx(0.5 + 924.6)
    # lost with probability 1/100: five times in a row once in ten billion
    assert patience(LinkSettings(source="a", target="b", delay=0.1, loss=0.01), 1500, over_tcp=True) == pytest.approx(
        0.1 + 0.4 * (1 + 2 + 4 + 8 + 16)
    )


def test_what_tcp_makes_of_a_link_is_expected_of_it() -> None:
    """Of 1,500 bytes the headers of IP and TCP take 52 more: 1552 bytes at 12,416 bit/s are a second, and the delay.
    What is drawn at random is not expected of any one message."""
    change = Change(at=50.0, rate=24_832.0, delay=0.2, loss=0.1)
    link = LinkSettings(
        source="a", target="b", rate=12_416.0, delay=0.1, jitter=0.01, loss=0.5, queue=10, changes=(change,)
    )
    model = LinkModel(expected(link), np.random.default_rng(0))
    first = model.transmit(1500, 0.0)
    assert (first.ended, first.arrival, first.accepted) == (pytest.approx(1.0), pytest.approx(1.1), 0.0)
    later = model.transmit(1500, 60.0)
    assert (later.ended, later.arrival) == (pytest.approx(60.5), pytest.approx(60.7))
    assert framed(link).loss == 0.5
