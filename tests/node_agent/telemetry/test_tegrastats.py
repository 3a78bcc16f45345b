from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from node_agent.telemetry.tegrastats import Cpu, Sample, Used, parse
from node_agent.telemetry.tegrastats_program import of

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


SHAPES = {
    "TX2, no swap": (
        "RAM 990/7846MB (lfb 1500x4MB) CPU [80%@2030,60%@2030,off,off,81%@2030,6%@2030] EMC_FREQ 3%@1866 "
        "GR3D_FREQ 5%@1300 APE 150 MTS fg 0% bg 2% BCPU@38.5C Tboard@32C PMIC@100C thermal@37.4C VDD_IN 7300/7400 "
        "VDD_CPU 3300/3400 VDD_GPU 200/210 VDD_WIFI 0/0 VDD_DDR 1300/1310",
        {"total_w": 7.3, "cpus_on": 4, "cpu_hz": 2030e6, "temperature_c": 38.5, "gpu_percent": 5},
    ),
    "Xavier NX": (
        "RAM 2600/6854MB (lfb 6x1MB) SWAP 470/3427MB (cached 3MB) CPU [3%@1900,7%@1900,off,off] EMC_FREQ 0%@1600 "
        "GR3D_FREQ 4%@[510] VIC_FREQ 601 APE 150 AUX@39C CPU@39.5C PMIC@50C VDD_IN 5100mW/5000mW "
        "VDD_CPU_GPU_CV 690mW/680mW VDD_SOC 1100mW/1100mW",
        {"total_w": 5.1, "cpus_on": 2, "gpu_hz": 510e6, "emc_hz": 1600e6, "temperature_c": 39.5},
    ),
    "AGX Xavier, its beginning lost": (
        "[0%@1190,1%@1190] EMC_FREQ 0%@1331 GR3D_FREQ 0%@114 VIC_FREQ 115 APE 150 AUX@36C CPU@36.5C Tdiode@38.75C "
        "GPU 400mW/410mW CPU 500mW/510mW SOC 1200mW/1210mW CV 0mW/0mW VDDRQ 300mW/310mW SYS5V 2700mW/2710mW",
        {"total_w": 5.1, "cpus_on": None, "gpu_percent": 0, "gpu_hz": 114e6, "temperature_c": 38.75},
    ),
    "AGX Xavier with L4T 32": (
        "RAM 1/2MB CPU [0%@1190] GPU 400/410 CPU 500/510 SOC 1200/1210 CV 0/0 VDDRQ 300/310 SYS5V 2700/2710",
        {"total_w": 5.1, "cpus_on": 1, "temperature_c": None},
    ),
    "AGX Orin, two GPU domains": (
        "10-16-2023 10:59:22 RAM 1200/30623MB (lfb 6400x4MB) CPU [0%@729,1%@730] EMC_FREQ 0%@204 GR3D_FREQ 7%@114 "
        "GR3D2_FREQ 9%@115 NVJPG1 729 VIC_FREQ 729 APE 233 CV0@-256C CPU@43.5C SOC2@40.062C VDD_GPU_SOC 4700mW/4700mW "
        "VDD_CPU_CV 800mW/800mW VIN_SYS_5V0 3800mW/3800mW NC 0mW/0mW VDDQ_VDD2_1V8AO 700mW/700mW NC 0mW/0mW",
        {"total_w": 9.3, "cpu_hz": 729.5e6, "gpu_percent": 7, "gpu_hz": 114e6, "temperature_c": 43.5},
    ),
    "Orin Nano without root": (
        "06-18-2025 11:25:24 RAM 3400/7620MB (lfb 25x4MB) SWAP 1500/16384MB (cached 170MB) CPU [1%@1420,2%@729] "
        "GR3D_FREQ 0% cpu@50.031C tj@50.25C VDD_IN 4800mW/4800mW VDD_CPU_GPU_CV 500mW/500mW VDD_SOC 1400mW/1400mW",
        {"total_w": 4.8, "emc_hz": None, "gpu_percent": 0, "gpu_hz": None, "temperature_c": 50.25},
    ),
    "Thor at rest, its carrier without a monitor": (
        "05-17-2026 10:00:33 RAM 4200/125773MB (lfb 29x4MB) CPU [0%@972,17%@2601] EMC_FREQ 0%@665 GR3D_FREQ @[0,0,0] "
        "NVENC0_FREQ @0 VIC off OFA_FREQ @0 PVA0_FREQ off APE 300 cpu@35.25C soc012@36.062C VDD_GPU 0mW/0mW "
        "VDD_CPU_SOC_MSS 4900mW/4500mW VIN_SYS_5V0 4300mW/4200mW",
        {"total_w": 9.2, "gpu_percent": None, "gpu_hz": 0.0, "temperature_c": 36.062},
    ),
}
"""as boards write them, and what is in them"""


@pytest.mark.parametrize("shape", SHAPES)
def test_lines_of_the_boards(shape: str) -> None:
    line, wanted = SHAPES[shape]
    found = of(parse(line))
    assert {name: found[name] for name in wanted} == pytest.approx(wanted)


@pytest.mark.parametrize("line", ["lfb 4/5", "TEST 01/02/2024", "RAM 4/5", "VDD_IN 4mW/5", "VDD_IN 4/5mW", "GPUS 4/5"])
def test_what_only_looks_like_a_rail_is_none(line: str) -> None:
    assert parse(f"SWAP 7/8MB {line} VDD_SOC 1000/1000 MY_RAIL 2000mW/2000mW").rails == {"VDD_SOC": 1.0, "MY_RAIL": 2.0}


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
KNOWN_NAMES = st.sampled_from(["VDD_IN", "POM_5V_IN", "VIN_SYS_5V0", "GPU", "CPU", "SOC", "CV", "VDDRQ", "SYS5V"])
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
    unit = draw(st.sampled_from(["", "mW"]))
    rails = draw(st.dictionaries(NAMES if unit else KNOWN_NAMES, MILLIWATTS, max_size=5))
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
