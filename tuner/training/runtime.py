"""What a process is told before its framework starts: backend, threads, memory of its GPU, caches, repeatable sums."""

from __future__ import annotations

import gc
import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from captune.environment import environment
from captune.errors import WorkError
from captune.imports import captune_is_alone, passing_over

if TYPE_CHECKING:
    from captune.model.training import Spread

CONTEXT = 512 * 2**20
"""Bytes of a GPU that a process takes beside its arrays, for CUDA's own."""
_BFLOAT16_SINCE = 8.0  # compute capability of the first GPUs that gain by it


class ProcessError(WorkError):
    """A process cannot be settled as it was asked for."""


def settle(threads: int, backend: str | None = None, gpus: float = 0.0) -> None:
    """Settles the framework in this process and imports it; what it reads at its start cannot be changed later.

    Args:
        threads: of one operation; as many as the CPUs that the process was given.
        backend: "tensorflow" or "jax"; None for what Keras's own settings say.
        gpus: that the process was given. A fraction fences its memory: that share of the GPU, less what CUDA itself
            takes. A process on whole GPUs takes memory as it needs it.

    Raises:
        ProcessError: a fence was asked for and the GPU's memory is not known.
    """
    captune_is_alone()
    if backend is not None:
        os.environ["KERAS_BACKEND"] = backend
    pool = fence(gpus)
    os.environ |= jax_settings(gpu_memory()[0] if pool is not None else None, pool, cached=_visible())
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    os.environ["TF_NUM_INTRAOP_THREADS"] = str(threads)
    os.environ["TF_NUM_INTEROP_THREADS"] = "1"
    os.environ["OMP_NUM_THREADS"] = str(threads)
    os.environ.setdefault("TF_DETERMINISTIC_OPS", "1")
    with silenced():
        with _without_extras():
            import keras
        if keras.backend.backend() == "tensorflow":
            _settle_tensorflow(pool)
    # Everything that is there now stays: collecting garbage before each trial then takes milliseconds, not hundreds.
    gc.freeze()


def import_keras(backend: str | None = None) -> None:
    """Keras as the caller has it, or imported without a word of TensorFlow's; the environment stays as it is.

    Args:
        backend: for the first import; what is loaded already stays. None for what Keras's own settings say.
    """
    if "keras" in sys.modules:
        return
    settings = {"TF_CPP_MIN_LOG_LEVEL": os.environ.get("TF_CPP_MIN_LOG_LEVEL", "3")}
    with environment(settings if backend is None else settings | {"KERAS_BACKEND": backend}), silenced():
        with _without_extras():
            import keras
        keras.ops.convert_to_tensor(0)  # what TensorFlow says of its devices, it says with the first


def _without_extras() -> AbstractContextManager[None]:
    """Keras takes a third to a half less time without what it loads for parts that captune never calls.

    TensorFlow loads JAX, if it is there, for a converter of its own.
    """
    jax = ["jax"] if os.environ.get("KERAS_BACKEND") == "tensorflow" else []
    return passing_over("IPython", "matplotlib", "pandas", "sklearn", *jax)


def fence(gpus: float) -> int | None:
    """Bytes of GPU memory that a process may take for its arrays; None where nothing limits it.

    Raises:
        ProcessError: a GPU is there to be shared, but its memory is not known; or the share is below CUDA's own needs.
    """
    if not 0 < gpus < 1 or not _visible():  # GPUs may be a name that a cluster gives to something else
        return None
    total = gpu_memory()
    if not total:
        raise ProcessError(
            "nvidia-smi tells no memory of the GPU that is to be shared; use whole ones: --gpus-per-trial 1"
        )
    pool = int(total[0] * gpus) - CONTEXT
    if pool <= 0:
        raise ProcessError(
            f"{gpus:g} of a GPU of {total[0] / 2**20:.0f} MiB is less than the {CONTEXT // 2**20} MiB that CUDA takes "
            "for each process; raise --gpus-per-trial"
        )
    return pool


def jax_settings(total: int | None, pool: int | None, *, cached: bool) -> dict[str, str]:
    """Environment of JAX.

    Args:
        total: bytes of the GPU, None where the process is not fenced.
        pool: what `fence` gives.
        cached: whether compiled programs are kept for other processes of this user; on CPUs that costs more than it
            spares.
    """
    # Unfenced, JAX would take three quarters of a GPU in each process that shares it.
    settings = {"XLA_PYTHON_CLIENT_PREALLOCATE": "false"}
    if total is not None and pool is not None:
        settings = {"XLA_PYTHON_CLIENT_PREALLOCATE": "true", "XLA_PYTHON_CLIENT_MEM_FRACTION": f"{pool / total:.4f}"}
    if cached:
        home = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
        settings["JAX_COMPILATION_CACHE_DIR"] = os.environ.get(
            "JAX_COMPILATION_CACHE_DIR", str(home / "captune" / "xla")
        )
        # Of a second by default: the programs that draw first weights are below, and make up 20 s of a first trial.
        settings["JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS"] = "0"
    return settings


def in_bfloat16(precision: Literal["auto", "float32", "bfloat16"]) -> bool:
    """Whether steps are computed in bfloat16: as asked for, or where every GPU of this process is made for it."""
    if precision != "auto":
        return precision == "bfloat16"
    import keras

    at_work = any(name.lower().startswith(("gpu", "cuda")) for name in keras.distribution.list_devices())
    capabilities = [capability for _, capability in gpu_facts()] if at_work else []
    return bool(capabilities) and min(capabilities) >= _BFLOAT16_SINCE


def spread(gpus: int) -> Spread | None:
    """So many GPUs of this process, to train one network together; None for one or none.

    Raises:
        ProcessError: the process has not so many.
    """
    if gpus <= 1:
        return None
    import keras

    from captune.model.training import Spread

    devices = keras.distribution.list_devices()
    if len(devices) < gpus:
        raise ProcessError(f"{gpus} GPUs are to train together, this process sees {len(devices)}; give fewer")
    if keras.backend.backend() == "jax":
        return Spread(keras.distribution.DataParallel(devices=devices[:gpus]).scope, gpus)
    import tensorflow as tf

    return Spread(tf.distribute.MirroredStrategy([name.upper() for name in devices[:gpus]]).scope, gpus)


def gpu_memory() -> list[int]:
    """Bytes of each GPU that this process sees; empty where none is or nothing can be said."""
    return [memory for memory, _ in gpu_facts()]


@cache
def gpu_facts() -> tuple[tuple[int, float], ...]:
    """Bytes and compute capability of each GPU that this process sees, from nvidia-smi."""
    command = ["nvidia-smi", "--query-gpu=memory.total,compute_cap", "--format=csv,noheader,nounits"]
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    if visible:
        command.append(f"--id={visible}")
    if visible == "":
        return ()
    try:
        output = subprocess.run(command, capture_output=True, text=True, timeout=20, check=True).stdout
        rows = [line.split(",") for line in output.splitlines() if line.strip()]
        return tuple((int(memory) * 2**20, float(capability)) for memory, capability in rows)
    except (OSError, subprocess.SubprocessError, ValueError):
        return ()


def gpu_peak() -> int:
    """Bytes that this process has had in arrays on its first GPU at most."""
    import keras

    if keras.backend.backend() == "jax":
        import jax

        return int(jax.local_devices()[0].memory_stats()["peak_bytes_in_use"])
    import tensorflow as tf

    return int(tf.config.experimental.get_memory_info("GPU:0")["peak"])


def _visible() -> bool:
    """Whether there is a GPU of NVIDIA's for this process at all."""
    return os.environ.get("CUDA_VISIBLE_DEVICES") != "" and any(Path("/dev").glob("nvidia[0-9]*"))


def _settle_tensorflow(pool: int | None) -> None:
    import tensorflow as tf

    tf.get_logger().setLevel("ERROR")
    for gpu in tf.config.list_physical_devices("GPU"):
        if pool is None:
            # Otherwise the first of several trials on a GPU takes all of its memory.
            tf.config.experimental.set_memory_growth(gpu, True)
        else:
            limit = tf.config.LogicalDeviceConfiguration(memory_limit=pool // 2**20)
            tf.config.set_logical_device_configuration(gpu, [limit])


@contextmanager
def silenced() -> Iterator[None]:
    """Standard error of the C libraries closed for a while: TensorFlow writes there at import whatever it is told."""
    sys.stderr.flush()
    stderr = os.dup(2)
    with Path(os.devnull).open("w") as nowhere:
        os.dup2(nowhere.fileno(), 2)
    try:
        yield
    finally:
        os.dup2(stderr, 2)
        os.close(stderr)
