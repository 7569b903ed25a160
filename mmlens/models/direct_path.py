"""The straight way from what an MLP writes, along the residual stream, to the logits: linear once norms are held fixed."""

from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import nn

from mmlens.architectures.adapter_layers import base_layer
from mmlens.architectures.modules import submodule
from mmlens.architectures.weights import bias_of, readable
from mmlens.core.errors import InputError
from mmlens.core.names import Part
from mmlens.declarations.structure import Norm
from mmlens.inputs.batch import MultimodalBatch
from mmlens.models.hooked import HookedMultimodal
from mmlens.models.part_view import BlockWeights


def _gain(module: nn.Module, norm: Norm | None, like: torch.Tensor) -> torch.Tensor:
    """What a norm multiplies each channel by, after dividing; ones where it has no weight."""
    if getattr(module, "weight", None) is None:
        return torch.ones_like(like)
    return readable(module, "A norm") + (norm.offset if norm is not None else 0.0)


def _centred(directions: torch.Tensor, centred: bool) -> torch.Tensor:
    """Directions that read a centred vector, as directions that read it uncentred."""
    return directions - directions.mean(-1, keepdim=True) if centred else directions


def logit_directions(
    model: HookedMultimodal, tokens: Int[torch.Tensor, "token"]
) -> Float[torch.Tensor, "token d_model"]:
    """What the final stream is multiplied by to give tokens' logits, with the final norm's scale held fixed.

        logit = (stream . direction) / ln_final.hook_scale + (norm's bias . W_U[:, token]) + b_U[token]

    The norm's gain is part of it, and the centring of a layer norm. The logit is that of `hook_logits`, before a family
    scales it or caps it.

    Args:
        model: the hooked model.
        tokens: ids.
    """
    unembedding = model.W_U.T[tokens.to(model.W_U.device)]
    declaration = model.family.language.norm
    if declaration is None:
        return unembedding
    module = model.ln_final
    gain = _gain(module, declaration, unembedding[0]).to(unembedding.device)
    return _centred(unembedding * gain, declaration.is_centred(base_layer(module)))


def stream_logits(
    model: HookedMultimodal, vectors: Float[torch.Tensor, "vector d_model"]
) -> Float[torch.Tensor, "vector vocab"]:
    """What vectors that are added to the final stream add to every token's logit, up to the final norm's scale.

    Args:
        model: the hooked model.
        vectors: of the stream.
    """
    weight, declaration = model.W_U, model.family.language.norm
    vectors = vectors.to(weight)
    if declaration is not None:
        module = model.ln_final
        vectors = _centred(vectors, declaration.is_centred(base_layer(module)))
        vectors = vectors * _gain(module, declaration, vectors[0]).to(vectors)
    return vectors @ weight


def score_directions(
    model: HookedMultimodal, batch: MultimodalBatch, part: Part, *, normed: bool = True
) -> Float[torch.Tensor, "sample d_model"]:
    """What a row of a dual encoder's tower is multiplied by to give the score of each picture with its own text.

        score = (stream . direction) / ln_final.hook_scale + what biases add

    at the row that the embedding is made of, with the final norm's scale, the embedding's length and the other embedding held
    fixed. The norm's gain is part of it, and the centring of a layer norm.

    Args:
        model: a dual encoder.
        batch: as many texts as pictures; run once.
        part: the tower, `"vision"` or `"language"`.
        normed: read the stream in front of the final norm; False reads what the norm returns.
    """
    score, projector = model.family.score, model.family.projector
    if score is None or part not in score.linear or not isinstance(projector.returns, str):
        raise InputError(f"The {part} part of {model.family.name} makes no embedding by one matrix of one row.")
    head = projector.returns if part == "vision" else model.family.language.head
    with torch.no_grad():
        _, cache = model.run_with_cache(batch, names=["projector.hook_out", "hook_projected"])
        ends = [cache[name][:, 0] for name in ("projector.hook_out", "hook_projected")]
        own, other = ends if part == "vision" else reversed(ends)
        unit = other / other.norm(dim=-1, keepdim=True)
        factor = score.factor(model.base).detach().to(own) / own.norm(dim=-1, keepdim=True)
        weight = readable(submodule(model.base, head, model.family.name), "The projection")
        directions = (factor * unit).to(weight) @ weight
    norm = model.family.vision.norm if part == "vision" else model.family.language.norm
    if norm is None or not normed:
        return directions
    module = submodule(model.base, norm.path, model.family.name)
    gain = _gain(module, norm, directions[0]).to(directions.device)
    return _centred(directions * gain, norm.is_centred(base_layer(module)))


@dataclass(frozen=True)
class BranchEnd:
    """What happens to an MLP's output before it is added to the stream: a norm behind it, a factor, both or neither.

    Attributes:
        gain: what each channel is multiplied by, factor included; None for no change.
        bias: what a norm behind the branch adds to it, factor included; None for nothing.
        centred: the norm centres first.
        divides: there is a norm, which divides by a number of each position.
    """

    gain: Float[torch.Tensor, "d_model"] | None = None
    bias: Float[torch.Tensor, "d_model"] | None = None
    centred: bool = False
    divides: bool = False

    def pulled_back(self, directions: Float[torch.Tensor, "token d_model"]) -> Float[torch.Tensor, "token d_model"]:
        """Directions that read the stream, as directions that read the MLP's output, up to the norm's divisor."""
        if self.gain is None:
            return directions
        return _centred(directions * self.gain.to(directions), self.centred)

    def divisor(
        self, output: Float[torch.Tensor, "entry d_model"], added: Float[torch.Tensor, "entry d_model"]
    ) -> Float[torch.Tensor, "entry 1"]:
        """The number that the norm divided by, from what the MLP returned and what was added to the stream."""
        plain = self.undivided(output)
        if not self.divides:
            return torch.ones_like(plain[:, :1])
        without = added if self.bias is None else added - self.bias.to(added)
        return (plain * plain).sum(-1, keepdim=True) / (plain * without).sum(-1, keepdim=True)

    def undivided(self, output: Float[torch.Tensor, "entry d_model"]) -> Float[torch.Tensor, "entry d_model"]:
        """What would be added to the stream for an output if the norm did not divide, without its bias."""
        if self.gain is None:
            return output
        return _centred(output, self.centred) * self.gain.to(output)


def branch_end(model: HookedMultimodal, block: BlockWeights) -> BranchEnd:
    """The end of a language block's MLP branch.

    Args:
        model: the hooked model.
        block: one of `model.blocks`, which has an MLP.
    """
    if block.mlp is None:
        return BranchEnd()
    declaration = block.mlp.declared
    factor = 1.0 if declaration.scale is None else declaration.scale(block.module)
    behind = declaration.branch is not None and not f"{declaration.down}.".startswith(f"{declaration.branch}.")
    if not behind:
        width = block.mlp.b_out
        return BranchEnd() if declaration.scale is None else BranchEnd(gain=torch.ones_like(width) * factor)
    module = submodule(block.module, str(declaration.branch), model.family.name)
    norm = _same_kind(model, block, module)
    gain = _gain(module, norm, block.mlp.b_out) * factor
    bias = bias_of(module, "A norm")
    is_centred = norm is not None and norm.is_centred(base_layer(module))
    return BranchEnd(gain, None if bias is None else bias * factor, is_centred, divides=True)


def _same_kind(model: HookedMultimodal, block: BlockWeights, module: nn.Module) -> Norm | None:
    """The declaration of a norm of the same class, which says how its weight is to be read."""
    pairs = [(block.kind.ln1, block.ln1), (block.kind.ln2, block.ln2), (model.family.language.norm, model.ln_final)]
    return next((norm for norm, other in pairs if norm is not None and type(other) is type(module)), None)
