"""The files for boards: the unit as systemd reads it, the configuration as the agent does."""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path

import pytest

JETSON = Path(__file__).parents[2] / "jetson"
UNIT = JETSON / "edgesim-agent.service"


def directives() -> dict[str, str]:
    lines = (line for line in UNIT.read_text().splitlines() if "=" in line and not line.startswith("#"))
    return {name: value for name, _, value in (line.partition("=") for line in lines)}


@pytest.mark.skipif(shutil.which("systemd-analyze") is None, reason="no systemd-analyze here")
def test_systemd_finds_nothing_wrong_with_the_unit(tmp_path: Path) -> None:
    text = UNIT.read_text()
    assert text.count("/opt/edgesim/bin/node-agent") == 1
    copy = tmp_path / UNIT.name
    copy.write_text(text.replace("/opt/edgesim/bin/node-agent", "/bin/true"))  # which is not installed here
    done = subprocess.run(["systemd-analyze", "verify", str(copy)], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")


def test_the_unit_leaves_cuda_its_devices_and_its_memory() -> None:
    found = directives()
    assert not found.keys() & {
        "PrivateDevices",
        "ProtectClock",
        "MemoryDenyWriteExecute",
        "DeviceAllow",
        "DevicePolicy",
    }
    assert found["SupplementaryGroups"].split() == ["video", "render"]
    assert {"AF_INET", "AF_INET6", "AF_UNIX", "AF_NETLINK"} <= set(found["RestrictAddressFamilies"].split())


def test_the_unit_is_watched_and_comes_back() -> None:
    found = directives()
    assert (found["Type"], found["Restart"], found["StartLimitIntervalSec"]) == ("notify", "on-failure", "0")
    assert float(found["WatchdogSec"]) >= 10
    assert found["OOMPolicy"] == "continue"
    assert found["StateDirectoryMode"] == "0700"
    assert "time-sync.target" in found["After"].split()


def test_the_configuration_is_one_and_tells_all_that_may_be_set(tmp_path: Path) -> None:
    settings = pytest.importorskip("node_agent.daemon.settings")
    text = (JETSON / "agent.yaml").read_text()
    found = settings.read(JETSON / "agent.yaml")
    assert found.data == Path("/var/lib/edgesim")
    whole = tmp_path / "agent.yaml"
    whole.write_text(re.sub(r"^# (?=[a-z_]+: )", "", text, flags=re.MULTILINE).replace("eth0", "lo"))
    told = settings.read(whole)
    assert told.model_fields_set == set(settings.AgentSettings.model_fields)
    assert told.model_dump(exclude={"name", "interface"}) == found.model_dump(exclude={"name", "interface"})


def test_the_inventory_is_one() -> None:
    inventory = pytest.importorskip("edgesim.fleet.inventory")
    assert [place.name for place in inventory.read_inventory(JETSON / "boards.yaml")] == ["orin-1", "orin-2", "xavier"]
