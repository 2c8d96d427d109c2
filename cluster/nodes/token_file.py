"""The token that Ray asks for on this machine: in a file that its owner alone can read, from the first moment."""

from __future__ import annotations

import os
import secrets
from contextlib import suppress
from pathlib import Path

from captune.cluster.nodes.address import AUTH_MODE
from captune.files import written_aside

_TOKEN, _TOKEN_PATH = "RAY_AUTH_TOKEN", "RAY_AUTH_TOKEN_PATH"


def provide_token() -> None:
    """Sees to it that there is a token for a Ray that is about to start, unless the environment asks for none.

    Ray would make ~/.ray/auth_token itself, for all to read, and fill it in a second step. Where that file cannot be
    made, the token is in the environment of this process alone.
    """
    if os.environ.get(AUTH_MODE, "token").lower() != "token" or os.environ.get(_TOKEN) or os.environ.get(_TOKEN_PATH):
        return
    path = Path.home() / ".ray" / "auth_token"
    try:
        path.parent.mkdir(mode=0o700, exist_ok=True)
        if not path.exists():
            with suppress(FileExistsError), written_aside(path, replace=False) as aside:
                aside.touch(mode=0o600)
                aside.write_text(secrets.token_hex(32))
    except OSError:
        os.environ[_TOKEN] = secrets.token_hex(32)
        return
    with suppress(OSError):  # another's, who alone may change it
        path.parent.chmod(0o700)  # Ray may have made both, for all to read
        path.chmod(0o600)
