"""Batches of a hooked model: made of text and pictures, or of raw tensors, which are checked."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, Literal

import torch
from jaxtyping import Int
from torch import nn

from mmlens.core.contract import checked
from mmlens.core.errors import InputError
from mmlens.core.kinds import Positive
from mmlens.declarations.family import Family
from mmlens.declarations.structure import Config
from mmlens.inputs.apart import prepare_apart
from mmlens.inputs.batch import Batch, BatchLike, MultimodalBatch
from mmlens.inputs.batch_changes import with_tokens
from mmlens.inputs.options import require_options
from mmlens.inputs.picture_tensors import require_pictures
from mmlens.inputs.prepare import prepare_batch, side_for
from mmlens.inputs.processing import require_processor
from mmlens.inputs.prompts import Text
from mmlens.inputs.raw_tensors import LayoutLike, batch_of_tensors, with_known_pictures
from mmlens.inputs.sample_pictures import Images
from mmlens.inputs.videos import Videos, holds_videos, prepare_videos


def device_of(model: nn.Module) -> torch.device:
    """The device that inputs go to: that of the model's first weights, or where offloaded ones are brought to run."""
    first = next(model.parameters()).device
    if first.type != "meta":
        return first
    hooks = (getattr(module, "_hf_hook", None) for module in model.modules())
    devices = (getattr(hook, "execution_device", None) for hook in hooks)
    return torch.device(next((device for device in devices if device is not None), first))


@dataclass(frozen=True)
class Inputs:
    """The inputs that a model takes: makes batches, and checks them.

    Attributes:
        model: the Hugging Face model itself, without adapters around it.
        family: its declaration.
        config: its configuration.
        processor: its processor, or None.
    """

    model: nn.Module
    family: Family
    config: Config
    processor: Any | None

    @checked
    def prepare(
        self,
        text: Text,
        images: Images = None,
        *,
        videos: Videos = None,
        fps: Positive = 24.0,
        padding_side: Literal["left", "right"] | None = None,
    ) -> MultimodalBatch:
        """Make a batch of text and pictures, or of text and videos; chat template, placeholders and padding are taken care of.

        Args:
            text: a question (the chat template is put around it), a full prompt with placeholders, chat messages, or a
                list of these, one per sample. A chat that ends with a turn of the assistant is gone on with. What reads like
                a special token in a question or a chat is text.
            images: pictures (PIL, path or array): one; one per sample; or a list per sample. With a single text, a list
                means several pictures of that sample. In chats they go to the open `{"type": "image"}` parts, else into the
                first turn of the user.
            videos: in place of pictures, the frames of videos: one video per sample (an array `[frame height width 3]` or a
                list of pictures), or a list of videos per sample. All frames given are read; choose them beforehand.
            fps: how many of the given frames make a second, for models that tell the time of a frame; 24 is what most Hugging
                Face processors take for granted.
            padding_side: where shorter samples are padded. By default on the left, so that new tokens can follow; on the right
                in families that padding on the left would disturb, which refuse `"left"`.

        Returns:
            The batch, on the model's device.

        Raises:
            InputError: for unreadable pictures, wrong channel counts, or numbers of texts, pictures and placeholders that
                do not fit; before any forward pass.
        """
        processor = require_processor(self.processor, "prepare")
        if self.family.score is not None:
            if videos is not None:
                raise InputError(
                    f"{self.family.name} is a dual encoder, which reads pictures and no videos; give frames as images=[...]."
                )
            side_for(self.family, padding_side)
            batch = prepare_apart(self.family, self.family.score, self.config, processor, text, images)
            return replace(batch.to(device_of(self.model)), tokenizer=self._tokenizer)
        if videos is None and not holds_videos(text):
            batch = prepare_batch(self.family, self.config, processor, text, images, padding_side=padding_side)
        elif images is None:
            batch = prepare_videos(
                self.family, self.config, processor, text, videos, fps=fps, padding_side=padding_side
            )
        else:
            raise InputError("images= and videos= were both given; put pictures and videos into batches of their own.")
        return replace(batch.to(device_of(self.model)), tokenizer=self._tokenizer)

    @checked
    def extend(
        self, batch: BatchLike, tokens: Int[torch.Tensor, "batch step"], *, as_new: bool = False
    ) -> MultimodalBatch:
        """The batch with further tokens at its end, as if they had been generated.

        They are text, whatever they are: what came with the prompt stays as it is.

        Args:
            batch: padded on the left.
            tokens: new token ids, the same number for every sample.
            as_new: whether rules of positions count them as new tokens: `"generated"` means them, and `"last"` the position in
                front of them. By default they count as what is run.

        Returns:
            A batch whose last position predicts the token after them.
        """
        if self.family.score is not None:
            raise InputError(
                f"{self.family.name} is a dual encoder: it writes no tokens to extend a batch by; prepare another text."
            )
        return with_tokens(self.family, self.config, batch, tokens, as_new=as_new)

    @checked
    def batch(
        self, inputs: Batch | None = None, *, images: Images = None, layout: LayoutLike | None = None, **tensors: Any
    ) -> MultimodalBatch:
        """A batch from raw keyword tensors, checked, with its token layout.

        Args:
            inputs: a batch (returned as it is), a mapping such as a processor's `BatchFeature`, or token ids `[batch pos]`.
            images: the pictures that the pixels were made of, as for `prepare`: rows then have places in them, and corruptions
                have them at hand. Without, boxes count pixels of the processed picture.
            layout: which positions are pictures, where tensors do not tell: that of another batch (`batch.layout`), or a mask
                `[batch pos]`. Needed with `inputs_embeds` in place of ids.
            tensors: keyword tensors, added to those of `inputs`.

        Raises:
            InputError: for tensors that do not go together, and images of which the processor makes other pixels.

        Example:
            >>> tensors = dict(batch)  # what a processor of transformers gives
            >>> model.batch(tensors, images=scene.image).layout.boxes(batch.layout.image[0][:1])[0].tolist()
            [0.0, 0.0, 12.0, 12.0]
        """
        if isinstance(inputs, MultimodalBatch) and not tensors and images is None and layout is None:
            return inputs
        require_options(self.model, tensors)
        result = batch_of_tensors(self.family, self.config, self._keywords(inputs, tensors), layout)
        if images is not None:
            processor = require_processor(self.processor, "batch(images=...)")
            result = with_known_pictures(self.family, self.config, processor, result, images)
        return replace(result, tokenizer=self._tokenizer)

    def checked_batch(self, inputs: Batch | None, tensors: Mapping[str, Any]) -> MultimodalBatch:
        """The batch of what a run method got, whose keywords the model must know; arguments as for `keywords`."""
        require_options(self.model, tensors)
        return self.batch(inputs, **tensors)

    @property
    def _tokenizer(self) -> Any:
        """The tokenizer, or None if the model was wrapped without a processor."""
        return getattr(self.processor, "tokenizer", self.processor)

    def _keywords(self, inputs: Batch | None, tensors: Mapping[str, Any]) -> dict[str, Any]:
        """The Hugging Face keyword tensors of what a run method was given."""
        if isinstance(inputs, torch.Tensor):
            keywords: dict[str, Any] = {"input_ids": inputs}
        elif isinstance(inputs, Mapping):
            keywords = dict(inputs)
        elif inputs is None:
            keywords = {}
        else:
            raise InputError(
                f"A run method takes a batch, a mapping of tensors or token ids, found {type(inputs).__name__}; make a batch "
                "of text and pictures with model.prepare(text, images=...)."
            )
        keywords |= tensors
        if not keywords:
            raise InputError("Nothing to run on: pass a batch, or keyword tensors (input_ids=..., pixel_values=...).")
        return keywords

    def keywords(self, inputs: Batch | None, tensors: Mapping[str, Any]) -> dict[str, Any]:
        """Checked Hugging Face keywords of what a run method got, tensors on the model's device.

        Args:
            inputs: a batch, a mapping, or token ids.
            tensors: keyword tensors and options, added to those of `inputs`.

        Raises:
            InputError: for image tokens without pixels and the reverse.
        """
        keywords = self._keywords(inputs, tensors)
        require_pictures(self.family, self.config, keywords)
        device = device_of(self.model)
        return {key: value.to(device) if isinstance(value, torch.Tensor) else value for key, value in keywords.items()}
