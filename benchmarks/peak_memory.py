"""The most memory that a call takes above what was there before it."""

import ctypes
import gc
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

import torch

_Result = TypeVar("_Result")
_STATUS = Path("/proc/self/status")


def peak_memory(run: Callable[[], _Result], device: torch.device) -> tuple[float | None, _Result]:
    """Peak of a call above what was held before it, in MiB, and its result; None where the system does not tell.

    Args:
        run: what is measured.
        device: of the model; on a processor the memory of this process is meant.
    """
    gc.collect()
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
        before = torch.cuda.memory_allocated(device)
        result = run()
        return (torch.cuda.max_memory_allocated(device) - before) / 2**20, result
    if not _STATUS.is_file():
        return None, run()
    # what was freed goes back to the system, so that the peak is that of this call
    ctypes.CDLL(None).malloc_trim(0)
    Path("/proc/self/clear_refs").write_text("5")
    before = _status("VmRSS")
    result = run()
    return _status("VmHWM") - before, result


def _status(name: str) -> float:
    """A line of the process's status, in MiB."""
    lines = dict(line.split(":", 1) for line in _STATUS.read_text().splitlines() if ":" in line)
    return float(lines[name].split()[0]) / 1024
