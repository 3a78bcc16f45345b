from __future__ import annotations

import pytest

from node_agent.telemetry.rails import definition, total


@pytest.mark.parametrize(
    ("rails", "watts", "parts"),
    [
        ({"POM_5V_IN": 2.0, "POM_5V_GPU": 0.5}, 2.0, "POM_5V_IN"),
        ({"VDD_SYS_GPU": 1.0, "VDD_IN": 5.0, "VDD_SYS_DDR": 1.0}, 5.0, "VDD_IN"),
        (
            {"VDD_GPU_SOC": 2.0, "VDD_CPU_CV": -0.4, "VIN_SYS_5V0": 3.0, "VDDQ_VDD2_1V8AO": 0.7},
            4.6,
            "VDD_GPU_SOC + VDD_CPU_CV + VIN_SYS_5V0",
        ),
        ({"VDD_GPU": 1.0, "VDD_CPU_SOC_MSS": 2.0, "VIN_SYS_5V0": 3.0, "VIN": 20.0}, 20.0, "VIN"),
        (
            {"VDD_GPU": 1.0, "VDD_CPU_SOC_MSS": 2.0, "VIN_SYS_5V0": 3.0},
            6.0,
            "VDD_GPU + VDD_CPU_SOC_MSS + VIN_SYS_5V0",
        ),
        (
            {"GPU": 1.0, "CPU": 2.0, "SOC": 3.0, "CV": 4.0, "VDDRQ": 5.0, "SYS5V": 6.0},
            21.0,
            "GPU + CPU + SOC + CV + VDDRQ + SYS5V",
        ),
    ],
)
def test_the_total_is_that_of_the_board(rails: dict[str, float], watts: float, parts: str) -> None:
    found = total(rails)
    assert found is not None
    assert found.watts == pytest.approx(watts)
    assert found.definition == parts


@pytest.mark.parametrize("rails", [(), ("VDD_SOC",), ("VDD_GPU_SOC", "VIN_SYS_5V0"), ("GPU", "CPU", "SOC", "SYS5V")])
def test_rails_that_are_not_all_of_a_total_are_none(rails: tuple[str, ...]) -> None:
    assert definition(rails) is None
    assert total(dict.fromkeys(rails, 1.0)) is None
