"""One batch of pictures and text: the model's input tensors, the token layout, and the pictures themselves."""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import Annotated, Any, ClassVar, TypeAlias

import torch
from PIL import Image

from mmlens.core.contract import checked, checked_result
from mmlens.core.errors import InputError, UnknownNameError
from mmlens.core.identity import counts_with
from mmlens.core.kinds import Accepts, CountOrZero, Must, With
from mmlens.core.names import Part
from mmlens.core.tensor_kinds import Device
from mmlens.core.view import Display
from mmlens.core.wording import short
from mmlens.declarations.family import Family
from mmlens.declarations.structure import Config
from mmlens.inputs.images import picture_changes
from mmlens.inputs.layout import TokenLayout
from mmlens.inputs.patch_geometry import Places
from mmlens.inputs.picture_tensors import picture_positions, require_pictures
from mmlens.inputs.text_lengths import require_length


@checked_result
@counts_with(
    lambda batch: (batch.inputs, batch.carried, *([batch.n_forced] if batch.n_forced else []))
)  # what a model gets
@dataclass(frozen=True)
class MultimodalBatch(Mapping[str, torch.Tensor], Display):
    """What every run method takes. A mapping of the Hugging Face keyword tensors: `hf_model(**batch)` works too.

    Attributes:
        inputs: the keyword tensors (`input_ids`, `attention_mask`, `pixel_values`, ...).
        layout: which positions are picture and text, and where they are in the picture.
        images: the pictures of each sample, as PIL images; empty where tensors were given.
        prompts: the text of each sample as it was tokenised; empty where tensors were given.
        videos: the videos of each sample, each its frames; empty where there are none.
        carried: interventions that belong to it and are carried out in every run of it, before all others: what a corruption
            changes behind the pixels.
        tokenizer: says where a word stands in the text; None where the model was wrapped without a processor.
        n_forced: how many tokens at the end count as new ones that the model has written (teacher forcing): rules of positions
            mean by `"last"` the one in front of them, and by `"generated"` these.
        written: how many tokens at its end were written behind the prompt; they are text, whatever they are.
        apart: texts and pictures are read by towers of their own (dual encoders): a sample is a picture, and the text of the
            same number belongs to it where there are as many; see `paired`.
    """

    must_be: ClassVar[str] = (
        "a batch: model.prepare(text, images=...) makes one, model.batch(inputs) makes one of tensors"
    )

    inputs: dict[str, torch.Tensor]
    layout: TokenLayout
    images: tuple[tuple[Image.Image, ...], ...] = field(default=(), repr=False)
    prompts: tuple[str, ...] = ()
    videos: tuple[tuple[tuple[Image.Image, ...], ...], ...] = field(default=(), repr=False)
    carried: tuple[Any, ...] = field(default=(), repr=False)
    tokenizer: Any = field(default=None, repr=False, compare=False)
    n_forced: CountOrZero = 0
    written: int = 0
    apart: bool = False

    def _ipython_key_completions_(self) -> list[str]:
        return list(self.inputs)

    def __getitem__(self, key: str) -> torch.Tensor:
        if key in self.inputs:
            return self.inputs[key]
        if key == "input_ids" and "inputs_embeds" in self.inputs:
            raise UnknownNameError(
                "The batch is made of embeddings (inputs_embeds), so it has no token ids, which this needs; prepare the text, or "
                "make the batch of ids."
            )
        raise UnknownNameError(
            f"The batch holds no tensor {key!r}; it holds {', '.join(self.inputs)}. (It maps keywords to tensors; for one of its "
            "samples, prepare that sample.)"
        )

    def __iter__(self) -> Iterator[str]:
        return iter(self.inputs)

    def __len__(self) -> int:
        return len(self.inputs)

    def __repr__(self) -> str:
        shapes = ", ".join(f"{name} {list(tensor.shape)}" for name, tensor in self.inputs.items())
        additions = "".join(f"; {intervention!r}" for intervention in self.carried)
        changes = "".join(f"; picture {where}: {', '.join(words)}" for where, words in self.picture_changes.items())
        return f"MultimodalBatch({shapes}; {self.layout!r}{changes}{additions})"

    @property
    def size(self) -> int:
        """Number of samples."""
        return len(self.inputs["pixel_values"]) if self.apart else self.texts

    @property
    def texts(self) -> int:
        """Number of texts: as many as samples, where texts and pictures are not read apart."""
        return len(self.layout.is_token)

    @property
    def paired(self) -> bool:
        """Whether every sample has a text of its own."""
        return self.texts == self.size

    @checked
    def count(self, part: Part) -> int:
        """Number of samples at the points of a part: texts in the text tower of a dual encoder, else samples."""
        return self.texts if part == "language" else self.size

    @property
    def picture_changes(self) -> dict[tuple[int, int], tuple[str, ...]]:
        """What was changed when pictures were read, by (sample, picture): turned upright, scaled to 8 bits, laid on white."""
        changes = {
            (sample, number): picture_changes(picture)
            for sample, pictures in enumerate(self.images)
            for number, picture in enumerate(pictures)
        }
        return {where: words for where, words in changes.items() if words}

    @checked
    def to(self, device: Device) -> "MultimodalBatch":
        """The same batch with its tensors on a device."""
        return replace(self, inputs={name: tensor.to(device) for name, tensor in self.inputs.items()})


def forced_on(batch: MultimodalBatch, sequence: str) -> int:
    """How many teacher-forced tokens a sequence of tokens ends in."""
    return batch.n_forced if sequence == ("decoder" if "decoder_input_ids" in batch.inputs else "language") else 0


def _sound(arguments: Mapping[str, Any], value: Any, name: str) -> Any:
    """The value, if it is a batch, or tensors that could be one."""
    if isinstance(value, torch.Tensor) and (value.ndim != 2 or value.is_floating_point() or value.is_complex()):
        raise InputError(f"{name}={short(value)} must hold token ids, whole numbers [batch pos].")
    if isinstance(value, Mapping) and not isinstance(value, MultimodalBatch):
        if value and not any(isinstance(tensor, torch.Tensor) for tensor in value.values()):
            raise InputError(f"{name}={short(value)} holds no tensors; its keys are {', '.join(map(repr, value))}.")
        ids = value.get("input_ids")
        if ids is not None and not isinstance(ids, torch.Tensor):
            raise InputError(f"{name}['input_ids']={short(ids)} must be a tensor of token ids [batch pos].")
        for key, tensor in value.items():
            if isinstance(tensor, torch.Tensor) and tensor.is_floating_point() and not tensor.isfinite().all():
                raise InputError(f"{name}[{key!r}]={short(tensor)} holds NaN or infinity.")
    return value


def _made_by_the_model(arguments: Mapping[str, Any], value: Any, name: str) -> Any:
    """The batch that a model makes of raw tensors."""
    value = _sound(arguments, value, name)
    if isinstance(value, MultimodalBatch):
        return value
    owner: Any = arguments.get("self")  # what makes batches itself, without a hooked model at hand
    return (owner if hasattr(owner, "batch") else arguments["model"]).batch(value)


def _all_made_by_the_model(arguments: Mapping[str, Any], value: Any, name: str) -> Any:
    """One batch or several, of raw tensors those that a model makes of them."""
    if isinstance(value, Mapping | torch.Tensor):
        return _made_by_the_model(arguments, value, name)
    return [_made_by_the_model(arguments, batch, f"{name}[{number}]") for number, batch in enumerate(value)]


_GIVEN = Accepts(MultimodalBatch | Mapping[str, Any] | torch.Tensor)
_RIGHT = Must(
    "a batch; make one with model.prepare(text, images=...), or of its tensors with model.batch(inputs)",
    lambda value: True,
    instead=True,
)

#: What run methods take: a prepared batch, a mapping of Hugging Face keyword tensors, or token ids `[batch pos]`.
Batch: TypeAlias = Annotated[MultimodalBatch | Mapping[str, torch.Tensor] | torch.Tensor, _GIVEN, _RIGHT, With(_sound)]
#: What verbs take: the same, of which one batch is made before anything else.
BatchLike: TypeAlias = Annotated[MultimodalBatch, _GIVEN, _RIGHT, With(_made_by_the_model)]
#: One batch or several.
BatchesLike: TypeAlias = Annotated[
    MultimodalBatch | Iterable[MultimodalBatch],
    Accepts(Mapping[str, Any] | torch.Tensor | Iterable[Mapping[str, Any] | torch.Tensor]),
    Must(
        "one batch or several; model.prepare(text, images=...) makes one, model.batch(inputs) makes one of tensors",
        lambda value: True,
        instead=True,
    ),
    With(_all_made_by_the_model),
]


def make_batch(
    family: Family,
    config: Config,
    tensors: Mapping[str, Any],
    *,
    processor: Any | None = None,
    images: tuple[tuple[Image.Image, ...], ...] = (),
    prompts: tuple[str, ...] = (),
    videos: tuple[tuple[tuple[Image.Image, ...], ...], ...] = (),
) -> MultimodalBatch:
    """Build a batch from keyword tensors, checking them and working out the layout.

    Args:
        family: whose layout rules hold.
        config: the model's configuration.
        tensors: keyword tensors, `input_ids [batch pos]` among them.
        processor: the image processor that made the pixels; None if unknown.
        images: the pictures of each sample, which say how large they were; empty where tensors were given.
        prompts: the text of each sample.
        videos: the videos of each sample.

    Raises:
        InputError: for missing or mismatched tensors.
    """
    tensors = {name: tensor for name, tensor in tensors.items() if tensor is not None}
    ids = tensors.get("input_ids")
    if not isinstance(ids, torch.Tensor) or ids.ndim != 2:
        description = "nothing" if ids is None else f"{type(ids).__name__} {list(getattr(ids, 'shape', []))}"
        note = "" if ids is not None else " (Of embeddings, model.batch(inputs_embeds=..., layout=...) makes one.)"
        raise InputError(f"A batch needs input_ids [batch pos], found {description}.{note}")
    require_pictures(family, config, tensors)
    is_image = picture_positions(family, config, tensors)
    mask = tensors.get("attention_mask")
    is_token = torch.ones_like(is_image) if mask is None else mask.bool()
    if is_token.shape != ids.shape:
        raise InputError(f"attention_mask is {list(is_token.shape)}, but input_ids is {list(ids.shape)} [batch pos].")
    if not is_token.any(1).all():
        empty = (~is_token.any(1)).nonzero().flatten().tolist()
        raise InputError(f"Samples {empty} consist of padding only; drop them.")
    if family.score is not None:
        require_length(family.score, config, ids, prompts)
        last, at = family.score.last(config, ids)[:, None], torch.arange(ids.shape[1], device=ids.device)
        is_token = (is_token & (at < last)) | (at == last)  # where there is no mask, or padding is read on purpose
    places: list[Places] = []
    if family.score is None and not is_image.any():
        pass
    elif family.videos is not None and (videos or "pixel_values_videos" in tensors):
        lengths = [[(len(video), video[0].height, video[0].width) for video in sample] for sample in videos]
        places = family.videos.places(config, tensors, lengths or None, processor)
    elif "pixel_values" in tensors or "flattened_patches" in tensors:
        sizes = [[(picture.height, picture.width) for picture in sample] for sample in images]
        places = family.places(config, tensors, sizes or None, processor)
    layout = TokenLayout(is_image.cpu(), is_token.cpu(), tuple(places))
    return MultimodalBatch(dict(tensors), layout, images, prompts, videos, apart=family.score is not None)
