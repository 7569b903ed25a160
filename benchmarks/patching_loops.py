"""The plain way to patch: one forward pass per cell. On bare Hugging Face with a torch hook, by TransformerLens, by nnsight."""

from importlib.util import find_spec
from typing import Any, Protocol

import torch

from benchmarks.models import Subject
from mmlens.execution import Cell, Change


class Loop(Protocol):
    """Runs one cell at a time."""

    name: str
    #: Largest difference from bare Hugging Face that its kernels explain.
    tolerance: float

    def __call__(self, cell: Cell) -> torch.Tensor:
        """Logits `[1 vocab]` at the last position."""


class Bare:
    """Hugging Face, and a torch hook in front of a module."""

    name = "plain hook loop"
    tolerance = 0.0

    def __init__(self, subject: Subject):
        self.model, self.inputs = subject.bare, subject.inputs
        self.d_head = subject.hooked.cfg.d_head

    @torch.no_grad()
    def __call__(self, cell: Cell) -> torch.Tensor:
        change, layer, heads = _place(cell)
        block = self.model.model.language_model.layers[layer]
        module = block.self_attn.o_proj if heads else block

        def hook(module: Any, args: tuple[torch.Tensor, ...]) -> tuple[torch.Tensor, ...]:
            stream = args[0].clone()
            stream[0, change.rows] = _changed(change, stream[0, change.rows], self.d_head if heads else None)
            return (stream, *args[1:])

        handle = module.register_forward_pre_hook(hook)
        try:
            return self.model(**self.inputs, use_cache=False).logits[:, -1]
        finally:
            handle.remove()


class Bridged:
    """TransformerLens's `run_with_hooks`, as its patching loops call it."""

    # the bridge switches the model to eager attention, which rounds otherwise than the fused kernel
    tolerance = 1e-4

    def __init__(self, subject: Subject):
        from benchmarks.ways import bridged

        self.name = bridged.NAME
        self.bridge = bridged.Bridged(subject).bridge
        self.tokens = subject.inputs["input_ids"]
        self.more = {name: tensor for name, tensor in subject.inputs.items() if name != "input_ids"}

    @torch.no_grad()
    def __call__(self, cell: Cell) -> torch.Tensor:
        change, _, _ = _place(cell)

        def hook(activation: torch.Tensor, hook: Any) -> torch.Tensor:
            activation[0, change.rows] = change.apply(activation[0, change.rows])
            return activation

        return self.bridge.run_with_hooks(self.tokens, fwd_hooks=[(change.at, hook)], **self.more)[:, -1]


class Traced:
    """nnsight's trace, with an assignment in it."""

    tolerance = 1e-5

    def __init__(self, subject: Subject):
        from benchmarks.ways import traced

        self.name = traced.NAME
        self.model = traced.Traced(subject).model
        self.inputs = subject.inputs
        self.d_head = subject.hooked.cfg.d_head

    @torch.no_grad()
    def __call__(self, cell: Cell) -> torch.Tensor:
        change, layer, heads = _place(cell)
        rows, width = change.rows, self.d_head if heads else None
        block = self.model.model.language_model.layers[layer]
        module = block.self_attn.o_proj if heads else block
        with self.model.trace(**self.inputs, use_cache=False):
            stream = module.input
            stream[0, rows] = _changed(change, stream[0, rows], width)
            logits = self.model.output.logits[:, -1].save()
        return logits  # noqa: RET504 - a trace cannot be returned from


def loops(subject: Subject) -> list[Loop]:
    """The loops that can be run here, bare Hugging Face first."""
    found: list[Loop] = [Bare(subject), Bridged(subject)]
    if find_spec("nnsight") is not None:
        found.append(Traced(subject))
    return found


def _place(cell: Cell) -> tuple[Change, int, bool]:
    """A cell's one change, its layer, and whether it is made to heads."""
    (change,) = cell.changes
    return change, int(change.at.split(".")[1]), change.at.endswith("hook_z")


def _changed(change: Change, rows: torch.Tensor, d_head: int | None) -> torch.Tensor:
    """What a change makes of rows; of their heads, where a width is given."""
    return change.apply(rows) if d_head is None else change.apply(rows.unflatten(-1, (-1, d_head))).flatten(1)
