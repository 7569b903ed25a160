"""What a hooked model writes, in words: captions, answers, and generations traced step by step."""

from collections.abc import Sequence
from typing import Any, cast

from mmlens.core.contract import checked
from mmlens.core.kinds import Count, Text
from mmlens.core.names import Names
from mmlens.core.rules import Positions
from mmlens.hooks.nodes import Selection
from mmlens.inputs.batch import Batch
from mmlens.inputs.images import Picture
from mmlens.inputs.sample_pictures import Images
from mmlens.models.contrast.methods import ContrastChoice, ContrastMethod
from mmlens.models.dual_encoder import require_writer
from mmlens.models.generation import GenerationTrace, trace_generation
from mmlens.models.protocol import PartOfModel


class Answers(PartOfModel):
    """What a hooked model writes."""

    @checked
    def trace_generation(
        self,
        batch: Batch | None = None,
        *,
        names: Names | Selection = "blocks.*.mlp.hook_post",
        positions: Positions | None = None,
        max_new_tokens: Count = 20,
        use_cache: bool = True,
        contrast: ContrastChoice = None,
        guidance_scale: float | None = None,
        **tensors: Any,
    ) -> GenerationTrace:
        """Generate greedily and keep, for each new token, the states that predicted it; or those at some positions.

        Args:
            batch: as for `forward`; samples padded on the left.
            names: language-model points to record.
            positions: keep the states at these positions instead (see `mm.positions`), of the prompt and of what is written:
                `"moon"` finds the word in either. The last new token is written and not read, so it has no states.
            max_new_tokens: upper bound on the new tokens.
            use_cache: with or without a KV cache; the states are the same.
            contrast: contrastive decoding, as for `generate`; the states are those of the batch, not of the second prompt.
            guidance_scale: classifier-free guidance (transformers' option); the states are those of the conditional passes.
            tensors: keyword tensors.

        Returns:
            Tokens, states `[batch step ...]` by name (with positions: of each sample's rows, a list), logits and text.

        Raises:
            InputError: for vision or projector points, which predict no token; for right padding.
        """
        require_writer(self.model.family, "trace_generation")
        return trace_generation(
            self.model,
            self.inputs.checked_batch(batch, tensors),
            names=names,
            positions=positions,
            max_new_tokens=max_new_tokens,
            use_cache=use_cache,
            contrast=cast("ContrastMethod | None", contrast),
            guidance_scale=guidance_scale,
        )

    @checked
    def caption(
        self,
        images: Images,
        *,
        prompt: Text = "describe the image",
        max_new_tokens: Count = 30,
        contrast: ContrastChoice = None,
    ) -> Any:
        """Caption one picture (a string) or several (a list of strings), greedily.

        Args:
            images: a picture, or a list of pictures.
            prompt: what to ask for.
            max_new_tokens: upper bound on the caption's tokens.
            contrast: contrastive decoding, as for `generate`.
        """
        require_writer(self.model.family, "caption")
        return self.answer(images, prompt, max_new_tokens=max_new_tokens, contrast=contrast)

    @checked
    def answer(
        self,
        images: Images,
        question: str | Sequence[str],
        *,
        max_new_tokens: Count = 30,
        contrast: ContrastChoice = None,
    ) -> Any:
        """Answer a question about one picture (a string), or one question per picture (a list of strings).

        Args:
            images: a picture, or a list of pictures.
            question: the question; for several pictures one for all, or one each.
            max_new_tokens: upper bound on the answer's tokens.
            contrast: contrastive decoding, as for `generate`: `model.answer(image, question, contrast="vcd")`.
        """
        require_writer(self.model.family, "answer")
        pictures = cast("list[Picture]", list(images) if isinstance(images, list | tuple) else [images])
        questions = [question] * len(pictures) if isinstance(question, str) else list(question)
        batch = self.inputs.prepare(questions, images=[[picture] for picture in pictures])
        text = self.trace_generation(batch, names="hook_logits", max_new_tokens=max_new_tokens, contrast=contrast).text
        return text if isinstance(images, list | tuple) else text[0]
