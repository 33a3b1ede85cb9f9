"""What this machine has, read without importing torch where it can be."""

from __future__ import annotations

import platform
from functools import cache
from pathlib import Path

from batchrec.errors import ModelError


class BackendUnavailable(ModelError):
    """A backend cannot run on this machine; another may."""


_BF16_FLAGS = frozenset({"amx_bf16", "avx512_bf16"})


def resolve_device(device: str) -> str:
    """Turn ``auto``, ``cpu`` or ``cuda`` into ``cpu`` or ``cuda:0``.

    Raises:
        ModelError: If CUDA is asked for and absent.
    """
    if device == "cpu" or (device == "auto" and not _has_nvidia_device()):
        return "cpu"
    import torch

    if torch.cuda.is_available():
        return device if device.startswith("cuda:") else "cuda:0"
    if device == "auto":
        return "cpu"
    raise ModelError("there is no CUDA device here", found=f"device {device}", advice="use --device cpu")


def resolve_precision(precision: str, device: str) -> str:
    """Turn ``auto`` into the arithmetic a kind of device is fast in; called once for a job.

    bf16 on CUDA and on CPUs with bf16 instructions, else fp32. The answer depends on the
    machine alone, never on a measurement, because it decides the rows; and CUDA devices need not
    be in this machine: the coordinator of a cluster has none. Devices older than Ampere are
    fast in fp16 only: name it.

    Args:
        precision: ``auto``, ``fp32``, ``bf16``, ``fp16`` or ``int8``.
        device: ``auto``, ``cpu`` or ``cuda``.

    Raises:
        ModelError: If the device cannot compute in the precision asked for.
    """
    on_cpu = (resolve_device(device) if device == "auto" else device) == "cpu"
    if precision == "auto":
        return "bf16" if not on_cpu or cpu_has_bf16() else "fp32"
    if precision == "fp16" and on_cpu:
        raise ModelError("fp16 is for CUDA devices", found="device cpu", advice="use --precision bf16 or fp32")
    if precision == "int8" and not on_cpu:
        raise ModelError("int8 is for CPUs", found=f"device {device}", advice="use --precision fp16, or --device cpu")
    return precision


@cache
def cpu_has_bf16() -> bool:
    """Whether this CPU multiplies bf16 in hardware."""
    return bool(_BF16_FLAGS & set(_cpu_field("flags").split()))


@cache
def cpu_model() -> str:
    """Name of the CPU, as the operating system gives it."""
    return _cpu_field("model name") or platform.processor() or platform.machine()


def _cpu_field(name: str) -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return ""
    return next((line.partition(":")[2].strip() for line in lines if line.partition(":")[0].strip() == name), "")


def _has_nvidia_device() -> bool:
    return any(Path("/dev").glob("nvidia[0-9]*")) or Path("/dev/dxg").exists()
