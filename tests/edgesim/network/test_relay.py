"""Packets between two network namespaces through the relay, against what was asked of the link."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import threading
import time

import numpy as np
import pytest
from namespaces import DEVICE_NAME, arrivals, delays_of, inside, missing, relayed_link, send
from scipy import stats

from edgesim.network.relay import MOST_RATE, NotCarried, Relay, RelayFailed, Tunnel, carried
from edgesim.network.tun import open_tun
from node_agent.job import Bursts, Change, LinkSettings, Window

WHY_NOT = missing()
real = pytest.mark.skipif(WHY_NOT is not None, reason=str(WHY_NOT))


@pytest.mark.alone
@real
def test_datagrams_arrive_after_the_delay() -> None:
    with relayed_link(rate=50e6, delay=0.03) as link:
        delays = delays_of(link, 100, 0.003, 100, 0.3)
        counters = link.relay.counters()["near->far"]
    assert len(delays) == 100
    assert np.median(delays) == pytest.approx(0.03, abs=0.001)
    assert delays.min() > 0.03 - 0.0005
    assert (counters.packets_in, counters.lost) == (counters.packets_out, 0)
    assert counters.lateness_mean < 0.001


@pytest.mark.alone
@real
def test_each_direction_has_its_own_settings() -> None:
    with relayed_link(rate=50e6, delay=0.02, backward={"rate": 50e6, "delay": 0.0}) as link:
        near, far = link.connection()
        took = []
        for _ in range(15):
            began = time.monotonic()
            near.sendall(b"?")
            far.recv(1)
            far.sendall(b"!")
            near.recv(1)
            took.append(time.monotonic() - began)
    assert np.median(took) == pytest.approx(0.02, abs=0.005)


@pytest.mark.alone
@real
@pytest.mark.parametrize("kind", ["normal", "uniform", "pareto"])
def test_jitter_has_the_deviation_asked_for(kind: str) -> None:
    with relayed_link(rate=50e6, delay=0.03, jitter=0.004, jitter_kind=kind, reorder=True) as link:
        delays = delays_of(link, 1500, 0.0005, 100, 0.3)
    assert len(delays) == 1500
    assert delays.mean() == pytest.approx(0.03, abs=0.001)
    # The sample deviation's own standard error is 2 % (normal) to 7 % (Pareto) of it; the seed is fixed.
    assert delays.std() == pytest.approx(0.004, rel=0.1)


@pytest.mark.alone
@real
@pytest.mark.parametrize("settings", [{"loss": 0.05}, {"bursts": Bursts(enter=0.02, leave=0.3)}])
def test_as_many_datagrams_are_lost_as_asked_for(settings: dict[str, object]) -> None:
    number = 4000
    with relayed_link(rate=100e6, **settings) as link:
        sender, receiver = link.datagrams()
        for _ in range(number // 100):
            send(sender, 100, 0)
            time.sleep(0.005)
        arrived = len(arrivals(receiver, 0.2))
        counters = link.relay.counters()["near->far"]
    assert number - arrived == pytest.approx(counters.lost, abs=3)  # the hosts' own datagrams
    if "loss" in settings:
        low, high = stats.binom.interval(0.99, number, 0.05)
        assert low <= number - arrived <= high
    else:
        # By the chain's autocorrelation (1 - enter - leave)^k the variance of the mean is (1 + c) / (1 - c) times the
        # independent one, c = 0.68: 2.3 times the deviation.
        mean = 0.02 / 0.32
        deviation = 2.3 * np.sqrt(number * mean * (1 - mean))
        assert number - arrived == pytest.approx(number * mean, abs=2.6 * deviation)


@pytest.mark.alone
@real
def test_a_closed_window_keeps_datagrams_until_it_opens() -> None:
    windows = (Window(start=0, end=1), Window(start=1.5, end=100))
    with relayed_link(rate=10e6, delay=0.01, schedule=windows) as link:
        sender, receiver = link.datagrams()
        origin = time.monotonic() - 0.9
        link.relay.start_clock(origin)
        send(sender, 30, 0.01)
        arrived = arrivals(receiver, 0.7)
        counters = link.relay.counters()["near->far"]
    moments = np.array([moment for _, moment in arrived]) - time.time() + time.monotonic() - origin
    assert len(arrived) == 30
    assert not ((moments > 1.012) & (moments < 1.508)).any()
    assert (moments > 1.508).sum() >= 15
    assert counters.held >= 15


@pytest.mark.alone
@real
def test_a_connection_outlives_a_closure_and_a_change() -> None:
    # 10 Mbit/s, closed from 0.3 s to 1.3 s of the clock, and 50 ms slower after
    windows = (Window(start=0, end=0.3), Window(start=1.3, end=100))
    changes = (Change(at=1.3, rate=10e6, delay=0.055),)
    with relayed_link(rate=10e6, delay=0.005, schedule=windows, changes=changes) as link:
        near, far = link.connection()
        payload = os.urandom(500_000)
        sending = threading.Thread(target=near.sendall, args=(payload,))
        origin = time.monotonic() - 0.2
        link.relay.start_clock(origin)
        sending.start()
        got = b""
        while len(got) < len(payload):
            got += far.recv(1 << 16)
        took = time.monotonic() - origin
        sending.join()
        far.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        back = []
        for _ in range(9):
            began = time.monotonic()
            far.sendall(b"!")
            near.recv(1)
            back.append(time.monotonic() - began)
    assert got == payload
    assert took > 1.3 + 0.055  # 400 kB take 0.3 s, 0.1 s of which was left before the closure
    assert np.median(back) == pytest.approx(0.055, abs=0.01)


@real
def test_what_loss_and_reordering_do_to_large_packets_leaves_a_transfer_whole() -> None:
    # At 100 Mbit/s the kernel hands over up to eight packets at once; 3 MB are 2,072 packets and those sent again.
    with relayed_link(rate=100e6, delay=0.001, loss=0.01, jitter=0.0002, reorder=True) as link:
        near, far = link.connection()
        payload = os.urandom(3_000_000)
        sending = threading.Thread(target=near.sendall, args=(payload,))
        sending.start()
        got = b""
        while len(got) < len(payload):
            got += far.recv(1 << 16)
        sending.join()
        counters = link.relay.counters()["near->far"]
    assert got == payload
    assert counters.packets_in >= 2072
    low, high = stats.binom.interval(0.999, counters.packets_in, 0.01)
    assert low <= counters.lost <= high


@real
def test_the_relay_ends_with_the_process_that_started_it() -> None:
    program = (
        "import sys, time\n"
        "from namespaces import relayed_link\n"
        "with relayed_link(rate=1e6) as link:\n"
        "    print(link.relay.pid, flush=True)\n"
        "    time.sleep(60)\n"
    )
    path = os.pathsep.join(["tests/support", *sys.path])
    starter = subprocess.Popen(
        [sys.executable, "-c", program], stdout=subprocess.PIPE, text=True, env={**os.environ, "PYTHONPATH": path}
    )
    assert starter.stdout is not None
    relay = int(starter.stdout.readline())
    starter.kill()
    starter.wait()
    deadline = time.monotonic() + 10
    while _runs(relay):
        assert time.monotonic() < deadline
        time.sleep(0.05)


def _runs(pid: int) -> bool:
    try:
        with open(f"/proc/{pid}/stat") as file:
            return file.read().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


@real
def test_an_interrupt_leaves_the_relay_to_who_started_it() -> None:
    with relayed_link(rate=1e6) as link:
        os.kill(link.relay.pid, signal.SIGINT)
        assert set(link.relay.counters()) == {"near->far", "far->near"}


@real
def test_a_relay_that_was_killed_is_an_error_that_says_so_and_its_devices_are_gone() -> None:
    with relayed_link(rate=1e6) as link:
        os.kill(link.relay.pid, signal.SIGKILL)
        with pytest.raises(RelayFailed, match="was killed by SIGKILL"):
            link.relay.counters()
        names = inside(link.near, socket.if_nameindex)
        assert DEVICE_NAME not in [name for _, name in names]


def test_a_relay_without_devices_is_an_error_that_says_so() -> None:
    ends = os.pipe()
    settings = LinkSettings(source="a", target="b")
    with pytest.raises(RelayFailed, match=r"ended with exit code 1: .*Error"):
        Relay([Tunnel(settings, settings, os.open("/dev/null", os.O_RDONLY), os.dup(ends[0]))], seed=0)
    for end in ends:
        os.close(end)


@pytest.mark.parametrize("name", ["", "sixteen-letters-", "a/b", "tun%d"])
def test_a_name_that_no_device_can_have_is_refused(name: str) -> None:
    with pytest.raises(ValueError, match="a device's name: found"):
        open_tun(name)


def settings(**given: object) -> LinkSettings:
    return LinkSettings.model_validate({"source": "a", "target": "b", **given})


def test_what_the_relay_carries() -> None:
    carried(settings(rate=MOST_RATE, delay=0.3, jitter=0.01, loss=0.1))
    carried(settings(rate=1e6, delay=0.005, jitter=0.005, jitter_kind="pareto"))  # never below 0.3 of the delay


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (
            {"rate": 2 * MOST_RATE},
            r"found .*bit/s, allowed at most .*bit/s through the relay, on a kernel without",
        ),
        ({"delay": 0.1}, r"found no limit of the rate, allowed at most"),
        ({"rate": 1e6, "changes": (Change(at=1, rate=2 * MOST_RATE),)}, r"allowed at most"),
        (
            {"rate": 1e6, "delay": 0.005, "jitter": 0.005},
            r"found normal jitter of 5 ms around a delay of 5 ms, of which 4\.33\d* ms would be left around 5\.41",
        ),
    ],
)
def test_what_it_does_not_carry_is_refused(given: dict[str, object], message: str) -> None:
    with pytest.raises(NotCarried, match=message):
        carried(settings(**given))
