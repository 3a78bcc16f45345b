"""What a receiver makes of the messages of a link."""

from __future__ import annotations

import pytest

from node_agent.meter import BURST, Meter
from node_agent.transport import HEADER_BYTES, Header

LENGTH = 1000
BITS = 8 * (HEADER_BYTES + LENGTH)


def header(ended: float, back_to_back: bool) -> Header:
    return Header(LENGTH, LENGTH, ended, ended + 0.1, back_to_back)


def test_delay_is_of_messages_that_were_waited_for() -> None:
    meter = Meter()
    meter.take(header(1.0, False), 1.125, waited=True)
    meter.take(header(2.0, False), 9.0, waited=False)  # it lay there for seconds before anybody looked
    meter.take(header(3.0, False), 3.375, waited=True)
    measured = meter.measured()
    assert (measured.delay_s, measured.delay_max_s, measured.delay_samples) == (0.25, 0.375, 2)
    assert meter.measured().delay_s is None


def test_rate_is_of_messages_that_follow_one_another() -> None:
    meter = Meter()
    meter.take(header(1.0, False), 1.1, waited=True)
    for k in (1, 2, 3):
        meter.take(header(1.0 + 0.01 * k, True), 1.1 + 0.01 * k, waited=True)
    meter.take(header(5.0, False), 5.1, waited=True)  # ends the burst
    measured = meter.measured()
    assert measured.rate_bits == 3 * BITS
    assert measured.rate_s == pytest.approx(0.03)


def test_bits_whose_arrival_was_not_seen_count_once_a_later_ones_was() -> None:
    meter = Meter()
    meter.take(header(1.0, False), 1.1, waited=True)
    meter.take(header(1.01, True), 1.9, waited=False)
    meter.take(header(1.02, True), 1.12, waited=True)
    meter.take(header(1.03, True), 1.9, waited=False)  # nothing tells when it came
    measured = meter.measured()
    assert measured.rate_bits == 2 * BITS
    assert measured.rate_s == pytest.approx(0.02)


def test_bursts_too_short_to_tell_the_rate_are_left_out() -> None:
    meter = Meter()
    meter.take(header(1.0, False), 1.1, waited=True)
    meter.take(header(1.001, True), 1.1 + 0.9 * BURST, waited=True)
    measured = meter.measured()
    assert (measured.rate_bits, measured.rate_s) == (0, 0)
