"""The limit: the Hugging Face model itself, and the least that torch hooks can do to keep the same tensors."""

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import nn

from benchmarks.contender import Answers, Contender
from benchmarks.models import Subject

#: Puts one tensor into the store.
Keep = Callable[[str, torch.Tensor], None]
Kept = tuple[torch.Tensor, dict[str, torch.Tensor]]


class Bare:
    """Hugging Face called with the tensors, and hand-written torch hooks.

    The hooks are registered for a run and removed after it, as a cache does.
    """

    def __init__(self, subject: Subject):
        self.model = subject.bare
        self.inputs = subject.inputs

    def forward(self) -> Contender:
        """Run without hooks."""
        return Contender("bare Hugging Face", self._logits, lambda logits: {"logits": logits})

    def cache(self, names: Sequence[str], *, last: bool = False) -> Contender:
        """Run with one hook for each of the points."""
        return Contender("bare torch hooks", lambda: self._kept(names, last), _answers)

    def everything(self) -> Contender:
        """There is no default here; the limit of keeping everything is keeping nothing."""
        return self.forward()

    def _logits(self) -> torch.Tensor:
        return self.model(**self.inputs, use_cache=False).logits

    def _kept(self, names: Sequence[str], last: bool) -> Kept:
        store: dict[str, torch.Tensor] = {}

        def keep(name: str, tensor: torch.Tensor) -> None:
            tensor = tensor.detach()
            store[name] = tensor[:, -1:].clone() if last else tensor

        handles = [handle for name in names for handle in self._attach(name, keep)]
        try:
            return self._logits(), store
        finally:
            for handle in handles:
                handle.remove()

    def _attach(self, name: str, keep: Keep) -> list[Any]:
        model = self.model.model
        if name == "projector.mlp.hook_post":
            return [_on_input(model.multi_modal_projector.linear_2, name, keep)]
        vision = name.startswith("vision.")
        layers: Any = (model.vision_tower.encoder if vision else model.language_model).layers
        layer, kind = _place(name)
        block = layers[layer]
        if kind == "hook_resid_pre":
            return [_on_input(block, name, keep)]
        if kind == "hook_resid_post":
            return [block.register_forward_hook(lambda module, args, output: keep(name, _first(output)))]
        if kind == "mlp.hook_post":
            return [_on_input(block.mlp.fc2 if vision else block.mlp.down_proj, name, keep)]
        return _between(block, name, keep)


def _place(name: str) -> tuple[int, str]:
    """Layer and point of a block's hook name."""
    layer, _, kind = name.removeprefix("vision.").removeprefix("blocks.").partition(".")
    return int(layer), kind


def _on_input(module: nn.Module, name: str, keep: Keep) -> Any:
    return module.register_forward_pre_hook(lambda module, args: keep(name, args[0]))


def _between(block: Any, name: str, keep: Keep) -> list[Any]:
    """`resid_mid`: no module returns it, so it is the block's input plus what attention adds."""
    before: list[torch.Tensor] = []
    return [
        block.register_forward_pre_hook(lambda module, args: before.append(args[0])),
        block.self_attn.register_forward_hook(lambda module, args, output: keep(name, before.pop() + _first(output))),
    ]


def _first(output: Any) -> torch.Tensor:
    return output[0] if isinstance(output, tuple) else output


def _answers(result: Kept) -> Answers:
    logits, store = result
    return {"logits": logits, **store}
