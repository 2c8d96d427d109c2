"""The verb that answers for a bundle over HTTP."""

from __future__ import annotations

import errno
import os
import resource
import socket
import threading
from contextlib import suppress
from importlib.util import find_spec
from typing import Annotated

import typer

from captune.errors import ArgumentError, UsageError
from captune.tuner.api.progress import bar, say
from captune.tuner.command.arguments import BundlePath


def serve(
    bundle: BundlePath,
    host: Annotated[
        str, typer.Option(help="address to listen at; this one is reached from this machine alone")
    ] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=0, max=65535, help="0: any that is free")] = 8000,
    picture: Annotated[str, typer.Option(metavar="BYTES", help="largest file of a picture")] = "16MiB",
    at_once: Annotated[
        int, typer.Option(min=1, max=1000, help="requests at work; more are told to ask again (503)")
    ] = 8,
) -> None:
    """Answers for a bundle over HTTP until Ctrl-C: a page for people, JSON for programs (/openapi.json)."""
    if not all(map(find_spec, ("fastapi", "uvicorn", "python_multipart"))):
        raise UsageError("serving is not installed; pip install 'captune[serve]'")
    from captune.model.size import parse_bytes
    from captune.tuner.serving.limits import LOOPBACK, Limits

    try:
        files = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
        limits = Limits(picture_bytes=parse_bytes(picture), at_once=at_once, connections=min(250, files // 4))
    except ValueError as error:
        raise ArgumentError("picture", str(error)) from None
    with _listening(host, port) as listener:
        with bar("loading the classifier", "", at_once=True):
            from captune.tuner.api.classifier import load

            classifier = load(bundle)
        import logging

        import uvicorn

        from captune.tuner.serving.app import application
        from captune.tuner.serving.connections import connections

        app = application(classifier, limits, host)
        address, port, *_ = listener.getsockname()
        if host not in LOOPBACK:
            say(f"warning: whoever reaches {host} may ask, without a password and unencrypted")
        say(f"{bundle}: http://{f'[{address}]' if ':' in address else address}:{port}/; Ctrl-C ends it")
        logging.getLogger("python_multipart").setLevel(logging.CRITICAL)  # it warns of what others send
        config = uvicorn.Config(
            app,
            http=connections(limits),
            backlog=max(1, limits.connections // 2),  # so many are taken before the first of them is counted
            lifespan="off",
            ws="none",
            log_config=None,
            log_level="critical",  # what goes wrong is told by the application
            access_log=False,
            server_header=False,
            proxy_headers=False,
            timeout_graceful_shutdown=3,
        )
        with suppress(KeyboardInterrupt):
            uvicorn.Server(config).run(sockets=[listener])
        _end_threads()


def _end_threads() -> None:
    """Ends the process where a thread is in the middle of a picture or a network, which nothing else would stop."""
    for thread in threading.enumerate():
        if not thread.daemon and thread not in (threading.main_thread(), threading.current_thread()):
            thread.join(0.5)
            if thread.is_alive():
                os._exit(0)


def _listening(host: str, port: int) -> socket.socket:
    """A socket that nothing else listens at, before seconds go into a classifier."""
    try:
        family, _, _, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        return socket.create_server(address, family=family)
    except (socket.gaierror, UnicodeError):
        reason = "no address"
    except OSError as error:
        if error.errno != errno.EADDRNOTAVAIL:
            reason = f"{port} cannot be had ({os.strerror(error.errno or 0)}); give another, or 0 for any"
            raise ArgumentError("port", reason) from None
        reason = "no address of this machine"
    raise ArgumentError("host", f"{host} is {reason}; leave it out to listen to this machine alone")
