"""The connections of the API's server: how many there may be, how slow they may be, and who is behind each.

A new connection is always taken. Where there are too many, the one that has been silent for longest goes, those of the
job's owner last: nobody can lock a controller out of its own lease.
"""

from __future__ import annotations

import asyncio
import json
import math
import socket
import ssl
import time
from collections.abc import Callable
from typing import Any

import h11
from uvicorn.config import Config
from uvicorn.protocols.http.h11_impl import H11Protocol
from uvicorn.server import ServerState

from node_agent.daemon.api import Refused
from node_agent.security.contexts import Peer

MOST = 64

HEAD_WITHIN = 10.0
"""s from a connection's beginning, or from the first byte of a later request, until a request's head is there"""

LINGER = 0.5
"""s that a connection stays open after a refusal of a body that was not read, so that the refusal is"""

UNACKNOWLEDGED = 30
"""s after which a peer that acknowledges nothing is gone"""


Identify = Callable[[ssl.SSLObject | None], Peer | None]
"""from the TLS object of a connection, or None where there is no TLS"""


class Connections:
    """All that are open."""

    def __init__(self, identify: Identify, owner: Callable[[], str | None]) -> None:
        """`owner` tells the name of who holds the board."""
        self.identify = identify
        self._owner = owner
        self._open: set[BoardProtocol] = set()

    def add(self, connection: BoardProtocol) -> None:
        self._open.add(connection)
        if len(self._open) > MOST:
            owner = self._owner()
            others = self._open - {connection}
            least = min(others, key=lambda one: (one.peer is not None and one.peer.name == owner, one.active))
            self._open.discard(least)
            least.transport.abort()

    def drop_soon(self, refuse: Callable[[Peer | None], object]) -> None:
        """Close those whose peer is refused, after what is being answered now."""
        asyncio.get_running_loop().call_later(LINGER, self._drop, refuse)

    def _drop(self, refuse: Callable[[Peer | None], object]) -> None:
        for connection in list(self._open):
            if refuse(connection.peer):
                connection.transport.abort()

    def discard(self, connection: BoardProtocol) -> None:
        self._open.discard(connection)


class BoardProtocol(H11Protocol):
    """uvicorn's, with limits."""

    def __init__(
        self, config: Config, server_state: ServerState, app_state: dict[str, Any], connections: Connections
    ) -> None:
        super().__init__(config=config, server_state=server_state, app_state=app_state)
        self._connections = connections
        self._head_due: asyncio.TimerHandle | None = None
        self._certificate_ends: asyncio.TimerHandle | None = None
        self.peer: Peer | None = None
        self.active = self.loop.time()
        """when something came last"""

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        _set_options(transport.get_extra_info("socket"))
        self.peer = self._connections.identify(transport.get_extra_info("ssl_object"))
        self.app_state = {**self.app_state, "peer": self.peer}
        self.transport = _Patient(transport, self)
        self._connections.add(self)
        self._await_head()
        if self.peer is not None and self.peer.ends_s < math.inf:
            left = self.peer.ends_s - time.time()
            self._certificate_ends = self.loop.call_later(left, self.transport.abort)

    def connection_lost(self, exc: Exception | None) -> None:
        self._connections.discard(self)
        self._head_is_there()
        if self._certificate_ends is not None:
            self._certificate_ends.cancel()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        if self.transport.is_closing():
            return
        self.active = self.loop.time()
        super().data_received(data)
        if self.conn.their_state is not h11.IDLE:
            self._head_is_there()
        elif self._head_due is None and not self.transport.is_closing():
            self._await_head()

    @property
    def unread(self) -> bool:
        """Whether more of a request may be on its way."""
        return self.conn.their_state in (h11.SEND_BODY, h11.ERROR)

    def shutdown(self) -> None:
        """Of the server. Over TLS a peer that says nothing would not let itself be taken leave of."""
        idle = self.cycle is None or self.cycle.response_complete
        if idle and not self.transport.get_write_buffer_size():
            self.transport.abort()
        else:
            super().shutdown()

    def send_400_response(self, msg: str) -> None:
        """A request that is no HTTP. Nothing can be answered once an answer has begun."""
        if self.conn.our_state not in (h11.IDLE, h11.SEND_RESPONSE):
            self.transport.abort()
            return
        body = json.dumps(Refused(error="request: found what is no HTTP/1.1").model_dump()).encode()
        headers = [
            (b"content-type", b"application/json"),
            (b"content-length", str(len(body)).encode()),
            (b"connection", b"close"),
        ]
        for event in (h11.Response(status_code=400, headers=headers), h11.Data(data=body), h11.EndOfMessage()):
            self.transport.write(self.conn.send(event) or b"")
        self.transport.close()

    def _await_head(self) -> None:
        self._head_due = self.loop.call_later(HEAD_WITHIN, self.transport.abort)

    def _head_is_there(self) -> None:
        if self._head_due is not None:
            self._head_due.cancel()
            self._head_due = None


class _Patient(asyncio.Transport):
    """A transport that is not closed in the face of a peer who still sends: the connection would be reset, and the peer
    might never read what it was answered."""

    def __init__(self, transport: asyncio.Transport, connection: BoardProtocol) -> None:
        self._transport = transport
        self._connection = connection
        self._lingers = False

    def is_closing(self) -> bool:
        return self._lingers or self._transport.is_closing()

    def close(self) -> None:
        if self._lingers or not self._connection.unread:
            self._transport.close()
            return
        self._lingers = True
        self._transport.pause_reading()
        asyncio.get_running_loop().call_later(LINGER, self._transport.close)

    def abort(self) -> None:
        self._transport.abort()

    def write(self, data: bytes | bytearray | memoryview) -> None:
        self._transport.write(data)

    def get_write_buffer_size(self) -> int:
        return self._transport.get_write_buffer_size()

    def pause_reading(self) -> None:
        self._transport.pause_reading()

    def resume_reading(self) -> None:
        if not self._lingers:
            self._transport.resume_reading()

    def get_extra_info(self, name: str, default: Any = None) -> Any:
        return self._transport.get_extra_info(name, default)


def _set_options(connection: socket.socket | None) -> None:
    """Have the kernel find out that a peer is gone, and send short answers at once."""
    if connection is None:
        return
    connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    for option, value in (("TCP_KEEPIDLE", 10), ("TCP_KEEPINTVL", 5), ("TCP_KEEPCNT", 3)):
        connection.setsockopt(socket.IPPROTO_TCP, getattr(socket, option), value)
    connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, UNACKNOWLEDGED * 1000)
