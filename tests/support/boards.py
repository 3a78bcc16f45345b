"""Boards and their controllers as far as TLS goes: identities, servers on 127.0.0.1, and what clients get from them."""

from __future__ import annotations

import asyncio
import socket
import ssl
import threading
import time
from collections.abc import Callable, Coroutine, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import uvicorn
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from edgesim.fleet.authority import Authority
from node_agent.security.contexts import peer_of, refresh, server_context
from node_agent.security.identity import Identity, IdentityError

HOST = "127.0.0.1"


def enrolled(
    authority: Authority, folder: Path, name: str = "orin-1", hosts: tuple[str, ...] = (HOST,), days: float = 30
) -> Identity:
    """A board that is a member of the fleet; `days` negative: its certificate has ended."""
    identity = Identity(folder)
    csr = identity.request(name)
    if days > 0:
        identity.accept(authority.issue(csr, name, hosts, days), authority.ca_pem, authority.crl())
    else:  # it would not be accepted
        identity.certificate.write_bytes(authority.issue(csr, name, hosts, days))
        identity.ca.write_bytes(authority.ca_pem)
        identity.revoked.write_bytes(authority.crl())
    return identity


@contextmanager
def in_a_thread(main: Callable[[asyncio.Event], Coroutine[Any, Any, Any]]) -> Iterator[None]:
    """Runs it in a loop of its own, until the event, which is set at the end."""
    loop = asyncio.new_event_loop()
    stop = asyncio.Event()
    thread = threading.Thread(target=lambda: loop.run_until_complete(main(stop)))
    thread.start()
    try:
        yield
    finally:
        loop.call_soon_threadsafe(stop.set)
        thread.join(20)
        assert not thread.is_alive()
        loop.close()


@contextmanager
def greeter(context: ssl.SSLContext, identity: Identity | None = None) -> Iterator[int]:
    """A server that answers every line with the peer's name, or "revoked"; yields its port."""
    listening = socket.create_server((HOST, 0))

    async def greet(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        peer = peer_of(writer.get_extra_info("ssl_object"))
        while await reader.readline():
            gone = identity is not None and identity.is_revoked(peer.serial)
            writer.write(b"revoked\n" if gone else f"{peer.role} {peer.name}\n".encode())
        writer.close()

    async def main(stop: asyncio.Event) -> None:
        asyncio.get_running_loop().set_exception_handler(lambda loop, what: None)
        server = await asyncio.start_server(greet, sock=listening, ssl=context)
        await stop.wait()
        server.close()

    with in_a_thread(main):
        yield listening.getsockname()[1]


@contextmanager
def connected(port: int, context: ssl.SSLContext, host: str = HOST) -> Iterator[ssl.SSLSocket]:
    with (
        socket.create_connection((HOST, port), 10) as plain,
        context.wrap_socket(plain, server_hostname=host) as secured,
    ):
        yield secured


def greeted(port: int, context: ssl.SSLContext, host: str = HOST) -> str:
    with connected(port, context, host) as secured:
        return said_to(secured)


def said_to(secured: ssl.SSLSocket) -> str:
    secured.sendall(b"hello\n")
    return secured.recv(100).decode().strip()


@contextmanager
def small_agent(identity: Identity, port: int = 0) -> Iterator[int]:
    """The part of a board's API that looks after its certificate, over mutual TLS; yields its port."""
    context = server_context(identity)

    async def request(_: Request) -> Response:
        return Response(identity.request(identity.name))

    async def renew(request: Request) -> Response:
        return await taken(request, identity.renew)

    async def revocations(request: Request) -> Response:
        return await taken(request, identity.replace_revocations)

    async def taken(request: Request, take: Callable[[bytes], None]) -> Response:
        try:
            take(await request.body())
        except IdentityError as error:
            return JSONResponse({"error": str(error), "status": None}, 422)
        refresh(context, identity)
        return Response(status_code=204)

    app = Starlette(
        routes=[
            Route("/v1/certificate-request", request),
            Route("/v1/certificate", renew, methods=["PUT"]),
            Route("/v1/revocations", revocations, methods=["PUT"]),
        ]
    )
    config = uvicorn.Config(app, lifespan="off", log_config=None, timeout_graceful_shutdown=1)
    config.load()
    config.ssl = context
    server = uvicorn.Server(config)
    listening = socket.create_server((HOST, port))

    async def main(stop: asyncio.Event) -> None:
        async def end() -> None:
            await stop.wait()
            server.should_exit = True

        await asyncio.gather(server.serve(sockets=[listening]), end())

    with in_a_thread(main):
        until = time.monotonic() + 20
        while not server.started and time.monotonic() < until:
            time.sleep(0.01)
        yield listening.getsockname()[1]
