"""uvicorn's server with the connections of `node_agent.daemon.connections`, ended by an event instead of a signal."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import ssl
from collections.abc import Iterator
from typing import Any

from uvicorn.config import Config
from uvicorn.lifespan.off import LifespanOff
from uvicorn.server import Server

from node_agent.daemon.connections import BoardProtocol, Connections
from node_agent.security.accepting import Accepting

HANDSHAKE_WITHIN = 5.0
"""s that TLS may take to be set up"""

BACKLOG = 128

KEEP_ALIVE = 75
"""s that a connection may stay open without a request"""

CLOSING = 2
"""s that answers may still take when the server ends"""

LARGEST_HEAD = 32 * 1024
"""bytes of a request's head"""


class BoardServer(Server):
    def __init__(self, app: Any, connections: Connections, tls: ssl.SSLContext | None) -> None:
        super().__init__(
            Config(
                app,
                lifespan="off",
                log_config=None,
                access_log=False,
                ws="none",
                server_header=False,
                date_header=False,
                proxy_headers=False,
                interface="asgi3",
                timeout_keep_alive=KEEP_ALIVE,
                timeout_graceful_shutdown=CLOSING,
                h11_max_incomplete_event_size=LARGEST_HEAD,
            )
        )
        self._connections = connections
        self._tls = tls
        self._accepting: list[Accepting] = []
        self._over = asyncio.Event()
        self.listens = asyncio.Event()

    async def run_on(self, listening: socket.socket) -> None:
        """Serve on a listening socket until `end` is called."""
        await self.serve(sockets=[listening])

    def end(self) -> None:
        self._over.set()

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        assert sockets is not None
        self.lifespan = LifespanOff(self.config)

        def protocol() -> BoardProtocol:
            return BoardProtocol(self.config, self.server_state, {}, self._connections)

        self.servers = []
        self._accepting = [Accepting(listening, protocol, self._tls, HANDSHAKE_WITHIN) for listening in sockets]
        self.started = True
        self.listens.set()

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        for accepting in self._accepting:
            accepting.close()
        await super().shutdown(sockets)

    async def main_loop(self) -> None:
        await self._over.wait()

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield
