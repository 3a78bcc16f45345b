from __future__ import annotations

import socket

import pytest

from node_agent.daemon.network import NoAddress, address_of, is_loopback, open_meeting


def test_nodes_meet_at_a_port_that_is_open_already() -> None:
    listening, host, port = open_meeting("lo")
    with listening, socket.create_connection((host, port), timeout=5):
        assert host == address_of("lo") == "127.0.0.1"
        with pytest.raises(NoAddress, match=f"interface lo: 127.0.0.1, port {port}: Address already in use"):
            open_meeting("lo", port)


def test_an_interface_without_address() -> None:
    with pytest.raises(NoAddress, match="interface nope0: found no IP address"):
        open_meeting("nope0")


def test_what_is_loopback() -> None:
    assert [is_loopback(host) for host in ("localhost", "127.9.9.9", "::1")] == [True] * 3
    assert [is_loopback(host) for host in ("0.0.0.0", "::", "192.0.2.1")] == [False] * 3
