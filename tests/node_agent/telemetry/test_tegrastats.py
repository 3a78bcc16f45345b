from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from node_agent.telemetry.tegrastats import Cpu, Sample, Used, parse
from node_agent.telemetry.tegrastats_program import of

REAL = Path(__file__).parents[4] / "shared" / "science" / "tegrastats-samples.txt"
MB = 2**20

L4T_32 = (
    "RAM 900/3964MB (lfb 12x4MB) SWAP 7/1982MB (cached 1MB) IRAM 0/252kB(lfb 252kB) CPU [31%@1428,off,2%@1428,off] "
    "EMC_FREQ 6%@1600 GR3D_FREQ 48%@921 APE 25 PLL@30C CPU@31.5C PMIC@100C AO@38.5C "
    "POM_5V_IN 3120/2980 POM_5V_CPU 800/790"
)
L4T_36 = (
    "01-02-2026 03:04:05 RAM 5000/62841MB (lfb 3x4MB) CPU [5%@1728,7%@1728,off] EMC_FREQ 2%@2133 "
    "GR3D_FREQ 9%@[306,0] NVDEC off VIC 3%@115 APE 174 cpu@41.25C soc0@-256C tj@41.25C VDD_GPU_SOC 2800mW/2790mW "
    "VDD_CPU_CV -400mW/-380mW VIN_SYS_5V0 3100mW/3100mW NC 0mW/0mW VDDQ_VDD2_1V8AO 500mW/500mW"
)
L4T_39 = (
    "RAM 1/2MB CPU [1%@972] EMC_FREQ 0%@665 GR3D_FREQ @[315,315,315] cpu@30.5C/32C VDD_GPU 0mW/10mW/20mW "
    "VDD_CPU_SOC_MSS 5000mW/5000mW/6000mW VIN_SYS_5V0 4000mW/4000mW/4000mW VIN 21000mW/1mW/2mW NEW_FIELD what"
)


def test_a_line_of_l4t_32() -> None:
    assert parse(L4T_32) == Sample(
        ram=Used(900 * MB, 3964 * MB),
        swap=Used(7 * MB, 1982 * MB),
        cpus=(Cpu(31, 1428e6), None, Cpu(2, 1428e6), None),
        emc_percent=6,
        emc_hz=1600e6,
        gpu_percent=48,
        gpu_hz=(921e6,),
        temperatures={"PLL": 30.0, "CPU": 31.5, "AO": 38.5},
        rails={"POM_5V_IN": 3.12, "POM_5V_CPU": 0.8},
    )


def test_a_line_of_l4t_36_in_the_terms_of_telemetry() -> None:
    """What is off has no temperature, watts below zero keep their sign, and a subset is not added: 2.8 - 0.4 + 3.1."""
    assert of(parse(L4T_36)) == {
        "gpu_percent": 9,
        "gpu_hz": 306e6,
        "cpus_on": 2,
        "cpu_hz": 1728e6,
        "emc_percent": 2,
        "emc_hz": 2133e6,
        "temperature_c": 41.25,
        "temperatures_c": {"cpu": 41.25, "tj": 41.25},
        "rails_w": {"VDD_GPU_SOC": 2.8, "VDD_CPU_CV": -0.4, "VIN_SYS_5V0": 3.1, "VDDQ_VDD2_1V8AO": 0.5},
        "total_w": pytest.approx(5.5),
        "power_source": "VDD_GPU_SOC + VDD_CPU_CV + VIN_SYS_5V0 by tegrastats",
    }


def test_of_a_rail_with_three_values_the_first_is_now() -> None:
    sample = parse(L4T_39)
    assert sample.rails == {"VDD_GPU": 0.0, "VDD_CPU_SOC_MSS": 5.0, "VIN_SYS_5V0": 4.0, "VIN": 21.0}
    assert sample.temperatures == {"cpu": 30.5}
    assert (sample.gpu_percent, sample.gpu_hz) == (None, (315e6,) * 3)
    assert of(sample)["power_source"] == "VIN by tegrastats"


@pytest.mark.parametrize("line", ["", "tegrastats: must be run as root", "CPU [1%@", "GR3D_FREQ", "VDD_IN 1/", "@C"])
def test_of_another_line_nothing_is_known(line: str) -> None:
    assert parse(line).empty


def test_processors_of_which_one_cannot_be_read_are_none() -> None:
    assert parse("CPU [1%@972,??,2%@972]").cpus is None


@pytest.mark.skipif(not REAL.exists(), reason=f"no lines of real boards here ({REAL})")
def test_lines_of_real_boards() -> None:
    rows = [row.split("\t") for row in REAL.read_text().splitlines() if not row.startswith("#")]
    lines = {name: parse(line) for name, line in rows}
    assert len(lines) == 15
    totals = {}
    for name, sample in lines.items():
        found = of(sample)
        assert 20 < found["temperature_c"] < 100, name
        assert 0.5 < found["total_w"] < 200, name
        assert "NC" not in sample.rails
        if name != "agx_xavier_partial":  # cut off before its processors
            assert sample.ram is not None
            assert 0 < sample.ram.used < sample.ram.total
            assert found["cpus_on"] in range(2, 15)
            assert 1e8 <= found["cpu_hz"] < 3e9
        totals[name] = round(found["total_w"], 3)
    assert lines["agx_orin_r36_nosudo_negative"].rails["VDD_CPU_CV"] == -0.398
    assert lines["agx_orin_r36_nosudo_negative"].emc_hz is None
    assert totals["agx_orin_r35"] == 9.428  # 4788 + 798 + 3842 mW
    assert totals["agx_xavier_partial"] == 5.258  # 467 + 467 + 1245 + 0 + 311 + 2768 mW
    assert totals["orin_nano_r36_sudo"] == 12.479
    assert totals["thor_r39_loaded_fwdcompat"] == 124.486


@settings(max_examples=150)
@given(st.text() | st.text(alphabet="RAMCPUGVD_INm W@[]%/,.-0123456789off\u0663\n", max_size=200))
def test_no_text_makes_the_parser_raise(text: str) -> None:
    parse(text)


@settings(max_examples=150)
@given(
    line=st.sampled_from([L4T_32, L4T_36, L4T_39]),
    cuts=st.lists(st.tuples(st.integers(0, 400), st.integers(0, 30), st.text(max_size=12)), min_size=1, max_size=6),
)
def test_a_damaged_line_gives_numbers_or_nothing(line: str, cuts: list[tuple[int, int, str]]) -> None:
    for start, length, put in cuts:
        line = line[:start] + put + line[start + length :]
    found = of(parse(line))
    for name in ("gpu_percent", "gpu_hz", "cpu_hz", "emc_percent", "emc_hz"):
        assert found[name] is None or 0 <= found[name] < 1e13
    assert all(-256 < value < 10_000 for value in (found["temperatures_c"] or {}).values())
    assert all(abs(value) < 1e6 for value in (found["rails_w"] or {}).values())


NAMES = st.from_regex(r"[A-Z][A-Z0-9_]{1,12}", fullmatch=True).filter(lambda name: name not in ("NC", "RAM", "SWAP"))
PERCENT, MHZ, MILLIWATTS = st.integers(0, 100), st.integers(0, 9999), st.integers(-5000, 200_000)
CPUS = st.lists(st.none() | st.tuples(PERCENT, MHZ), min_size=1, max_size=14)


@st.composite
def lines(draw: st.DrawFn) -> tuple[str, Sample]:
    """A line of the grammar, any field of which may be missing, and what it says."""
    parts: list[str] = []
    known: dict[str, Any] = {}
    if draw(st.booleans()):
        parts.append("12-31-2025 23:59:58")
    for word, field in (("RAM", "ram"), ("SWAP", "swap")):
        if draw(st.booleans()):
            used, total = draw(st.tuples(st.integers(0, 10**6), st.integers(1, 10**6)))
            parts.append(f"{word} {used}/{total}MB ({'lfb 4x4MB' if word == 'RAM' else 'cached 3MB'})")
            known[field] = Used(used * MB, total * MB)
    if draw(st.booleans()):
        cpus = draw(CPUS)
        parts.append(f"CPU [{','.join('off' if cpu is None else f'{cpu[0]}%@{cpu[1]}' for cpu in cpus)}]")
        known["cpus"] = tuple(None if cpu is None else Cpu(cpu[0], cpu[1] * 1e6) for cpu in cpus)
    if draw(st.booleans()):
        percent, clock = draw(st.none() | PERCENT), draw(MHZ)
        parts.append(f"EMC_FREQ {'' if percent is None else f'{percent}%'}@{clock}")
        known |= {"emc_percent": percent, "emc_hz": clock * 1e6}
    if draw(st.booleans()):
        percent, clocks = draw(PERCENT), draw(st.lists(MHZ, max_size=3))
        shown = "" if not clocks else f"@[{','.join(map(str, clocks))}]" if draw(st.booleans()) else f"@{clocks[0]}"
        parts.append(f"GR3D_FREQ {percent}%{shown}")
        known |= {"gpu_percent": percent, "gpu_hz": tuple(mhz * 1e6 for mhz in clocks[: 3 if "[" in shown else 1])}
    parts += draw(st.lists(st.sampled_from(["NVENC off", "NVJPG1 729", "VIC 36%@115", "OFA_FREQ @0", "APE 174"])))
    largest = draw(st.booleans())
    temperatures = draw(
        st.dictionaries(NAMES.filter(lambda name: name != "PMIC"), st.integers(-40_000, 150_000), max_size=5)
    )
    for name, millidegrees in temperatures.items():
        parts.append(f"{name}@{millidegrees / 1000:g}C" + (f"/{millidegrees / 1000:g}C" if largest else ""))
    known["temperatures"] = {name: float(f"{value / 1000:g}") for name, value in temperatures.items()}
    rails = draw(st.dictionaries(NAMES, MILLIWATTS, max_size=5))
    unit = draw(st.sampled_from(["", "mW"]))
    parts += [
        f"{name} {power}{unit}/{power + 9}{unit}" + (f"/9{unit}" if largest else "") for name, power in rails.items()
    ]
    known["rails"] = {name: power / 1000 for name, power in rails.items()}
    return " ".join(parts), Sample(**known)


@settings(max_examples=150)
@given(lines())
def test_what_a_line_is_composed_of_is_read_from_it(composed: tuple[str, Sample]) -> None:
    line, sample = composed
    assert parse(line) == sample
