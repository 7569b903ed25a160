"""Derivatives of predicted logits by neurons' activations: what the gradient methods share."""

from collections.abc import Iterator
from contextlib import contextmanager, suppress

import torch
from jaxtyping import Bool, Float

from mmlens.analysis.neurons.points import NeuronLayers
from mmlens.analysis.neurons.token_targets import TokenTargets
from mmlens.core.axes import batch_axis
from mmlens.core.rules import Positions, as_rule
from mmlens.inputs.point_rows import UnknownRowsError
from mmlens.inputs.positions import resolve
from mmlens.models.hooked import HookedMultimodal


@contextmanager
def differentiable(model: HookedMultimodal) -> Iterator[None]:
    """Gradients on, but none of parameters: what lies in front of the first hooked point then keeps no graph."""
    parameters = [parameter for parameter in model.hf_model.parameters() if parameter.requires_grad]
    try:
        for parameter in parameters:
            parameter.requires_grad_(False)
        with torch.enable_grad():
            yield
    finally:
        for parameter in parameters:
            parameter.requires_grad_(True)


def empty_scores(
    model: HookedMultimodal, targets: TokenTargets, layers: NeuronLayers
) -> Float[torch.Tensor, "entry layer neuron"]:
    """Zeros for every entry and neuron, in the model's dtype, float32 at least."""
    dtype = torch.promote_types(next(model.hf_model.parameters()).dtype, torch.float32)
    return torch.zeros(len(targets.sample), layers.count, layers.width, dtype=dtype)


def entry_groups(targets: TokenTargets, layers: NeuronLayers) -> list[torch.Tensor]:
    """Entries whose gradients one backward pass gives: rows of the language model are a sample's own, others' need not be."""
    if layers.part == "language":
        return targets.rounds()
    return [torch.tensor([entry]) for entry in range(len(targets.sample))]


def target_logits(model: HookedMultimodal, targets: TokenTargets) -> Float[torch.Tensor, "entry"]:
    """The logit of each entry's token where it is predicted, as the model returns it."""
    logits = model(targets.batch)
    if targets.batch.apart:
        return logits[targets.sample.to(logits.device), targets.token.to(logits.device)]
    rows = targets.rows(model.graph["hook_logits"])
    return logits[targets.sample.to(logits.device), rows.to(logits.device), targets.token.to(logits.device)]


class SummedRows:
    """The rows over which activation times gradient is summed, at every point of some units.

    Args:
        model: the hooked model.
        targets: the tokens.
        point: one of the points.
        positions: a rule; None for the positions that predict the tokens, and for all rows outside the language model.

    Raises:
        InputError: if the rule means nothing there, as far as that is known before a run.
    """

    def __init__(self, model: HookedMultimodal, targets: TokenTargets, point: str, positions: Positions | None):
        self._model, self._targets = model, targets
        self._rule = None if positions is None else as_rule(positions)
        self._masks: dict[tuple[str, torch.Size], torch.Tensor] = {}
        if self._rule is not None:
            with suppress(UnknownRowsError):
                resolve(self._rule, targets.batch, model.graph[point])

    def mask(self, name: str, activation: torch.Tensor, entries: torch.Tensor) -> Bool[torch.Tensor, "..."]:
        """True at the rows that count, broadcastable to a point's activation.

        Args:
            name: the point.
            activation: what it holds.
            entries: the tokens of this pass.
        """
        node, targets = self._model.graph[name], self._targets
        if self._rule is None and node.part != "language":
            return torch.ones((), dtype=torch.bool, device=activation.device)
        if self._rule is None:
            mask = torch.zeros(activation.shape[:2], dtype=torch.bool)
            mask[targets.sample[entries], targets.rows(node)[entries]] = True
            return mask[..., None].to(activation.device)
        key = (node.sequence, activation.shape)
        if key not in self._masks:
            resolution = resolve(self._rule, targets.batch, node, activation.shape)
            marks = resolution.marks(0, activation.shape[node.position_axis], activation.device)
            marks = torch.as_tensor(marks, device=activation.device)
            marks = marks[0] if marks.ndim == 2 and batch_axis(node.axes) is None else marks
            self._masks[key] = marks[..., None] if marks.ndim else marks
        return self._masks[key].to(activation.device)

    def total(self, name: str, product: torch.Tensor, entries: torch.Tensor) -> Float[torch.Tensor, "some neuron"]:
        """The sum of a product over the rows that count, one line per entry; arguments as for `mask`."""
        product = product * self.mask(name, product, entries)
        if self._model.graph[name].part != "language":
            return product.flatten(0, -2).sum(0, keepdim=True).cpu()
        return product.sum(1).cpu()[self._targets.sample[entries]]
