"""The weights and the shape of a bound model, under TransformerLens's names."""

from collections.abc import Callable, Iterator
from typing import Any, Literal, TypeVar

import torch
from jaxtyping import Float
from transformer_lens import FactoredMatrix
from transformer_lens.config import TransformerBridgeConfig
from transformer_lens.model_bridge.composition_scores import CompositionScores
from transformer_lens.model_bridge.get_params_util import get_bridge_params
from transformer_lens.utilities import composition_scores

from mmlens.architectures.modules import HuggingFaceModel
from mmlens.core.contract import checked
from mmlens.core.errors import InputError
from mmlens.hooks.point import Point
from mmlens.models.bound.base import Bound
from mmlens.models.bound.blocks import BlockView, EndView, NormView
from mmlens.models.bound.points import FLAGS

BoundT = TypeVar("BoundT", bound="BoundWeights")


class BoundWeights(Bound):
    """The weights and the shape of a bound model's language model."""

    @property
    def cfg(self) -> TransformerBridgeConfig:
        """The language model's shape, how its tokenizer begins a text, and the flags of points, which can be set here too."""
        config = self.model.cfg
        for flag in FLAGS:
            config._set_bridge_managed_hook_flag(flag, flag in self.flags)
        config._bind_bridge(self)  # config.use_attn_result = True calls set_use_attn_result
        begins = self.begins_with_bos
        config.tokenizer_prepends_bos = config.default_prepend_bos = begins
        return config

    @property
    def blocks(self) -> list[BlockView]:
        """The language model's blocks, weights and hook points: `model.blocks[i].attn.hook_z`."""
        return [
            BlockView(number, weights, self.hook_dict)
            for number, weights in enumerate(self.model.part("language").blocks)
        ]

    @property
    def embed(self) -> EndView:
        """The token embedding: called on ids; `embed.W_E`."""
        return EndView(self.model.base.get_submodule(self.model.family.language.embed), W_E=self.model.W_E)

    @property
    def unembed(self) -> EndView:
        """The unembedding: called on the normalised stream; `unembed.W_U`, `unembed.b_U`."""
        return EndView(self.model.unembed, W_U=self.model.W_U, b_U=self.model.b_U)

    @property
    def ln_final(self) -> NormView:
        """The final norm: called on the stream; `ln_final.w`."""
        return NormView(self.model.ln_final, self.hook_dict, "ln_final.")

    def tl_parameters(self) -> dict[str, torch.Tensor]:
        """The language model's weights by TransformerLens's names: `blocks.0.attn.W_Q`, `unembed.W_U`.

        Keys and values that several heads share are there once for each head, biases that a family does not have are zero,
        and blocks have no entries for what they do not have.
        """
        return get_bridge_params(self)

    get_params = tl_parameters

    def tl_named_parameters(self) -> Iterator[tuple[str, torch.Tensor]]:
        """The same as pairs."""
        return iter(self.tl_parameters().items())

    # -- heads -------------------------------------------------------------------------------------------------------

    @property
    def all_head_labels(self) -> list[str]:
        """Names of all heads, `L0H0` to the last, layer by layer."""
        return self._labels(range(self.model.cfg.n_layers))

    @property
    def attn_head_labels(self) -> list[str]:
        """Names of the heads of blocks that have attention."""
        return self._labels(self.composition_layer_indices())

    def _labels(self, layers: range | list[int]) -> list[str]:
        return [f"L{layer}H{head}" for layer in layers for head in range(self.model.cfg.n_heads)]

    def composition_layer_indices(self) -> list[int]:
        """The layers that have attention."""
        return [layer for layer, _ in self.blocks_with("attn")]

    @checked
    def all_composition_scores(self, mode: Literal["Q", "K", "V"]) -> CompositionScores:
        """How much each head reads of what each earlier head writes, from weights alone.

            score = |W_OV^source W^target| / (|W_OV^source| |W^target|)

        with Frobenius norms, and in the place of `W^target` the target's `W_QK` (`"Q"`), its transpose (`"K"`) or its `W_OV`
        (`"V"`). Norms between the two are left out, and rotary positions too.

        Args:
            mode: the input of the target that the source's output goes into.

        Returns:
            Scores `[layer head layer head]`, source first, zero where the source is not earlier; blocks without attention are
            left out (`layer_indices`).

        Raises:
            InputError: if no block has attention.

        Source: Elhage et al., "A Mathematical Framework for Transformer Circuits", 2021,
        https://transformer-circuits.pub/2021/framework/index.html
        """
        layers, first = self.OV_for_attn_layers()
        right = first if mode == "V" else self.QK_for_attn_layers()[1]
        scores = composition_scores(first, right.T if mode == "K" else right, broadcast_dims=True)
        number = torch.arange(len(layers), device=scores.device)
        earlier = number[:, None, None, None] < number[None, None, :, None]
        return CompositionScores(scores.masked_fill(~earlier, 0), layers, self._labels(layers))

    def OV_for_attn_layers(self) -> tuple[list[int], FactoredMatrix]:
        """The layers that have attention, and what their heads move, `[layer head d_model d_model]`."""
        layers, values = self.stack_params_for("attn", "attn.W_V")
        return layers, FactoredMatrix(self._every_head(values), self.stack_params_for("attn", "attn.W_O")[1])

    def QK_for_attn_layers(self) -> tuple[list[int], FactoredMatrix]:
        """The layers that have attention, and what their heads look for, `[layer head d_model d_model]`."""
        layers, queries = self.stack_params_for("attn", "attn.W_Q")
        keys = self._every_head(self.stack_params_for("attn", "attn.W_K")[1])
        return layers, FactoredMatrix(queries, keys.transpose(-2, -1))

    def _every_head(self, grouped: Float[torch.Tensor, "layer group d_model d_head"]) -> torch.Tensor:
        return grouped.repeat_interleave(self.model.cfg.n_heads // grouped.shape[1], dim=1)

    # -- blocks ------------------------------------------------------------------------------------------------------

    @checked
    def blocks_with(self, submodule: str) -> list[tuple[int, BlockView]]:
        """The blocks that have a branch, with their numbers.

        Args:
            submodule: `"attn"`, `"mlp"`, `"ln1"`, ...
        """
        return [(number, block) for number, block in enumerate(self.blocks) if submodule in block.submodules]

    @checked
    def stack_params_for(
        self, submodule: str, attr_path: str, reshape_fn: Callable[[torch.Tensor], torch.Tensor] | None = None
    ) -> tuple[list[int], torch.Tensor]:
        """A weight of all blocks that have a branch: their numbers, and the stack (a copy).

        Args:
            submodule: the branch.
            attr_path: of the weight, from the block: `"attn.W_Q"`.
            reshape_fn: applied to each.

        Raises:
            InputError: if no block has the branch.
        """
        blocks = self.blocks_with(submodule)
        if not blocks:
            names = sorted({name for block in self.blocks for name in block.submodules})
            raise InputError(f"No block has {submodule!r}; blocks have {', '.join(names)}.")
        weights: list[Any] = []
        for _, block in blocks:
            weight: Any = block
            for name in attr_path.split("."):
                weight = getattr(weight, name)
            weights.append(weight if reshape_fn is None else reshape_fn(weight))
        return [number for number, _ in blocks], torch.stack(weights)

    def layer_types(self) -> list[str]:
        """What the branches of each block are, e.g. `attn+mlp`."""
        return ["+".join(part for part in block.submodules if not part.startswith("ln")) for block in self.blocks]

    @checked
    def block_submodules(self, layer_idx: int) -> list[str]:
        """The branches and norms of a block.

        Raises:
            InputError: for a block that there is not.
        """
        return list(self.blocks[self._require_layer(layer_idx)].submodules)

    @checked
    def block_hooks(self, layer_idx: int) -> list[str]:
        """The hook points of a block, by what follows its prefix.

        Raises:
            InputError: for a block that there is not.
        """
        prefix = f"blocks.{self._require_layer(layer_idx)}."
        return sorted(name.removeprefix(prefix) for name in self.hook_dict if name.startswith(prefix))

    def _require_layer(self, layer: int) -> int:
        count = self.model.cfg.n_layers
        if not 0 <= layer < count:
            raise InputError(f"layer_idx={layer} must lie in 0..{count - 1}: there are {count} blocks.")
        return layer

    @checked
    def get_hook_point(self, hook_name: str) -> Point | None:
        """The hook point of a name; None if there is none."""
        return self.hook_dict.get(hook_name)

    # -- the model itself ----------------------------------------------------------------------------------------------

    @property
    def original_model(self) -> HuggingFaceModel:
        """The Hugging Face model."""
        return self.model.hf_model

    @property
    def n_params_total(self) -> int:
        """How many numbers the weights of all parts hold."""
        return sum(parameter.numel() for parameter in self.original_model.parameters())

    def to(self: BoundT, *args: Any, **kwargs: Any) -> BoundT:
        """Have the model and the batch moved to a device, or the model in another dtype, as in torch; returns the bound model."""
        self.original_model.to(*args, **kwargs)
        self.batch = self.batch.to(self.model.device)
        return self

    def cpu(self: BoundT) -> BoundT:
        """The same for `to("cpu")`."""
        return self.to("cpu")

    def cuda(self: BoundT, device: int | torch.device | None = None) -> BoundT:
        """The same for `to("cuda")`."""
        return self.to(
            "cuda" if device is None else torch.device("cuda", device) if isinstance(device, int) else device
        )

    def eval(self: BoundT) -> BoundT:
        """Have the model in evaluation mode; returns the bound model."""
        return self.train(False)

    def train(self: BoundT, mode: bool = True) -> BoundT:
        """Have the model in training mode, or not; returns the bound model."""
        self.model.train(mode)
        return self

    def requires_grad_(self: BoundT, requires_grad: bool = True) -> BoundT:
        """Have the weights take gradients, or not; returns the bound model."""
        self.original_model.requires_grad_(requires_grad)
        return self
