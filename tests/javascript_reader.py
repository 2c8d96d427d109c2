"""The reader in JavaScript that a NAME.portable has, run by Node."""

import json
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parent.parent
PACKAGES = ROOT / "tests" / "javascript" / "node_modules" / "onnxruntime-node"


def read_by_javascript(folder: Path, /, **request: Any) -> Any:
    """What it answers to a request, see tests/javascript/answer.mjs; folder: for the file of the request."""
    node = shutil.which("node")
    if node is None:
        pytest.skip("Node is not installed")
    if "model" in request and not PACKAGES.exists():
        pytest.skip("onnxruntime-node is not installed: `make tests/javascript/node_modules` does it")
    file = folder / "request.json"
    file.write_text(json.dumps(request, default=str), encoding="utf-8")
    answer, reader = ROOT / "tests" / "javascript" / "answer.mjs", ROOT / "tuner" / "winner" / "captune.mjs"
    done = subprocess.run([node, answer, reader, file], capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)
