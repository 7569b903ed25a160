"""Operations that are really carried out, which do not depend on what else the machine does."""

from collections.abc import Callable
from typing import Any, TypeVar

import torch
from torch.utils.flop_counter import FlopCounterMode, sdpa_backward_flop_count, sdpa_flop_count

_Result = TypeVar("_Result")


def _of_attention(query: Any, key: Any, value: Any, *args: Any, **options: Any) -> int:
    """Operations of fused attention on a processor, of all pairs of queries and keys."""
    return int(sdpa_flop_count(query, key, value))


def _of_attention_backwards(gradient: Any, query: Any, key: Any, value: Any, *args: Any, **options: Any) -> int:
    """The same of its backward pass."""
    return int(sdpa_backward_flop_count(gradient, query, key, value))


def operations(run: Callable[[], _Result]) -> tuple[float, _Result]:
    """Floating-point operations of matrix products and attention in a run, backward passes included, and its result.

    Args:
        run: what is counted.
    """
    on_processors = {
        torch.ops.aten._scaled_dot_product_flash_attention_for_cpu: _of_attention,
        torch.ops.aten._scaled_dot_product_flash_attention_for_cpu_backward: _of_attention_backwards,
    }
    with FlopCounterMode(display=False, custom_mapping=on_processors) as counter:
        result = run()
    return float(counter.get_total_flops()), result
