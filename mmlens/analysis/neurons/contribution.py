"""What each neuron adds to a token's logit by itself: its activation times what its row says about the token."""

import torch
from jaxtyping import Float

from mmlens.analysis.neurons.points import Activation, NeuronLayers
from mmlens.analysis.neurons.token_targets import TokenTargets, states_at, wide
from mmlens.analysis.rounding import off_by_rounding
from mmlens.architectures.weights import MlpWeights
from mmlens.core.errors import InputError
from mmlens.models.direct_path import branch_end, logit_directions
from mmlens.models.hooked import HookedMultimodal
from mmlens.models.part_view import BlockWeights


def contributions(
    model: HookedMultimodal, asked: TokenTargets, layers: NeuronLayers, activation: Activation
) -> Float[torch.Tensor, "entry layer neuron"]:
    """`q[l, i] * (W_out[l, i] . W_U[:, t])`, in logits before the final norm (Pan et al., 2024)."""
    names = layers.names(activation)
    tokens, which = asked.token.unique(return_inverse=True)
    read = model.W_U.T[tokens.to(model.W_U.device)]
    mlps = _readable(model.blocks)
    kept = states_at(model, asked, names)
    return _stacked([
        wide(kept[name]) * _projected(mlp, read, which) for name, mlp in zip(names, mlps, strict=True)
    ])  # fmt: skip


def direct_effects(
    model: HookedMultimodal, asked: TokenTargets, layers: NeuronLayers
) -> Float[torch.Tensor, "entry layer neuron"]:
    """What each neuron adds to the token's logit along the stream, with norms' divisors held as they were.

    Raises:
        InputError: if the stream of this family is no sum of what its branches write, so that there is no such effect.
    """
    names, outs = layers.names(), [f"blocks.{layer}.hook_mlp_out" for layer in range(layers.count)]
    final = f"blocks.{layers.count - 1}.hook_resid_post"
    stream = model.graph[final]
    writers = [
        node.name
        for node in model.graph
        if node.part == "language" and node.role == "writes" and node.sequence == stream.sequence
    ]
    scale = ["ln_final.hook_scale"] if "ln_final.hook_scale" in model.graph else []
    tokens, which = asked.token.unique(return_inverse=True)
    directions = logit_directions(model, tokens)
    blocks = model.blocks
    mlps, ends = _readable(blocks), [branch_end(model, block) for block in blocks]
    kept = states_at(model, asked, [*names, *writers, final, *scale])
    _require_sum(model, [kept[name] for name in writers], kept[final])
    divisor = wide(kept[scale[0]]) if scale else torch.ones(len(asked.sample), 1)
    scores = []
    for name, out, mlp, end in zip(names, outs, mlps, ends, strict=True):
        written = kept[name] @ mlp.W_out + mlp.b_out
        inner = wide(end.divisor(wide(written), wide(kept[out])))
        _require_branch(model, wide(end.undivided(wide(written))) / inner, end.bias, kept[out], out)
        read = end.pulled_back(directions.to(mlp.W_out.device))
        scores.append(wide(kept[name]) * _projected(mlp, read, which) / inner / divisor.to(inner.device))
    return _stacked(scores)


def _readable(blocks: list[BlockWeights]) -> list[MlpWeights]:
    """The MLPs of blocks; quantised and offloaded rows are refused here, before anything runs."""
    found = [block.mlp for block in blocks if block.mlp is not None]
    found[0].W_out  # noqa: B018 - reading it is the check
    return found


def _projected(
    mlp: MlpWeights, read: Float[torch.Tensor, "token d_model"], which: torch.Tensor
) -> Float[torch.Tensor, "entry neuron"]:
    """What every row of `W_out` says about each entry's token.

    As `[token d_model] @ [d_model neuron]`, in the order of the weight's memory: the transposed product takes twice as
    long, and the whole of `W_out @ W_U` would hold `[neuron vocab]` numbers per layer.
    """
    weight = mlp.W_out.T
    return wide((read.to(weight) @ weight)[which.to(weight.device)])


def _stacked(scores: list[torch.Tensor]) -> Float[torch.Tensor, "entry layer neuron"]:
    """Layers may lie on different devices; one transfer for all where they do not."""
    return torch.stack([each.to(scores[0].device) for each in scores], dim=1).cpu()


def _require_sum(model: HookedMultimodal, written: list[torch.Tensor], stream: torch.Tensor) -> None:
    """The stream at the end must be the sum of the embedding and all branches."""
    total = torch.stack([wide(each).to(stream.device) for each in written]).sum(0)
    off = float(((total - wide(stream)).norm(dim=-1) / wide(stream).norm(dim=-1)).max())
    if off > off_by_rounding(stream.dtype):
        raise InputError(
            f"method='direct_effect' adds up what is written to the residual stream, but the stream of {model.family.name} is no "
            f"such sum (off by {off:.1%} of its length at the end: it is scaled or normed on the way). Use method='contribution' "
            "or 'gradient'."
        )


def _require_branch(
    model: HookedMultimodal, added: torch.Tensor, bias: torch.Tensor | None, out: torch.Tensor, name: str
) -> None:
    """What the rows say is added must be what was added."""
    total = added if bias is None else added + bias.to(added)
    off = float(((total - wide(out)).norm(dim=-1) / wide(out).norm(dim=-1).clamp(min=1e-12)).max())
    if off > off_by_rounding(out.dtype):
        raise InputError(
            f"method='direct_effect' needs to know what happens to an MLP's output, but {name} of {model.family.name} holds "
            f"something else than its rows' sum (off by {off:.1%}). Use method='contribution' or 'gradient'."
        )
