"""Code run in a process of its own that has two devices, made of this machine's CPU."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

# Has to be said before a framework starts.
_DEVICES = """if True:
    import json, os, sys
    backend, *arguments = sys.argv[1:]
    os.environ["XLA_FLAGS"] = "--xla_force_host_platform_device_count=2"
    from captune.tuner.training import runtime
    runtime.settle(1, backend)
    if backend == "tensorflow":
        import tensorflow as tf
        (cpu,) = tf.config.list_physical_devices("CPU")
        tf.config.set_logical_device_configuration(cpu, [tf.config.LogicalDeviceConfiguration()] * 2)
"""


def printed_with_two_devices(code: str, backend: str, *arguments: object) -> Any:
    """The JSON that `code`, indented by four, prints last. It finds `backend`, `arguments`, `runtime` and `json`."""
    tests = Path(__file__).parent
    done = subprocess.run(
        [sys.executable, "-c", _DEVICES + code, backend, *map(str, arguments)],
        env=os.environ | {"PYTHONPATH": os.pathsep.join([str(tests), os.environ.get("PYTHONPATH", "")])},
        capture_output=True,
        text=True,
        timeout=280,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return json.loads(done.stdout.splitlines()[-1])
