"""Quantities as people write them ("50 Mbit/s", "4 ms", "0.1 %", "10 MB", "15 W") and SI floats, both ways."""

from __future__ import annotations

import math
import re
from collections.abc import Callable
from dataclasses import dataclass
from decimal import Decimal
from functools import cache
from typing import TYPE_CHECKING

from edgesim.topology.problems import Refusal, closest, shown

if TYPE_CHECKING:
    from pint import UnitRegistry

# Only what a topology needs: in pint's own registry a bit has no dimension, so that "10 Hz" would be a rate and
# "1 rad" a fraction, and "Mb" would be a megabarn.
UNITS = """
pico- = 1e-12 = p-
nano- = 1e-9 = n-
micro- = 1e-6 = µ- = μ- = u-
milli- = 1e-3 = m-
kilo- = 1e3 = k-
mega- = 1e6 = M-
giga- = 1e9 = G-
tera- = 1e12 = T-
kibi- = 2**10 = Ki-
mebi- = 2**20 = Mi-
gibi- = 2**30 = Gi-
second = [time] = s = sec
minute = 60 * second = min
hour = 60 * minute = h
day = 24 * hour = d
bit = [information]
byte = 8 * bit = B
bps = bit / second
Bps = byte / second
percent = 0.01 = %
watt = [power] = W
metre = [length] = m
radian = [angle] = rad
degree = 0.01745329251994329576923690768 * radian = deg = °
"""

LONGEST = 80
LARGEST_EXPONENT = 99
NUMBER_AND_UNIT = re.compile(
    r"\s*(?P<number>[+-]?(?:[0-9]+\.?[0-9]*|\.[0-9]+)(?:[eE](?P<exponent>[+-]?[0-9]+))?)"
    r"\s*(?P<unit>[A-Za-zµμ]+(?:\s*/\s*[A-Za-zµμ]+)?|%|°)?\s*"
)


class QuantityError(Refusal):
    """A text that is no quantity of the kind asked for, or one out of range."""


@dataclass(frozen=True)
class Kind:
    """One physical quantity: its SI unit, how it is written and what is offered to who writes it wrongly."""

    noun: str
    example: str
    si: str
    units: tuple[str, ...]
    format: Callable[[float], str]
    bare: bool = False
    """whether a number without a unit says it all"""
    word: str | None = None
    """what may stand instead of a number"""
    mistaken: tuple[tuple[str, str], ...] = ()
    """units that mean something else or nothing, and what was meant"""

    @property
    def allowed(self) -> str:
        return f"{self.noun} such as '{self.example}'" + (f", or {self.word}" if self.word else "")


@cache
def registry() -> UnitRegistry:
    """The project's units, in decimals, so that "6.6 ms" is the float nearest to 0.0066. Loads pint when first used."""
    from pint import UnitRegistry

    units: UnitRegistry = UnitRegistry(None, non_int_type=Decimal)
    units.load_definitions(UNITS.strip().splitlines())
    return units


def parse(value: object, kind: Kind) -> float:
    """The value in the kind's SI unit. Raises QuantityError; the sign and the size are the caller's to judge."""
    if isinstance(value, bool) or not isinstance(value, (str, int, float)):
        raise QuantityError(shown(value), kind.allowed)
    text = value if isinstance(value, str) else repr(value) if abs(value) < 10**LARGEST_EXPONENT else "inf"
    match = NUMBER_AND_UNIT.fullmatch(text[: LONGEST + 1])
    if match is None:
        raise QuantityError(shown(value), kind.allowed, closest(value, [kind.word] if kind.word else []))
    if len(text) > LONGEST or abs(int(match["exponent"] or 0)) > LARGEST_EXPONENT:
        raise QuantityError(shown(value), f"{kind.allowed}, its exponent at most {LARGEST_EXPONENT}")
    number, unit = Decimal(match["number"]), match["unit"]
    if unit is None:
        if not kind.bare and number != 0:
            raise QuantityError(shown(value), kind.allowed.replace(" such", " with its unit, such", 1))
        return float(number) + 0.0
    converted = _convert(number, unit, kind)
    if converted is None:
        meant = dict(kind.mistaken).get(unit) or closest(unit, kind.units)
        raise QuantityError(shown(value), kind.allowed, f"{match['number']} {meant}" if meant else None)
    return converted


def _convert(number: Decimal, unit: str, kind: Kind) -> float | None:
    """None if the unit is unknown or of another kind."""
    from pint import DimensionalityError, UndefinedUnitError

    units = registry()
    try:
        quantity = units.Quantity(number, units.parse_units(unit)).to(kind.si)
    except (DimensionalityError, UndefinedUnitError):
        return None
    return float(quantity.magnitude) + 0.0


def parse_within(value: object, kind: Kind, minimum: float, maximum: float) -> float:
    """As `parse`, refusing what lies outside the limits (SI, inclusive)."""
    number = parse(value, kind)
    if minimum <= number <= maximum:
        return number
    raise QuantityError(
        shown(value),
        f"{kind.format(minimum)} to {kind.format(maximum)}",
        _other_case(value, kind, minimum, maximum),
    )


def _other_case(value: object, kind: Kind, minimum: float, maximum: float) -> str | None:
    """'10 Mbit/s' for '10 mbit/s' (a millibit), '5 ms' for '5 Ms', where that would be within the limits."""
    match = NUMBER_AND_UNIT.fullmatch(value) if isinstance(value, str) else None
    if match is None or match["unit"] is None:
        return None
    unit = match["unit"][0].swapcase() + match["unit"][1:]
    converted = _convert(Decimal(match["number"]), unit, kind)
    return f"{match['number']} {unit}" if converted is not None and minimum <= converted <= maximum else None


def _formatter(*scale: tuple[float, float, str]) -> Callable[[float], str]:
    """Four significant digits in the first unit of (size, number at which the next unit takes over, name)."""

    def format_(value: float) -> str:
        for size, until, unit in scale[:-1]:
            number = f"{value / size:.4g}"
            if abs(float(number)) < until:
                return f"{number} {unit}"
        size, _, unit = scale[-1]
        return f"{value / size:.4g} {unit}"

    return format_


_rate = _formatter(
    (1, 1e3, "bit/s"), (1e3, 1e3, "kbit/s"), (1e6, 1e3, "Mbit/s"), (1e9, 1e3, "Gbit/s"), (1e12, 1e3, "Tbit/s")
)
# Links are spoken of in milliseconds, 0.2 ms of jitter too.
_time = _formatter(
    (1e-9, 1e3, "ns"), (1e-6, 100, "µs"), (1e-3, 1e3, "ms"), (1, 600, "s"), (60, 600, "min"), (3600, 1e3, "h")
)
_bytes = _formatter((1, 1e3, "B"), (1e3, 1e3, "kB"), (1e6, 1e3, "MB"), (1e9, 1e3, "GB"), (1e12, 1e3, "TB"))
_power = _formatter((1e-3, 1e3, "mW"), (1, 1e3, "W"), (1e3, 1e3, "kW"))
_length = _formatter((1e-3, 1e3, "mm"), (1, 1e3, "m"), (1e3, 1e6, "km"))


def format_rate(bits_per_second: float | None) -> str:
    """Four significant digits, "10 Mbit/s"; None is "unlimited"."""
    return "unlimited" if bits_per_second is None else _rate(bits_per_second)


def format_time(seconds: float) -> str:
    """Four significant digits, "4.8 ms", "95.5 min"."""
    return _time(seconds) if seconds else "0 s"


def format_bytes(number: float) -> str:
    """Four significant digits in powers of ten, "26.21 MB"."""
    return _bytes(number)


def format_fraction(fraction: float) -> str:
    """Four significant digits, "0.1 %"."""
    return f"{fraction * 100:.4g} %"


def format_power(watts: float) -> str:
    """Four significant digits, "15 W"."""
    return _power(watts) if watts else "0 W"


def format_length(metres: float) -> str:
    """Four significant digits, "550 km"."""
    return _length(metres) if metres else "0 m"


def format_angle(radians: float) -> str:
    """Six significant digits, "67.86 deg"."""
    return f"{math.degrees(radians):.6g} deg"


RATE = Kind(
    "a rate",
    "10 Mbit/s",
    "bit/s",
    ("bit/s", "kbit/s", "Mbit/s", "Gbit/s", "B/s", "kB/s", "MB/s", "GB/s", "bps", "kbps", "Mbps", "Gbps"),
    format_rate,
    word="unlimited",
    mistaken=(
        ("b/s", "bit/s"),
        ("kb/s", "kbit/s"),
        ("Kb/s", "kbit/s"),
        ("Mb/s", "Mbit/s"),
        ("Gb/s", "Gbit/s"),
        ("K", "kbit/s"),
        ("M", "Mbit/s"),
        ("G", "Gbit/s"),
    ),
)
TIME = Kind(
    "a time",
    "4 ms",
    "s",
    ("s", "ms", "µs", "us", "ns", "min", "h", "d"),
    format_time,
    mistaken=(("m", "min"), ("hr", "h"), ("hrs", "h")),
)
SIZE = Kind(
    "a size",
    "10 MB",
    "byte",
    ("B", "kB", "MB", "GB", "KiB", "MiB", "GiB"),
    format_bytes,
    mistaken=(("K", "kB"), ("M", "MB"), ("G", "GB"), ("Mb", "MB"), ("kb", "kB")),
)
FRACTION = Kind("a fraction", "0.1 %", "", ("%",), format_fraction, bare=True)
POWER = Kind("a power", "15 W", "watt", ("W", "mW", "kW"), format_power)
LENGTH = Kind("a length", "550 km", "metre", ("m", "km"), format_length, mistaken=(("KM", "km"), ("Km", "km")))
ANGLE = Kind(
    "an angle",
    "53 deg",
    "radian",
    ("deg", "°", "rad"),
    format_angle,
    mistaken=(("d", "deg"),),
)


def parse_rate(value: object) -> float | None:
    """bit/s; None for "unlimited". A byte is 8 bits."""
    return None if value == RATE.word else parse(value, RATE)


def parse_time(value: object) -> float:
    """s"""
    return parse(value, TIME)


def parse_size(value: object) -> int:
    """Whole bytes."""
    return round(parse(value, SIZE))


def parse_fraction(value: object) -> float:
    """0..1 from a percentage or a bare number; refuses what lies outside."""
    return parse_within(value, FRACTION, 0, 1)


def parse_power(value: object) -> float:
    """W"""
    return parse(value, POWER)


def parse_length(value: object) -> float:
    """m"""
    return parse(value, LENGTH)


def parse_angle(value: object) -> float:
    """rad"""
    return parse(value, ANGLE)
