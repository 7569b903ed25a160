"""What a bound model runs on: its own batch, other tokens about the same picture, or texts, whose layout is made anew."""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any, Literal, TypeAlias

import torch

from mmlens.core.errors import InputError
from mmlens.inputs.batch import MultimodalBatch
from mmlens.inputs.batch_changes import OF_PROMPT
from mmlens.inputs.picture_tensors import picture_positions
from mmlens.models.bound.tokens import BoundTokens

#: A text, several, token ids `[pos]` or `[batch pos]`; None means the batch's own prompts.
Prompt: TypeAlias = str | Sequence[str] | Sequence[int] | torch.Tensor | None


class BoundInputs(BoundTokens):
    """The batches that a bound model makes of what it is called with."""

    def batch_of(
        self,
        input: Prompt = None,
        *,
        prepend_bos: bool | None = None,
        padding_side: Literal["left", "right"] | None = None,
        attention_mask: torch.Tensor | None = None,
    ) -> MultimodalBatch:
        """The batch of some prompts, with the picture that the model is bound to.

        Args:
            input: a text (the template is put around it), several texts, or token ids `[pos]` or `[batch pos]`, in which the
                picture's tokens stand as they do in the prompt.
            prepend_bos: False leaves the token for the beginning of a text out; of texts.
            padding_side: where shorter texts are padded.
            attention_mask: which tokens count, `[batch pos]`; of token ids.

        Raises:
            InputError: for tokens in which the picture has no place, or another one than in the prompt; for another number of
                samples.
        """
        if isinstance(input, str) or (isinstance(input, list | tuple) and input and isinstance(input[0], str)):
            if attention_mask is not None:
                raise InputError("attention_mask belongs to token ids; a text's follows from its tokens.")
            batch = self.prompts(input, padding_side)
            batch = self._without_bos(batch) if prepend_bos is False else batch
            return replace(batch, carried=self.batch.carried)
        batch = self.batch if input is None else self._of_tokens(_ids(input))
        if attention_mask is None:
            return batch
        mask = attention_mask.to(batch["input_ids"])
        if mask.shape != batch["input_ids"].shape:
            raise InputError(
                f"attention_mask is {list(mask.shape)}, but the tokens are {list(batch['input_ids'].shape)} [batch pos]."
            )
        layout = replace(batch.layout, is_token=mask.bool().cpu())
        return replace(batch, inputs={**batch.inputs, "attention_mask": mask}, layout=layout)

    def _of_tokens(self, tokens: torch.Tensor) -> MultimodalBatch:
        """The batch with other tokens in the place of its own."""
        batch = self.batch
        prompt_ids = batch["input_ids"]
        tokens = tokens.to(prompt_ids.device)
        if torch.equal(tokens, prompt_ids):
            return batch
        if len(tokens) != len(prompt_ids):
            batch = self._repeated(len(tokens))
        if tokens.shape != batch["input_ids"].shape:
            self._require_tokens_alone(batch)
        n_written = batch.written if tokens.shape == prompt_ids.shape else 0
        inputs = {**batch.inputs, "input_ids": tokens}
        is_picture = picture_positions(self.model.family, self.model.config, inputs)
        is_picture[:, is_picture.shape[1] - n_written :] = False
        is_picture = is_picture.cpu()
        if is_picture.shape == batch.layout.is_image.shape and torch.equal(is_picture, batch.layout.is_image):
            return replace(batch, inputs=inputs)
        stretches, expected = _stretches(is_picture), _stretches(batch.layout.is_image)
        if stretches != expected:
            raise InputError(
                f"The picture that this model is bound to takes {expected} tokens in a row, by sample, and these tokens have "
                f"{stretches} for it. A text is laid out around the picture: pass the text itself, or the tokens that "
                "bound.to_tokens(text) makes of it; for another picture bind another batch."
            )
        return self._laid_out(batch, tokens, is_picture)

    def _laid_out(self, batch: MultimodalBatch, tokens: torch.Tensor, is_picture: torch.Tensor) -> MultimodalBatch:
        """The batch of tokens with the picture at other places, or of another length."""
        self._require_tokens_alone(batch)
        inputs = {name: tensor for name, tensor in batch.inputs.items() if name not in OF_PROMPT}
        pad = getattr(self.model.processor and self.model.tokenizer, "pad_token_id", None)
        inputs["input_ids"] = tokens
        # within a text the token may mean something: only stretches at the ends are padding
        is_text = torch.ones_like(tokens, dtype=torch.bool) if pad is None else tokens != pad
        behind_first, before_last = is_text.cummax(1).values, is_text.flip(1).cummax(1).values.flip(1)
        inputs["attention_mask"] = (behind_first & before_last).to(tokens)
        for name in batch.inputs:
            if name in inputs:
                continue
            image, text = _kinds(batch, name)
            inputs[name] = torch.where(is_picture.to(tokens.device), image[0], text[0]).to(batch[name])
        result = self.model.batch(inputs)
        return replace(result, images=batch.images, videos=batch.videos, prompts=batch.prompts, carried=batch.carried)

    def _require_tokens_alone(self, batch: MultimodalBatch) -> None:
        """Refuse what a processor makes of a text besides its tokens, and of tokens alone nobody can make.

        Raises:
            InputError: if the batch holds some.
        """
        for name, tensor in batch.inputs.items():
            if name in ("input_ids", "attention_mask") or name.startswith(("pixel_", "decoder_")):
                continue
            if name.endswith("token_type_ids") and name in OF_PROMPT:
                if [len(kinds) for kinds in _kinds(batch, name)] == [1, 1]:
                    continue
            elif (
                name not in OF_PROMPT
                and not name.endswith(("input_ids", "attention_mask"))
                and tensor.shape[:2] != batch["input_ids"].shape
            ):
                continue
            raise InputError(
                f"{self.model.family.name} reads {name} beside the tokens, which belongs to the prompt that this model is bound "
                "to, so tokens of another length or with the picture elsewhere do not say enough; pass the text itself."
            )

    def _repeated(self, count: int) -> MultimodalBatch:
        """The bound sample, so many times.

        Raises:
            InputError: if there are several bound samples, or their pictures are not at hand.
        """
        batch = self.batch
        if batch.size != 1 or not batch.prompts:
            why = "made of tensors" if batch.size == 1 else f"of tokens {list(batch['input_ids'].shape)} [batch pos]"
            raise InputError(
                f"This model is bound to a batch {why}, and {count} sample(s) were passed; pass as many as it has, or bind "
                "another batch: model.bind(model.prepare(...))."
            )
        return replace(self.prompts(list(batch.prompts) * count), carried=batch.carried)

    def _without_bos(self, batch: MultimodalBatch) -> MultimodalBatch:
        """The batch without the token for the beginning of a text, if it begins with one.

        Raises:
            InputError: if samples begin at different positions.
        """
        ids, mask = batch["input_ids"], batch.layout.is_token
        start = mask.int().argmax(1)
        bos = self.model.tokenizer.bos_token_id
        if bos is None or not all(int(ids[i, at]) == bos for i, at in enumerate(start.tolist())):
            return batch
        if len(start.unique()) > 1:
            raise InputError(
                "prepend_bos=False leaves a token out where the text begins, and these texts are padded on the left; pass "
                "padding_side='right', or texts of one length."
            )
        first = int(start[0])
        inputs = {
            name: torch.cat([tensor[:, :first], tensor[:, first + 1 :]], dim=1)
            if name in OF_PROMPT and tensor.shape[:2] == ids.shape
            else tensor
            for name, tensor in batch.inputs.items()
        }
        shorter = self.model.batch(inputs)
        return replace(shorter, images=batch.images, videos=batch.videos, prompts=batch.prompts)


def _ids(input: Any) -> torch.Tensor:
    """Token ids `[batch pos]`.

    Raises:
        InputError: if they are none.
    """
    if isinstance(input, MultimodalBatch):
        raise InputError("A bound model has its batch; bind another one: model.bind(batch), or run it: model(batch).")
    ids = torch.as_tensor(input)
    ids = ids[None] if ids.ndim == 1 else ids
    if ids.ndim != 2 or ids.is_floating_point() or ids.is_complex() or ids.dtype == torch.bool or not ids.numel():
        raise InputError(
            f"A bound model runs on a text, several, or token ids [pos] or [batch pos], found {ids.dtype} {list(ids.shape)}. "
            "(A stream [batch pos d_model] goes in at a block: start_at_layer=.)"
        )
    return ids


def _kinds(batch: MultimodalBatch, name: str) -> tuple[torch.Tensor, torch.Tensor]:
    """The kinds that tokens of the picture have, and those of text."""
    kinds, layout = batch[name].cpu(), batch.layout
    if kinds.shape != layout.is_image.shape:
        return kinds.new_empty(0), kinds.new_empty(0)
    return kinds[layout.is_image].unique(), kinds[layout.is_token & ~layout.is_image].unique()


def _stretches(flags: torch.Tensor) -> list[list[int]]:
    """The lengths of the runs of True in each row."""
    rows = []
    for row in flags.tolist():
        lengths, length = [], 0
        for flag in [*row, False]:
            if flag:
                length += 1
            elif length:
                lengths.append(length)
                length = 0
        rows.append(lengths)
    return rows
