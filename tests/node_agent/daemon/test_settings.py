from __future__ import annotations

from pathlib import Path

import pytest

from node_agent.daemon.network import default_interface
from node_agent.daemon.settings import SettingsError, read, split_address


def write(tmp_path: Path, text: str) -> Path:
    path = tmp_path / "agent.yaml"
    path.write_text(text)
    return path


def test_all_settings_may_be_left_out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("STATE_DIRECTORY", "/var/lib/edgesim")
    found = read(write(tmp_path, ""))
    assert (found.host, found.port, found.data) == ("0.0.0.0", 7443, Path("/var/lib/edgesim"))
    assert not found.on_loopback
    assert found.memory_bytes is None


def test_what_is_set(tmp_path: Path) -> None:
    text = "name: orin-1\nlisten: '[::1]:80'\ninterface: lo\nmemory_mib: 2\ndisk_mib: 3\ncpus: [0]\npower_mode: 15W\n"
    found = read(write(tmp_path, text))
    assert (found.name, found.host, found.on_loopback) == ("orin-1", "::1", True)
    assert (found.memory_bytes, found.disk_bytes, found.cpus, found.power_mode) == (2 * 2**20, 3 * 2**20, (0,), "15W")


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("nme: x", "agent.yaml: found an unknown setting 'nme', allowed name, listen, data"),
        ("disk_mib: much", "agent.yaml: disk_mib: found 'much', allowed a valid integer"),
        ("listen: 0.0.0.0", "agent.yaml: listen: found '0.0.0.0', allowed ADDRESS:PORT"),
        ("listen: example.org:1", "agent.yaml: listen: found 'example.org:1', allowed ADDRESS:PORT with an address"),
        ("cpus: [100000]", "agent.yaml: cpus: found [100000], allowed some of 0"),
        ("interface: nope0", "agent.yaml: interface: found 'nope0', allowed "),
        ("name: a/b", "agent.yaml: name: found 'a/b'"),
        ("[1]", "agent.yaml: found list, allowed a mapping"),
        ("a: [", "agent.yaml: line 1: no YAML"),
        ("[" * 1000, "agent.yaml: found YAML nested too deeply"),
    ],
)
def test_what_is_wrong_is_one_line(tmp_path: Path, text: str, reason: str) -> None:
    with pytest.raises(SettingsError) as raised:
        read(write(tmp_path, text))
    assert f"{tmp_path}/{reason}" in str(raised.value)
    assert "\n" not in str(raised.value)


def test_a_file_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match=r"none\.yaml: No such file"):
        read(tmp_path / "none.yaml")


def test_addresses() -> None:
    assert split_address("[2001:db8::1]:7443") == ("2001:db8::1", 7443)
    assert split_address("localhost:0") == ("localhost", 0)
    for wrong in ("1.2.3.4:99999", "1.2.3.4:-1", "1.2.3.4:٣", ":1"):
        with pytest.raises(ValueError, match="allowed"):
            split_address(wrong)


def test_the_interface_of_the_default_route(tmp_path: Path) -> None:
    routes = tmp_path / "route"
    head = "Iface\tDestination\tGateway\tFlags\tRefCnt\tUse\tMetric\tMask\tMTU\tWindow\tIRTT\n"
    routes.write_text(
        f"{head}wlan0\t00000000\t0101A8C0\t0003\t0\t0\t600\t00000000\t0\t0\t0\n"
        "eth0\t00000000\t0101A8C0\t0003\t0\t0\t100\t00000000\t0\t0\t0\n"
        "eth1\t0001A8C0\t00000000\t0001\t0\t0\t0\t00FFFFFF\t0\t0\t0\n"
    )
    assert default_interface(routes) == "eth0"
    routes.write_text(head)
    assert default_interface(routes) == "lo"
