from __future__ import annotations

import threading
import time

import pytest

from node_agent.clock import VirtualClock, WallClock


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


@pytest.mark.parametrize("clock", [WallClock(), VirtualClock()], ids=["wall", "virtual"])
def test_a_clock_that_stands_cannot_be_stopped_again(clock: WallClock | VirtualClock) -> None:
    with clock.stopped(), pytest.raises(RuntimeError, match="stands already"), clock.stopped():
        pass
    with clock.stopped():
        pass
