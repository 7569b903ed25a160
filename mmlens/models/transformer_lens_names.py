"""The weights and tokens of a hooked model under TransformerLens's names: `model.W_U`, `model.blocks`, `model.to_tokens`."""

import torch
from jaxtyping import Float
from transformer_lens.config import TransformerBridgeConfig

from mmlens.core.contract import checked
from mmlens.models.claims import claims_of
from mmlens.models.delegation import method_of, property_of
from mmlens.models.part_view import BlockWeights, PartView
from mmlens.models.protocol import HookedModel
from mmlens.models.vocabulary import TokenIds, Vocabulary
from mmlens.models.weights import ModelWeights


def _vocabulary(model: HookedModel) -> Vocabulary:
    return Vocabulary(model.base, model.processor)


def _weights(model: HookedModel) -> ModelWeights:
    claims_of(model.base).await_weights()
    return ModelWeights(model.base, model.family, model.config)


def _language(model: HookedModel) -> PartView:
    return _weights(model).part("language")


class TransformerLensNames:
    """What a hooked model has of its weights and its vocabulary; both have files of their own."""

    part = method_of(_weights, ModelWeights.part)
    ln_final = property_of(_weights, ModelWeights.ln_final)
    unembed = property_of(_weights, ModelWeights.unembed)
    W_E = property_of(_weights, ModelWeights.W_E)
    W_U = property_of(_weights, ModelWeights.W_U)
    b_U = property_of(_weights, ModelWeights.b_U)

    @property
    def cfg(self: HookedModel) -> TransformerBridgeConfig:
        """The language model's shape in TransformerLens's terms."""
        return _language(self).cfg

    @property
    def blocks(self: HookedModel) -> list[BlockWeights]:
        """The language model's blocks: `model.blocks[i].attn.W_O`, `model.blocks[i].mlp.W_out` (views)."""
        return _language(self).blocks

    W_in = property_of(_language, PartView.W_in)
    W_gate = property_of(_language, PartView.W_gate)
    W_out = property_of(_language, PartView.W_out)
    W_Q = property_of(_language, PartView.W_Q)
    W_K = property_of(_language, PartView.W_K)
    W_V = property_of(_language, PartView.W_V)
    W_O = property_of(_language, PartView.W_O)
    b_Q = property_of(_language, PartView.b_Q)
    b_K = property_of(_language, PartView.b_K)
    b_V = property_of(_language, PartView.b_V)
    b_O = property_of(_language, PartView.b_O)
    b_in = property_of(_language, PartView.b_in)
    b_out = property_of(_language, PartView.b_out)
    OV = property_of(_language, PartView.OV)
    QK = property_of(_language, PartView.QK)
    accumulated_bias = method_of(_language, PartView.accumulated_bias)

    @checked
    def tokens_to_residual_directions(
        self: HookedModel, tokens: str | TokenIds
    ) -> Float[torch.Tensor, "*tokens d_model"]:
        """The direction in the final stream that raises a token's logit, once the stream is divided by the norm's scale.

        The final norm's gain is part of it: `direction = gain * W_U[:, token]`, so that the attributions of all
        components sum to the logit (for RMS norms; layer norms centre first, as TransformerLens does).

        Args:
            tokens: a string that is one token, an id, or a tensor of ids of any shape.
        """
        ids = self.to_single_token(tokens) if isinstance(tokens, str) else tokens
        return _weights(self).directions(torch.as_tensor(ids))

    tokenizer = property_of(_vocabulary, Vocabulary.tokenizer)
    stop_tokens = property_of(_vocabulary, Vocabulary.stop_tokens)
    to_tokens = method_of(_vocabulary, Vocabulary.to_tokens)
    to_single_token = method_of(_vocabulary, Vocabulary.to_single_token)
    to_word_forms = method_of(_vocabulary, Vocabulary.to_word_forms)
    to_word_tokens = method_of(_vocabulary, Vocabulary.to_word_tokens)
    to_string = method_of(_vocabulary, Vocabulary.to_string)
    to_str_tokens = method_of(_vocabulary, Vocabulary.to_str_tokens)
    decode = method_of(_vocabulary, Vocabulary.decode)
