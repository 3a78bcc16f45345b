from __future__ import annotations

import pytest

from edgesim.fleet.address import Address
from edgesim.topology.problems import Refusal


@pytest.mark.parametrize(
    ("written", "host", "port", "text"),
    [
        ("10.0.0.11", "10.0.0.11", 7443, "10.0.0.11:7443"),
        ("10.0.0.11:80", "10.0.0.11", 80, "10.0.0.11:80"),
        ("Orin-1.lab", "orin-1.lab", 7443, "orin-1.lab:7443"),
        ("localhost:1", "localhost", 1, "localhost:1"),
        ("fd00::0011", "fd00::11", 7443, "[fd00::11]:7443"),
        ("[fd00::11]:8000", "fd00::11", 8000, "[fd00::11]:8000"),
    ],
)
def test_an_address_has_one_form(written: str, host: str, port: int, text: str) -> None:
    found = Address.parse(written)
    assert (found.host, found.port, str(found)) == (host, port, text)
    assert Address.parse(text) == found


@pytest.mark.parametrize(
    "written",
    [
        "",
        ":7443",
        "a b",
        "http://a",
        "a/b",
        "user@a",
        "-a",
        "a:0",
        "a:65536",
        "a:b",
        "10.0.0.256",
        "1.2.3",
        "[::1",
        "[a]:1",
        "fe80::1%eth0",
        "[10.0.0.1]:1",
        "a" * 64,
        "a..b",
        "a\n",
        7,
        None,
        True,
    ],
)
def test_what_is_no_address_is_refused(written: object) -> None:
    with pytest.raises(Refusal):
        Address.parse(written)


@pytest.mark.parametrize(
    ("written", "loopback"),
    [
        ("127.0.0.1", True),
        ("127.3.2.1", True),
        ("::1", True),
        ("localhost", True),
        ("10.0.0.1", False),
        ("a.lab", False),
    ],
)
def test_loopback(written: str, loopback: bool) -> None:
    assert Address.parse(written).loopback is loopback
