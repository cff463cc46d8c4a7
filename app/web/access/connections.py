"""Limits of connections: their number, and the time to send a request or read a response.

uvicorn limits only the time between two requests, so a client that never finishes its request headers would keep a file
descriptor for as long as it likes. Other limits of requests need a request, and are in `security`.
"""

import asyncio
import logging
import os
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass

from starlette.types import ASGIApp, Message, Receive, Scope, Send
from uvicorn.protocols.http.h11_impl import H11Protocol

from app.web.access.addresses import Proxies, network_of

REQUEST_SECONDS = 10.0  # from the connection or the last response until all headers of the next request have arrived
READ_SECONDS = 60.0  # until the client has read enough for the next part of a response
MAX_CONNECTIONS = 1024
MAX_PER_ADDRESS = 256
RESERVED_DESCRIPTORS = 64  # for the database, files and jobs

logger = logging.getLogger(__name__)

Endpoints = tuple[tuple[str, int], tuple[str, int]]  # the addresses and ports of client and server


@dataclass(frozen=True)
class ConnectionLimits:
    """Numbers of connections: in total, from one address, and waiting to be accepted."""

    total: int
    per_address: int
    backlog: int

    @classmethod
    def for_descriptors(cls, descriptors: int) -> "ConnectionLimits":
        """Limits for a process that may open `descriptors` files.

        The event loop accepts a whole backlog before it reports the first of these connections, and needs three more
        rounds to close one. So four backlogs of descriptors stay free, and accepting never fails.
        """
        backlog = min(128, max(8, descriptors // 16))
        total = min(MAX_CONNECTIONS, max(8, descriptors - RESERVED_DESCRIPTORS - 4 * backlog))
        return cls(total, min(MAX_PER_ADDRESS, total // 2), backlog)

    @classmethod
    def of_process(cls) -> "ConnectionLimits":
        """Limits for this process."""
        return cls.for_descriptors(os.sysconf("SC_OPEN_MAX") if hasattr(os, "sysconf") else MAX_CONNECTIONS)


class Connection:
    """One TCP connection.

    It is idle while the server waits for a request: from the start, and after each response.
    """

    def __init__(self, transport: asyncio.Transport, client: str) -> None:
        self.client, self.network = client, network_of(client)
        self.closed = asyncio.Event()
        self._transport, self._loop = transport, asyncio.get_running_loop()
        self._timer: asyncio.TimerHandle | None = None

    def close_after(self, seconds: float) -> None:
        """Close the connection in `seconds`, and give the client READ_SECONDS to read what was sent."""
        self._set_timer(seconds, self._close)

    def abort_after(self, seconds: float) -> None:
        """Abort the connection in `seconds`."""
        self._set_timer(seconds, self.abort)

    def abort(self) -> None:
        """Close the connection at once. What was not sent is lost."""
        self._transport.abort()

    def cancel_timer(self) -> None:
        """Keep the connection open."""
        if self._timer is not None:
            self._timer.cancel()

    def _close(self) -> None:
        self._transport.close()
        self.abort_after(READ_SECONDS)

    def _set_timer(self, seconds: float, action: Callable[[], None]) -> None:
        self.cancel_timer()
        self._timer = self._loop.call_later(seconds, action)


class Connections:
    """All open connections. Call it from the event loop only.

    When there are too many, in total or from one address, the one that has been idle for longest is closed. A client
    that sends its request at once is served, even while others hold as many idle connections as they can. Proxies have
    no limit of their own: they connect for many visitors.
    """

    def __init__(self, limits: ConnectionLimits, proxies: Proxies) -> None:
        self.limits, self._proxies = limits, proxies
        self._open: dict[Endpoints, Connection] = {}
        self._idle: dict[Connection, None] = {}  # the longest idle first
        self._of_network: Counter[str] = Counter()

    def __len__(self) -> int:
        return len(self._open)

    def add(self, transport: asyncio.Transport, endpoints: Endpoints) -> None:
        """Register a new connection, and close one if there are too many now.

        That is the new one if all others are busy.
        """
        connection = self._open[endpoints] = Connection(transport, endpoints[0][0])
        self._of_network[connection.network] += 1
        self.idle(connection)
        if self._of_network[connection.network] > self.limits.per_address and connection.client not in self._proxies:
            self._close_one(connection.network)
        elif len(self) > self.limits.total:
            self._close_one(None)

    def remove(self, endpoints: Endpoints) -> None:
        """Forget a connection that was closed."""
        connection = self._open.pop(endpoints, None)
        if connection is None:
            return
        connection.cancel_timer()
        connection.closed.set()
        self._idle.pop(connection, None)
        self._of_network[connection.network] -= 1
        if not self._of_network[connection.network]:
            del self._of_network[connection.network]

    def find(self, scope: Scope) -> Connection | None:
        """The connection of a request, by the addresses and ports of both sides."""
        client, server = scope.get("client"), scope.get("server")
        return self._open.get((client, server)) if client and server else None

    def busy(self, connection: Connection) -> None:
        """Note that a request has arrived."""
        self._idle.pop(connection, None)
        connection.cancel_timer()

    def idle(self, connection: Connection) -> None:
        """Note that the server waits for the connection's next request."""
        if not connection.closed.is_set():
            self._idle[connection] = None
            connection.close_after(REQUEST_SECONDS)

    def _close_one(self, network: str | None) -> None:
        """Close the longest idle connection, of all or of one network."""
        oldest = next(one for one in self._idle if network in (None, one.network))
        logger.warning("Too many connections: %d, of which %d are from %s. Closed one from there.",
                       len(self), self._of_network[oldest.network], oldest.network)  # fmt: skip
        del self._idle[oldest]
        oldest.abort()


def protocol_with(connections: Connections) -> type[asyncio.Protocol]:
    """uvicorn's HTTP protocol, extended to register connections.

    It is the parameter `http` of `uvicorn.Config`, and overrides methods of `asyncio.Protocol` only.
    """

    class RegisteredProtocol(H11Protocol):
        """Registers a connection while it is open."""

        endpoints: Endpoints | None = None

        def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
            super().connection_made(transport)
            names = [transport.get_extra_info(name) for name in ("peername", "sockname")]
            if not all(isinstance(name, tuple) for name in names):  # the client closed it already
                transport.abort()
                return
            client, server = ((str(name[0]), int(name[1])) for name in names)
            self.endpoints = (client, server)
            connections.add(transport, self.endpoints)

        def connection_lost(self, exc: Exception | None) -> None:
            super().connection_lost(exc)
            if self.endpoints is not None:
                connections.remove(self.endpoints)

    return RegisteredProtocol


class TrackRequestsMiddleware:
    """Tell `Connections` when a request starts and ends.

    It must be the outermost middleware, because it needs the addresses of the socket. A response that the application
    leaves incomplete is cut off by closing the connection.
    """

    def __init__(self, app: ASGIApp, connections: Connections) -> None:
        self.app, self.connections = app, connections

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass the request on."""
        connection = self.connections.find(scope) if scope["type"] == "http" else None
        if connection is None:
            await self.app(scope, receive, send)
            return
        started = complete = False

        async def send_in_time(message: Message) -> None:
            nonlocal started, complete
            timer = asyncio.get_running_loop().call_later(READ_SECONDS, connection.abort)
            try:
                await send(message)
            finally:
                timer.cancel()
            started = True
            if message["type"] == "http.response.body" and not message.get("more_body", False):
                complete = True
                self.connections.idle(connection)

        self.connections.busy(connection)
        try:
            await self.app(scope, receive, send_in_time)
        except BaseException:
            connection.abort_after(READ_SECONDS)  # uvicorn reports the error to the client, and closes
            raise
        if started and not complete:
            connection.abort()
            await connection.closed.wait()
