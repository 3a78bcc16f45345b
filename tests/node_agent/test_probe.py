"""What a probe makes of a link: judged by hand, and measured over real sockets."""

from __future__ import annotations

from typing import Any

import pytest
from processes import on_nodes
from programs import probed

from node_agent.events import Measured
from node_agent.job import Bursts, Change, LinkSettings, ProbeSettings, Window
from node_agent.judgement import at_rest, deviations
from node_agent.probe import burst, singles


def link(**settings: Any) -> LinkSettings:
    return LinkSettings(source="a", target="b", **settings)


def found(
    rate: float | None = 1e7,
    delay: float | None = 0.05,
    samples: int = 25,
    jitter: float = 0.0,
    burst: float = 10.0,
    message: int = 1500,
) -> Measured:
    return Measured(
        rate_bit_s=rate, burst_s=burst, delay_s=delay, jitter_s=jitter, samples=samples, message_bytes=message
    )


def test_a_link_at_rest_is_as_it_is_at_a_moment_and_open() -> None:
    settings = link(
        rate=1e6, delay=0.1, schedule=(Window(start=5, end=9),), changes=(Change(at=7, rate=2e6),), deadline=3
    )
    assert at_rest(settings) == link(rate=1e6, delay=0.1)
    assert at_rest(settings, 7.0) == link(rate=2e6)
    bursty = link(loss=0.5, bursts=Bursts(enter=0.1, leave=0.1))
    assert at_rest(bursty).bursts == bursty.bursts
    assert at_rest(link(changes=(Change(at=7, loss=0.5, bursts=bursty.bursts),)), 7.0) == bursty


@pytest.mark.parametrize(
    ("settings", "measured", "missed"),
    [
        ({}, found(rate=1.04e7, delay=0.0524), []),
        ({}, found(rate=1.06e7), ["rate 1.06e+07 bit/s instead of 1e+07 (+6.0 %)"]),
        ({}, found(rate=None), ["rate not measured: no burst lasted"]),
        ({}, found(samples=3), ["delay not measured: only 3 messages came when they should"]),
        ({"rate": None}, found(rate=1.0), []),
        ({}, found(delay=0.053), ["delay 53 ms instead of 50 ms"]),  # 5 % are 2.5 ms
        ({"delay": 0.0}, found(delay=0.0019), []),  # what a busy host adds is allowed
        ({"delay": 0.0}, found(delay=0.0021), ["delay 2.1 ms instead of 0 ms"]),
        # jitter of 4 ms over 25 samples: a median is good to 1.25 · 4 / 5 = 1 ms, and three of these are allowed
        ({"jitter": 0.004}, found(delay=0.0554), []),
        ({"jitter": 0.004}, found(delay=0.0556), ["delay 55.6 ms instead of 50 ms"]),
        # 68 bytes of framing with each 1,500
        ({"overhead": 68}, found(rate=1e7 / (1 + 68 / 1500)), []),
        ({"overhead": 680}, found(rate=1e7), ["rate 1e+07 bit/s instead of 6.881e+06 (+45.3 %)"]),
        # framed messages of 250 bytes have less of the rate
        ({"overhead": 68}, found(rate=1e7 / (1 + 68 / 250), message=250), []),
        # a tenth is sent again: 5 %, a round trip of 0.1 s in 10 s, and 3 sqrt(0.09 / 8333) are allowed: 7 % in all
        ({"loss": 0.1}, found(rate=9.6e6), []),
        ({"loss": 0.1}, found(rate=9.7e6), ["rate 9.7e+06 bit/s instead of 9e+06 (+7.8 %)"]),
        # of a burst of 0.4 s whose first and last message jitter by 20 ms nobody knows the rate to 5 %
        ({"jitter": 0.02}, found(rate=8e6, jitter=0.02, burst=0.4), []),
        ({"jitter": 0.02}, found(rate=8e6, jitter=0.02), ["rate 8e+06 bit/s instead of 1e+07 (-20.0 %)"]),
        # 25 samples tell a standard deviation to 14 %; three times that and 2 ms are allowed
        ({"jitter": 0.02}, found(jitter=0.011), []),
        ({"jitter": 0.02}, found(jitter=0.009), ["jitter 9 ms instead of 19.89 ms"]),
        ({"jitter": 0.003}, found(jitter=0.02), []),  # not told from the host's own
    ],
)  # fmt: skip
def test_what_misses_its_tolerance_is_told(settings: dict[str, Any], measured: Measured, missed: list[str]) -> None:
    asked = link(**{"rate": 1e7, "delay": 0.05, **settings})
    assert deviations(asked, measured, tolerance=0.05) == missed


def test_only_the_delay_of_a_shared_link_is_judged() -> None:
    asked, measured = link(rate=1e6, delay=0.1), found(rate=5e5, delay=0.2)
    assert len(deviations(asked, measured, 0.05)) == 2
    assert deviations(asked, measured, 0.05, shared=True) == ["delay 200 ms instead of 100 ms"]


def test_beneath_tcp_a_token_bucket_holds_some_packets_and_jitter_is_not_judged() -> None:
    asked = link(rate=1e5, delay=0.05)
    # a quarter of a packet takes 30 ms, three packets 0.36 s: 9 % of a burst of 4 s
    assert deviations(asked, found(rate=1.13e5, delay=0.02, burst=4.0), 0.05, over_tcp=True) == []
    assert deviations(asked, found(rate=1.13e5, delay=0.02, burst=4.0), 0.05) == [
        "rate 1.13e+05 bit/s instead of 1e+05 (+13.0 %)",
        "delay 20 ms instead of 50 ms",
    ]
    assert deviations(asked, found(rate=1.15e5, delay=0.085, burst=4.0), 0.05, over_tcp=True) == [
        "rate 1.15e+05 bit/s instead of 1e+05 (+15.0 %)",
        "delay 85 ms instead of 50 ms",
    ]
    shaking = link(rate=1e7, delay=0.05, jitter=0.02)
    assert deviations(shaking, found(jitter=0.001), 0.05, over_tcp=True) == []


def test_most_of_a_skewed_jitter_lies_below_the_mean() -> None:
    asked = link(delay=0.1, jitter=0.02, jitter_kind="pareto")
    # two thirds of what jitters so are below its mean; the median is 0.3 standard deviations below
    measured = found(rate=None, delay=0.1 - 0.3 * 0.02, samples=10_000, jitter=0.02)
    assert deviations(asked, measured, 0.05) == []
    assert deviations(link(delay=0.1, jitter=0.02), measured, 0.05)


def test_a_probe_takes_no_longer_than_its_budget_on_a_slow_link() -> None:
    probe = ProbeSettings(samples=100, budget=2.0, burst_time=0.5)
    for rate in (1e5, 1e6, 1e9):
        count, pause = singles(link(rate=rate), probe)
        assert 8 <= count <= 100
        assert count * pause <= 2.0 or count == 8
        messages, length = burst(link(rate=rate), probe.burst_time, 16384)
        assert 8 * messages * length / rate < 0.8 or messages == 8
    assert singles(link(), probe)[0] == 100


@pytest.mark.alone
def test_a_probe_finds_what_the_links_impose() -> None:
    results = on_nodes(2, probed, {"rate": 2e6, "delay": 0.03}, 12, {})
    for measured, sent in results:
        assert measured.rate_bit_s == pytest.approx(2e6, rel=0.1)
        assert measured.delay_s == pytest.approx(0.03, abs=0.01)
        assert measured.samples >= 6
        assert sent.messages >= 20


@pytest.mark.alone
def test_a_probe_of_a_lossy_link_counts_what_was_sent_again() -> None:
    measured, sent = on_nodes(2, probed, {"rate": 2e6, "delay": 0.02, "loss": 0.2}, 12, {})[0]
    assert sent.retransmitted_bytes > 0
    # messages that were sent again came a round trip later, and tell nothing of the delay
    assert measured.delay_s == pytest.approx(0.02, abs=0.01)


@pytest.mark.alone
def test_both_ends_of_a_link_agree_on_its_messages_whoever_imposes_it() -> None:
    """Where the sender does not impose the jitter itself, number and pace follow from what was asked all the same."""
    results = on_nodes(2, probed, {"rate": 4e6, "delay": 0.03, "jitter": 0.02}, 500, {"jitter": 0.0})
    for measured, _ in results:
        # 0.12 s a message: the budget of 2 s is for 16
        assert 8 <= measured.samples <= 16
