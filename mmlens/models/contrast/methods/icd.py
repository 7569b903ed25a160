"""Contrast with a disturbed instruction."""

import re
from dataclasses import dataclass

import torch

from mmlens.core.errors import InputError
from mmlens.core.kinds import Text
from mmlens.inputs.batch import MultimodalBatch
from mmlens.inputs.plain_text import picture_tokens
from mmlens.models.contrast.method import CONTRAST_METHODS, ContrastMethod, refuse_corrupted
from mmlens.models.protocol import HookedModel

#: The role that the paper's code gives the model.
CONFUSED = "You are a confused objects detector to provide a fuzzy overview or impression of the image."


@CONTRAST_METHODS.register("icd")
@dataclass(frozen=True)
class ICD(ContrastMethod):
    """The same picture with an instruction that disturbs: a role in front of the question.

    Attributes:
        alpha, beta: see `ContrastMethod`.
        prefix: put in front of the question, with a space between them; where a prompt has pictures, behind the last of them.

    Source: Wang et al., "Mitigating Hallucinations in Large Vision-Language Models with Instruction Contrastive Decoding",
    ACL Findings 2024 (https://arxiv.org/abs/2403.18715), section 3; github.com/p1k0pan/ICD.
    """

    prefix: Text = CONFUSED

    def second(self, model: HookedModel, batch: MultimodalBatch) -> MultimodalBatch:
        """The same pictures with the prefix in front of each question."""
        if not batch.prompts or batch.videos:
            reason = "holds videos" if batch.videos else "was made from tensors"
            raise InputError(
                f"contrast='icd' writes the prompt anew, and this batch {reason}; make it of text and pictures: "
                "model.prepare(text, images=...)."
            )
        refuse_corrupted(batch, "icd")
        again = self._prepared(model, batch, list(batch.prompts))
        if again["input_ids"].shape != batch["input_ids"].shape or not torch.equal(
            again["input_ids"], batch["input_ids"]
        ):
            raise InputError(
                "contrast='icd' writes the prompt anew, and these prompts do not give the batch's tokens again (tokens were "
                "added or exchanged, or the text reads like control tokens). Contrast with a batch of your own: "
                "contrast=mm.decoding.Contrast(other_batch)."
            )
        marks = picture_tokens(batch.tokenizer, model.config)
        return self._prepared(model, batch, [_disturbed(prompt, self.prefix, marks) for prompt in batch.prompts])

    def _prepared(self, model: HookedModel, batch: MultimodalBatch, prompts: list[str]) -> MultimodalBatch:
        return model.prepare(prompts, images=[list(pictures) for pictures in batch.images])


def _disturbed(prompt: str, prefix: str, marks: tuple[str, ...]) -> str:
    """A prompt with the prefix in front of its question: behind the last picture and the blanks after it, or at its beginning."""
    ends = [match.end() for match in re.finditer("|".join(map(re.escape, marks)), prompt)] if marks else []
    start = ends[-1] if ends else 0
    blanks = len(prompt) - start - len(prompt[start:].lstrip())
    return f"{prompt[: start + blanks]}{prefix} {prompt[start + blanks :]}"
