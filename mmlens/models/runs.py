"""Runs of a hooked model: forward passes and generation, with hooks and interventions, cached or traced."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, Literal, Protocol, cast, runtime_checkable

import torch
from jaxtyping import Float

from mmlens.core.contract import checked
from mmlens.core.names import Names
from mmlens.core.rules import ALL, Positions, as_rule
from mmlens.core.tensor_kinds import Device
from mmlens.hooks.cache import ActivationCache
from mmlens.hooks.nodes import Selection
from mmlens.hooks.session import HookFunction, HookPair, attached, resolve_hooks
from mmlens.inputs.batch import Batch, MultimodalBatch
from mmlens.inputs.options import require_options
from mmlens.inputs.row_reader import RowReader
from mmlens.models.caching import CacheRecorder, require_named
from mmlens.models.claims import Claim, claimed, claims_of, current_run, watching
from mmlens.models.contrast.methods import ContrastChoice, ContrastMethod
from mmlens.models.contrast.second_run import contrast_with
from mmlens.models.decoding import NOT_OF_THE_PROMPT, Decoding
from mmlens.models.dropout import refuse_dropout
from mmlens.models.dual_encoder import called, require_writer, run_forward
from mmlens.models.forward_inputs import completed_inputs
from mmlens.models.generation_limits import generation_option, refuse_chunked_prompt, refuse_right_padding
from mmlens.models.protocol import HookedModel, PartOfModel
from mmlens.models.run import PassChoice, Run, Watching, require_passes


@runtime_checkable
class Intervention(Protocol):
    """Something that can be done to activations: it says at which points, and how."""

    def hooks(self, model: Any) -> list[HookPair]:
        """The hooks that carry it out on this model; raises InputError if it cannot happen there."""


class Runs(PartOfModel):
    """The runs of a hooked model."""

    @checked
    def forward(self, batch: Batch | None = None, **tensors: Any) -> Float[torch.Tensor, "batch *pos vocab"]:
        """Run the model.

        Args:
            batch: a prepared batch, a mapping of keyword tensors, or token ids.
            tensors: keyword tensors of the Hugging Face model.

        Returns:
            Logits; of dual encoders the scores `[picture text]`.

        Raises:
            InputError: for image tokens without pixels and the reverse, and for keywords that the model does not know; while
                another thread has something in force on the model.
        """
        require_options(self.model.base, tensors)
        keywords = self.inputs.keywords(batch, tensors)
        with self._under_way("forward", batch, tensors, keywords):
            return run_forward(self.model.family, self.model.hf_model, keywords)

    @checked
    def generate(self, batch: Batch | None = None, *, contrast: ContrastChoice = None, **options: Any) -> Any:
        """Generate with the Hugging Face model, greedily unless told otherwise; hooks fire at every step.

        Where other prompts are run besides (`guidance_scale`, `contrast`), hooks and interventions act in the passes of the
        batch alone, or in all: `model.intervene(..., passes="all")`.

        Args:
            batch: as for `forward`; samples padded on the left.
            contrast: contrastive decoding (see `mm.decoding`): `"vcd"` (against a noised picture), `"icd"` (a disturbed
                instruction), `"pai"` (the prompt without the picture), or settings: `mm.decoding.VCD(alpha=0.5)`,
                `mm.decoding.Contrast(mm.corrupt.blur)`. Greedily, by sampling or by beams.
            options: keyword tensors and options of Hugging Face's `generate` (`max_new_tokens`, `do_sample`, ...).

        Returns:
            What Hugging Face returns: token ids `[batch pos]`, prompt included where the family includes it.

        Raises:
            InputError: for image tokens without pixels and the reverse, and for padding on the right of what is to be continued;
                for ways of decoding that do not go together, and for prompts that cannot be read in chunks.
        """
        require_writer(self.model.family, "generate")
        keywords = self.inputs.keywords(batch, options)
        mask = keywords.get("attention_mask")
        if isinstance(mask, torch.Tensor) and mask.ndim == 2:
            refuse_right_padding(self.model, mask)
        refuse_chunked_prompt(self.model, generation_option(self.model, keywords, "prefill_chunk_size"))
        with self._under_way("generate", batch, options, keywords, cast("ContrastMethod | None", contrast)):
            generate = self.model.hf_model.generate
            return called(generate, generate, {"do_sample": False, **keywords})

    def rehearse(self, batch: MultimodalBatch, *, contrast: ContrastMethod | None, max_new_tokens: int) -> None:
        """Refuse what `generate` would refuse, with what is in force, without running anything.

        Raises:
            InputError: as `generate`.
        """
        options = {"max_new_tokens": max_new_tokens}
        refuse_right_padding(self.model, batch.layout.is_token)
        with self._under_way("generate", batch, options, self.inputs.keywords(batch, options), contrast):
            pass

    @contextmanager
    def _under_way(
        self,
        kind: Literal["forward", "generate"],
        batch: Batch | None,
        tensors: Mapping[str, Any],
        keywords: Mapping[str, Any],
        contrast: ContrastMethod | None = None,
    ) -> Iterator[None]:
        """Have a run under way, once the interventions in force have agreed to it.

        What the batch carries is in force in it, ahead of the hooks that are there already.

        Args:
            kind: of the run.
            batch: what it got.
            tensors: keyword tensors and options that it got besides.
            keywords: both together, as the Hugging Face model gets them.
            contrast: of a generation, what it is contrasted with.

        Raises:
            InputError: if dropout is at work.
        """
        refuse_dropout(self.model.hf_model)
        given_batch = batch if isinstance(batch, MultimodalBatch) else None
        interventions = () if given_batch is None else given_batch.carried
        inputs = {
            name: value
            for name, value in keywords.items()
            if isinstance(value, torch.Tensor) and name not in NOT_OF_THE_PROMPT
        }
        complete = None if any(name in inputs for name in tensors) else given_batch
        options = {name: value for name, value in keywords.items() if name not in inputs}
        run = Run(self.model, kind, options, lambda: self.inputs.batch(inputs) if complete is None else complete)
        claim = Claim(f"A {'generation' if kind == 'generate' else 'forward pass'}", self.model, run)
        with claims_of(self.model.base).claimed(claim):
            self.model.follow()
            with attached(self.model.hook_dict, self._pairs(interventions), first=True):
                decoding = None if kind == "forward" else Decoding(self.model, run)
                for watcher in watching(self.model):
                    watcher.starts(run)
                n_written = 0 if complete is None else complete.written
                grows = kind == "generate" and generation_option(self.model, options, "use_cache") is False
                with completed_inputs(self.model, inputs, written=n_written, grows=grows, run=run):
                    if decoding is None:
                        yield
                        return
                    if contrast is not None:
                        contrast_with(contrast, decoding)
                    decoding.tell_watchers()
                    with decoding.watched():
                        yield

    @property
    def current(self) -> Run | None:
        """The run that is under way in this thread, the innermost one; None outside of `forward` and `generate`."""
        return current_run(self.model)

    @checked
    @contextmanager
    def hooks(
        self,
        fwd_hooks: Sequence[HookPair] = (),
        bwd_hooks: Sequence[HookPair] = (),
        *,
        passes: PassChoice = "conditional",
    ) -> Iterator[HookedModel]:
        """Have hooks attached inside the `with`; exactly these are removed on leaving, also after an exception.

        Args:
            fwd_hooks: pairs (names, fn): fn(activation, hook) returns a new activation or None. Names may be globs.
            bwd_hooks: the same for gradients; run `backward()` inside the `with`.
            passes: in which passes of a generation they act, as for `intervene`; `model.current_run.branch` says whose a pass is.

        Raises:
            UnknownNameError: if a name or glob matches nothing, before anything is attached.
            InputError: while another thread has something in force on the model.
        """
        pairs = (*fwd_hooks, *bwd_hooks)
        with (
            claimed(self.model, "hooks", pairs, acts=pairs, passes=require_passes(passes)),
            attached(self.model.hook_dict, fwd_hooks, bwd_hooks),
        ):
            yield self.model

    @checked
    @contextmanager
    def intervene(self, *interventions: Intervention, passes: PassChoice = "conditional") -> Iterator[HookedModel]:
        """Have interventions in force inside the `with`, for forward passes and generation alike.

        Args:
            interventions: carried out in the order given.
            passes: in which passes of a generation they act, where it runs several prompts: `"conditional"`, those of the prompt
                that is gone on with (beams and verified candidates among them); or `"all"`, also those of the prompt that
                `guidance_scale` guides away from, that `contrast` contrasts with, and of the model's own drafts
                (`assistant_early_exit`). Positions are those of each branch's own prompt.

        Raises:
            InputError: if one of them cannot happen on this model, before anything is attached; while another thread has
                something in force on the model.
        """
        pairs = self._pairs(interventions)
        watchers = tuple(watcher for watcher in interventions if isinstance(watcher, Watching))
        words = ", ".join(map(repr, interventions))
        with (
            claimed(self.model, words, pairs, watching=watchers, acts=interventions, passes=require_passes(passes)),
            attached(self.model.hook_dict, pairs),
        ):
            yield self.model

    def _pairs(self, interventions: Sequence[Intervention]) -> list[HookPair]:
        return [pair for intervention in interventions for pair in intervention.hooks(self.model)]

    @checked
    def run_with_hooks(
        self, batch: Batch | None = None, *, fwd_hooks: Sequence[HookPair] = (), **tensors: Any
    ) -> Float[torch.Tensor, "batch *pos vocab"]:
        """Run once with hooks attached.

        Args:
            batch: as for `forward`.
            fwd_hooks: pairs (names, fn).
            tensors: keyword tensors.

        Returns:
            Logits. For backward hooks use `with model.hooks(bwd_hooks=...)` around both passes.
        """
        with self.hooks(fwd_hooks):
            return self.model(batch, **tensors)

    @checked
    def run_with_cache(
        self,
        batch: Batch | None = None,
        *,
        names: Names | Selection | None = None,
        positions: Positions = "all",
        device: Device | None = None,
        **tensors: Any,
    ) -> tuple[Float[torch.Tensor, "batch *pos vocab"], ActivationCache]:
        """Run once and keep activations.

        Args:
            batch: as for `forward`.
            names: which points; by default all except attention scores and patterns, which are large and have to be named.
            positions: which positions to keep (see `mm.positions`). With any but `"all"` the first axis runs over samples at
                every point, and samples that have fewer rows end in NaN: `cache.samples(name)` gives each its own.
            device: where to keep them, e.g. `"cpu"`; by default where they are.
            tensors: keyword tensors.

        Returns:
            Logits and the cache. Cached tensors are detached. For what a generation wrote, contrasted or guided, run
            `model.extend(batch, tokens)`: the states are those of its conditional passes.

        Raises:
            UnknownNameError: if a name matches nothing.
            InputError: for positions that do not exist or mean nothing at a point; before the forward pass where the sequence's
                length is known.
        """
        nodes = self.default_points if names is None else self.model.graph.select(names)
        require_named(nodes, names, lambda: self.inputs.keywords(batch, tensors))
        rule = as_rule(positions)
        reader = None if rule == ALL else RowReader(rule, self.inputs.checked_batch(batch, tensors), nodes)
        recorder = CacheRecorder(nodes, reader, device)
        logits = self.run_with_hooks(batch, fwd_hooks=recorder.hooks, **tensors)
        return logits, recorder.cache(self.model)

    @property
    def default_points(self) -> Selection:
        """The points that a cache holds by default: all but attention scores and patterns."""
        return self.model.graph.select(where=lambda node: not node.on_request)

    @checked
    def add_hook(
        self,
        name: Names,
        hook: HookFunction,
        dir: Literal["fwd", "bwd"] = "fwd",
        *,
        is_permanent: bool = False,
        level: int | None = None,
        prepend: bool = False,
    ) -> None:
        """Add a hook that stays until `reset_hooks()`; prefer `with model.hooks(...)`.

        Raises:
            UnknownNameError: if a name or glob matches nothing.
        """
        with claimed(self.model, "A hook that stays"):
            for point, function, _ in resolve_hooks(self.model.hook_dict, [(name, hook)], []):
                point.add_hook(cast(Any, function), dir, is_permanent, level, prepend)
