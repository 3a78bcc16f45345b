"""What the kernel is told, and what is made of its answers; no privileges needed."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pyroute2.netlink.rtnl.tcmsg.common import calc_xmittime, get_rate_parameters

from edgesim.network import shaping
from node_agent.job import Bursts, Change, LinkSettings, LinkState, Window

RATES = st.floats(88, 10e9)


def link(**settings: object) -> LinkSettings:
    return LinkSettings.model_validate({"source": "a", "target": "b", **settings})


def test_a_bucket_holds_a_packet_and_a_millisecond() -> None:
    """20 Mbit/s are 2.5 MB/s: 1500 bytes take 600 us, a millisecond brings 2500 bytes; 2 us of rounding bring 5."""
    bucket = shaping.token_bucket(link(rate=20e6), LinkState(rate=20e6), header=14)
    assert bucket.rate == 2_500_000
    assert bucket.burst == 1500 + 2500 + 5
    assert bucket.limit == 250_000, "a tenth of a second at the rate"
    assert bucket.overhead == -14, "the kernel counts the Ethernet header, the link does not"


def test_the_lowest_rate_of_a_bucket() -> None:
    """2^32 ticks of 64 ns are 274.9 s. In these a table of up to 2048 bytes takes 7.5 bytes/s, two packets 10.9, a
    hundred with 100 bytes of framing each 582.1."""
    found = [shaping.lowest_rate(link(overhead=overhead), n) for n, overhead in ((1, 0), (2, 0), (100, 100))]
    assert found == [8 * 8, 8 * 11, 8 * 583]


@given(overhead=st.integers(0, 200), together=st.integers(1, 100))
def test_a_bucket_of_the_lowest_rate_can_be_told(overhead: int, together: int) -> None:
    settings = link(overhead=overhead)
    rate = shaping.lowest_rate(settings, together)
    arguments = shaping.token_bucket(settings, LinkState(rate=rate), 14, together).arguments()
    told = get_rate_parameters(arguments)
    assert 0 < told["buffer"] < 2**32
    assert calc_xmittime(told["rate"], shaping.LARGEST_TABLED) < 2**32


@given(rate=RATES, overhead=st.integers(0, 200))
def test_a_bucket_never_stops_the_largest_packet(rate: float, overhead: int) -> None:
    """The burst travels as a time, in whole microseconds and then in ticks of 64 ns, each rounded down."""
    bucket = shaping.token_bucket(link(rate=rate, overhead=overhead), LinkState(rate=rate), header=14)
    assert bucket.burst / bucket.rate * shaping.TICKS < 2**32
    microseconds = int(1e6 * bucket.burst / bucket.rate)
    kept = int(microseconds * shaping.TICKS / 1e6) / shaping.TICKS * bucket.rate
    assert kept >= shaping.MTU + overhead
    assert kept >= bucket.rate * shaping.LATENESS, "nor loses rate to the timer"


@given(rate=RATES)
def test_a_bucket_is_no_faster_than_asked(rate: float) -> None:
    bucket = shaping.token_bucket(link(rate=rate), LinkState(rate=rate), header=0)
    assert rate - 8 < 8 * bucket.rate <= rate, "the kernel counts whole bytes a second"


def test_a_queue_holds_what_the_link_carries_in_a_round_trip() -> None:
    """10 Mbit/s for 2 x 300 ms are 6 Mbit, 750 kB; the best of all changes counts."""
    assert shaping.queue_bytes(link(rate=10e6, delay=0.3)) == 750_000
    assert shaping.queue_bytes(link(rate=1e6, delay=0.3, changes=(Change(at=5, rate=10e6, delay=0.3),))) == 750_000
    assert shaping.queue_bytes(link(rate=1e3)) == shaping.SMALLEST_QUEUE
    assert shaping.queue_bytes(link(rate=10e6, queue=20_000)) == 20_000
    assert shaping.queue_bytes(link(rate=10e6, queue=1)) == shaping.MTU, "a packet has to fit"


def test_payload_is_what_headers_leave() -> None:
    """Of 1500 bytes IP takes 20, TCP 20 and timestamps 12; framing of 38 more makes 1538 on the wire."""
    assert shaping.payload_rate(1500.0) == pytest.approx(1448.0)
    assert shaping.payload_rate(1538.0, overhead=38) == pytest.approx(1448.0)


@given(st.integers(-100, 1000))
def test_an_overhead_comes_back_from_the_size_table(overhead: int) -> None:
    dumped = ":".join(f"{octet:02x}" for octet in shaping.size_table(overhead))
    assert shaping.overhead_of(dumped) == overhead


def test_no_size_table_is_no_overhead() -> None:
    assert shaping.overhead_of(None) == 0
    assert "stab" not in shaping.token_bucket(link(rate=1e6), LinkState(rate=1e6), header=0).arguments()


@pytest.mark.parametrize(
    ("settings", "beyond", "netem"),
    [
        ({"rate": 1e6}, False, True),
        ({"rate": 1e6, "changes": (Change(at=1, rate=2e6),)}, False, True),
        ({"rate": 1e6, "delay": 0.01, "loss": 0.01}, True, True),
        ({"rate": 1e6, "jitter": 0.001}, True, False),
        ({"rate": 1e6, "loss": 0.1, "bursts": Bursts(enter=0.1, leave=0.9)}, True, False),
        ({"rate": 1e6, "schedule": (Window(start=0, end=1),)}, True, False),
        ({"rate": 1e6, "changes": (Change(at=1, rate=1e6, delay=0.1),)}, True, True),
        ({"rate": 1e6, "changes": (Change(at=1, rate=1e6, jitter=0.1),)}, True, False),
    ],
)
def test_what_takes_more_than_a_bucket(settings: dict[str, object], beyond: bool, netem: bool) -> None:
    assert shaping.beyond_rate(link(**settings)) is beyond
    assert shaping.netem_suffices(link(**settings)) is netem


def test_netem_holds_what_is_under_way() -> None:
    """10 Mbit/s for 300 ms are 375 kB and the queue 750 kB: 17579 packets of 64 bytes."""
    settings = link(rate=10e6, delay=0.3, loss=0.25)
    netem = shaping.netem(settings, settings)
    assert netem.limit == 17579
    arguments = netem.arguments()
    assert (arguments["delay"], arguments["loss"]) == (300_000, 25.0), "microseconds and percent, as pyroute2 has them"
