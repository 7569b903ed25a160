"""The weights of a model: its parts, and the language model's embedding, last norm and unembedding."""

from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import nn

from mmlens.architectures.modules import HuggingFaceModel, submodule
from mmlens.architectures.weights import bias_of, readable
from mmlens.core.contract import checked
from mmlens.core.names import Part, require_part
from mmlens.declarations.family import Family
from mmlens.declarations.structure import Config
from mmlens.models.dual_encoder import require_writer
from mmlens.models.part_view import PartView, part_view


@dataclass(frozen=True)
class ModelWeights:
    """The weights of a model under TransformerLens's names.

    Attributes:
        model: the Hugging Face model itself, without adapters around it.
        family: the declaration of where its parts are.
        config: its configuration.
    """

    model: HuggingFaceModel
    family: Family
    config: Config

    @checked
    def part(self, part: Part) -> PartView:
        """One part's blocks, weights and configuration.

        Args:
            part: `"vision"`, `"projector"` or `"language"`.
        """
        weight = next(self.model.parameters())
        return part_view(require_part(part), self.family, self.model, self.config, str(weight.device), weight.dtype)

    @property
    def ln_final(self) -> nn.Module:
        """The language model's final norm, the real module; an identity where its blocks end with a norm of their own."""
        norm = self.family.language.norm
        return nn.Identity() if norm is None else submodule(self.model, norm.path, self.family.name)

    @property
    def unembed(self) -> nn.Module:
        """The unembedding, the real module: logits from the normalised stream.

        Raises:
            UnsupportedModelError: for dual encoders.
        """
        require_writer(self.family, "The unembedding (unembed, W_U, b_U)")
        return submodule(self.model, self.family.language.head, self.family.name)

    @property
    def W_E(self) -> Float[torch.Tensor, "vocab d_model"]:
        """Token embedding (a view)."""
        return readable(submodule(self.model, self.family.language.embed, self.family.name), "The token embedding")

    @property
    def W_U(self) -> Float[torch.Tensor, "d_model vocab"]:
        """Unembedding (a view)."""
        return readable(self.unembed, "The unembedding").T

    @property
    def b_U(self) -> Float[torch.Tensor, "vocab"]:
        """Unembedding bias, zero if there is none."""
        bias = bias_of(self.unembed, "The unembedding")
        return self.W_U.new_zeros(self.W_U.shape[1]) if bias is None else bias

    def directions(self, tokens: Int[torch.Tensor, "*tokens"]) -> Float[torch.Tensor, "*tokens d_model"]:
        """The directions in the final stream that raise tokens' logits; see `tokens_to_residual_directions`."""
        unembedding = self.W_U
        directions = unembedding.T[tokens.to(unembedding.device)]
        norm = self.family.language.norm
        return directions if norm is None else directions * (readable(self.ln_final, "The final norm") + norm.offset)
