"""Runs of a bound model in TransformerLens's words, with the picture of its batch."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from itertools import chain
from typing import Any, Literal, TypeAlias

import torch
from transformer_lens.utilities import Slice

from mmlens.core.axes import position_axis
from mmlens.core.errors import InputError
from mmlens.core.names import Names
from mmlens.core.wording import short
from mmlens.hooks.cache import ActivationCache
from mmlens.hooks.nodes import Selection
from mmlens.hooks.session import Direction, HookFunction, HookPair, attached
from mmlens.inputs.batch import MultimodalBatch
from mmlens.models.bound.block_range import BlockRange, stream_for
from mmlens.models.bound.inputs import BoundInputs, Prompt
from mmlens.models.bound.loss import losses_of
from mmlens.models.bound.points import BoundPoints
from mmlens.models.bound.run_hooks import Stopped, add_gradients, keeping, replaced_by, stopping, without_batch
from mmlens.models.caching import CacheRecorder, require_named
from mmlens.models.claims import claimed

ReturnType: TypeAlias = Literal["logits", "loss", "both"] | None


class BoundRuns(BoundInputs, BoundPoints):
    """The runs of a bound model."""

    def forward(self, input: Prompt = None, return_type: ReturnType = "logits", **options: Any) -> Any:
        """Run the model on a prompt about its picture.

        Args:
            input: a text, several, or token ids (see `batch_of`); the batch's own prompts by default. With `start_at_layer`
                the stream `[batch pos d_model]` that enters that block, of the batch's own prompts.
            return_type: `"logits"` `[batch pos vocab]`; `"loss"`, the mean negative log-probability of the tokens of text, in
                nats (places of the picture and padding are no targets); `"both"`, a pair of them; None for nothing.
            options: `loss_per_token` (losses `[batch pos-1]`, zero where nothing is a target), `prepend_bos`, `padding_side`,
                `attention_mask`, `stop_at_layer` and `start_at_layer`, as for `run_with_hooks`.
        """
        return self.run_with_hooks(input, return_type=return_type, **options)

    def __call__(self, input: Prompt = None, return_type: ReturnType = "logits", **options: Any) -> Any:
        """The same as `forward`."""
        return self.forward(input, return_type, **options)

    def run_with_hooks(
        self,
        input: Prompt = None,
        fwd_hooks: Sequence[HookPair] = (),
        bwd_hooks: Sequence[HookPair] = (),
        reset_hooks_end: bool = True,
        clear_contexts: bool = False,
        return_type: ReturnType = "logits",
        stop_at_layer: int | None = None,
        start_at_layer: int | None = None,
        remove_batch_dim: bool = False,
        loss_per_token: bool = False,
        prepend_bos: bool | None = None,
        padding_side: Literal["left", "right"] | None = None,
        attention_mask: torch.Tensor | None = None,
    ) -> Any:
        """Run once with hooks attached, with the picture.

        Args:
            input, return_type: as for `forward`.
            fwd_hooks: pairs (names, `fn(activation, hook)`).
            bwd_hooks: the same for gradients; with `reset_hooks_end=False` they are still there for a later `backward()`.
            reset_hooks_end: whether the hooks of this call are removed afterwards; those that were there before stay.
            clear_contexts: whether what hooks noted at the points of this call (`hook.ctx`) is forgotten afterwards.
            stop_at_layer: the block in front of which the run ends, from the end if negative; the stream that enters it
                `[batch pos d_model]` is returned in the place of logits. Hooks behind it are left out.
            start_at_layer: the block that `input` enters as its stream. Hooks in front of it are left out, those on the picture's
                towers too; masks, positions and what later blocks read of the picture are the batch's.
            remove_batch_dim: whether hooks see activations without a batch axis of length 1.
            loss_per_token, prepend_bos, padding_side, attention_mask: as for `forward`.

        Raises:
            InputError: for prompts that do not fit the picture, names that match nothing, blocks that there are not; before the
                run.
        """
        _require_return_type(return_type)
        blocks = BlockRange.of(self.model, start_at_layer, stop_at_layer)
        batch, first, last = self.batch, [], []
        outputs: list[torch.Tensor] = []
        if blocks.start is None:
            batch = self.batch_of(
                input, prepend_bos=prepend_bos, padding_side=padding_side, attention_mask=attention_mask
            )
        else:
            first = [(f"blocks.{blocks.start}.hook_resid_pre", replaced_by(stream_for(self.model, self.batch, input)))]
        if blocks.end is not None:
            last = [(blocks.end, stopping(outputs))]
        hooks = [blocks.within(self._named(pairs, batch, remove_batch_dim)) for pairs in (fwd_hooks, bwd_hooks)]
        logits = None
        try:
            with self._hooked(*hooks, stay=not reset_hooks_end, first=first, last=last):
                logits = self.model(batch)
        except Stopped:
            return outputs[0]
        finally:
            if clear_contexts:
                self._clear(*hooks)
        return self._returned(logits, batch, return_type, loss_per_token)

    def run_with_cache(
        self,
        input: Prompt = None,
        return_cache_object: bool = True,
        remove_batch_dim: bool = False,
        names_filter: Names | Selection | None = None,
        stop_at_layer: int | None = None,
        start_at_layer: int | None = None,
        pos_slice: Any | None = None,
        incl_bwd: bool = False,
        reset_hooks_end: bool = True,
        clear_contexts: bool = False,
        device: torch.device | str | None = None,
        **options: Any,
    ) -> tuple[Any, ActivationCache | dict[str, torch.Tensor]]:
        """Run and cache, with the picture, in TransformerLens's words.

        Args:
            input: as for `forward`.
            return_cache_object: an `ActivationCache`, or its tensors by name.
            remove_batch_dim: drop a batch axis of size 1.
            names_filter: a name, a glob, several, or a predicate. By default all points that fire, scores and patterns among them
                (a model that is not bound leaves these out).
            stop_at_layer, start_at_layer, reset_hooks_end, clear_contexts: as for `run_with_hooks`.
            pos_slice: which positions to keep, as a slice or `transformer_lens.utilities.Slice`.
            incl_bwd: also cache gradients of the output, which must be one number (`return_type="loss"`), as `name_grad`.
            device: where the cache goes.
            options: as for `forward`.

        Raises:
            InputError: for gradients of what is no number, or where none are computed.
        """
        if incl_bwd:
            _require_backward(stop_at_layer, options.get("return_type", "logits"))
        nodes = self._nodes(names_filter)
        require_named(nodes, names_filter, lambda: self.batch)
        recorder = CacheRecorder(nodes, None, device)
        shown: dict[str, torch.Tensor] = {}
        hooks = [*recorder.hooks, *([([node.name for node in nodes], keeping(shown))] if incl_bwd else [])]
        output = self.run_with_hooks(
            input,
            fwd_hooks=hooks,
            reset_hooks_end=reset_hooks_end,
            clear_contexts=clear_contexts,
            stop_at_layer=stop_at_layer,
            start_at_layer=start_at_layer,
            **options,
        )
        cache = recorder.cache(self)
        if incl_bwd:
            add_gradients(cache, output, shown, device)
        if pos_slice is not None:  # raw rows, padding counted, as in TransformerLens
            rows = Slice.unwrap(pos_slice)
            for name, tensor in cache.cache_dict.items():
                cache.cache_dict[name] = rows.apply(tensor, dim=position_axis(cache.axes[name]))
        if remove_batch_dim:
            cache.remove_batch_dim()
        return output, cache if return_cache_object else cache.cache_dict

    @contextmanager
    def hooks(
        self,
        fwd_hooks: Sequence[HookPair] = (),
        bwd_hooks: Sequence[HookPair] = (),
        reset_hooks_end: bool = True,
        clear_contexts: bool = False,
    ) -> Iterator["BoundRuns"]:
        """Have hooks attached inside the `with`; on leaving, exactly these are removed, unless `reset_hooks_end` is False.

        Args:
            fwd_hooks, bwd_hooks: pairs (names, function).
            reset_hooks_end, clear_contexts: as for `run_with_hooks`.
        """
        named_pairs = [self._named(pairs, self.batch, remove_batch_dim=False) for pairs in (fwd_hooks, bwd_hooks)]
        try:
            with self._hooked(*named_pairs, stay=not reset_hooks_end):
                yield self
        finally:
            if clear_contexts:
                self._clear(*named_pairs)

    def loss_fn(
        self,
        logits: torch.Tensor,
        tokens: Prompt = None,
        attention_mask: torch.Tensor | None = None,
        per_token: bool = False,
    ) -> torch.Tensor:
        """The loss of logits: the mean negative log-probability of the tokens of text, in nats.

        Args:
            logits: `[batch pos vocab]` of a run.
            tokens: what was run; the batch's own prompts by default.
            attention_mask: which tokens count, `[batch pos]`; by default all but padding.
            per_token: one number for each token from the second on, zero where it is no target.
        """
        return losses_of(logits, self.batch_of(tokens, attention_mask=attention_mask), per_token=per_token)

    def input_to_embed(
        self, input: Prompt = None, prepend_bos: bool | None = None, padding_side: Any = None
    ) -> tuple[torch.Tensor, torch.Tensor, None, torch.Tensor | None]:
        """The stream that enters the first block, picture and all; the tokens; None; and their mask."""
        batch = self.batch_of(input, prepend_bos=prepend_bos, padding_side=padding_side)
        stream = self.forward(input, stop_at_layer=0, prepend_bos=prepend_bos, padding_side=padding_side)
        return stream, batch["input_ids"], None, batch.inputs.get("attention_mask")

    # -- parts of a run ----------------------------------------------------------------------------------------------

    def _returned(self, logits: Any, batch: MultimodalBatch, return_type: ReturnType, loss_per_token: bool) -> Any:
        if return_type is None:
            return None
        if return_type == "logits":
            return logits
        loss = losses_of(logits, batch, per_token=loss_per_token)
        return loss if return_type == "loss" else (logits, loss)

    @contextmanager
    def _hooked(
        self,
        fwd: Sequence[HookPair],
        bwd: Sequence[HookPair],
        *,
        stay: bool = False,
        first: Sequence[HookPair] = (),
        last: Sequence[HookPair] = (),
    ) -> Iterator[None]:
        """Have hooks attached; those that are to stay are put in before the run, and not taken out."""
        if stay:
            directions: tuple[tuple[Direction, Sequence[HookPair]], ...] = (("fwd", fwd), ("bwd", bwd))
            for direction, pairs in directions:
                for name, function in pairs:
                    self.add_hook(name, function, direction)
            fwd, bwd = (), ()
        pairs = (*first, *fwd, *bwd, *last)
        points = self.hook_dict
        with (
            claimed(self.model, "hooks", pairs, acts=pairs),
            attached(points, first, first=True),
            attached(points, (*fwd, *last), bwd),
        ):
            yield

    def _clear(self, *hooks: Sequence[tuple[str, HookFunction]]) -> None:
        """Forget what hooks noted at their points."""
        for name, _ in chain(*hooks):
            self.hook_dict[name].clear_context()

    def _named(
        self, pairs: Sequence[HookPair], batch: Mapping[str, Any], remove_batch_dim: bool
    ) -> list[tuple[str, HookFunction]]:
        """Each point that hooks mean, with the function."""
        resolved = []
        for number, pair in enumerate(pairs):
            if not isinstance(pair, list | tuple) or len(pair) != 2 or not callable(pair[1]):
                raise InputError(f"Hook {number}, {short(pair)}, must be a pair (names, function(activation, hook)).")
            names, function = pair
            function = without_batch(function) if remove_batch_dim else function
            resolved += [(str(point.name), function) for point in self._resolved(names)]
        return resolved


def _require_return_type(return_type: Any) -> None:
    if return_type not in ("logits", "loss", "both", None):
        raise InputError(f"return_type={return_type!r} must be 'logits', 'loss', 'both' or None.")


def _require_backward(stop_at_layer: int | None, return_type: Any) -> None:
    if stop_at_layer is not None:
        raise InputError("incl_bwd=True needs a number to differentiate, and a run that stops at a layer has none.")
    if return_type != "loss":
        raise InputError(
            f"incl_bwd=True needs one number to differentiate, found return_type={return_type!r}; pass return_type='loss', or "
            "gather gradients yourself: with bound.hooks(bwd_hooks=[...])."
        )
    if not torch.is_grad_enabled():
        raise InputError(
            "incl_bwd=True needs gradients, which are off here (torch.no_grad()); leave it, or enable them."
        )
