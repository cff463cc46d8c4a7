"""Limits of connections, with a server that answers "yes" and shorter times."""

import asyncio
import contextlib
import socket
from collections.abc import AsyncIterator, Callable

import pytest
import uvicorn
from starlette.types import Receive, Scope, Send

from app.web.access import connections as connections_module
from app.web.access.addresses import Proxies
from app.web.access.connections import ConnectionLimits, Connections, TrackRequestsMiddleware, protocol_with

LIMITS = ConnectionLimits(total=8, per_address=4, backlog=8)
GET = b"GET /%s HTTP/1.1\r\nHost: x\r\n\r\n"
BIG = 64 << 20  # bytes, more than the buffers of a socket hold


class Site:
    """A running server and its connections."""

    def __init__(self, limits: ConnectionLimits = LIMITS, proxies: Proxies | None = None) -> None:
        self.connections = Connections(limits, proxies or Proxies())
        self.port = 0
        self.writers: list[asyncio.StreamWriter] = []
        self.release = asyncio.Event()  # ends the answer to /wait

    async def page(self, scope: Scope, receive: Receive, send: Send) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": b"yes", "more_body": True})
        if scope["path"] == "/cut":
            return
        if scope["path"] == "/wait":
            await self.release.wait()
        if scope["path"] == "/big":
            for _ in range(64):
                await send({"type": "http.response.body", "body": bytes(BIG // 64), "more_body": True})
        await send({"type": "http.response.body"})

    async def open(self, request: bytes = b"", client: str = "127.0.0.1") -> "Client":
        reader, writer = await asyncio.open_connection("127.0.0.1", self.port, local_addr=(client, 0))
        self.writers.append(writer)
        writer.write(request)
        return Client(reader, writer)

    @contextlib.asynccontextmanager
    async def running(self) -> AsyncIterator["Site"]:
        listener = socket.create_server(("127.0.0.1", 0))
        self.port = listener.getsockname()[1]
        configuration = uvicorn.Config(
            TrackRequestsMiddleware(self.page, self.connections),
            http=protocol_with(self.connections),
            ws="none",
            lifespan="off",
            proxy_headers=False,
            log_level="error",
            timeout_keep_alive=1,
            timeout_graceful_shutdown=1,
        )
        server = uvicorn.Server(configuration)
        serving = asyncio.create_task(server.serve(sockets=[listener]))
        try:
            yield self
        finally:
            self.release.set()
            server.should_exit = True
            await serving
            for writer in self.writers:
                writer.transport.abort()


class Client:
    """One connection of a client."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader, self.writer = reader, writer

    async def answer(self) -> bytes:
        """What arrives first, b"" if the server closed the connection."""
        try:
            async with asyncio.timeout(20):
                return await self.reader.read(1000)
        except ConnectionResetError:
            return b""

    async def rest(self) -> bytes:
        """What arrives until the server closes the connection."""
        found = b""
        while part := await self.answer():
            found += part
        return found


async def until(reached: Callable[[], bool]) -> None:
    async with asyncio.timeout(20):
        while not reached():
            await asyncio.sleep(0.01)


@pytest.fixture
def short_times(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(connections_module, "REQUEST_SECONDS", 0.3)
    monkeypatch.setattr(connections_module, "READ_SECONDS", 0.3)


@pytest.mark.parametrize("sent", [b"", b"GET / HTTP/1.1\r\nHost: x\r\nX: ", GET % b""])
def test_a_connection_without_a_complete_request_is_closed(sent: bytes, short_times: None) -> None:
    async def main() -> None:
        async with Site().running() as site:
            client = await site.open(sent)
            assert (b"yes" in await client.rest()) == (sent == GET % b"")

    asyncio.run(main())


def test_header_bytes_do_not_extend_the_time(short_times: None) -> None:
    async def main() -> None:
        async with Site().running() as site:
            client = await site.open(b"GET / HTTP/1.1\r\nX: ")
            closed = asyncio.create_task(client.rest())
            while not closed.done():
                client.writer.write(b"x")
                await asyncio.sleep(0.02)
            assert await closed == b""

    asyncio.run(main())


def test_a_response_may_take_long_and_the_connection_is_used_again(short_times: None) -> None:
    async def main() -> None:
        async with Site().running() as site:
            client = await site.open(GET % b"wait")
            assert b"yes" in await client.answer()
            await asyncio.sleep(1)
            client.writer.write(GET % b"")  # sent while the first response is incomplete
            site.release.set()
            assert b"yes" in await client.rest()

    asyncio.run(main())


def test_a_response_that_is_not_read_is_aborted(short_times: None, caplog: pytest.LogCaptureFixture) -> None:
    async def main() -> None:
        async with Site().running() as site:
            client = await site.open(GET % b"big")
            client.writer.transport.pause_reading()  # type: ignore[attr-defined]
            await until(lambda: len(site.connections) == 1)
            await until(lambda: len(site.connections) == 0)

    asyncio.run(main())
    assert not caplog.records


def test_an_incomplete_response_is_cut_without_a_log_line(caplog: pytest.LogCaptureFixture) -> None:
    async def main() -> None:
        async with Site().running() as site:
            answer = await (await site.open(GET % b"cut")).rest()
            assert not answer.endswith(b"0\r\n\r\n")  # the end of a chunked response

    asyncio.run(main())
    assert not caplog.records


@pytest.mark.parametrize("addresses", [1, 4], ids=["one address", "many addresses"])
def test_of_too_many_connections_the_longest_idle_is_closed(addresses: int) -> None:
    async def main() -> None:
        async with Site().running() as site:
            waiting = await site.open(GET % b"wait")
            assert b"yes" in await waiting.answer()
            idle = [await site.open(b"GET", f"127.0.0.{1 + number % addresses}") for number in range(30)]
            assert b"yes" in await (await site.open(GET % b"")).answer()
            assert await idle[0].answer() == b""
            assert len(site.connections) <= (LIMITS.per_address if addresses == 1 else LIMITS.total)
            site.release.set()
            assert (await waiting.rest()).endswith(b"0\r\n\r\n")  # connections in use are not closed

    asyncio.run(main())


def test_a_new_connection_is_refused_when_all_are_busy() -> None:
    async def main() -> None:
        async with Site().running() as site:
            busy = [await site.open(GET % b"wait") for _ in range(LIMITS.per_address)]
            for client in busy:
                assert b"yes" in await client.answer()
            assert await (await site.open(GET % b"")).answer() == b""
            assert b"yes" in await (await site.open(GET % b"", "127.0.0.2")).answer()

    asyncio.run(main())


def test_a_proxy_has_no_limit_of_its_own() -> None:
    async def main() -> None:
        async with Site(proxies=Proxies.parse()).running() as site:
            busy = [await site.open(GET % b"wait") for _ in range(2 * LIMITS.per_address)]
            for client in busy:
                assert b"yes" in await client.answer()
            assert await (await site.open(GET % b"")).answer() == b""  # the limit of all connections

    asyncio.run(main())


@pytest.mark.parametrize("descriptors", [256, 1024, 4096, 1 << 20])
def test_limits_leave_descriptors_for_the_rest_of_the_program(descriptors: int) -> None:
    limits = ConnectionLimits.for_descriptors(descriptors)
    assert limits.total + 4 * limits.backlog < descriptors
    assert limits.backlog <= limits.per_address <= limits.total // 2
