"""A hooked model as code below it sees it: what it may be asked for there."""

from collections.abc import Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Annotated, Any, Protocol, TypeAlias

import torch
from torch import nn
from transformer_lens.config import TransformerBridgeConfig

from mmlens.architectures.modules import HuggingFaceModel
from mmlens.core.kinds import Accepts, Must
from mmlens.core.names import Names, Part
from mmlens.core.rules import Positions
from mmlens.declarations.family import Family
from mmlens.declarations.structure import Config
from mmlens.hooks.cache import ActivationCache
from mmlens.hooks.graph import HookGraph
from mmlens.hooks.nodes import Selection
from mmlens.hooks.point import Point
from mmlens.hooks.session import HookPair
from mmlens.hooks.splice import Splice
from mmlens.inputs.batch import Batch, MultimodalBatch
from mmlens.inputs.inputs import Inputs
from mmlens.models.part_view import PartView


class HookedModel(Protocol):
    """A Hugging Face model with hook points: `mmlens.models.hooked.HookedMultimodal`, of which this is a part."""

    hf_model: HuggingFaceModel
    hook_dict: dict[str, Point]
    processor: Any | None
    family: Family
    config: Config
    graph: HookGraph
    plain_graph: HookGraph
    spliced: dict[str, Splice]
    mod_dict: dict[str, Any]

    @property
    def base(self) -> HuggingFaceModel:
        """The Hugging Face model itself, without adapters around it."""

    def follow(self) -> None:
        """Have points reach the modules that act now."""

    @property
    def device(self) -> torch.device:
        """Where inputs go."""

    @property
    def cfg(self) -> TransformerBridgeConfig:
        """The language model's shape in TransformerLens's terms."""

    @property
    def adapters(self) -> tuple[str, ...]:
        """Names of the adapters that the model holds."""

    @property
    def active_adapters(self) -> tuple[str, ...]:
        """Names of the adapters that act now."""

    @property
    def stop_tokens(self) -> set[int]:
        """Ids that end a generation."""

    def part(self, part: Part) -> PartView:
        """One part's blocks, weights and configuration."""

    @property
    def W_E(self) -> torch.Tensor:
        """Token embedding."""

    @property
    def W_U(self) -> torch.Tensor:
        """Unembedding."""

    @property
    def b_U(self) -> torch.Tensor:
        """Unembedding bias."""

    @property
    def unembed(self) -> nn.Module:
        """The unembedding, the real module."""

    @property
    def ln_final(self) -> nn.Module:
        """The final norm, the real module."""

    @property
    def tokenizer(self) -> Any:
        """The tokenizer of the processor."""

    def train(self, mode: bool = True) -> Any:
        """Have the model in training mode, or not."""

    def prepare(
        self, text: Any, images: Any = None, *, videos: Any = None, padding_side: Any = None
    ) -> MultimodalBatch:
        """A batch of text and pictures."""

    def batch(self, inputs: Batch | None = None, **tensors: Any) -> MultimodalBatch:
        """A batch from raw keyword tensors."""

    def extend(self, batch: MultimodalBatch, tokens: torch.Tensor) -> MultimodalBatch:
        """The batch with further tokens at its end."""

    def to_tokens(self, text: str | Sequence[str], prepend_bos: bool = True) -> torch.Tensor:
        """Token ids of plain text."""

    def to_single_token(self, text: str) -> int:
        """The id of a string that is one token."""

    def to_str_tokens(self, tokens: Any) -> list[str]:
        """Each token as a string."""

    def to_string(self, tokens: Any) -> Any:
        """Text of token ids."""

    def decode(self, tokens: torch.Tensor) -> list[str]:
        """Text of token ids, without special tokens."""

    def __call__(self, batch: Batch | None = None, **tensors: Any) -> torch.Tensor:
        """Logits of one run."""

    def hooks(
        self, fwd_hooks: Sequence[HookPair] = (), bwd_hooks: Sequence[HookPair] = ()
    ) -> AbstractContextManager[Any]:
        """Have hooks attached inside a `with`."""

    def run_with_hooks(
        self, batch: Batch | None = None, *, fwd_hooks: Sequence[HookPair] = (), **tensors: Any
    ) -> torch.Tensor:
        """Logits of one run with hooks attached."""

    def run_with_cache(
        self,
        batch: Batch | None = None,
        *,
        names: Names | Selection | None = None,
        positions: Positions = "all",
        device: torch.device | str | None = None,
        **tensors: Any,
    ) -> tuple[torch.Tensor, ActivationCache]:
        """Logits of one run, and its activations."""

    def generate(self, batch: Batch | None = None, **options: Any) -> Any:
        """What Hugging Face's `generate` returns."""


#: A hooked model, as public functions below it take one.
Hooked: TypeAlias = Annotated[
    HookedModel,
    Accepts(object),
    Must(
        "a HookedMultimodal: HookedMultimodal.from_hf(model, processor) wraps a Hugging Face model",
        lambda value: hasattr(value, "hook_dict") and hasattr(value, "hf_model"),
        instead=True,
    ),
]


def inputs_of(model: HookedModel) -> Inputs:
    """What makes the batches of a hooked model."""
    return Inputs(model.base, model.family, model.config, model.processor)


@dataclass(frozen=True)
class PartOfModel:
    """A part of a hooked model that runs it.

    Attributes:
        model: the hooked model.
    """

    model: HookedModel

    @property
    def inputs(self) -> Inputs:
        """What makes its batches."""
        return inputs_of(self.model)
