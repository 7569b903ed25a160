"""Processors: Hugging Face's own, or one composed of an image processor and a tokenizer where theirs cannot be built.

Processors with a video part refuse to be built without torchvision, although pictures do not need it; for these the
image processor and the tokenizer are loaded alone, and the family says how many image tokens a picture takes.
"""

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Annotated, Any, TypeAlias

import torch
import transformers
from transformers import AutoImageProcessor, AutoProcessor, AutoTokenizer
from transformers.models.auto.processing_auto import PROCESSOR_MAPPING

from mmlens.core.errors import InputError
from mmlens.core.kinds import Must
from mmlens.declarations.family import Family
from mmlens.declarations.structure import Config
from mmlens.inputs.checkpoint_files import content, file_text

#: A processor of transformers, or what serves as one.
Processor: TypeAlias = Annotated[
    Any,
    Must("a processor of transformers", lambda value: callable(value) and not isinstance(value, type), instead=True),
]


class ComposedProcessor:
    """An image processor and a tokenizer that together do what the family's processor would.

    Args:
        image_processor: a Hugging Face image processor (the PIL version runs without torchvision).
        tokenizer: the tokenizer.
        family: says how many image tokens a picture takes.
        config: the model's configuration.
        chat_template: the processor's chat template, if the tokenizer has none.
        video_settings: settings of the checkpoint's video processor, where they are others than the image processor's.
    """

    def __init__(
        self,
        image_processor: Any,
        tokenizer: Any,
        family: Family,
        config: Config,
        chat_template: str | None = None,
        video_settings: Mapping[str, Any] | None = None,
    ):
        if family.expand is None:
            raise InputError(
                f"The family {family.name} does not say how many tokens a picture takes (Family.expand), so its processor "
                "cannot be composed; pass a Hugging Face processor."
            )
        self._expand = family.expand
        self.image_processor = image_processor
        self.tokenizer = tokenizer
        self.family = family
        self.config = config
        self.chat_template = chat_template or tokenizer.chat_template
        self.video_settings = dict(video_settings or {})
        self.image_token = tokenizer.convert_ids_to_tokens(config.image_token_id)

    def apply_chat_template(self, conversation: Any, **options: Any) -> Any:
        """As a Hugging Face processor: render messages to text."""
        return self.tokenizer.apply_chat_template(conversation, chat_template=self.chat_template, **options)

    def __call__(self, *, text: list[str], images: list[Any] | None = None, **options: Any) -> dict[str, torch.Tensor]:
        """Tokenise text and process pictures, each placeholder expanded to its picture's number of tokens."""
        tensors: dict[str, torch.Tensor] = {}
        if images:
            options_of_images = self.family.image_options(self.config)
            tensors = dict(self.image_processor(images=images, return_tensors="pt", **options_of_images))
            pieces = map(self._text_of, self._expand(self.config, tensors))
            text = [self._expanded(sample, pieces) for sample in text]
            tensors = {name: value for name, value in tensors.items() if name not in self.family.for_counting}
        tensors = {**self.tokenizer(text, **options), **tensors}
        tensors.pop("token_type_ids", None)
        if self.family.extra_inputs is not None and images:
            tensors |= self.family.extra_inputs(self.config, tensors)
        return tensors

    def _text_of(self, piece: int | str | list[int]) -> str:
        """The text that stands for a picture, given its number of tokens, the text itself, or all tokens."""
        if isinstance(piece, list):
            return "".join(self.tokenizer.convert_ids_to_tokens(piece))
        return piece if isinstance(piece, str) else self.image_token * piece

    def _expanded(self, sample: str, pieces: Iterator[str]) -> str:
        first, *rest = sample.split(self.image_token)
        return first + "".join(next(pieces) + between for between in rest)

    def batch_decode(self, ids: Any, **options: Any) -> list[str]:
        """As the tokenizer."""
        return self.tokenizer.batch_decode(ids, **options)

    def save_pretrained(self, folder: str | Path) -> None:
        """Save both pieces into a folder."""
        self.image_processor.save_pretrained(folder)
        self.tokenizer.save_pretrained(folder)


def require_processor(processor: Any | None, task: str) -> Any:
    """The processor, for something that needs one.

    Raises:
        InputError: if there is none.
    """
    if processor is None:
        raise InputError(f"{task} needs a processor; pass one: HookedMultimodal.from_hf(hf_model, processor).")
    return processor


def load_processor(path: str | Path, family: Family | None, config: Config, **options: Any) -> Any:
    """Load a checkpoint's processor, composing it where the Hugging Face one needs torchvision.

    Args:
        path: checkpoint name or folder.
        family: the model's family; None if it is not declared.
        config: the model's configuration.
        options: passed on to transformers (`revision`, `token`, ...).

    Raises:
        InputError: if it cannot be loaded; says which file or package is missing.
    """
    try:
        result = AutoProcessor.from_pretrained(path, **options)
        if not hasattr(result, "image_processor"):
            raise InputError(_no_processor(path, f"it has {type(result).__name__} alone"))
        return result
    except (ImportError, ValueError, OSError) as error:  # no torchvision is a ValueError where there are video settings
        if isinstance(error, InputError):
            raise
        if "custom code" in str(error):
            raise InputError(
                f"The processor of {path} comes as code with the checkpoint; pass trust_remote_code=True if you trust its "
                "author, or processor=..., one of a class that transformers has."
            ) from error
        if isinstance(error, OSError) or (isinstance(error, ValueError) and "torchvision" not in str(error).lower()):
            raise InputError(_no_processor(path, str(error).strip().splitlines()[0])) from error
        if "torchvision" not in str(error).lower():
            raise InputError(f"The processor of {path} needs a package that is not installed: {error}") from error
        cause = error
    processor: Any
    try:
        processor = _without_videos(path, config, options).from_pretrained(path, **options)
    except (ImportError, ValueError, KeyError, TypeError, AttributeError) as error:
        if family is None or family.expand is None:
            raise InputError(
                f"The processor of {path} needs a package that is not installed: {cause}. For its video part "
                "install the extra: pip install mmlens[video]."
            ) from error
        image_processor = AutoImageProcessor.from_pretrained(path, backend="pil", **options)
        tokenizer = AutoTokenizer.from_pretrained(path, **options)
        template = _chat_template(path, options)
        processor = ComposedProcessor(image_processor, tokenizer, family, config, template)
    processor.video_settings = _video_settings(path, options)
    return processor


def _no_processor(path: str | Path, why: str) -> str:
    return (
        f"The processor of {path} cannot be loaded: {why} A checkpoint needs preprocessor_config.json and the files of its "
        "tokenizer: copy them from the checkpoint that it was trained from, or pass processor=AutoProcessor.from_pretrained(...) "
        "of that one."
    )


def _without_videos(path: str | Path, config: Config, options: Mapping[str, Any]) -> Any:
    """The Hugging Face processor class of a checkpoint, without the part that needs torchvision.

    Raises:
        KeyError: if it has none.
    """
    names = (content(path, name, options).get("processor_class") for name in _PROCESSOR_FILES)
    name = next(filter(None, names), None)
    base: Any = PROCESSOR_MAPPING[type(config)] if name is None else getattr(transformers, name)

    def attributes(cls: type) -> list[str]:
        return [name for name in base.get_attributes() if "video" not in name]

    return type(base.__name__, (base,), {"get_attributes": classmethod(attributes)})


#: Files that name a processor's class.
_PROCESSOR_FILES = ("processor_config.json", "preprocessor_config.json", "tokenizer_config.json")


def _chat_template(path: str | Path, options: Mapping[str, Any]) -> str | None:
    """A processor's chat template, in the first of the files that transformers reads."""
    for name in ("processor_config.json", "chat_template.json"):
        if template := content(path, name, options).get("chat_template"):
            return template
    return file_text(path, "chat_template.jinja", options)


def _video_settings(path: str | Path, options: Mapping[str, Any]) -> dict[str, Any]:
    """The settings of a checkpoint's video processor, wherever it keeps them; none if they are the image processor's."""
    settings = content(path, "processor_config.json", options).get("video_processor") or content(
        path, "video_preprocessor_config.json", options
    )
    shortest, longest = settings.get("min_pixels"), settings.get("max_pixels")  # how older checkpoints say a size
    if shortest and longest:
        return {**settings, "size": {"shortest_edge": shortest, "longest_edge": longest}}
    return settings
