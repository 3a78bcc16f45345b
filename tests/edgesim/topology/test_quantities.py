from __future__ import annotations

import math
import subprocess
import sys

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgesim.topology.quantities import (
    RATE,
    TIME,
    QuantityError,
    format_bytes,
    format_fraction,
    format_power,
    format_rate,
    format_time,
    parse_fraction,
    parse_power,
    parse_rate,
    parse_size,
    parse_time,
    parse_within,
)

amounts = st.floats(min_value=1e-6, max_value=1e15)


@pytest.mark.parametrize(
    ("text", "bits_per_second"),
    [
        ("50 Mbit/s", 50e6),
        ("9600 bit/s", 9600.0),
        ("9.6kbit/s", 9600.0),
        ("1 Gbps", 1e9),
        ("3 kbps", 3e3),
        ("8 bps", 8.0),
        ("5 MB/s", 40e6),
        ("2 MBps", 16e6),
        ("1 MiB/s", 8 * 2**20),
        ("1 byte / s", 8.0),
        ("1e3 bits/s", 1e3),
        ("60 bit/min", 1.0),
        ("0", 0.0),
        (0, 0.0),
        ("unlimited", None),
    ],
)
def test_rates(text: object, bits_per_second: float | None) -> None:
    assert parse_rate(text) == bits_per_second


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("4 ms", 0.004),
        ("6.6 ms", 0.0066),
        ("4 µs", 4e-6),
        ("4 μs", 4e-6),
        ("4 us", 4e-6),
        ("94.5 min", 5670.0),
        ("2 h", 7200.0),
        ("1 d", 86400.0),
        (".5 s", 0.5),
        ("+3. s", 3.0),
        ("-3 ms", -0.003),
    ],
)
def test_times_are_the_nearest_floats(text: str, seconds: float) -> None:
    assert parse_time(text) == seconds


def test_sizes_fractions_and_powers() -> None:
    assert parse_size("10 MB") == 10_000_000
    assert parse_size("25 MiB") == 25 * 2**20
    assert parse_size("80 bit") == 10
    assert isinstance(parse_size("10 MB"), int)
    assert parse_fraction("0.1 %") == 0.001
    assert parse_fraction("0.7 %") == 0.007
    assert parse_fraction(0.25) == parse_fraction("0.25") == parse_fraction("25%") == 0.25
    assert parse_power("15 W") == 15.0
    assert parse_power("500 mW") == 0.5


@pytest.mark.parametrize(
    ("value", "message"),
    [
        (50, "found 50, allowed a rate with its unit, such as '10 Mbit/s', or unlimited"),
        ("50", "found '50', allowed a rate with its unit, such as '10 Mbit/s', or unlimited"),
        (
            "50 Mbut/s",
            "found '50 Mbut/s', allowed a rate such as '10 Mbit/s', or unlimited; did you mean '50 Mbit/s'?",
        ),
        (
            "50 Mb/s",
            "found '50 Mb/s', allowed a rate such as '10 Mbit/s', or unlimited; did you mean '50 Mbit/s'?",
        ),
        (
            "10 kbit",
            "found '10 kbit', allowed a rate such as '10 Mbit/s', or unlimited; did you mean '10 kbit/s'?",
        ),
        ("unlimted", "found 'unlimted', allowed a rate such as '10 Mbit/s', or unlimited; did you mean 'unlimited'?"),
        ("10 Hz", "found '10 Hz', allowed a rate such as '10 Mbit/s', or unlimited"),
        ("4 ms", "found '4 ms', allowed a rate such as '10 Mbit/s', or unlimited"),
        (True, "found true, allowed a rate such as '10 Mbit/s', or unlimited"),
        (None, "found nothing, allowed a rate such as '10 Mbit/s', or unlimited"),
    ],
)
def test_refused_rates(value: object, message: str) -> None:
    with pytest.raises(QuantityError) as refusal:
        parse_rate(value)
    assert str(refusal.value) == message


@pytest.mark.parametrize(
    "value",
    [math.nan, math.inf, -math.inf, "nan s", "inf s", "1e400 s", "1e-400 s", 10**200, "9" * 5000, "1e999999999 s", "s"],
)
def test_what_is_no_finite_number_is_refused_as_a_time(value: object) -> None:
    with pytest.raises(QuantityError, match="allowed a time such as '4 ms'") as refusal:
        parse_time(value)
    assert len(str(refusal.value)) < 200


def test_a_large_exponent_is_named() -> None:
    with pytest.raises(QuantityError) as refusal:
        parse_time("1e400 s")
    assert str(refusal.value) == "found '1e400 s', allowed a time such as '4 ms', its exponent at most 99"


def test_a_prefix_in_the_wrong_case_is_recognised_by_its_size() -> None:
    with pytest.raises(QuantityError) as refusal:
        parse_within("10 mbit/s", RATE, 1, 1e12)
    assert str(refusal.value) == "found '10 mbit/s', allowed 1 bit/s to 1 Tbit/s; did you mean '10 Mbit/s'?"
    with pytest.raises(QuantityError) as refusal:
        parse_within("5 Ms", TIME, 0, 3600)
    assert str(refusal.value) == "found '5 Ms', allowed 0 s to 60 min; did you mean '5 ms'?"


@pytest.mark.parametrize("value", [-0.1, 1.1, "101 %", "-1 %"])
def test_fractions_stay_between_0_and_1(value: object) -> None:
    with pytest.raises(QuantityError, match="allowed 0 % to 100 %"):
        parse_fraction(value)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (format_rate(1e7), "10 Mbit/s"),
        (format_rate(9600), "9.6 kbit/s"),
        (format_rate(999.96e3), "1 Mbit/s"),
        (format_rate(None), "unlimited"),
        (format_rate(0), "0 bit/s"),
        (format_time(0.0048), "4.8 ms"),
        (format_time(0.0002), "0.2 ms"),
        (format_time(5e-5), "50 µs"),
        (format_time(0), "0 s"),
        (format_time(300), "300 s"),
        (format_time(5670), "94.5 min"),
        (format_time(-0.5), "-500 ms"),
        (format_bytes(25 * 2**20), "26.21 MB"),
        (format_bytes(12), "12 B"),
        (format_fraction(0.001), "0.1 %"),
        (format_power(15), "15 W"),
        (format_power(0.5), "500 mW"),
    ],
)
def test_formatting(text: str, expected: str) -> None:
    assert text == expected


@given(amounts)
def test_rates_survive_the_round_trip(value: float) -> None:
    assert parse_rate(format_rate(value)) == pytest.approx(value, rel=5.1e-4)


@given(st.floats(min_value=1e-15, max_value=1e12))
def test_times_survive_the_round_trip(value: float) -> None:
    assert parse_time(format_time(value)) == pytest.approx(value, rel=5.1e-4)


@given(st.integers(min_value=0, max_value=10**15))
def test_sizes_survive_the_round_trip(value: int) -> None:
    assert parse_size(format_bytes(value)) == pytest.approx(value, rel=5.1e-4)


@given(st.just(0.0) | st.floats(min_value=1e-12, max_value=1))
def test_fractions_survive_the_round_trip(value: float) -> None:
    assert parse_fraction(format_fraction(value)) == pytest.approx(value, rel=5.1e-4)


@given(amounts)
def test_formatting_what_was_read_back_changes_nothing(value: float) -> None:
    once = format_rate(value)
    assert format_rate(parse_rate(once)) == once


@given(st.integers(1, 9999), st.integers(-6, 6), st.sampled_from(["ms", "s", "us"]))
def test_four_digits_are_exact(digits: int, exponent: int, unit: str) -> None:
    size = {"ms": -3, "s": 0, "us": -6}[unit]
    assert parse_time(f"{digits}e{exponent} {unit}") == float(f"{digits}e{exponent + size}")


@given(st.text(max_size=30))
def test_any_text_is_read_or_refused(text: str) -> None:
    for parse in (parse_rate, parse_time, parse_size, parse_fraction, parse_power):
        try:
            value = parse(text)
        except QuantityError as refusal:
            assert "allowed" in str(refusal)  # noqa: PT017
        else:
            assert value is None or math.isfinite(value)


def test_importing_the_module_does_not_load_pint() -> None:
    code = "import sys, edgesim.topology.quantities; sys.exit('pint' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
