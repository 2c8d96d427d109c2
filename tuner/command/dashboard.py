"""The verb that shows a run in Optuna's dashboard."""

from __future__ import annotations

from contextlib import suppress
from typing import Annotated

import typer

from captune.tuner.api.progress import say
from captune.tuner.command.arguments import RunPath


def dashboard(
    run: RunPath,
    port: Annotated[int, typer.Option(min=0, max=65535, help="on this machine; 0: any that is free")] = 8080,
) -> None:
    """Shows a run in Optuna's dashboard, in a browser of this machine, until Ctrl-C.

    It follows a running search and changes nothing; a run at an address is shown as it is now.
    """
    from captune.tuner.api.studies import serving

    with serving(run, port) as server:
        say(f"{run}: http://127.0.0.1:{server.server_port}/dashboard; Ctrl-C ends it")
        with suppress(KeyboardInterrupt):
            server.serve_forever()
