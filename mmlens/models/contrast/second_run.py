"""The second run of contrastive decoding: logits of another prompt after the same new tokens, with a cache of its own."""

from typing import Any

import torch
from jaxtyping import Float, Int
from transformers.generation.logits_process import LogitsProcessor

from mmlens.core.errors import InputError
from mmlens.inputs.batch import MultimodalBatch
from mmlens.inputs.picture_tensors import PICTURE_TENSORS
from mmlens.models.contrast.method import ContrastMethod
from mmlens.models.decoding import Decoding
from mmlens.models.generation_limits import generation_option
from mmlens.models.run import Run

#: Options of `generate` that say how keys and values are kept, and how often each prompt stands in the batch.
_SHARED = ("num_beams", "num_return_sequences", "do_sample", "use_cache", "cache_implementation", "cache_config")


class ContrastProcessor(LogitsProcessor):
    """A logits processor that contrasts each step's logits with those of a second prompt.

    Args:
        method: the formula and its settings.
        decoding: the branches of the generation.
        batch: the second prompt.
    """

    def __init__(self, method: ContrastMethod, decoding: Decoding, batch: MultimodalBatch):
        self.method = method
        options = decoding.main.options
        self._searches = (generation_option(decoding.model, options, "num_beams") or 1) > 1
        self._second = SecondRun(decoding, batch)

    def __call__(
        self, input_ids: Int[torch.Tensor, "row pos"], scores: Float[torch.Tensor, "row vocab"]
    ) -> Float[torch.Tensor, "row vocab"]:
        other = self._second.logits(input_ids).to(scores.device)
        if not self._searches:
            return self.method.scores(scores, other)
        # sums over a beam's tokens are compared, so each step's scores must be log probabilities
        return self.method.scores(scores, other.log_softmax(-1)).log_softmax(-1)


class SecondRun:
    """Another prompt, gone on with token by token as transformers would.

    Transformers prepares it (its `generate`, stopped before the first token), so that every family has its own positions,
    caches and encoders.

    Args:
        decoding: the branches of the generation.
        batch: the prompt.
    """

    def __init__(self, decoding: Decoding, batch: MultimodalBatch):
        self.decoding = decoding
        self.run: Run = decoding.branch("contrast", lambda: batch)
        decoding.carry([pair for act in batch.carried for pair in act.hooks(decoding.model)])
        self._ids: torch.Tensor | None = None
        self._written = torch.zeros(0, 0, dtype=torch.long)
        self._module: Any = None
        self._keywords: dict[str, Any] = {}
        self._outputs: Any = None

    def logits(self, input_ids: Int[torch.Tensor, "row pos"]) -> Float[torch.Tensor, "row vocab"]:
        """Logits after the new tokens.

        Args:
            input_ids: what the generation that is contrasted has written so far; what it begins with is left aside.
        """
        with torch.no_grad(), self.decoding.passing(self.run):
            if self._ids is None:
                self._begin(input_ids.shape[1])
            else:
                self._follow(self._ids, input_ids)
                self._step(input_ids[:, -1:])
        self._ids = input_ids
        return self._outputs.logits[:, -1].to(copy=True, dtype=torch.float32)

    def _begin(self, written: int) -> None:
        decoding = self.decoding
        options = {name: value for name, value in decoding.main.options.items() if name in _SHARED}
        config = decoding.main.options.get("generation_config")
        options |= {} if config is None else {"generation_config": config}
        base, generator = decoding.model.base, decoding.generator
        inputs = self.run.batch.inputs
        # a model that hands its language model embeddings needs pictures, the language model itself does not
        writer = generator if not any(name in inputs for name in PICTURE_TENSORS) else base
        options |= {"max_new_tokens": self._limit(written), "custom_generate": self._prefill}
        try:
            writer.generate(**{"do_sample": False, **inputs, **options})
        except (TypeError, ValueError) as error:  # transformers' checks of its arguments
            if writer is generator is base and not any(name in inputs for name in PICTURE_TENSORS):
                raise InputError(
                    f"{type(base).__name__} takes no prompt without a picture ({error}), so that there is nothing to contrast "
                    "with; contrast='vcd' and contrast='icd' keep one."
                ) from error
            raise

    def _limit(self, written: int) -> int:
        options, model = self.decoding.main.options, self.decoding.model
        count = options.get("max_new_tokens") or generation_option(model, options, "max_new_tokens")
        length = generation_option(model, options, "max_length")
        return int(count or max((length or 0) - written, 1))

    def _prefill(
        self, module: Any, input_ids: torch.Tensor, generation_config: Any = None, **keywords: Any
    ) -> torch.Tensor:
        """What transformers calls in the place of its loop: reads the prompt."""
        lists = ("logits_processor", "stopping_criteria")
        keywords = {name: value for name, value in keywords.items() if name not in lists}
        self._module, self._keywords, self._written = module, keywords, input_ids
        self._outputs = module._prefill(input_ids, generation_config, keywords)
        return input_ids

    def _step(self, tokens: torch.Tensor) -> None:
        module, is_pair = self._module, self._module.config.is_encoder_decoder
        self._keywords = module._update_model_kwargs_for_generation(
            self._outputs, self._keywords, is_encoder_decoder=is_pair
        )
        self._written = torch.cat([self._written, tokens.to(self._written)], dim=1)
        length = 1 if self._keywords["use_cache"] else None
        inputs = module.prepare_inputs_for_generation(self._written, next_sequence_length=length, **self._keywords)
        self._outputs = module(**inputs, return_dict=True)

    def _follow(self, before: torch.Tensor, input_ids: torch.Tensor) -> None:
        """Have each row go on from the one whose tokens it has now, where beams moved.

        Raises:
            InputError: if there is none, or the cache cannot be put into another order.
        """
        if torch.equal(input_ids[:, :-1], before):
            return
        group = torch.arange(len(before), device=before.device) // (len(before) // self.run.batch.size)
        is_parent = (input_ids[:, None, :-1] == before[None]).all(-1) & (group[:, None] == group)
        rows = is_parent.int().argmax(1)
        cache = self._outputs.past_key_values
        if not is_parent.any(1).all() or (cache is not None and not hasattr(cache, "reorder_cache")):
            raise InputError(
                "contrast= cannot follow this generation: its sequences do not go on from those of the step before, or its cache "
                "cannot be put into another order. Decode greedily, by sampling or by beams, with a dynamic cache."
            )
        if cache is not None:
            cache.reorder_cache(rows)
        self._written = self._written[rows]


def contrast_with(method: ContrastMethod, decoding: Decoding) -> None:
    """Have a generation contrasted with a second prompt.

    Raises:
        InputError: for ways of decoding that it does not go together with, and batches that the method has no second prompt for.
    """
    _refuse_beside(decoding)
    with decoding.apart():
        batch = method.second(decoding.model, decoding.main.batch)
    _refuse_the_same(method, decoding.main.batch, batch)
    decoding.put_first(ContrastProcessor(method, decoding, batch))


def _refuse_the_same(method: ContrastMethod, batch: MultimodalBatch, second: MultimodalBatch) -> None:
    """Refuse a second prompt that is the first one.

    Raises:
        InputError: if it is.
    """
    is_same = set(batch.inputs) == set(second.inputs) and all(
        batch[name].shape == second[name].shape and torch.equal(batch[name], second[name]) for name in batch.inputs
    )
    if is_same and batch.carried == second.carried:
        raise InputError(
            f"contrast={method.name!r} would contrast the batch with itself, which changes nothing; give another batch, or a "
            "corruption that changes this one."
        )


def _refuse_beside(decoding: Decoding) -> None:
    options = decoding.main.options
    wrong = {
        "guidance_scale=": decoding.guided,
        "prompt_lookup_num_tokens=, assistant_model= and assistant_early_exit=": decoding.assisted,
        "custom_generate=": options.get("custom_generate") is not None,
        "prefill_chunk_size=": generation_option(decoding.model, options, "prefill_chunk_size") is not None,
    }
    reasons = [name for name, is_there in wrong.items() if is_there]
    if reasons:
        raise InputError(
            "contrast= changes each token's scores after one pass of each prompt, and does not go together with "
            f"{', '.join(reasons)}; leave one of them out."
        )
