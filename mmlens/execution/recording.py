"""The clean run, recorded: what enters each block of the language model, the keys and values, the masks, the logits.

What a block is called with besides the stream (rotary tables, position ids) is kept as it was, so that no rule of a family's
positions is written down a second time: a later call with some of the rows takes the entries of these rows.
"""

import inspect
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import nn

from mmlens.architectures.attention_interface import lent_attention
from mmlens.hooks.attention import allowed_by, looks_back
from mmlens.inputs.batch import MultimodalBatch
from mmlens.models.decoder import Decoder, NotAloneError
from mmlens.models.hooked import HookedMultimodal

#: Options of attention functions that change nothing, or what the masks already say.
_HARMLESS = frozenset(
    (
        *("scaling", "softcap", "dropout", "sliding_window", "is_causal", "position_ids", "use_cache"),
        *("cache_position", "output_attentions", "output_hidden_states", "return_dict", "logits_to_keep"),
        *("deterministic", "mm_token_type_ids", "output_router_logits"),
    )
)


@dataclass
class Attended:
    """One attention computation of the clean run.

    Attributes:
        query: `[batch head query d_head]`, as it enters the product (after rotary embeddings).
        key, value: `[batch kv_head key d_head]`, the same.
        mask: boolean (True: attend) or additive, `[batch head query key]` or broadcastable; None where `causal` says all.
        causal: no row may look at a later one.
        options: scaling and softcap.
    """

    query: torch.Tensor
    key: torch.Tensor
    value: torch.Tensor
    mask: torch.Tensor | None
    causal: bool
    options: dict[str, Any]


@dataclass
class Entered:
    """One call of a block in the clean run.

    Attributes:
        stream: what it received, `[batch pos d_model]`.
        kwargs: what it was called with besides.
        added: what was added to the stream since the block before it returned, `[batch pos d_model]`; None if nothing was.
    """

    stream: torch.Tensor
    kwargs: dict[str, Any]
    added: torch.Tensor | None = None


@dataclass
class Recording:
    """What is kept of the clean run of a language model.

    Attributes:
        entered: per block.
        attended: per block.
        returned: what the last block returned, `[batch pos d_model]`.
        to_logits: from what the unembedding returns to the logits of the model (a scale, a soft cap).
        home: the device on which the model returns its logits, which need not be the unembedding's.
    """

    entered: list[Entered] = field(default_factory=list)
    attended: list[Attended] = field(default_factory=list)
    returned: torch.Tensor = field(default_factory=lambda: torch.empty(0))
    to_logits: Callable[[torch.Tensor], torch.Tensor] = lambda logits: logits
    home: torch.device = field(default_factory=lambda: torch.device("cpu"))

    @property
    def tensors(self) -> list[torch.Tensor]:
        """The tensors that grow with the batch; some may share their memory."""
        tensors = [self.returned, *(layer_input.stream for layer_input in self.entered)]
        tensors += [layer_input.added for layer_input in self.entered if layer_input.added is not None]
        return tensors + [
            tensor
            for layer_attention in self.attended
            for tensor in (layer_attention.query, layer_attention.key, layer_attention.value)
        ]


class Recorder:
    """Records while a model runs.

    Args:
        decoder: the language model's modules.
    """

    def __init__(self, decoder: Decoder):
        self.decoder = decoder
        self.entered: list[Entered] = []
        self.returned: list[torch.Tensor] = []
        self.attended: dict[int, list[Attended]] = {}
        self.head: list[torch.Tensor] = []
        self.odd: str | None = None

    @contextmanager
    def running(self) -> Iterator[None]:
        """Record what happens inside the `with`; nothing is left behind."""
        handles = []
        try:
            for block in self.decoder.blocks:
                handles.append(block.register_forward_pre_hook(self._enter, with_kwargs=True))
                handles.append(block.register_forward_hook(self._leave))
            handles.append(self.decoder.head.register_forward_hook(self._score))
            with lent_attention(self.decoder.configs, self._attend):
                yield
        finally:
            for handle in handles:
                handle.remove()

    def _enter(self, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        # by the class: a frozen block's own forward takes anything
        names = list(inspect.signature(type(module).forward).parameters)[1:]
        arguments = dict(zip(names, args, strict=False)) | kwargs
        stream = arguments.pop(names[0], None)
        if isinstance(stream, torch.Tensor):
            self.entered.append(Entered(stream, arguments))

    def _leave(self, module: nn.Module, args: tuple[Any, ...], output: Any) -> None:
        self.returned.append(first_of(output))

    def _score(self, module: nn.Module, args: tuple[Any, ...], output: torch.Tensor) -> None:
        self.head.append(output)

    def _attend(
        self,
        kernel: Callable[..., tuple[torch.Tensor, Any]],
        module: nn.Module,
        query: torch.Tensor,
        key: torch.Tensor,
        value: torch.Tensor,
        mask: torch.Tensor | None,
        options: dict[str, Any],
    ) -> torch.Tensor:
        strange = [name for name, option in options.items() if name not in _HARMLESS and option is not None]
        if strange:
            self.odd = f"attention is given {', '.join(strange)}"
        causal = looks_back(module, options.get("is_causal"))
        if mask is not None:
            causal = not bool(allowed_by(mask[..., : key.shape[2]]).triu(1).any())
        factors = {name: options[name] for name in ("scaling", "softcap") if options.get(name) is not None}
        self.attended.setdefault(id(module), []).append(Attended(query, key, value, mask, causal, factors))
        return kernel(module, query, key, value, mask, **options)[0]

    def recording(self, model: HookedMultimodal, batch: MultimodalBatch, logits: torch.Tensor) -> Recording:
        """What was recorded of the one run that there was.

        Args:
            model: the hooked model.
            batch: what ran.
            logits: what the model returned, `[batch pos vocab]`.

        Raises:
            NotAloneError: if what happened cannot be done again row by row; the message says why.
        """
        size, length = batch.layout.is_token.shape
        depth = len(self.decoder.blocks)
        if self.odd is not None:
            raise NotAloneError(self.odd)
        if len(self.entered) != depth or len(self.returned) != depth or len(self.head) != 1:
            raise NotAloneError(f"its {depth} blocks were called {len(self.entered)} times in one run")
        shapes = {tuple(layer_input.stream.shape[:-1]) for layer_input in self.entered}
        if shapes != {(size, length)}:
            raise NotAloneError(f"the stream of its blocks is {sorted(shapes)[0]}, not [batch={size} pos={length}]")
        if any(is_shared(value) for layer_input in self.entered for value in layer_input.kwargs.values()):
            raise NotAloneError("its blocks hand each other keys and values")
        attention = [self.attended.get(id(kernel), []) for kernel in self.decoder.kernels]
        if any(len(calls) == 1 and calls[0].mask is not None and calls[0].mask.shape[1] != 1 for calls in attention):
            raise NotAloneError("heads have masks of their own")
        if any(
            len(calls) != 1 or calls[0].key.shape[0] != size or calls[0].key.shape[2] != length for calls in attention
        ):
            raise NotAloneError("attention does not run once over the rows of each block")
        for layer_input, before in zip(self.entered[1:], self.returned, strict=False):
            if layer_input.stream is not before and not torch.equal(layer_input.stream, before):
                layer_input.added = layer_input.stream - before
        to_logits = _behind_head(self.head[0], logits, model)
        return Recording(self.entered, [calls[0] for calls in attention], self.returned[-1], to_logits, logits.device)


def first_of(output: Any) -> torch.Tensor:
    """The tensor of what a block returns."""
    return output[0] if isinstance(output, tuple) else output


def is_shared(value: Any) -> bool:
    """Whether an argument is something that blocks write into: a cache, or keys that later blocks read."""
    return hasattr(value, "__setitem__") and not isinstance(value, torch.Tensor | list) and bool(value)


def _behind_head(head: torch.Tensor, logits: torch.Tensor, model: HookedMultimodal) -> Callable[..., torch.Tensor]:
    """What the model does to the unembedding's output: nothing, a soft cap, or a factor.

    Raises:
        NotAloneError: if it is none of these.
    """
    if head.shape == logits.shape:
        head = head.to(logits.device)
        if torch.equal(head, logits):
            return lambda scores: scores
        text = model.config.get_text_config()
        cap = getattr(text, "final_logit_softcapping", None)
        if cap is not None and torch.allclose(torch.tanh(head / cap) * cap, logits, atol=1e-5):
            return lambda scores: torch.tanh(scores / cap) * cap
        multiplier = getattr(text, "output_multiplier", None)
        if (
            cap is not None
            and multiplier
            and torch.allclose(torch.tanh(head * multiplier / cap) * cap, logits, atol=1e-5)
        ):
            return lambda scores: torch.tanh(scores * multiplier / cap) * cap
        factor = float((logits * head).sum() / (head * head).sum())
        if torch.allclose(head * factor, logits, rtol=1e-4, atol=1e-6):
            factors = [getattr(text, name, None) for name in ("logit_scale", "logits_scaling")]
            exact = [
                value
                for number in factors
                if number
                for value in (number, 1 / number)
                if abs(value / factor - 1) < 1e-4
            ]
            scale = exact[0] if exact else factor
            return lambda scores: scores * scale
    raise NotAloneError("what follows the unembedding is neither a factor nor a soft cap")
