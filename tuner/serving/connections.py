"""A connection to a server of a bundle, with the limits that uvicorn has none for."""

from __future__ import annotations

import asyncio
import json

import h11
from uvicorn.protocols.http.h11_impl import H11Protocol

from captune.tuner.serving.limits import Limits


def connections(limits: Limits) -> type[asyncio.Protocol]:
    """For uvicorn's Config(http=...): holds what of `Limits` is of connections, not of requests."""

    class Connection(H11Protocol):
        """Cut off as one too many, or where nothing comes of it: no head of a request, or an answer is not taken."""

        _timer: asyncio.TimerHandle | None = None

        def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
            super().connection_made(transport)
            if len(self.connections) > limits.connections:
                transport.abort()
            else:
                self._look_again()

        def connection_lost(self, exc: Exception | None) -> None:
            if self._timer is not None:
                self._timer.cancel()
            super().connection_lost(exc)

        def _look_again(self) -> None:
            self._timer = self.loop.call_later(limits.seconds, self._look, self.cycle)

        def _look(self, before: object) -> None:
            """before: the request that was the last one when it was looked at before."""
            at_work = self.cycle is not None and not self.cycle.response_complete and not self.flow.write_paused
            if self.cycle is before and not at_work:
                self.transport.abort()
            else:
                self._look_again()

        def send_400_response(self, msg: str) -> None:
            """Of what is no HTTP; after an answer there is nobody to tell."""
            if self.conn.our_state in (h11.IDLE, h11.SEND_RESPONSE):
                body = json.dumps({"error": "this is no HTTP/1.1 request"}).encode()
                headers = {"content-type": "application/json", "content-length": str(len(body)), "connection": "close"}
                response = h11.Response(status_code=400, headers=list(headers.items()), reason=b"Bad Request")
                for event in (response, h11.Data(data=body), h11.EndOfMessage()):
                    self.transport.write(self.conn.send(event) or b"")
            self.transport.close()

    return Connection
