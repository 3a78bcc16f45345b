"""Connections whose other end says nothing, or much."""

from __future__ import annotations

import asyncio
import socket
import ssl
from pathlib import Path

import pytest
from boards import HOST, enrolled

from edgesim.fleet.authority import Authority
from node_agent.security import accepting
from node_agent.security.accepting import Accepting
from node_agent.security.contexts import server_context

MOST = 4


def connect(place: tuple[str, int], own: str = "127.0.0.1") -> socket.socket:
    connection = socket.create_connection(place, timeout=5, source_address=(own, 0))
    connection.setblocking(False)
    return connection


async def closed(connection: socket.socket) -> bool:
    """Whether the other end gives it up, without having been asked to."""
    try:
        return await asyncio.wait_for(asyncio.get_running_loop().sock_recv(connection, 1), 0.1) == b""
    except ConnectionResetError:
        return True
    except asyncio.TimeoutError:
        return False


def test_who_asks_for_many_connections_stands_in_his_own_way(tmp_path: Path) -> None:
    authority = Authority.create(tmp_path / "fleet")
    context = server_context(enrolled(authority, tmp_path / "identity"))
    client = authority.controller("alice").context()

    async def scenario(listening: socket.socket) -> None:
        taking = Accepting(listening, asyncio.Protocol, context, within=20, most=MOST)
        try:
            place = listening.getsockname()
            other = connect(place, "127.0.0.2")
            crowd = [connect(place) for _ in range(3 * MOST)]
            reader, writer = await asyncio.open_connection(place[0], place[1], ssl=client, server_hostname=HOST)
            assert await asyncio.gather(*map(closed, crowd)) == [True] * (2 * MOST + 2) + [False] * (MOST - 2)
            _, other_writer = await asyncio.open_connection(sock=other, ssl=client, server_hostname=HOST)
            for stream in (writer, other_writer):
                assert isinstance(stream.get_extra_info("ssl_object"), ssl.SSLObject)
                stream.close()
            assert reader is not None
        finally:
            taking.close()
        assert await asyncio.gather(*map(closed, crowd)) == [True] * len(crowd)
        for connection in crowd:
            connection.close()

    with socket.create_server(("127.0.0.1", 0)) as listening:
        asyncio.run(scenario(listening))


def test_where_there_is_nothing_left_to_take_connections_with_they_wait(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(accepting, "LATER", 0.05)

    class Poor(socket.socket):
        refused = 1

        def accept(self) -> tuple[socket.socket, tuple[str, int]]:
            if self.refused:
                self.refused -= 1
                raise OSError(24, "Too many open files")
            return super().accept()

    class Greeting(asyncio.Protocol):
        def connection_made(self, transport: asyncio.BaseTransport) -> None:
            assert isinstance(transport, asyncio.Transport)
            transport.write(b"hello")

    async def scenario(listening: socket.socket) -> None:
        taking = Accepting(listening, Greeting, None, within=1)
        reader, writer = await asyncio.open_connection(*listening.getsockname())
        assert await asyncio.wait_for(reader.readexactly(5), 5) == b"hello"
        writer.close()
        taking.close()

    with Poor() as listening:
        listening.bind(("127.0.0.1", 0))
        listening.listen()
        asyncio.run(scenario(listening))


def test_hosts_are_told_apart_by_what_they_may_not_choose() -> None:
    assert accepting._whose(("::ffff:10.0.0.1", 1)) == accepting._whose(("10.0.0.1", 2)) == "10.0.0.1"
    assert accepting._whose(("2001:db8::1", 1)) == accepting._whose(("2001:db8::2:3%eth0", 1)) == "2001:db8::/64"
