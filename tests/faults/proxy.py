"""A TCP proxy before PostgreSQL or Redis that fails on command: cuts, silence, delay, lost answers, made-up errors.

with Proxy(server.port, speaks="postgres") as proxy:
    url = through(database_url, proxy)
    proxy.swallow_answer("COMMIT")      # the server commits, the client sees a dead connection
    proxy.blackhole(5)                  # nothing is forwarded or closed for 5 s
"""

import asyncio
import socket
import struct
import threading
from collections import Counter
from collections.abc import Callable
from contextlib import suppress
from typing import Any, Literal, Self, TypeVar
from urllib.parse import urlsplit, urlunsplit

from postgres_wire import Asked, Conversation, error_response

from ledgermill.embedded.ports import LOOPBACK

CHUNK = 65_536
Result = TypeVar("Result")
RESET_ON_CLOSE = struct.pack("ii", 1, 0)


class Proxy:
    """Runs in a thread of its own inside `with`; all methods may be called from any thread, and take effect at once.

    `counts` has what was done: connections, reset, cut_after, swallowed, committed (swallowed answers that said so),
    refused (statements answered with a made-up error), turned_away (new connections).
    """

    def __init__(self, upstream_port: int, *, speaks: Literal["postgres", "redis"]) -> None:
        self.upstream_port = upstream_port
        self.speaks_postgres = speaks == "postgres"
        self.port = 0
        self.counts: Counter[str] = Counter()
        self.delay_s = 0.0
        self.silent_until = 0.0  # by the loop's clock
        self.turns_away = False
        self.cuts: list[int] = []
        self.swallows: list[str] = []
        self.errors: list[tuple[str, str]] = []
        self._links: set[_Link] = set()
        self._ready = threading.Event()
        self._thread = threading.Thread(
            target=lambda: asyncio.run(self._listen()), name=f"proxy of {upstream_port}", daemon=True
        )

    def __enter__(self) -> Self:
        self._thread.start()
        assert self._ready.wait(10)
        return self

    def __exit__(self, *_: object) -> None:
        self._loop.call_soon_threadsafe(self._over.set)
        self._thread.join()

    async def _listen(self) -> None:
        self._loop, self._over = asyncio.get_running_loop(), asyncio.Event()
        server = await asyncio.start_server(self._serve, LOOPBACK, 0)
        self.port = server.sockets[0].getsockname()[1]
        self._ready.set()
        await self._over.wait()
        server.close()
        for link in list(self._links):
            link.cut("ended")
        await asyncio.sleep(0.05)  # so that they end by themselves

    def switch_to(self, upstream_port: int) -> None:
        """New connections go to another server, as after a fail-over; `reset` cuts those that are open."""
        self.upstream_port = upstream_port

    def reset(self) -> int:
        """Cut every open connection by RST, both ways; how many there were."""

        def cut_all() -> int:
            links = list(self._links)
            for link in links:
                link.cut("reset")
            return len(links)

        return self._do(cut_all)

    def turn_away(self, turns_away: bool = True) -> None:  # noqa: FBT002 - read as a sentence
        """Reset new connections as soon as they come, until `turn_away(False)`."""
        self.turns_away = turns_away

    def blackhole(self, for_s: float) -> None:
        """Forward nothing for so long, and close nothing: open connections hang, and so do those that come meanwhile.

        The client's kernel still gets its acknowledgements, as from a server whose process stands still: so neither
        TCP keepalive nor the user timeout notices, and what does is a timeout of the client's own.
        """
        self._do(lambda: setattr(self, "silent_until", self._loop.time() + for_s))

    def half_open(self) -> int:
        """Let the connections that are open now hang for ever, while new ones work; how many there are."""

        def hang_all() -> int:
            for link in self._links:
                link.hangs = True
            return len(self._links)

        return self._do(hang_all)

    def delay(self, by_s: float) -> None:
        """Hold back every chunk, in both directions, by so much; 0 ends it."""
        self.delay_s = by_s

    def cut_after(self, sent_bytes: int, *, times: int = 1) -> None:
        """Cut the next `times` connections that send, each once it has sent so many bytes from now: often mid-message."""
        self._do(lambda: self.cuts.extend([sent_bytes] * times))

    def swallow_answer(self, to: str = "COMMIT", *, times: int = 1) -> None:
        """PostgreSQL: let the server carry out the next `times` statements that begin so, then cut without an answer.

        Simple, extended, prepared and pipelined statements are recognised, by their text.
        """
        self._do(lambda: self.swallows.extend([to] * times))

    def answer_error(self, to: str, *, sqlstate: str, times: int = 1) -> None:
        """PostgreSQL: keep the next `times` statements that begin so from the server; answer with this SQLSTATE."""
        self._do(lambda: self.errors.extend([(to, sqlstate)] * times))

    def calm(self) -> None:
        """Forget what was ordered and has not happened yet."""

        def forget() -> None:
            self.silent_until, self.delay_s, self.turns_away = 0.0, 0.0, False
            self.cuts, self.swallows, self.errors = [], [], []

        self._do(forget)

    def _do(self, act: Callable[[], Result]) -> Result:
        async def call() -> Result:  # to run in the loop's thread
            return act()

        return asyncio.run_coroutine_threadsafe(call(), self._loop).result(10)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.counts["connections"] += 1
        link = None
        try:
            await self.pause()
            if self.turns_away:
                self.counts["turned_away"] += 1
                return
            with suppress(OSError):  # nobody is there: the client is reset
                upstream = await asyncio.open_connection(LOOPBACK, self.upstream_port)
                link = _Link(self, (reader, writer), upstream)
                self._links.add(link)
                await link.run()
        finally:
            if link is None:
                abort(writer)
            else:
                self._links.discard(link)

    async def pause(self) -> None:
        """Keep what was ordered of silence and delay."""
        if self.delay_s:
            await asyncio.sleep(self.delay_s)
        while (left_s := self.silent_until - self._loop.time()) > 0:  # noqa: ASYNC110 - it may be changed meanwhile
            await asyncio.sleep(min(left_s, 0.1))


class _Link:
    """One client's connection, and the one to the server that was made for it."""

    def __init__(self, proxy: Proxy, client: tuple[Any, Any], server: tuple[Any, Any]) -> None:
        self.proxy = proxy
        self.from_client, self.to_client = client
        self.from_server, self.to_server = server
        self.talk = Conversation() if proxy.speaks_postgres else None
        self.left: int | None = None  # bytes that the client may still send
        self.swallowed_at: int | None = None  # the answer, by number, that ends this
        self.hangs = False
        self._ways: list[asyncio.Task[None]] = []

    def cut(self, why: str) -> None:
        self.proxy.counts[why] += 1
        abort(self.to_client)
        abort(self.to_server)
        self._end()

    async def run(self) -> None:
        self._ways = [asyncio.create_task(self._upwards()), asyncio.create_task(self._downwards())]
        await asyncio.wait(self._ways, return_when=asyncio.FIRST_COMPLETED)
        for writer in (self.to_client, self.to_server):
            writer.close()  # what is written already still goes out
        self._end()
        await asyncio.gather(*self._ways, return_exceptions=True)

    def _end(self) -> None:
        for way in self._ways:
            way.cancel()

    async def _pause(self) -> None:
        await self.proxy.pause()
        if self.hangs:
            await asyncio.Event().wait()

    async def _upwards(self) -> None:
        while chunk := await self.from_client.read(CHUNK):
            await self._pause()
            if self.left is None and self.proxy.cuts:
                self.left = self.proxy.cuts.pop(0)
            if self.left is not None:
                self.left -= len(chunk)
                if self.left < 0:
                    held = self.talk.held if self.talk else b""  # or the server would read the middle of a frame as one
                    self.to_server.write(held + chunk[: self.left])
                    await self.to_server.drain()
                    self.cut("cut_after")
                    return
            self.to_server.write(self._obey(chunk))
            await self.to_server.drain()

    def _obey(self, chunk: bytes) -> bytes:
        """What the server gets of what the client sends."""
        if self.talk is None:
            return chunk
        passed = b""
        for asked in self.talk.read_client(chunk):
            passed += self._obey_one(self.talk, asked)
        return passed

    def _obey_one(self, talk: Conversation, asked: Asked) -> bytes:
        if asked.is_refused:
            return b""
        for place, (begins, sqlstate) in enumerate(self.proxy.errors):
            if asked.text is not None and asked.text.startswith(begins):
                del self.proxy.errors[place]
                self.proxy.counts["refused"] += 1
                talk.refuse(asked)
                self.to_client.write(error_response(sqlstate))
                return b""
        for place, begins in enumerate(self.proxy.swallows):
            if self.swallowed_at is None and asked.runs and asked.text is not None and asked.text.startswith(begins):
                del self.proxy.swallows[place]
                self.swallowed_at = talk.asked + 1
        return asked.raw

    async def _downwards(self) -> None:
        while chunk := await self.from_server.read(CHUNK):
            await self._pause()
            if self.talk is not None:
                tags = self.talk.read_server(chunk)
                if self.swallowed_at is not None:
                    self.proxy.counts["committed"] += "COMMIT" in tags
                    if self.talk.answered >= self.swallowed_at:
                        self.cut("swallowed")
                        return
                    continue
            self.to_client.write(chunk)
            await self.to_client.drain()


def abort(writer: asyncio.StreamWriter) -> None:
    """Close by RST, so that the other end gets an error and not an end."""
    found = writer.get_extra_info("socket")
    if found is not None and found.fileno() >= 0:
        found.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET_ON_CLOSE)
    writer.transport.abort()


def through(url: str, proxy: Proxy) -> str:
    """The same URL by way of the proxy."""
    parts = urlsplit(url)
    login = parts.netloc.rpartition("@")[0]
    return urlunsplit(parts._replace(netloc=f"{login}@{LOOPBACK}:{proxy.port}"))
