"""The daemon put together: a slot for jobs, the routes to it, and the server in front of them."""

from __future__ import annotations

import asyncio
import socket
import time
from collections.abc import Callable
from contextlib import nullcontext

from node_agent.daemon.app import make
from node_agent.daemon.connections import Connections
from node_agent.daemon.gate import Gate
from node_agent.daemon.membership import Membership, Plaintext
from node_agent.daemon.process import Commanding, command_of
from node_agent.daemon.server import BoardServer
from node_agent.daemon.settings import AgentSettings
from node_agent.daemon.slot import Around, Slot
from node_agent.daemon.store import Store


class Agent:
    """To be made inside of the event loop."""

    def __init__(
        self,
        settings: AgentSettings,
        store: Store,
        security: Membership | Plaintext,
        around: Around = nullcontext,
        commanding: Commanding = command_of,
    ) -> None:
        """`around` holds while a job's process runs; `commanding` tells its command."""
        self._security = security
        self.slot = Slot(settings, store, around, commanding)
        self._connections = Connections(security.identify, self._owner)
        app = make(settings, self.slot, security, time.monotonic())
        self._server = BoardServer(Gate(app, security.refuse), self._connections, security.tls)
        if isinstance(security, Membership):
            security.after_revocation = lambda: self._connections.drop_soon(security.refuse)

    async def serve(self, listening: socket.socket, stop: asyncio.Event, ready: Callable[[], object]) -> None:
        """Take up what an earlier daemon left, and serve until `stop` is set. `ready` is called when requests are
        answered."""
        await self.slot.take_up()
        serving = asyncio.create_task(self._server.run_on(listening))
        listens = asyncio.create_task(self._server.listens.wait())
        stopping = asyncio.create_task(stop.wait())
        await asyncio.wait({serving, listens}, return_when=asyncio.FIRST_COMPLETED)
        if not serving.done():
            ready()
            await asyncio.wait({serving, stopping}, return_when=asyncio.FIRST_COMPLETED)
        stopping.cancel()
        await self.slot.stop()
        self._server.end()
        await serving

    def _owner(self) -> str | None:
        """The name of who holds the board."""
        job = self.slot.current
        return job.record.owner if job is not None and job.active else None
