"""What a model family declares: where its parts are, in module paths. Nothing here runs a model.

A declaration is data: paths of `nn.Module`s relative to the Hugging Face model, with the blocks of `declarations/structure.py`.
`architectures/build.py` turns it into hook points; adding a family is adding one file to `architectures/families/`.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Annotated, Any, TypeAlias

import torch
from torch import nn

from mmlens.core.contract import checked
from mmlens.core.kinds import Must, Text
from mmlens.core.names import Part
from mmlens.declarations.projector import Projector
from mmlens.declarations.structure import Config, Norm, Stack

#: A block that is read: its number in the last stack, or the name of its stack and its number there; numbers count from
#: the stack's end if negative.
Read: TypeAlias = int | tuple[str, int]


@checked
@dataclass(frozen=True)
class Vision:
    """The vision encoder.

    Attributes:
        stack: its blocks; several stacks, in the order of execution, in two-stage and hierarchical towers.
        read: the blocks whose output is handed to the projector, given the model's configuration.
        beside: those whose output the projector gets as a second argument, which has no point of its own.
        norm: the final norm, between the block that is read and the projector, where it has points of its own.
        norm_pooled: that norm sees one row of each picture alone, the class row.
    """

    stack: Stack | tuple[Stack, ...]
    read: Callable[[Config], Sequence[Read]]
    beside: Callable[[Config], Sequence[Read]] = lambda config: ()
    norm: Norm | None = None
    norm_pooled: bool = False

    @property
    def stacks(self) -> tuple[Stack, ...]:
        """The stacks, in the order of execution."""
        return self.stack if isinstance(self.stack, tuple) else (self.stack,)


@checked
@dataclass(frozen=True)
class Encoder:
    """The encoder of an encoder-decoder language model, which reads the prompt and the picture.

    Attributes:
        stack: its blocks, named `encoder.blocks`.
        norm: the final norm, whose output the decoder looks at; None where that is what the last block returns.
    """

    stack: Stack
    norm: Norm | None = None


@checked
@dataclass(frozen=True)
class Crossing:
    """Blocks of a list of their own that stand between the language model's and look at the picture.

    Attributes:
        stack: the blocks.
        every: one of them stands in front of the first of so many blocks of the language model, given its configuration.
    """

    stack: Stack
    every: Callable[[Config], int]


@checked
@dataclass(frozen=True)
class Language:
    """The language model.

    Attributes:
        stack: its blocks; the decoder's, if it has an encoder.
        embed: the token embedding.
        enters: the module that receives the merged embeddings in every forward pass, and the name of that argument, where
            blocks receive something else; the first block if None.
        norm: the final norm; None where the blocks themselves end with one.
        head: the unembedding, whose output are the logits.
        merges: the projector's features take the place of image tokens in the embeddings; False where only
            cross-attention blocks read them.
        encoder: the encoder, whose output the blocks' cross-attention reads.
        crossing: further blocks that stand between its own and look at the projector's features.
        more_tokens: how many logits come from a second table, given the configuration; `W_U` and `W_E` do not hold them.
        looks_ahead: positions may attend to later ones (of the same picture, or of the prompt); to which, the mask that the
            model makes in each run alone says.
    """

    stack: Stack
    embed: str
    norm: Norm | None
    head: str
    merges: bool = True
    enters: tuple[str, str] | None = None
    encoder: Encoder | None = None
    crossing: Crossing | None = None
    more_tokens: Callable[[Config], int] = lambda config: 0
    looks_ahead: bool = False


@checked
@dataclass(frozen=True)
class Score:
    """What a dual encoder has in place of logits: how near the embedding of a picture and that of a text are.

        score = factor * cos(embedding of the picture, embedding of the text) + bias

    Its language part is the text tower, whose `Language.head` makes the text's embedding; its projector makes the picture's.

    Attributes:
        factor: what the cosine is multiplied by, given the Hugging Face model.
        field: what the model's output calls the scores, `[picture text]`.
        linear: the parts whose embedding is the final norm of one row times a matrix: the row `pooled` of the tower, times
            `Language.head` or what `Projector.returns`.
        last: the row of each text that its embedding is made of, given `(config, token ids)`; rows behind it reach nothing.
        longest: how many tokens a text may have, given the configuration.
        text_options: options with which the processor is called for texts, given the configuration.
    """

    factor: Callable[[nn.Module], torch.Tensor] = lambda model: model.get_parameter("logit_scale").exp()
    field: str = "logits_per_image"
    linear: tuple[Part, ...] = ("vision", "language")
    last: Callable[[Config, torch.Tensor], torch.Tensor] = lambda config, ids: torch.full_like(
        ids[:, 0], ids.shape[1] - 1
    )
    longest: Callable[[Config], int] = lambda config: config.text_config.max_position_embeddings
    text_options: Callable[[Config], dict[str, Any]] = lambda config: {}


@checked
@dataclass(frozen=True)
class Videos:
    """How a family reads videos: its picture tower sees the frames, one by one or in groups.

    Attributes:
        reader: what turns frames into pixels where the Hugging Face video processor cannot be had, given the image processor
            and the settings of the checkpoint's video processor.
        pixels: the tensors that the video processor would make, given `(reader, videos)`.
        expand: the text that stands for each video, given `(config, these tensors, the videos' numbers of frames, frames per
            second, the mark)`.
        places: as `Family.places`, of videos of `(frames, height, width)`; one `Places` for all frames that share rows.
        inputs: the tensors that the model takes, given `(config, these tensors, frames per second)`.
        mark: the text that is replaced by what `expand` says; the video token's, if None.
        placeholder: what stands for one video in a prompt without a chat template, with `{}` where the mark is.
    """

    reader: Callable[[Any, Mapping[str, Any]], Any]
    pixels: Callable[[Any, Any], dict[str, Any]]
    expand: Callable[[Config, dict[str, Any], list[int], float, str], list[str]]
    places: Callable[..., Any]
    inputs: Callable[[Config, dict[str, Any], float], dict[str, Any]] = lambda config, tensors, fps: tensors
    mark: str | None = None
    placeholder: str = "{}\n"


@checked
@dataclass(frozen=True)
class Family:
    """One model family: its parts, its places, and how it wants its pictures announced in text.

    Attributes:
        name: short name, e.g. `"llava"`.
        classes: the Hugging Face classes it covers.
        vision, projector, language: the three parts.
        places: given `(config, tensors, sizes, image processor)`, where the rows of each picture are; see
            `mmlens.inputs.layout.Places`.
        is_image: which positions of the prompt hold a picture, given `(config, tensors)`; by default those of the image
            token.
        writes_placeholders: the processor puts the image tokens into the text by itself.
        placeholder: the text that stands for one picture in a prompt without a chat template.
        nested_pictures: the processor takes the pictures sample by sample, rather than all in one list.
        pads_right: the processor marks the pictures' positions as if padding were on the right; it is called so, and the
            padding is moved afterwards.
        expand: number of image tokens per picture, or the text or the tokens that stand for each, given `(config, image
            tensors)`; used where a processor has to be composed from an image processor and a tokenizer.
        image_options: options with which the image processor is called, given the configuration; for the image processors
            that learn of the model's shape only from the Hugging Face processor.
        renamed: what the model calls a tensor that its processor calls otherwise, by the processor's name.
        for_counting: what the image processor returns for `expand` alone, and the model does not take.
        extra_inputs: further tensors that the model needs, made from `(config, tensors)`.
        other_languages: further kinds of language model that checkpoints of these classes come with; the first whose
            blocks a model has is used.
        other_towers: declarations for further kinds of vision encoder that checkpoints of these classes come with; the
            first whose vision blocks a model has is used in place of this one.
        token_kinds: the model takes the processor's `token_type_ids` as they are.
        written_kind: the kind that tokens have in them which the model wrote behind the prompt.
        videos: how it reads videos, if it does.
        written_places: the token as which a picture's placeholder is embedded that the model itself wrote, given the
            configuration; as itself, if None.
        position_ids: the `position_ids` of a forward pass, given `(the module that takes them, its keyword tensors)`, with
            those of the run where the pass gets none; None where those that it has are right. Needed where transformers
            does not count them from 0 by the mask, or counts a sample's by its batch-mates. By default they are counted by
            the mask where samples are padded on the left.
        left_padding: why padding on the left changes what is read of a sample, as a sentence; None if it does not.
        score: what it has in place of logits, if it is a dual encoder: two towers that write nothing.
        discovered: nobody declared it; it was worked out from the model's modules.
    """

    name: str
    classes: Annotated[tuple[Text, ...], Must("non-empty", bool)]
    vision: Vision
    projector: Projector
    language: Language
    places: Callable[..., Any]
    is_image: Callable[[Config, Mapping[str, Any]], torch.Tensor] = lambda config, tensors: (
        tensors["input_ids"] == config.image_token_id
    )
    writes_placeholders: bool = False
    placeholder: str = "<image>\n"
    nested_pictures: bool = False
    pads_right: bool = False
    expand: Callable[[Config, dict[str, Any]], list[int] | list[str] | list[list[int]]] | None = None
    image_options: Callable[[Config], dict[str, Any]] = lambda config: {}
    renamed: Mapping[str, str] = field(default_factory=dict)
    for_counting: tuple[str, ...] = ()
    extra_inputs: Callable[[Config, dict[str, Any]], dict[str, Any]] | None = None
    other_languages: tuple[Language, ...] = ()
    other_towers: tuple["Family", ...] = ()
    token_kinds: bool = False
    written_kind: int = 0
    videos: Videos | None = None
    written_places: Callable[[Config], int] | None = None
    position_ids: Callable[[Any, Mapping[str, Any]], torch.Tensor | None] | None = None
    left_padding: str | None = None
    score: Score | None = None
    discovered: bool = False
