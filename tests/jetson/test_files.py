"""The files for boards: the unit as systemd reads it, the configuration as the agent does."""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path

import pytest

from edgesim.fleet.inventory import read_inventory
from node_agent.daemon import settings, slot
from node_agent.device import power

JETSON = Path(__file__).parents[2] / "jetson"
UNIT = JETSON / "edgesim-agent.service"


IMPLY_NO_NEW_PRIVILEGES = {
    *("SystemCallFilter", "SystemCallArchitectures", "RestrictAddressFamilies", "RestrictNamespaces"),
    *("PrivateDevices", "ProtectKernelTunables", "ProtectKernelModules", "ProtectKernelLogs", "ProtectClock"),
    *("MemoryDenyWriteExecute", "RestrictRealtime", "RestrictSUIDSGID", "DynamicUser", "LockPersonality"),
    *("ProtectHostname", "NoNewPrivileges"),
}
"""systemd.exec(5), NoNewPrivileges=: with any of them sudo would not work"""


def directives(*texts: str) -> dict[str, str]:
    """What is in force after a unit's drop-ins: in lists an empty value takes back what stood before."""
    lines = [line.strip() for text in texts for line in text.splitlines()]
    found = {}
    for line in lines:
        name, equals, value = line.partition("=")
        if equals and not line.startswith("#"):
            found[name] = value
    return {name: value for name, value in found.items() if value not in ("", "no")}


def drop_in(start: str) -> str:
    """The text in the README that begins with this line, up to the next file's."""
    text = (JETSON / "README.md").read_text()
    return re.split(r"^ +# /etc|^\S", text.split(start)[1], flags=re.MULTILINE)[0]


@pytest.mark.skipif(shutil.which("systemd-analyze") is None, reason="no systemd-analyze here")
def test_systemd_finds_nothing_wrong_with_the_unit(tmp_path: Path) -> None:
    text = UNIT.read_text()
    assert text.count("/opt/edgesim/bin/node-agent") == 1
    copy = tmp_path / UNIT.name
    copy.write_text(text.replace("/opt/edgesim/bin/node-agent", "/bin/true"))  # which is not installed here
    done = subprocess.run(["systemd-analyze", "verify", str(copy)], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")


def test_no_directive_hides_devices_or_forbids_what_cuda_does_with_memory() -> None:
    hiding = {"PrivateDevices", "ProtectClock", "MemoryDenyWriteExecute", "DeviceAllow", "DevicePolicy"}
    assert not directives(UNIT.read_text()).keys() & hiding


def test_sudo_works_under_the_drop_in_for_power_modes_and_nvpmodel_keeps_the_mode() -> None:
    unit = UNIT.read_text()
    found = directives(unit, drop_in("power-mode.conf: each of these alone would keep sudo from working\n"))
    assert directives(unit).keys() & IMPLY_NO_NEW_PRIVILEGES
    assert not found.keys() & IMPLY_NO_NEW_PRIVILEGES
    assert found["CapabilityBoundingSet"] == "~"
    assert (found["ProtectSystem"], found["ReadWritePaths"]) == ("strict", "-/var/lib/nvpmodel")


def test_a_start_and_a_stop_may_last_until_the_board_is_in_the_power_mode_from_before() -> None:
    found = directives(UNIT.read_text())
    assert float(found["TimeoutStopSec"]) > slot.STOPPING
    assert float(found["TimeoutStartSec"]) > 2 * power.CALLS * power.LIMIT


def test_the_configuration_is_one_and_tells_all_that_may_be_set(tmp_path: Path) -> None:
    text = (JETSON / "agent.yaml").read_text()
    found = settings.read(JETSON / "agent.yaml")
    assert found.data == Path("/var/lib/edgesim")
    whole = tmp_path / "agent.yaml"
    whole.write_text(re.sub(r"^# (?=[a-z_]+: )", "", text, flags=re.MULTILINE).replace("eth0", "lo"))
    told = settings.read(whole)
    assert told.model_fields_set == set(settings.AgentSettings.model_fields)
    assert told.model_dump(exclude={"name", "interface"}) == found.model_dump(exclude={"name", "interface"})


def test_the_inventory_is_one() -> None:
    assert [place.name for place in read_inventory(JETSON / "boards.yaml")] == ["orin-1", "orin-2", "xavier"]
