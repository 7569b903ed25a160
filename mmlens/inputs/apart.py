"""Batches of dual encoders: texts and pictures that are read apart, as many of each as there are."""

from typing import Any

from mmlens.core.errors import InputError
from mmlens.declarations.family import Family, Score
from mmlens.declarations.structure import Config
from mmlens.inputs.batch import MultimodalBatch, make_batch
from mmlens.inputs.images import load_image
from mmlens.inputs.plain_text import control_tokens, hidden, holds_hidden, reading_hidden
from mmlens.inputs.prompts import Text
from mmlens.inputs.sample_pictures import Images


def prepare_apart(
    family: Family, score: Score, config: Config, processor: Any, text: Text, images: Images
) -> MultimodalBatch:
    """Make a batch of texts and pictures for a dual encoder; see `HookedMultimodal.prepare`.

    Texts are written as they are, without a template, and padded on the right; what reads like a special token in them is text.

    Args:
        family: the model's family.
        score: its score.
        config: its configuration.
        processor: its processor.
        text: a text, or several.
        images: a picture, or several; their number need not be that of the texts.

    Raises:
        InputError: for chats, nested lists of pictures, and texts that are too long.
    """
    texts, pictures = _texts(text), _pictures(images)
    options: dict[str, Any] = {"padding": True, **score.text_options(config), **family.image_options(config)}
    tokens = control_tokens(processor, "", ())
    hidden_texts = [hidden(text, tokens) for text in texts]
    reader = reading_hidden(processor) if any(map(holds_hidden, hidden_texts)) else processor
    tensors = dict(
        reader(
            text=hidden_texts,
            images=[load_image(picture) for picture in pictures],
            return_tensors="pt",
            padding_side="right",
            **options,
        )
    )
    tensors.pop("token_type_ids", None)
    return make_batch(
        family,
        config,
        tensors,
        processor=processor.image_processor,
        images=tuple((load_image(picture),) for picture in pictures),
        prompts=tuple(texts),
    )


def _texts(text: Any) -> list[str]:
    texts = [text] if isinstance(text, str) else list(text)
    wrong = [part for part in texts if not isinstance(part, str) or not part.strip()]
    if wrong or not texts:
        raise InputError(
            f"A dual encoder compares pictures with texts: a string or a list of strings, found {wrong[:1] or text!r:.80}. "
            "(It has no chat template.)"
        )
    return texts


def _pictures(images: Any) -> list[Any]:
    pictures = list(images) if isinstance(images, list | tuple) else [images]
    if all(isinstance(picture, list | tuple) and len(picture) == 1 for picture in pictures):
        pictures = [picture[0] for picture in pictures]
    wrong = [number for number, picture in enumerate(pictures) if picture is None or isinstance(picture, list | tuple)]
    if wrong or not pictures:
        raise InputError(
            f"A dual encoder compares texts with pictures, one picture a sample: images= must be a picture or a list of "
            f"pictures, and entries {wrong} are {'nothing' if images is None else 'none'}."
        )
    return pictures
