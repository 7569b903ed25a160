"""Which tensors hold a model's neurons."""

from dataclasses import dataclass
from typing import Literal

from mmlens.core.errors import InputError
from mmlens.core.names import HookName, Part, part_prefix, require_part
from mmlens.core.units import Neuron
from mmlens.models.hooked import HookedMultimodal

#: `"down_in"`: the input of the down projection, the exact multiplier of the neuron's row; `"act"`: the activation
#: function's output, as in the published code.
ActivationPoint = Literal["down_in", "act"]
POINTS: dict[str, str] = {"down_in": "mlp.hook_post", "act": "mlp.hook_act"}


@dataclass(frozen=True)
class NeuronLayers:
    """The layers of a part whose neurons are scored together.

    Attributes:
        part: the tower.
        stack: its list of blocks; empty for a projector's own hidden layer.
        count: number of layers.
        width: neurons in each.
    """

    part: Part
    stack: str
    count: int
    width: int

    def names(self, activation: ActivationPoint = "down_in") -> list[str]:
        """The hook points that hold them, layer by layer."""
        kind = POINTS[activation].removeprefix("mlp.")
        return [Neuron(layer, 0, self.part, self.stack).hook.replace("hook_post", kind) for layer in range(self.count)]


def require_points(model: HookedMultimodal, layers: NeuronLayers, activation: ActivationPoint) -> None:
    """Refuse activations that a model has no hook point for.

    Raises:
        InputError: if so.
    """
    missing = [name for name in layers.names(activation) if name not in model.graph]
    if missing:
        raise InputError(
            f"activation='act' reads the activation function's output, but {model.family.name} calls no module for it: there "
            f"is no {missing[0]}. Use activation='down_in'."
        )


def neuron_layers(model: HookedMultimodal, part: Part = "language", stack: str | None = None) -> NeuronLayers:
    """The layers of a part that have hidden neurons.

    Args:
        model: the hooked model.
        part: the tower.
        stack: which list of blocks; by default `"blocks"` where the part has it, else a projector's own hidden layer, else
            the last stack.

    Raises:
        InputError: if the part has no such neurons; if some blocks lack them, or have another number of them.
    """
    nodes = [node for node in model.graph if node.part == require_part(part)]
    widths: dict[str, dict[int, int]] = {}
    for node in nodes:
        name = HookName.parse(node.name)
        if name.rest == "mlp.hook_post":
            widths.setdefault(name.stack or "", {})[name.layer or 0] = node.width or 0
    if stack is None:
        stack = next(
            (candidate for candidate in ("blocks", "") if candidate in widths), next(reversed(widths), "blocks")
        )
    if stack not in widths:
        raise InputError(_no_neurons(model, part, stack, sorted(widths)))
    widths_by_layer = widths[stack]
    blocks = {node.layer for node in nodes if node.layer is not None and node.stack == stack} or {0}
    without = sorted(blocks - set(widths_by_layer))
    if without:
        raise InputError(
            f"Scores need the neurons of every layer, but the {part} blocks {without} of {len(blocks)} have none: they are "
            f"mixtures of experts, whose hidden neurons exist in no module. The others are at {part_prefix(part)}{stack}.*."
            "mlp.hook_post."
        )
    if len(set(widths_by_layer.values())) > 1:
        raise InputError(
            f"Scores need layers of one width, but the {part} {stack or 'hidden layers'} have "
            f"{', '.join(map(str, sorted(set(widths_by_layer.values()))))} neurons; no table [layer neuron] holds them."
        )
    return NeuronLayers(part, stack, len(widths_by_layer), widths_by_layer[0])


def _no_neurons(model: HookedMultimodal, part: Part, stack: str, stacks: list[str]) -> str:
    if stacks:
        return f"The part {part!r} has no neurons in a stack {stack!r}; its stacks are {', '.join(map(repr, stacks))}."
    return (
        f"The part {part!r} of {model.family.name} has no neurons with a hook point: it has no MLP, or mixtures of experts, "
        "whose hidden neurons exist in no module."
    )
