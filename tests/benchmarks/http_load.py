"""HTTP load: small requests over kept-alive connections, by a client that costs a few microseconds for each.

The client shares the cores with what it measures, so it reads no more of an answer than its status and its length.
"""

import http.client
import selectors
import socket
import sys
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import cycle, islice
from typing import Final, NamedTuple
from urllib.parse import urlsplit

from figures import percentile

READ_BYTES: Final = 65_536
ANSWERED_WITHIN_S: Final = 10
END_OF_HEAD: Final = b"\r\n\r\n"


class Load(NamedTuple):
    """What a run of requests reached; each connection had one under way at a time."""

    requests: int
    seconds: float
    round_trips_ms: list[float]

    @property
    def per_s(self) -> float:
        return self.requests / self.seconds

    def percentile_ms(self, percent: float) -> float:
        """The round trip that so many percent of the requests did not exceed, in milliseconds."""
        return percentile(self.round_trips_ms, percent)


def gets_per_s(url: str, paths: Sequence[str], headers: Mapping[str, str], *, connections: int, seconds: float) -> Load:
    """GET these paths in turn, again and again for so many seconds. Exits where an answer is not 200."""
    requests = [request(url, "GET", path, headers) for path in paths]
    return load(url, cycle(requests), status=http.client.OK, connections=connections, seconds=seconds)


def posts_per_s(
    url: str,
    path: str,
    bodies: Iterable[bytes],
    headers: Mapping[str, str],
    *,
    connections: int,
    seconds: float,
    status: int = http.client.ACCEPTED,
) -> Load:
    """POST each of these bodies once, for so many seconds or until all are sent. Exits at another status than this."""
    requests = (request(url, "POST", path, headers, body) for body in bodies)
    return load(url, requests, status=status, connections=connections, seconds=seconds)


def request(url: str, method: str, path: str, headers: Mapping[str, str], body: bytes = b"") -> bytes:
    """A request as it goes over the wire."""
    fields = {"Host": urlsplit(url).netloc, **headers}
    if body:
        fields["Content-Length"] = str(len(body))
    lines = [f"{method} {path} HTTP/1.1", *(f"{name}: {value}" for name, value in fields.items())]
    return "\r\n".join(lines).encode() + END_OF_HEAD + body


def load(url: str, requests: Iterator[bytes], *, status: int, connections: int, seconds: float) -> Load:
    """Send requests on so many connections, each the next one as soon as it has its answer, for so many seconds."""
    expected = f"HTTP/1.1 {status} ".encode()
    round_trips_ms: list[float] = []
    with selectors.DefaultSelector() as selector:
        busy = 0
        started = time.perf_counter()
        stop_at = started + seconds
        for one in islice(requests, connections):
            connection = _Connection(url)
            selector.register(connection.socket, selectors.EVENT_READ, connection)
            connection.send(one)
            busy += 1
        while busy:
            ready = selector.select(ANSWERED_WITHIN_S)
            if not ready:
                sys.exit(f"no answer within {ANSWERED_WITHIN_S} s")
            for key, _ in ready:
                connection = key.data
                answer = connection.receive()
                if answer is None:
                    continue
                now = time.perf_counter()
                if not answer.startswith(expected):
                    sys.exit(f"an answer that is not {status}: {answer[:1000]!r}")
                round_trips_ms.append((now - connection.sent_at) * 1000)
                following = next(requests, None) if now < stop_at else None
                if following is None:
                    selector.unregister(connection.socket)
                    connection.socket.close()
                    busy -= 1
                else:
                    connection.send(following)
        return Load(len(round_trips_ms), time.perf_counter() - started, round_trips_ms)


class _Connection:
    """A kept-alive connection with at most one request under way."""

    def __init__(self, url: str) -> None:
        parts = urlsplit(url)
        self.socket = socket.create_connection((parts.hostname, parts.port), timeout=ANSWERED_WITHIN_S)
        self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.sent_at = 0.0
        self._received = b""

    def send(self, request: bytes) -> None:
        self._received = b""
        self.sent_at = time.perf_counter()
        self.socket.sendall(request)

    def receive(self) -> bytes | None:
        """The answer, or None where some of it is still to come."""
        part = self.socket.recv(READ_BYTES)
        if not part:
            sys.exit(f"the connection was closed after {self._received!r}")
        self._received += part
        head, end, body = self._received.partition(END_OF_HEAD)
        if not end:
            return None
        for line in head.split(b"\r\n"):
            if line[:15].lower() == b"content-length:":
                return self._received if len(body) >= int(line[15:]) else None
        sys.exit(f"an answer without its length: {head!r}")
