"""Direct effect: what a neuron adds to a token's logit along the stream."""

from dataclasses import dataclass
from typing import ClassVar

import torch
from jaxtyping import Float

from mmlens.analysis.neurons.method import NEURON_METHODS, NeuronMethod
from mmlens.analysis.neurons.points import NeuronLayers
from mmlens.analysis.neurons.projection import projections, readable_mlps, stack_layers
from mmlens.analysis.neurons.token_targets import TokenTargets, in_float32, states_at, written_directions
from mmlens.analysis.statistics.rounding import off_by_rounding
from mmlens.core.errors import InputError
from mmlens.core.names import part_prefix
from mmlens.models.direct_path import branch_end
from mmlens.models.hooked import HookedMultimodal


@NEURON_METHODS.register("direct_effect")
@dataclass(frozen=True)
class DirectEffect(NeuronMethod):
    """Activation times what the neuron's row says about the token through the norms on its way, in logits.

        score[l, i] = q[l, i] * (W_out[l, i] . gain * W_U[:, t]) / scale

    with the norms' divisors held as they were, so that all scores, attention, embedding and biases add up to the logit. One
    forward pass. In a dual encoder the score stands for the logit, and in the place of W_U[:, t]

        factor / |e| * P^T u

    with P the projection of the neuron's tower, e the embedding that it makes, and u the other's embedding at length one, both
    held as they were; two passes.

    Limits: families whose stream is no sum of what is written to it (scaled or normed on its way) are refused, after that pass.

    Source: direct logit attribution: Elhage et al., "A Mathematical Framework for Transformer Circuits", 2021
    (https://transformer-circuits.pub/2021/framework/index.html), for neurons.
    """

    needs: ClassVar[frozenset[str]] = frozenset({"language", "weights"})

    def scores(
        self, model: HookedMultimodal, targets: TokenTargets, layers: NeuronLayers
    ) -> Float[torch.Tensor, "entry layer neuron"]:
        prefix = part_prefix(layers.part)
        names, outs = layers.names(), [f"{prefix}blocks.{layer}.hook_mlp_out" for layer in range(layers.count)]
        final = f"{prefix}blocks.{layers.count - 1}.hook_resid_post"
        stream = model.graph[final]
        writers = [
            node.name
            for node in model.graph
            if node.part == layers.part and node.role == "writes" and node.sequence == stream.sequence
        ]
        scale = [name for name in (f"{prefix}ln_final.hook_scale",) if name in model.graph]
        directions, indices = written_directions(model, targets, layers.part, normed=True)
        blocks = model.part(layers.part).blocks
        mlps, ends = readable_mlps(blocks), [branch_end(model, block) for block in blocks]
        states = states_at(model, targets, [*names, *writers, final, *scale])
        _require_sum(model, [states[name] for name in writers], states[final])
        divisor = in_float32(states[scale[0]]) if scale else torch.ones(len(targets.sample), 1)
        layer_scores = []
        for name, out, mlp, end in zip(names, outs, mlps, ends, strict=True):
            output = states[name] @ mlp.W_out + mlp.b_out
            inner = in_float32(end.divisor(in_float32(output), in_float32(states[out])))
            _require_branch(model, in_float32(end.undivided(in_float32(output))) / inner, end.bias, states[out], out)
            direction = end.pulled_back(directions.to(mlp.W_out.device))
            layer_scores.append(
                in_float32(states[name]) * projections(mlp, direction, indices) / inner / divisor.to(inner.device)
            )
        return stack_layers(layer_scores)


def _require_sum(model: HookedMultimodal, writes: list[torch.Tensor], stream: torch.Tensor) -> None:
    """The stream at the end must be the sum of the embedding and all branches."""
    total = torch.stack([in_float32(write).to(stream.device) for write in writes]).sum(0)
    off = float(((total - in_float32(stream)).norm(dim=-1) / in_float32(stream).norm(dim=-1)).max())
    if off > off_by_rounding(stream.dtype):
        raise InputError(
            f"method='direct_effect' adds up what is written to the residual stream, but the stream of {model.family.name} is no "
            f"such sum (off by {off:.1%} of its length at the end: it is scaled or normed on the way). Use method='contribution' "
            "or 'gradient_x_activation'."
        )


def _require_branch(
    model: HookedMultimodal, sum_of_rows: torch.Tensor, bias: torch.Tensor | None, out: torch.Tensor, name: str
) -> None:
    """What the rows say is added must be what was added."""
    total = sum_of_rows if bias is None else sum_of_rows + bias.to(sum_of_rows)
    off = float(((total - in_float32(out)).norm(dim=-1) / in_float32(out).norm(dim=-1).clamp(min=1e-12)).max())
    if off > off_by_rounding(out.dtype):
        raise InputError(
            f"method='direct_effect' needs to know what happens to an MLP's output, but {name} of {model.family.name} holds "
            f"something else than its rows' sum (off by {off:.1%}). Use method='contribution' or 'gradient_x_activation'."
        )
