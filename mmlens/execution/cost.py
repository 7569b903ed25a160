"""Counting what cells cost: the floating-point operations of matrix products, of whole passes and of what is carried out.

Counted are products with weights, in every part, and the products of attention in the language model. Norms, activation functions
and the attention of vision towers are left out on both sides.
"""

from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from mmlens.execution.affected_rows import Schedule
from mmlens.models.claims import claimed
from mmlens.models.decoder import Decoder
from mmlens.models.hooked import HookedMultimodal


def weights_of(module: nn.Module) -> int:
    """Entries of a module's weight matrices; all experts of a mixture are counted."""
    return sum(parameter.numel() for parameter in module.parameters() if parameter.ndim > 1)


@dataclass(frozen=True)
class Costs:
    """Operations of a model on one sample.

    Attributes:
        blocks: of a row in each block of the language model.
        inputs: the part of it that makes queries, keys and values.
        pairs: of a query and a key in each block.
        head: of a row in the unembedding.
        front: of everything in front of the language model's blocks.
        length: positions of the language model.
        causal: rows look back only.
    """

    blocks: tuple[float, ...]
    inputs: tuple[float, ...]
    pairs: tuple[float, ...]
    head: float
    front: float
    length: int
    causal: bool = True

    @property
    def whole(self) -> float:
        """Of one whole forward pass."""
        n = self.length
        looks = n * (n + 1) / 2 if self.causal else n * n
        return self.front + n * (sum(self.blocks) + self.head) + looks * sum(self.pairs)

    def of(self, schedule: Schedule, *, serves: bool = True) -> float:
        """Of a cell of the language model.

        Args:
            schedule: what is computed for it.
            serves: clean rows keep their queries, keys and values.
        """
        if schedule.final is None:
            return 0.0
        cost = self.head * len(schedule.final)
        for layer, step in schedule.steps.items():
            cost += self.blocks[layer] * len(step.rows) + self.pairs[layer] * self._looks(step.rows)
            if step.keys is not None:
                cost += self.inputs[layer] * len(step.keys)
            elif serves:
                cost -= self.inputs[layer] * max(len(step.rows) - len(step.differs), 0)
        return cost

    def _looks(self, rows: torch.Tensor) -> float:
        """Pairs of queries and keys."""
        return float((rows + 1).sum()) if self.causal else float(len(rows) * self.length)


def costs_of(decoder: Decoder, length: int, front: float, *, causal: bool = True) -> Costs:
    """The costs of a language model, from the shapes of its weights; nothing runs, so that it may be on the meta device.

    Args:
        decoder: its modules.
        length: number of positions.
        front: operations of everything in front of its blocks, on one sample.
        causal: rows look back only.
    """
    pairs = []
    for kernel in decoder.kernels:
        config: Any = kernel.config
        heads = config.num_attention_heads
        d_head: Any = getattr(kernel, "head_dim", None) or config.hidden_size // heads
        pairs.append(4.0 * heads * int(d_head))
    return Costs(
        tuple(2.0 * weights_of(block) for block in decoder.blocks),
        tuple(2.0 * sum(map(weights_of, linears)) for linears in decoder.linears),
        tuple(pairs),
        2.0 * weights_of(decoder.head),
        front,
        length,
        causal,
    )


@contextmanager
def counted_products(model: HookedMultimodal) -> Iterator[dict[nn.Module, float]]:
    """Operations of every linear and convolution that runs inside the `with`, by module."""
    products: dict[nn.Module, float] = {}

    def count(module: Any, args: tuple[torch.Tensor, ...], output: Any) -> None:
        first: torch.Tensor = output[0] if isinstance(output, tuple) else output  # routers of mixtures return several
        rows = first.numel() / module.weight.shape[0]
        products[module] = products.get(module, 0.0) + 2.0 * rows * module.weight.numel()

    kinds = (nn.Linear, nn.Conv1d, nn.Conv2d, nn.Conv3d)
    with claimed(model, "Counting"), ExitStack() as stack:
        for module in model.hf_model.modules():
            if isinstance(module, kinds):
                stack.callback(module.register_forward_hook(count).remove)
        yield products


def total(products: dict[nn.Module, float], modules: Sequence[nn.Module]) -> float:
    """Operations of some modules and all in them."""
    inside = {id(child) for module in modules for child in module.modules()}
    return sum((operations for module, operations in products.items() if id(module) in inside), 0.0)
