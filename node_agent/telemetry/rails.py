"""Which power rails of a Jetson are its total.

Modules that measure their input have a rail for it. AGX Xavier, AGX Orin and Thor modules measure the supplies of
their parts: the total is the sum of those that do not feed one another. VDDQ_VDD2_1V8AO of AGX Orin is fed by
VIN_SYS_5V0 and so is part of it. Sums are taken behind the regulators: what the board draws from its plug is more.

Source: the tables of power monitors in NVIDIA's Jetson Linux Developer Guide, and its moderators on VDDQ_VDD2_1V8AO
(forums.developer.nvidia.com, topic 223111).
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass

UNCONNECTED = "NC"
"""the label of a channel without a rail"""

TOTALS: tuple[tuple[str, ...], ...] = (
    ("VIN",),  # Thor, on carriers that have a monitor of their own
    ("VDD_IN",),  # TX2, Xavier NX, Orin Nano and NX
    ("POM_5V_IN",),  # Nano
    ("VDD_GPU_SOC", "VDD_CPU_CV", "VIN_SYS_5V0"),  # AGX Orin
    ("VDD_GPU", "VDD_CPU_SOC_MSS", "VIN_SYS_5V0"),  # Thor
    ("GPU", "CPU", "SOC", "CV", "VDDRQ", "SYS5V"),  # AGX Xavier
)
"""rails whose sum is the total; the first that a board has all of counts"""


@dataclass(frozen=True)
class Total:
    watts: float
    definition: str
    """the rails that were added: "VDD_IN", "VDD_GPU_SOC + VDD_CPU_CV + VIN_SYS_5V0" """


def definition(names: Collection[str]) -> tuple[str, ...] | None:
    """The rails among `names` that are the total; None where they are of no known board, or not all that it takes."""
    return next((total for total in TOTALS if set(total) <= set(names)), None)


def total(rails: Mapping[str, float]) -> Total | None:
    """Of the power of rails, W, signed: sensors show a little less than nothing at rest."""
    parts = definition(rails)
    return None if parts is None else Total(sum(rails[name] for name in parts), " + ".join(parts))
