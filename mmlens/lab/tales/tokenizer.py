"""The narrator's tokenizer: sub-words by byte-pair encoding over the texts of its world, laid out as LLaVA-1.5's is."""

from __future__ import annotations

import random
import re
from collections.abc import Iterator

from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, pre_tokenizers, processors, trainers
from transformers import CLIPImageProcessorPil, LlavaProcessor, PreTrainedTokenizerFast

from mmlens.lab.architecture import Size
from mmlens.lab.tales.documents import END, draw_document, unmarked
from mmlens.lab.tales.facts import PIECES
from mmlens.lab.world import CANVAS

SPECIALS = ("<pad>", "<s>", "</s>", "<unk>", "<image>")
ENTRIES = 640
_JOINT = "\ue000"  # marks the inside of names that are to stay in pieces, in the tokenizer's own training texts only

CHAT_TEMPLATE = (
    "{% for message in messages %}"
    "{% if message['role'] == 'user' %}{{ 'USER: ' }}{% else %}{{ 'ASSISTANT: ' }}{% endif %}"
    "{% if message['content'] is string %}{{ message['content'] }}"
    "{% else %}"
    "{% for part in message['content'] %}{% if part['type'] == 'image' %}{{ '<image>\n' }}{% endif %}{% endfor %}"
    "{% for part in message['content'] %}{% if part['type'] == 'text' %}{{ part['text'] }}{% endif %}{% endfor %}"
    "{% endif %}"
    "{% if message['role'] == 'user' %}{{ ' ' }}{% else %}{{ '</s>' }}{% endif %}"
    "{% endfor %}"
    "{% if add_generation_prompt %}{{ 'ASSISTANT:' }}{% endif %}"
)
"""Gives "USER: <image>\\nWhat do you see? ASSISTANT:"; the tokenizer adds "<s>" in front."""


def train_tokenizer(documents: int = 12_000, entries: int = ENTRIES) -> PreTrainedTokenizerFast:
    """Learn the sub-words from the world's texts.

    Frequent words become one token each; the names in `facts.PIECES` stay in two or three pieces, as rarer words do everywhere.

    Args:
        documents: How many are read.
        entries: Size of the vocabulary, special tokens and printable ASCII included.

    Returns:
        A fast tokenizer that puts "<s>" in front and pads on the left. Printable ASCII never gives "<unk>".
    """
    tokenizer = Tokenizer(models.BPE(unk_token="<unk>"))
    words = [pre_tokenizers.Metaspace(prepend_scheme="first"), _marks()]
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence([*words, pre_tokenizers.Split(_JOINT, behavior="removed")])
    trainer = trainers.BpeTrainer(
        vocab_size=entries,
        special_tokens=list(SPECIALS),
        initial_alphabet=[chr(code) for code in range(33, 127)] + ["▁", "\n"],
        show_progress=False,
        min_frequency=5,
    )
    tokenizer.train_from_iterator(_texts(documents), trainer)
    # Blanks before a picture are its own: "USER: <image>" then counts positions as "USER: grass ..." does.
    tokenizer.add_special_tokens([AddedToken("<image>", special=True, normalized=False, lstrip=True)])
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(words)
    tokenizer.decoder = decoders.Metaspace(prepend_scheme="first")
    tokenizer.post_processor = processors.TemplateProcessing(single="<s> $A", special_tokens=[("<s>", 1)])
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        pad_token="<pad>",
        bos_token="<s>",
        eos_token="</s>",
        unk_token="<unk>",
        extra_special_tokens={"image_token": AddedToken("<image>", special=True, normalized=False, lstrip=True)},
        padding_side="left",
        clean_up_tokenization_spaces=False,
        model_max_length=512,
    )


def narrator_processor(tokenizer: PreTrainedTokenizerFast, size: Size) -> LlavaProcessor:
    """Make the processor: CLIP's image processor in its PIL version, the tokenizer, LLaVA-1.5's chat.

    Args:
        tokenizer: From `train_tokenizer`.
        size: The model's size; decides the number of image tokens.

    Returns:
        A processor for pictures of any size; they are scaled and cropped to 96 x 96 pixels.
    """
    return LlavaProcessor(
        image_processor=CLIPImageProcessorPil(
            size={"shortest_edge": CANVAS}, crop_size={"height": CANVAS, "width": CANVAS}
        ),
        tokenizer=tokenizer,
        patch_size=size.patch,
        vision_feature_select_strategy="default",
        num_additional_image_tokens=1,
        chat_template=CHAT_TEMPLATE,
    )


def _marks() -> pre_tokenizers.PreTokenizer:
    """Keep punctuation, ends of lines and digits apart from words."""
    return pre_tokenizers.Split(Regex(r"[^ A-Za-z▁\ue000]"), behavior="isolated")


def _texts(documents: int) -> Iterator[str]:
    names = re.compile("|".join(PIECES))
    rng = random.Random("tokenizer")
    for _ in range(documents):
        document = draw_document(rng)
        if document is None:
            continue
        text = document.prefix + "\n".join(document.turns)
        text = unmarked(text).replace(END, "")
        yield names.sub(lambda match: PIECES[match.group()].replace("|", _JOINT), text)
