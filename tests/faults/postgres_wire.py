"""PostgreSQL's protocol, read as far as a proxy needs it: where statements begin and where answers end.

Version 3 frames: a type byte, a length of four bytes that counts itself, a body. Only what a client sends before it is
admitted has no type byte. (PostgreSQL documentation, "Message Formats".)
"""

import struct
from collections.abc import Iterator
from typing import NamedTuple

SSL_REQUEST, GSS_REQUEST, CANCEL_REQUEST = 80877103, 80877104, 80877102


class Asked(NamedTuple):
    """A frame of the client. `text`: the statement that it parses or runs, where it does."""

    kind: bytes
    text: str | None
    raw: bytes
    is_refused: bool

    @property
    def runs(self) -> bool:
        return self.kind in {b"Q", b"B"}


class Conversation:
    """One connection. `asked` and `answered` count what the server answers with ReadyForQuery."""

    def __init__(self) -> None:
        self.asked = 0
        self.answered = 0
        self._from_client = b""
        self._from_server = b""
        self._is_admitted = False
        self._bare_answers = 0  # to requests for encryption: one byte each
        self._texts: dict[bytes, str] = {}  # of prepared statements, by name
        self._is_refusing = False

    def read_client(self, chunk: bytes) -> Iterator[Asked]:
        """The frames that this chunk completes, in order."""
        self._from_client += chunk
        while (frame := self._next_of_client()) is not None:
            kind, body, raw = frame
            text = self._text(kind, body)
            is_refused = self._is_refusing
            if kind == b"S" and is_refused:
                self._is_refusing = False
            asked = Asked(kind, text, raw, is_refused)
            yield asked
            if kind in {b"Q", b"S"} and not is_refused:
                self.asked += 1

    def refuse(self, asked: Asked) -> None:
        """The server never sees this statement, nor what follows it up to its end."""
        if asked.kind == b"Q":
            self.asked -= 1
        else:
            self._is_refusing = True

    def read_server(self, chunk: bytes) -> list[str]:
        """Count what was answered; the tags of commands that are complete ("COMMIT")."""
        self._from_server += chunk
        tags = []
        while self._from_server:
            if self._bare_answers:
                self._bare_answers -= 1
                self._from_server = self._from_server[1:]
                continue
            if len(self._from_server) < 5:  # type and length
                break
            (length,) = struct.unpack_from("!i", self._from_server, 1)
            if len(self._from_server) < 1 + length:
                break
            kind, body = self._from_server[:1], self._from_server[5 : 1 + length]
            self._from_server = self._from_server[1 + length :]
            if kind == b"C":
                tags.append(body.rstrip(b"\0").decode())
            if kind == b"Z":
                self.answered += 1
        return tags

    def _next_of_client(self) -> tuple[bytes, bytes, bytes] | None:
        head = 5 if self._is_admitted else 4
        data = self._from_client
        if len(data) < head:
            return None
        (length,) = struct.unpack_from("!i", data, head - 4)
        end = head - 4 + length
        if len(data) < end:
            return None
        self._from_client = data[end:]
        body, raw = data[head:end], data[:end]
        if self._is_admitted:
            return data[:1], body, raw
        (code,) = struct.unpack_from("!i", body)
        if code in {SSL_REQUEST, GSS_REQUEST}:
            self._bare_answers += 1
        elif code != CANCEL_REQUEST:
            self._is_admitted = True
            self.asked += 1  # the start is answered like a statement
        return b"", body, raw

    @property
    def held(self) -> bytes:
        """The beginning of a frame that is not complete yet."""
        return self._from_client

    def _text(self, kind: bytes, body: bytes) -> str | None:
        if kind == b"Q":
            return body.rstrip(b"\0").decode(errors="replace").lstrip()
        if kind == b"P":
            name, text, _ = body.split(b"\0", 2)
            self._texts[name] = text.decode(errors="replace").lstrip()
            return self._texts[name]
        if kind == b"B":
            _portal, name, _ = body.split(b"\0", 2)
            return self._texts.get(name)
        return None


def error_response(sqlstate: str, message: str = "made up by a test") -> bytes:
    """An error and the readiness for the next statement, in a transaction that failed."""
    fields = b"".join(
        code + text.encode() + b"\0"
        for code, text in ((b"S", "ERROR"), (b"V", "ERROR"), (b"C", sqlstate), (b"M", message))
    )
    return b"E" + struct.pack("!i", len(fields) + 5) + fields + b"\0" + b"Z" + struct.pack("!i", 5) + b"E"
