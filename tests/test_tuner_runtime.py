"""What processes are told before their framework starts, on machines that have the GPUs which these tests make up."""

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from builders import rest_in_soak

from captune.tuner.training import runtime
from captune.tuner.training.runtime import ProcessError, fence, in_bfloat16, jax_settings

GIB = 2**30


@pytest.fixture
def gpu(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Path]:
    """A machine with one GPU of 16 GiB and compute capability 8.0, as nvidia-smi tells; the file is what it prints."""
    told = tmp_path / "told.csv"
    told.write_text("16384, 8.0\n")
    tool = tmp_path / "nvidia-smi"
    tool.write_text(f'#!/bin/sh\necho "$@" > {tmp_path}/asked\ncat {told}\n')
    tool.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    monkeypatch.setattr(runtime, "_visible", lambda: True)
    runtime.gpu_facts.cache_clear()
    yield told
    runtime.gpu_facts.cache_clear()


@pytest.mark.parametrize("share", [0.1, 0.25, 0.5])
def test_processes_on_a_shared_gpu_take_no_more_than_it_has(gpu: Path, share: float) -> None:
    pool = fence(share)
    assert pool is not None and pool > 0
    assert int(1 / share) * (pool + 512 * 2**20) <= 16 * GIB


@pytest.mark.parametrize("gpus", [0.0, 1.0, 2.0])
def test_whole_gpus_and_none_are_not_fenced(gpu: Path, gpus: float) -> None:
    assert fence(gpus) is None


def test_share_below_what_cuda_takes_is_refused(gpu: Path) -> None:
    with pytest.raises(ProcessError, match=r"0\.01 of a GPU of 16384 MiB.*--gpus-per-trial"):
        fence(0.01)


@pytest.mark.parametrize("text", ["", "[N/A], [N/A]\n", "No devices were found\n"])
def test_shared_gpu_of_unknown_memory_is_refused(gpu: Path, text: str) -> None:
    gpu.write_text(text)
    with pytest.raises(ProcessError, match="--gpus-per-trial 1"):
        fence(0.5)


def test_only_the_gpus_of_this_process_are_asked_about(gpu: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "1,3")
    runtime.gpu_memory()
    assert "--id=1,3" in (gpu.parent / "asked").read_text()


def test_jax_is_told_the_fence_as_a_share_of_the_gpu() -> None:
    settings = jax_settings(16 * GIB, 7 * GIB, cached=False)
    assert settings == {"XLA_PYTHON_CLIENT_PREALLOCATE": "true", "XLA_PYTHON_CLIENT_MEM_FRACTION": "0.4375"}
    assert jax_settings(None, None, cached=False) == {"XLA_PYTHON_CLIENT_PREALLOCATE": "false"}


def test_compiled_programs_are_kept_in_the_users_cache(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.delenv("JAX_COMPILATION_CACHE_DIR", raising=False)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert jax_settings(None, None, cached=True)["JAX_COMPILATION_CACHE_DIR"] == str(tmp_path / "captune" / "xla")
    monkeypatch.setenv("JAX_COMPILATION_CACHE_DIR", "/elsewhere")
    assert jax_settings(None, None, cached=True)["JAX_COMPILATION_CACHE_DIR"] == "/elsewhere"


@pytest.mark.slow
def test_auto_is_bfloat16_only_where_every_gpu_is_made_for_it(gpu: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import keras

    assert not in_bfloat16("auto")  # nvidia-smi may say what it likes, Keras has no GPU here
    assert in_bfloat16("bfloat16") and not in_bfloat16("float32")
    monkeypatch.setattr(keras.distribution, "list_devices", lambda: ["gpu:0", "gpu:1"])
    for told, expected in [("16384, 8.0\n24576, 8.9\n", True), ("16384, 8.0\n16384, 7.5\n", False), ("", False)]:
        runtime.gpu_facts.cache_clear()
        gpu.write_text(told)
        assert in_bfloat16("auto") is expected


@pytest.mark.slow
@pytest.mark.parametrize("gpus, memory", rest_in_soak([(0.5, "limit 7680"), (1.0, "growth")], (0.5, "limit 7680")))
def test_tensorflow_is_told_the_fence_before_it_starts(gpu: Path, gpus: float, memory: str) -> None:
    """In a process of its own; a CPU stands in for the GPU, and what TensorFlow is told is printed."""
    code = f"""
import tensorflow as tf
from captune.tuner.training import runtime
runtime._visible = lambda: True
tf.config.list_physical_devices = lambda kind=None: ["the GPU"] if kind == "GPU" else []
tf.config.set_logical_device_configuration = lambda gpu, limits: print(gpu, "limit", limits[0].memory_limit)
tf.config.experimental.set_memory_growth = lambda gpu, on: print(gpu, "growth")
runtime.settle(1, "tensorflow", {gpus})
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    assert done.stdout == f"the GPU {memory}\n"
