"""The vocabulary of a model: tokens and strings, under TransformerLens's names."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

import torch
from jaxtyping import Int

from mmlens.architectures.modules import HuggingFaceModel
from mmlens.core.contract import checked
from mmlens.core.errors import InputError
from mmlens.core.kinds import Index, Several
from mmlens.inputs.inputs import device_of
from mmlens.inputs.processing import require_processor

#: Token ids: one, several, a tensor of them, or a batch.
TokenIds: TypeAlias = (
    Index | Several[Index] | Several[Several[Index]] | Int[torch.Tensor, "..."] | Mapping[str, torch.Tensor]
)


@dataclass(frozen=True)
class Vocabulary:
    """The tokens of a model and the text that they stand for.

    Attributes:
        model: the Hugging Face model.
        processor: its processor, or None.
    """

    model: HuggingFaceModel
    processor: Any | None

    @property
    def tokenizer(self) -> Any:
        """The tokenizer of the processor.

        Raises:
            InputError: if the model was wrapped without a processor.
        """
        processor = require_processor(self.processor, "A tokenizer")
        return getattr(processor, "tokenizer", processor)

    @property
    def stop_tokens(self) -> set[int]:
        """Ids that end a generation."""
        config = getattr(self.model, "generation_config", None)
        ends = getattr(config, "eos_token_id", None)
        return set() if ends is None else {ends} if isinstance(ends, int) else set(ends)

    @checked
    def to_tokens(self, text: str | Sequence[str], prepend_bos: bool = True) -> Int[torch.Tensor, "batch pos"]:
        """Token ids of plain text, without a picture.

        Args:
            text: one string or several; shorter ones are padded.
            prepend_bos: let the tokenizer add its special tokens.
        """
        texts = [text] if isinstance(text, str) else list(text)
        ids = self.tokenizer(texts, return_tensors="pt", padding=len(texts) > 1, add_special_tokens=prepend_bos)
        return ids["input_ids"].to(device_of(self.model))

    @checked
    def to_word_tokens(self, word: str) -> list[int]:
        """The ids of a word as it stands in a text: with a blank in front if the tokenizer has fewer tokens for it then.

        Raises:
            InputError: if it is empty or unknown to the tokenizer.
        """
        forms = self.to_word_forms(word)
        spellings = [ids for ids in forms[:2] if ids] or [ids for ids in forms if ids]
        shortest: tuple[int, ...] = min(spellings, key=len)
        return list(shortest)

    @checked
    def to_word_forms(self, word: str) -> tuple[tuple[int, ...] | None, ...]:
        """The ids of a word as it may be written: as it is, behind a blank, with a capital, with both; None where unknown.

        Raises:
            InputError: if it is empty or unknown to the tokenizer.
        """
        bare = word.strip()
        capital = bare[:1].upper() + bare[1:]
        texts = (bare, f" {bare}", capital, f" {capital}")
        forms = [self.tokenizer.encode(text, add_special_tokens=False) for text in texts]
        spellings = tuple(tuple(ids) if ids and self.tokenizer.unk_token_id not in ids else None for ids in forms)
        if not bare or not any(spellings):
            pieces = self.tokenizer.convert_ids_to_tokens(self.tokenizer.encode(word, add_special_tokens=False))
            raise InputError(f"{word!r} is unknown to the tokenizer, which makes {pieces} of it; name another word.")
        return spellings

    @checked
    def to_single_token(self, text: str) -> int:
        """The id of a string that is one token, as it is or with a blank in front.

        Raises:
            InputError: if it is several tokens (they are listed) or unknown to the tokenizer.
        """
        for form in (text, f" {text}"):
            ids = self.tokenizer.encode(form, add_special_tokens=False)
            if len(ids) == 1 and ids[0] != self.tokenizer.unk_token_id:
                return int(ids[0])
        pieces = self.tokenizer.convert_ids_to_tokens(self.tokenizer.encode(text, add_special_tokens=False))
        raise InputError(
            f"{text!r} is not a single token: the tokenizer makes {pieces} of it. Name a word that is one token."
        )

    @checked
    def to_string(self, tokens: TokenIds) -> Any:
        """Text of token ids: a string for an id or `[pos]`, a list for `[batch pos]` or a batch. Special tokens show."""
        ids = torch.as_tensor(tokens["input_ids"] if isinstance(tokens, Mapping) else tokens)
        if ids.ndim == 2:
            return [self.to_string(row) for row in ids]
        return self.tokenizer.decode(ids.reshape(-1).tolist())

    @checked
    def to_str_tokens(self, tokens: str | TokenIds) -> list[str]:
        """Each token as a string, for a text, for ids `[pos]` or `[1 pos]`, or for a batch of one sample.

        Raises:
            InputError: for several samples.
        """
        if isinstance(tokens, str):
            tokens = self.to_tokens(tokens)
        ids = torch.as_tensor(tokens["input_ids"] if isinstance(tokens, Mapping) else tokens)
        if ids.ndim > 1 and len(ids) != 1:
            raise InputError(
                f"to_str_tokens takes one sample, found {list(ids.shape)} [batch pos]; take one, batch['input_ids'][0]."
            )
        return [self.to_string(token) for token in ids.reshape(-1)]

    @checked
    def decode(self, tokens: Int[torch.Tensor, "batch pos"]) -> list[str]:
        """Text of token ids, without special tokens and surrounding space."""
        return [text.strip() for text in self.tokenizer.batch_decode(tokens, skip_special_tokens=True)]
