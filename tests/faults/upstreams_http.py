"""An upstream over HTTP, by NDJSON, arrays or single journals."""

import json
import time
from collections.abc import Sequence
from typing import Any

import httpx2
from killing import System
from upstreams import Upstream
from witness import Told

JOURNALS = "/v1/ledgers/journals"


class HttpUpstream(Upstream):
    """Over HTTP, without waiting for outcomes: NDJSON, arrays, or single journals. It gives up on some without answer."""

    def __init__(self, name: str, system: System, *, form: str, **options: Any) -> None:
        super().__init__(name, system, **options)
        self.form = form
        self.client = httpx2.Client(base_url=system.api_url, headers={"X-API-Key": system.api_key}, timeout=10)

    def _length(self) -> int:
        return 1 if self.form == "single" else super()._length()

    def publish(self, journals: Sequence[Told]) -> None:
        while True:
            if self._send([told.as_message() for told in journals]):
                self.acknowledged(journals)
                break
            if self.chance.random() < 0.1 or self.is_over.is_set():
                return
            time.sleep(0.3)
        if self.form == "single" and self.chance.random() < 0.02:
            self._publish_invalid()

    def _publish_invalid(self) -> None:
        (journal,) = self.witness.make(1)
        if self._answer(json.dumps({**journal.as_message(), "entries": []}), "application/json") == 400:
            self.witness.note([journal], "fail")

    def _send(self, messages: Sequence[dict[str, object]]) -> bool:
        if self.form == "ndjson":
            status = self._answer("\n".join(map(json.dumps, messages)), "application/x-ndjson")
        else:
            status = self._answer(json.dumps(messages if self.form == "array" else messages[0]), "application/json")
        return status in {201, 202}

    def _answer(self, content: str, kind: str) -> int:
        """The status; 0 without an answer."""
        headers = {"Prefer": "respond-async", "Content-Type": kind}
        try:
            answer = self.client.post(JOURNALS, content=content, headers=headers)
        except httpx2.TransportError:
            self.refusals[0] += 1
            return 0
        if answer.status_code not in {201, 202}:
            self.refusals[answer.status_code] += 1
            if answer.status_code == 503:
                time.sleep(min(1.0, float(answer.headers.get("Retry-After", "0"))))
        return answer.status_code

    def close(self) -> None:
        super().close()
        self.client.close()
