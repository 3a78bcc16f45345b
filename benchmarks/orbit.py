"""CPU time of contact plans: a mega-constellation over a revolution, and four satellites over a day.

Process CPU seconds of the computation, all threads together; imports and the reading of the Earth's rotation are apart,
and told. A plan holds contacts between satellites, passes over the stations, eclipses, and the ranges of each contact.
"""

from __future__ import annotations

import time

began = time.process_time()

import numpy as np  # noqa: E402
from rich.console import Console  # noqa: E402
from rich.table import Table  # noqa: E402

from edgesim.contacts import plan_of, rows  # noqa: E402
from edgesim.orbit.plan import Plan  # noqa: E402
from edgesim.topology.constellation import Constellation  # noqa: E402

STATIONS = [
    {"name": "madrid", "latitude": "40.43 deg", "longitude": "-4.25 deg"},
    {"name": "canberra", "latitude": "-35.40 deg", "longitude": "148.98 deg"},
    {"name": "goldstone", "latitude": "35.43 deg", "longitude": "-116.89 deg"},
]
LARGE = {"name": "leo", "altitude": "550 km", "inclination": "53 deg", "planes": 72, "satellites": 22, "phasing": 17}
SMALL = {"name": "sat", "altitude": "550 km", "inclination": "53 deg", "satellites": 4, "spacing": "12 deg"}
STEP = 10.0
RING = [("sat-0", "sat-1"), ("sat-1", "sat-3"), ("sat-3", "sat-2"), ("sat-2", "sat-0")]


def constellation(shell: dict[str, object], duration: float) -> Constellation:
    """With the three stations, sampled every STEP."""
    return Constellation.model_validate(
        {
            "epoch": "2026-03-20T00:00:00Z",
            "duration": f"{duration} s",
            "step": f"{STEP} s",
            "shells": [shell],
            "stations": STATIONS,
        }
    )


def timed(section: Constellation, pairs: list[tuple[str, str]] | None) -> tuple[float, Plan]:
    """CPU seconds of the quickest of three, and what came out."""
    spent = []
    for _ in range(3):
        start = time.process_time()
        plan = plan_of(section, pairs)
        spent.append(time.process_time() - start)
    return min(spent), plan


def main() -> None:
    before = time.process_time()
    for shell in (LARGE, SMALL):
        constellation(shell, 60.0).sky.epoch.sidereal(np.zeros(1))
    console = Console(width=110)
    console.print(
        f"imports {before - began:.2f} CPU-s, models and Earth rotation {time.process_time() - before:.2f} CPU-s"
    )
    table = Table("satellites", "links", "stations", "time", "steps", "contacts", "eclipses", "CPU", "CPU a step")
    for shell, duration, pairs in ((LARGE, 5730.0, None), (SMALL, 86400.0, RING)):
        spent, plan = timed(constellation(shell, duration), pairs)
        kinds = [row["kind"] for row in rows(plan)]
        steps = int(np.ceil(duration / STEP)) + 1
        table.add_row(
            f"{plan.sky.satellites}",
            f"{len(plan.cross.pairs)}",
            f"{len(plan.sky.stations)}",
            f"{duration / 3600:.2f} h",
            f"{steps}",
            f"{len(kinds) - kinds.count('eclipse')}",
            f"{kinds.count('eclipse')}",
            f"{spent:.3f} s",
            f"{spent / steps * 1e3:.3f} ms",
        )
    console.print(table)


if __name__ == "__main__":
    main()
