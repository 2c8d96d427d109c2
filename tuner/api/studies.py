"""The study of a run, for tools that read Optuna's studies: its plots, its dashboard."""

from __future__ import annotations

import socketserver
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit
from wsgiref.simple_server import WSGIRequestHandler, WSGIServer, make_server

from captune.errors import ArgumentError, UsageError
from captune.tuner.run.locations import reading
from captune.tuner.run.settings import RunSettings

if TYPE_CHECKING:
    from wsgiref.types import StartResponse, WSGIApplication, WSGIEnvironment

    import optuna

_LOOPBACK = "127.0.0.1"
_OURSELVES = (_LOOPBACK, "localhost")


def open_study(where: str) -> optuna.Study:
    """See `Run.study`."""
    from captune.results.readable_study import readable_study

    with reading(where) as folder:
        return readable_study(folder, RunSettings.of(folder).facts(folder), snapshot=folder.address is not None)


@contextmanager
def serving(where: str, port: int) -> Iterator[WSGIServer]:
    """Optuna's dashboard of a run, on this machine alone: `serve_forever` of what is given answers.

    Whatever would change something is refused, and so are pages of others that have a browser ask.

    Args:
        port: 0 for any that is free.

    Raises:
        UsageError: the dashboard is not installed.
        ArgumentError: the port is taken.
        RunError, StorageError: there is no run, or it cannot be reached.
    """
    if find_spec("optuna_dashboard") is None:
        raise UsageError("the dashboard is not installed; pip install 'captune[dashboard]'")
    from optuna_dashboard import wsgi

    from captune.results.optuna_private import storage_of

    app = _read_only(wsgi(storage_of(open_study(where))))
    try:
        server = make_server(_LOOPBACK, port, app, server_class=_Server, handler_class=_QuietHandler)
    except OSError as error:
        raise ArgumentError("port", f"{port} cannot be had ({error.strerror}); give another, or 0 for any") from None
    with server:
        yield server


class _Server(socketserver.ThreadingMixIn, WSGIServer):
    daemon_threads = True


class _QuietHandler(WSGIRequestHandler):
    def log_message(self, format: str, *arguments: Any) -> None:  # noqa: A002
        """Not a line for each picture of a page."""


def _read_only(app: WSGIApplication) -> WSGIApplication:
    def answer(environ: WSGIEnvironment, start: StartResponse) -> Any:
        host = urlsplit(f"//{environ.get('HTTP_HOST', '')}").hostname
        if host not in _OURSELVES:
            return _refuse(start, "403 Forbidden", "ask by the address that captune dashboard says")
        if environ["REQUEST_METHOD"] not in ("GET", "HEAD"):
            return _refuse(start, "405 Method Not Allowed", "the study of a run is read here and not written")
        return app(environ, start)

    return answer


def _refuse(start: Callable[..., Any], status: str, reason: str) -> list[bytes]:
    start(status, [("Content-Type", "application/json")])
    return [f'{{"reason": "{reason}"}}'.encode()]
