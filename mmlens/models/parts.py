"""The parts of a hooked model and the language model's weights, under TransformerLens's names."""

from typing import Any

import torch
from jaxtyping import Float
from torch import nn
from transformer_lens import FactoredMatrix
from transformer_lens.config import TransformerLensConfig

from mmlens.architectures.modules import submodule
from mmlens.architectures.weights import readable
from mmlens.core.names import Part, require_part
from mmlens.declarations.family import Family
from mmlens.declarations.structure import Config
from mmlens.models.part_view import PartView, part_view
from mmlens.models.vocabulary import Vocabulary


class Parts(Vocabulary):
    """What a hooked model knows of its weights: the part of `HookedMultimodal` that runs nothing.

    Attributes:
        family: the declaration of where its parts are.
        config: its configuration.
    """

    family: Family
    config: Config
    _base: Any

    def part(self, part: Part) -> PartView:
        """One part's blocks, weights and configuration.

        Args:
            part: `"vision"`, `"projector"` or `"language"`.
        """
        weight = next(self.hf_model.parameters())
        return part_view(require_part(part), self.family, self._base, self.config, str(weight.device), weight.dtype)

    @property
    def cfg(self) -> TransformerLensConfig:
        """The language model's shape in TransformerLens's terms."""
        return self.part("language").cfg

    @property
    def blocks(self) -> Any:
        """The language model's blocks: `model.blocks[i].attn.W_O`, `model.blocks[i].mlp.W_out` (views)."""
        return self.part("language").blocks

    @property
    def ln_final(self) -> nn.Module:
        """The language model's final norm, the real module; an identity where its blocks end with a norm of their own."""
        norm = self.family.language.norm
        return nn.Identity() if norm is None else submodule(self._base, norm.path, self.family.name)

    @property
    def unembed(self) -> nn.Module:
        """The unembedding, the real module: logits from the normalised stream."""
        return submodule(self._base, self.family.language.head, self.family.name)

    @property
    def W_E(self) -> Float[torch.Tensor, "vocab d_model"]:
        """Token embedding (a view)."""
        return readable(submodule(self._base, self.family.language.embed, self.family.name), "The token embedding")

    @property
    def W_U(self) -> Float[torch.Tensor, "d_model vocab"]:
        """Unembedding (a view)."""
        return readable(self.unembed, "The unembedding").T

    @property
    def b_U(self) -> Float[torch.Tensor, "vocab"]:
        """Unembedding bias, zero if there is none."""
        bias = self.unembed.bias
        return self.W_U.new_zeros(self.W_U.shape[1]) if bias is None else bias  # type: ignore[return-value]

    @property
    def W_in(self) -> Float[torch.Tensor, "layer d_model neuron"]:
        """The language model's MLP input weights (a copy)."""
        return self.part("language").W_in

    @property
    def W_gate(self) -> Float[torch.Tensor, "layer d_model neuron"]:
        """The language model's MLP gate weights (a copy)."""
        return self.part("language").W_gate

    @property
    def W_out(self) -> Float[torch.Tensor, "layer neuron d_model"]:
        """The language model's MLP output weights (a copy); rows are what neurons write."""
        return self.part("language").W_out

    @property
    def W_Q(self) -> Float[torch.Tensor, "layer head d_model d_head"]:
        """The language model's query weights (a copy)."""
        return self.part("language").W_Q

    @property
    def W_K(self) -> Float[torch.Tensor, "layer head d_model d_head"]:
        """The language model's key weights (a copy)."""
        return self.part("language").W_K

    @property
    def W_V(self) -> Float[torch.Tensor, "layer head d_model d_head"]:
        """The language model's value weights (a copy)."""
        return self.part("language").W_V

    @property
    def W_O(self) -> Float[torch.Tensor, "layer head d_head d_model"]:
        """The language model's attention output weights (a copy)."""
        return self.part("language").W_O

    @property
    def OV(self) -> FactoredMatrix:
        """What each of the language model's heads moves, `W_V W_O`, `[layer head d_model d_model]`."""
        return self.part("language").OV

    @property
    def QK(self) -> FactoredMatrix:
        """What each of the language model's heads looks for, `W_Q W_K^T`; with rotary embeddings, at distance zero."""
        return self.part("language").QK

    def accumulated_bias(self, layer: int, mlp_input: bool = False, include_mlp_biases: bool = True) -> torch.Tensor:
        """Sum of the biases that the language model's blocks before `layer` add to the stream, `[d_model]`."""
        return self.part("language").accumulated_bias(layer, mlp_input, include_mlp_biases)

    def tokens_to_residual_directions(self, tokens: Any) -> Float[torch.Tensor, "*tokens d_model"]:
        """The direction in the final stream that raises a token's logit, once the stream is divided by the norm's scale.

        The final norm's gain is part of it: `direction = gain * W_U[:, token]`, so that the attributions of all
        components sum to the logit (for RMS norms; layer norms centre first, as TransformerLens does).

        Args:
            tokens: a string that is one token, an id, or a tensor of ids of any shape.
        """
        if isinstance(tokens, str):
            tokens = self.to_single_token(tokens)
        ids = torch.as_tensor(tokens, device=self.W_U.device)
        directions = self.W_U.T[ids]
        norm = self.family.language.norm
        return directions if norm is None else directions * (readable(self.ln_final, "The final norm") + norm.offset)
