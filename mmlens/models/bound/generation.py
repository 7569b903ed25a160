"""Generation of a bound model in TransformerLens's words, with its prompt and its picture."""

from typing import Any, Literal

import torch

from mmlens.core.errors import InputError
from mmlens.models.bound.inputs import BoundInputs, Prompt


class BoundGeneration(BoundInputs):
    """What a bound model writes."""

    def generate(
        self,
        input: Prompt = None,
        max_new_tokens: int = 10,
        stop_at_eos: bool = True,
        eos_token_id: int | None = None,
        do_sample: bool = True,
        top_k: int | None = None,
        top_p: float | None = None,
        temperature: float = 1.0,
        freq_penalty: float = 0.0,
        repetition_penalty: float = 1.0,
        use_past_kv_cache: bool = True,
        prepend_bos: bool | None = None,
        padding_side: Literal["left", "right"] | None = None,
        return_type: Literal["input", "str", "tokens"] = "input",
        verbose: bool = True,
        output_logits: bool = False,
        attention_mask: torch.Tensor | None = None,
        **options: Any,
    ) -> Any:
        """Go on from a prompt about the picture; hooks that are in force fire at every step.

        Args:
            input: a text, several, or token ids (see `batch_of`); the batch's own prompts by default.
            max_new_tokens: upper bound on the new tokens.
            stop_at_eos: whether a token that ends a text ends it.
            eos_token_id: such a token, in the place of the model's own.
            do_sample: draw tokens, as TransformerLens does by default; False for the most probable ones.
            top_k, top_p: of which tokens are drawn; all by default.
            temperature: what logits are divided by before a draw.
            freq_penalty: none but 0: Hugging Face's generation has no such penalty.
            repetition_penalty: Hugging Face's penalty on tokens that are there already.
            use_past_kv_cache: with or without a KV cache.
            prepend_bos, padding_side, attention_mask: as for `run_with_hooks`.
            return_type: `"str"`, the text with what was written behind it; `"tokens"`, ids `[batch pos]`, prompt included;
                `"input"`, what `input` is.
            verbose: nothing is printed either way.
            output_logits: return Hugging Face's output with `sequences` and `logits`.
            options: further ones of `model.generate` (`contrast`, `num_beams`, `stop_strings`, ...).

        Raises:
            InputError: for prompts that do not fit the picture, and penalties and outputs that cannot be had.
        """
        if freq_penalty:
            raise InputError(
                f"freq_penalty={freq_penalty} cannot be had: Hugging Face's generation, which runs here, has none; "
                "repetition_penalty is the nearest."
            )
        for name in ("return_cache", "return_input_tokens"):
            if options.pop(name, False):
                raise InputError(
                    f"{name}=True cannot be had: bound.batch_of(input) is what is gone on from, and "
                    "model.run_with_cache(model.extend(batch, new_tokens)) caches what was written."
                )
        batch = self.batch_of(input, prepend_bos=prepend_bos, padding_side=padding_side, attention_mask=attention_mask)
        if do_sample:
            options |= {"temperature": temperature, "top_k": top_k or 0, "top_p": 1.0 if top_p is None else top_p}
        ends = eos_token_id if stop_at_eos else self.model.cfg.d_vocab  # an id that no token has
        if ends is not None:
            options["eos_token_id"] = ends
        if repetition_penalty != 1.0:
            options["repetition_penalty"] = repetition_penalty
        if output_logits:
            options |= {"output_logits": True, "return_dict_in_generate": True}
        result = self.model.generate(
            batch, max_new_tokens=max_new_tokens, do_sample=do_sample, use_cache=use_past_kv_cache, **options
        )
        is_text = isinstance(input, str) or (
            isinstance(input, list | tuple) and isinstance(next(iter(input), None), str)
        )
        if not isinstance(result, torch.Tensor) or return_type == "tokens" or (return_type == "input" and not is_text):
            return result
        texts = self._texts(result, batch["input_ids"], [input] if isinstance(input, str) else input)
        return texts[0] if len(texts) == 1 and not isinstance(input, list | tuple) else texts

    hf_generate = generate  # Hugging Face's own generation, by TransformerLens's name for it

    def _texts(self, tokens: torch.Tensor, prompt: torch.Tensor, given: Any) -> list[str]:
        """What was written, behind the texts that were given, or behind the prompts as they read."""
        length = prompt.shape[1]
        has_prompt = tokens.shape[1] >= length and torch.equal(tokens[:, :length].to(prompt), prompt)
        answers = tokens[:, length:] if has_prompt else tokens
        tokenizer = self.model.tokenizer
        before = (
            list(given)
            if isinstance(given, list | tuple) and given and isinstance(given[0], str)
            else tokenizer.batch_decode(prompt, skip_special_tokens=True)
        )
        after = tokenizer.batch_decode(answers, skip_special_tokens=True)
        return [f"{text}{'' if new.startswith(' ') else ' '}{new}" for text, new in zip(before, after, strict=True)]
