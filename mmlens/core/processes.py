"""The processes of one launch (`accelerate launch`, `torchrun`), each of which takes its share of a run."""

import os
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
import torch.distributed

from mmlens.core.errors import InputError


@dataclass(frozen=True)
class Process:
    """One of the processes of a run.

    Attributes:
        index: its number, from 0.
        count: how many there are.
        wait: returns when all of them have come here.
        gather: from a value of each process to those of all, in the order of their numbers; everywhere the same.
    """

    index: int = 0
    count: int = 1
    wait: Callable[[], None] = lambda: None
    gather: Callable[[Any], list[Any]] = lambda value: [value]

    @property
    def is_first(self) -> bool:
        """Whether it is the one that writes what is written once."""
        return self.index == 0

    def takes(self, number: int, block: int) -> bool:
        """Whether a sample is this process's: blocks of samples go round, so that batches are those of a lone process."""
        return number // block % self.count == self.index


def this_process() -> Process:
    """This process, as accelerate sees it; alone where nothing was launched.

    Raises:
        InputError: if several processes were launched, but accelerate was already asked as if there were one.
    """
    world_size = int(os.environ.get("WORLD_SIZE", "1"))
    if world_size == 1 and not (torch.distributed.is_available() and torch.distributed.is_initialized()):
        return Process()
    from accelerate import PartialState

    # without an accelerator, accelerate finds the other processes only if it is told that the processor is meant
    on_cpu = (
        os.environ.get("ACCELERATE_USE_CPU", "false").lower() in ("1", "true") or not torch.accelerator.is_available()
    )
    state = PartialState(cpu=on_cpu)
    if state.num_processes < world_size:
        raise InputError(
            f"{world_size} processes were launched (WORLD_SIZE), but accelerate knows of {state.num_processes}: its state was "
            "made before they could find each other. Make accelerate.PartialState(cpu=...) at the start of the program."
        )
    return Process(state.process_index, state.num_processes, state.wait_for_everyone, _gathered)


def _gathered(value: Any) -> list[Any]:
    values: list[Any] = [None] * torch.distributed.get_world_size()
    torch.distributed.all_gather_object(values, value)
    return values
