from __future__ import annotations

import threading
import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from node_agent.clock import ModelledClock, VirtualClock, WallClock
from node_agent.job import Window


def burn(seconds: float) -> None:
    until = time.thread_time() + seconds
    while time.thread_time() < until:
        pass


def test_virtual_clock_does_not_see_sleep_but_sees_computation() -> None:
    clock = VirtualClock(factor=10.0)
    before = clock.now()
    time.sleep(0.05)
    slept = clock.now() - before
    burn(0.02)
    computed = clock.now() - before - slept
    assert slept < 0.1
    assert computed == pytest.approx(0.2, rel=0.3)


def test_virtual_clock_jumps_to_what_it_waits_for_and_never_back() -> None:
    clock = VirtualClock(factor=0.0)
    clock.wait_until(300.0)
    assert clock.now() == 300.0
    clock.wait_until(10.0)
    assert clock.now() == 300.0


def test_virtual_clock_stops_while_observed() -> None:
    clock = VirtualClock(factor=1000.0)
    before = clock.now()
    with clock.stopped():
        burn(0.02)
    assert before <= clock.now() < before + 10.0


def test_virtual_clock_of_another_thread_counts_only_its_own_computation() -> None:
    clock = VirtualClock(factor=1000.0)
    burn(0.02)
    shown: list[float] = []
    thread = threading.Thread(target=lambda: shown.append(clock.fork().now()))
    thread.start()
    thread.join()
    assert shown[0] < 10.0 < clock.now()


def test_negative_factor_is_refused() -> None:
    with pytest.raises(ValueError, match="at least 0"):
        VirtualClock(factor=-1.0)


def test_wall_clock_sleeps_until_a_moment_and_leaves_out_observation() -> None:
    clock = WallClock()
    clock.wait_until(0.05)
    assert 0.05 <= clock.now() < 1.0
    before = clock.now()
    with clock.stopped():
        time.sleep(0.2)
    assert before <= clock.now() < before + 0.15


def test_a_wall_clock_that_stands_shows_the_same_moment() -> None:
    clock = WallClock()
    with clock.stopped():
        stands_at = clock.now()
        time.sleep(0.3)
        assert clock.now() == stands_at
    assert stands_at <= clock.now() < stands_at + 0.25


@pytest.mark.parametrize("clock", [WallClock(), VirtualClock()], ids=["wall", "virtual"])
def test_a_clock_that_stands_cannot_be_stopped_again(clock: WallClock | VirtualClock) -> None:
    with clock.stopped(), pytest.raises(RuntimeError, match="stands already"), clock.stopped():
        pass
    with clock.stopped():
        pass


class Counting:
    """Computing that a test counts itself."""

    def __init__(self) -> None:
        self.seconds = 0.0

    def fresh(self) -> Counting:
        return Counting()

    def __enter__(self) -> object:
        return self

    def __exit__(self, *_: object) -> None: ...


def paused(*spans: tuple[float, float]) -> tuple[ModelledClock, Counting]:
    work = Counting()
    return ModelledClock(work, tuple(Window(start=start, end=end) for start, end in spans)), work


def test_what_a_pause_interrupts_is_computed_after_it() -> None:
    clock, work = paused((10, 15), (17, 18))
    work.seconds = 9.0
    assert clock.now() == 9.0
    work.seconds = 11.0  # the last second of it comes after the pause
    assert clock.now() == 16.0
    work.seconds = 14.0  # one more until 17, two after the second pause
    assert clock.now() == 20.0
    assert clock.rested == 6.0


def test_waiting_costs_no_more_than_the_rest_of_a_pause() -> None:
    clock, work = paused((10, 15))
    clock.wait_until(12)
    assert clock.now() == 15
    clock, work = paused((10, 15))
    clock.wait_until(20)
    assert clock.now() == 20
    assert clock.rested == 0
    work.seconds = 1.0
    assert clock.now() == 21


def test_a_clock_of_another_thread_pauses_too() -> None:
    clock, _ = paused((10, 15))
    other = clock.fork()
    other.wait_until(11)
    assert other.now() == 15


@given(
    st.lists(st.tuples(st.floats(0.1, 10), st.floats(0.1, 10)), max_size=4),
    st.lists(st.tuples(st.booleans(), st.floats(0.01, 5)), min_size=1, max_size=12),
)
def test_time_never_runs_back_nor_stands_in_a_pause(
    gaps: list[tuple[float, float]], doings: list[tuple[bool, float]]
) -> None:
    spans, at = [], 0.0
    for gap, length in gaps:
        spans.append((at + gap, at + gap + length))
        at = spans[-1][1]
    clock, work = paused(*spans)
    for computes, seconds in doings:
        before = clock.now()
        if computes:
            work.seconds += seconds
        else:
            clock.wait_until(before + seconds)
        passed = clock.now() - before
        inside = sum(max(0.0, min(clock.now(), end) - max(before, start)) for start, end in spans)
        assert passed >= seconds - 1e-9
        if computes:
            assert passed == pytest.approx(seconds + inside)
        assert not any(start < clock.now() < end - 1e-9 for start, end in spans)
