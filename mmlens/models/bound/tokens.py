"""Tokens and strings of a bound model, under TransformerLens's names: a text is a prompt about the batch's picture."""

from collections.abc import Sequence
from typing import Any, Literal

import numpy as np
import torch
from jaxtyping import Int

from mmlens.core.contract import checked
from mmlens.core.errors import InputError
from mmlens.inputs.batch import MultimodalBatch
from mmlens.models.bound.base import Bound


class BoundTokens(Bound):
    """The tokens of a bound model's batch, and of other texts."""

    @property
    def begins_with_bos(self) -> bool:
        """Whether the tokenizer puts its token for the beginning of a text in front of it."""
        tokenizer: Any = getattr(self.model.processor, "tokenizer", self.model.processor)
        bos = getattr(tokenizer, "bos_token_id", None)
        return bos is not None and tokenizer.encode("a")[:1] == [bos]

    def prompts(
        self, text: str | Sequence[str], padding_side: Literal["left", "right"] | None = None
    ) -> MultimodalBatch:
        """The batch of texts about the picture that the model is bound to: same template, layout made anew.

        Args:
            text: one, or several: one for each sample of the batch; for a batch of one sample, as many as you like about it.
            padding_side: where shorter ones are padded; as `prepare` does by default.

        Raises:
            InputError: if the batch was made of tensors, so that its pictures are not at hand; for another number of texts.
        """
        texts = [text] if isinstance(text, str) else list(text)
        batch = self.batch
        if not batch.prompts:
            raise InputError(
                "This model is bound to a batch that was made of tensors, so the pictures are not at hand for another text; bind "
                "a batch that model.prepare(text, images=...) makes, or run tokens of the batch's own shape."
            )
        if len(texts) != batch.size and batch.size != 1:
            raise InputError(
                f"This model is bound to {batch.size} samples, each with pictures of its own, found {len(texts)} texts; pass "
                f"{batch.size}, one for each, or bind one sample."
            )
        number = [0] * len(texts) if batch.size == 1 else range(len(texts))
        if any(batch.videos):
            return self.model.prepare(
                texts, videos=[list(map(list, batch.videos[n])) for n in number], padding_side=padding_side
            )
        pictures = [list(batch.images[n]) for n in number] if any(batch.images) else None
        return self.model.prepare(texts, images=pictures, padding_side=padding_side)

    @checked
    def to_tokens(
        self,
        input: str | Sequence[str] | None = None,
        prepend_bos: bool | None = None,
        padding_side: Literal["left", "right"] | None = None,
        move_to_device: bool = True,
        truncate: bool = True,
    ) -> Int[torch.Tensor, "batch pos"]:
        """Token ids: of a prompt about the batch's picture, or of a piece of text.

        Args:
            input: a prompt, or several; the batch's own by default.
            prepend_bos: False means a piece of a text: its tokens and nothing else. True and None mean a whole prompt, which
                begins as the model's prompts do, and holds the picture's tokens.
            padding_side: where shorter ones are padded.
            move_to_device: whether they go to the model's device, rather than to the CPU.
            truncate: cut pieces of text that are longer than the model can read; prompts are never cut.

        Raises:
            InputError: for a prompt whose picture is not at hand, or one that is too long while `truncate` is set.
        """
        if input is None:
            return self.batch["input_ids"]
        limit = self.model.cfg.n_ctx if truncate else 0
        if prepend_bos is False:
            texts = [input] if isinstance(input, str) else list(input)
            ids = self.model.tokenizer(
                texts,
                return_tensors="pt",
                padding=len(texts) > 1,
                add_special_tokens=False,
                **({} if padding_side is None else {"padding_side": padding_side}),
                **({"truncation": True, "max_length": limit} if limit else {}),
            )["input_ids"]
        else:
            ids = self.prompts(input, padding_side)["input_ids"]
            if limit and ids.shape[1] > limit:
                raise InputError(
                    f"The prompt has {ids.shape[1]} tokens with its picture; the model reads {limit} (cfg.n_ctx); shorten it, "
                    "or pass truncate=False to have the tokens all the same. A prompt is never cut: its picture would go with it."
                )
        return ids.to(self.model.device if move_to_device else "cpu")

    def prepare_multimodal_inputs(self, text: Any, images: Any = None) -> dict[str, torch.Tensor]:
        """The keyword tensors of other text and pictures, as `model.prepare` makes them, template and placeholders put in."""
        return dict(self.model.prepare(text, images=images).inputs)

    @checked
    def to_str_tokens(
        self,
        input: str | Sequence[Any] | torch.Tensor | np.ndarray,
        prepend_bos: bool | None = None,
        padding_side: Literal["left", "right"] | None = None,
    ) -> list[Any]:
        """Each token as a string; of a prompt, every row that the picture takes too.

        Args:
            input: a text, ids `[pos]` or `[1 pos]`, or a list of these, which gives a list of lists.
            prepend_bos, padding_side: as for `to_tokens`, of a text.

        Raises:
            InputError: for ids of several samples in one tensor.
        """
        if isinstance(input, str):
            input = self.to_tokens(input, prepend_bos, padding_side)[0]
        if isinstance(input, torch.Tensor | np.ndarray) or all(isinstance(item, int) for item in input):
            return self.model.to_str_tokens(torch.as_tensor(input))
        return [self.to_str_tokens(item, prepend_bos, padding_side) for item in input]

    @checked
    def to_single_str_token(self, int_token: int) -> str:
        """The string of one id.

        Raises:
            InputError: for an id that the vocabulary does not have.
        """
        if not 0 <= int_token < self.model.cfg.d_vocab:
            raise InputError(f"int_token={int_token} is no id: the vocabulary has ids 0..{self.model.cfg.d_vocab - 1}.")
        return self.model.to_str_tokens([int_token])[0]

    @checked
    def get_token_position(
        self,
        single_token: str | int | torch.Tensor,
        input: str | torch.Tensor,
        mode: Literal["first", "last"] = "first",
        prepend_bos: bool | None = None,
        padding_side: Literal["left", "right"] | None = None,
    ) -> int:
        """The row of a token in a prompt, counted with the rows of the picture.

        Args:
            single_token: an id, or a string that is one token.
            input: a text, or ids `[pos]` or `[1 pos]`.
            mode: which, if there are several.
            prepend_bos, padding_side: as for `to_tokens`, of a text.

        Raises:
            InputError: if the token is not there, or for ids of several samples.
        """
        ids = self.to_tokens(input, prepend_bos, padding_side) if isinstance(input, str) else input
        if ids.ndim == 2 and len(ids) != 1:
            raise InputError(
                f"A token has a position in one sample, found {list(ids.shape)} [batch pos]; pass one, ids[0]."
            )
        token = self.model.to_single_token(single_token) if isinstance(single_token, str) else int(single_token)
        rows = (ids.reshape(-1) == token).nonzero().flatten().tolist()
        if not rows:
            pieces = [str(piece) for piece in self.model.to_str_tokens(ids.reshape(-1)[-12:])]
            raise InputError(
                f"The token {self.to_single_str_token(token)!r} (id {token}) is not in the prompt, which ends in {pieces}."
            )
        return int(rows[0 if mode == "first" else -1])
