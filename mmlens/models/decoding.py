"""Decoding: the branches of a generation and whose each forward pass is, told by its cache and its prompt.

Transformers runs the prompt that is gone on with, the prompt that `guidance_scale` guides away from and the model's own drafts
through the same modules. Each branch is a run of its own here, with its own prompt, so that positions are its own; and what is
in force acts in the conditional passes alone, unless it was put in force for all.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from functools import cached_property
from typing import Any

import torch
from torch import nn
from transformers.generation.logits_process import LogitsProcessor, UnbatchedClassifierFreeGuidanceLogitsProcessor

from mmlens.core.errors import InputError
from mmlens.hooks.point import Point
from mmlens.hooks.session import HookPair, attached, suspended
from mmlens.inputs.batch import MultimodalBatch
from mmlens.models.claims import Claim, acting_in_all_passes, claims_of, unwatched, watching, wrappers_in_force
from mmlens.models.forward_inputs import completed_inputs
from mmlens.models.generation_limits import generation_option, generator_of, refuse_assistance, refuse_guidance
from mmlens.models.protocol import HookedModel
from mmlens.models.run import Branch, Run, Window

#: Tensors among the options of `generate` that are no part of the prompt.
NOT_OF_THE_PROMPT = ("negative_prompt_ids", "negative_prompt_attention_mask")
#: Options of `generate` by which candidates are proposed, of which some are rejected.
_ASSISTED = ("prompt_lookup_num_tokens", "assistant_model", "assistant_early_exit", "use_mtp")
#: Options of `generate` that may bring code of the user's, which may run the model.
_CODE = ("logits_processor", "stopping_criteria", "prefix_allowed_tokens_fn", "custom_generate")


class Decoding:
    """The branches of one generation.

    Args:
        model: the hooked model.
        run: the generation.

    Attributes:
        guided: whether `guidance_scale` has a second prompt run.
        assisted: whether candidates are proposed and some of them rejected.
    """

    def __init__(self, model: HookedModel, run: Run):
        self.model, self.main, options = model, run, run.options
        self.generator = generator_of(model.base)
        scale = generation_option(model, options, "guidance_scale")
        processors = options.get("logits_processor") or ()
        has_processor = any(isinstance(p, UnbatchedClassifierFreeGuidanceLogitsProcessor) for p in processors)
        self.guided = (scale is not None and scale != 1) or has_processor
        self.assisted = any(generation_option(model, options, name) not in (None, False) for name in _ASSISTED)
        self._has_code = any(options.get(name) is not None for name in _CODE)
        self._branches: dict[Branch, Run] = {}
        self._carried: list[HookPair] = []
        self._first: LogitsProcessor | None = None
        self._caches: dict[Branch, Any] = {}
        self._prompt: torch.Tensor | None = None
        self._draft_next = False
        self._stack: ExitStack | None = None
        self._inside = 0
        self._states: dict[Branch, list[Any]] = {}
        if getattr(options.get("assistant_model"), "hook_dict", None) is not None:
            raise InputError(
                "assistant_model= is a hooked model; pass the Hugging Face model: assistant_model=other.hf_model."
            )
        if self.guided:
            refuse_guidance(model, run, is_assisted=self.assisted)
            self.branch("unconditional", self._unconditional_batch)
        if self.assisted:
            refuse_assistance(model, run)
            run.window = Window()
            self.branch("draft", lambda: run.batch).window = Window()

    def branch(self, name: Branch, make_batch: Callable[[], MultimodalBatch]) -> Run:
        """A further branch.

        Args:
            name: whose passes.
            make_batch: makes its prompt.
        """
        if name not in self._branches:
            self._branches[name] = Run(self.model, "generate", self.main.options, make_batch, name)
        return self._branches[name]

    def carry(self, hooks: Sequence[HookPair]) -> None:
        """Have hooks act in the contrast passes: those that belong to their prompt."""
        self._carried = list(hooks)

    @contextmanager
    def apart(self) -> Iterator[None]:
        """Have nothing in force inside the `with`: for passes that prepare a branch."""
        with suspended(self._points()), unwatched(self.model):
            yield

    def _points(self) -> list[Point]:
        wrappers = wrappers_in_force(self.model)
        return [point for wrapper in wrappers for point in wrapper.hook_dict.values()]

    def put_first(self, processor: LogitsProcessor) -> None:
        """Have a processor change the logits before those that transformers makes."""
        self._first = processor

    # -- before the run ----------------------------------------------------------------------------------------------

    def tell_watchers(self) -> None:
        """Have interventions for all passes resolve their positions in every branch.

        Raises:
            InputError: if they name nothing there.
        """
        for watcher in watching(self.model, "all"):
            for run in self._branches.values():
                try:
                    watcher.starts(run)
                except InputError as error:
                    raise InputError(
                        f"In the {run.branch} passes of this generation, where {watcher!r} acts because of passes='all': {error} "
                        "Let it act in the conditional passes alone (passes='conditional'), or at other positions."
                    ) from error

    def _unconditional_batch(self) -> MultimodalBatch:
        """The prompt that `guidance_scale` guides away from: as given, or the last token alone."""
        ids, mask = (self.main.options.get(f"negative_prompt_{name}") for name in ("ids", "attention_mask"))
        if ids is None:
            ids = self.main.batch["input_ids"][:, -1:]
        mask = torch.ones_like(ids) if mask is None else mask
        return self.model.batch({"input_ids": ids, "attention_mask": mask})

    # -- while it runs -----------------------------------------------------------------------------------------------

    @contextmanager
    def watched(self) -> Iterator[None]:
        """Tell the passes apart inside the `with`."""
        if not (self.guided or self.assisted or self._has_code or self._first):
            yield
            return
        generator = self.generator
        make = getattr(generator, "_get_logits_processor", None)
        grows = generation_option(self.model, self.main.options, "use_cache") is False
        with ExitStack() as stack:
            for run in self._branches.values():
                n_written, tensors = run.batch.written, run.batch.inputs
                stack.enter_context(completed_inputs(self.model, tensors, written=n_written, grows=grows, run=run))
            if self.guided or self.assisted or self._has_code:
                for module in {id(m): m for m in (self.model.base, generator)}.values():
                    # registered last, so that they are the first to see a pass, and the last
                    begins = module.register_forward_pre_hook(self._pass_begins, prepend=True, with_kwargs=True)
                    ends = module.register_forward_hook(self._pass_ends, with_kwargs=True, always_call=True)
                    stack.callback(begins.remove)
                    stack.callback(ends.remove)
            if make is not None:
                # on the instance, and for this run only: the list of processors has no other door to its first place
                vars(generator)["_get_logits_processor"] = lambda *args, **kwargs: self._processors(make, args, kwargs)
                stack.callback(vars(generator).pop, "_get_logits_processor", None)
            yield
        for name, cache in self._caches.items():
            window = self._run(name).window
            if window is not None and cache is not None:
                window.kept = cache.get_seq_length()

    @contextmanager
    def passing(self, run: Run) -> Iterator[None]:
        """A pass of another branch than the conditional one."""
        claim = Claim(f"A {run.branch} pass", self.model, run)
        pairs = self._carried if run.branch == "contrast" else []
        suspension = suspended(self._points(), acting_in_all_passes(self.model))
        with suspension, self._own_state(run.branch), claims_of(self.model.base).claimed(claim):
            self._inside += 1
            try:
                with attached(self.model.hook_dict, pairs, first=True):
                    yield
            finally:
                self._inside -= 1

    @cached_property
    def _stateful(self) -> list[Any]:
        """Modules that keep something of the positions from one pass to the next; it is that of a branch."""
        return [module for module in self.model.base.modules() if "rope_deltas" in vars(module)]

    @contextmanager
    def _own_state(self, name: Branch) -> Iterator[None]:
        before = [module.rope_deltas for module in self._stateful]
        for module, state in zip(self._stateful, self._states.get(name, [None] * len(before)), strict=True):
            module.rope_deltas = state
        try:
            yield
        finally:
            self._states[name] = [module.rope_deltas for module in self._stateful]
            for module, state in zip(self._stateful, before, strict=True):
                module.rope_deltas = state

    def _processors(self, make: Any, args: Any, kwargs: Any) -> Any:
        """The list of processors that transformers makes, with ours in front."""
        processors = make(*args, **kwargs)
        config = kwargs.get("generation_config", args[0] if args else None)
        if self._inside:
            return processors
        if getattr(config, "is_assistant", False):
            self._draft_next = True
        elif self._first is not None:
            processors.insert(0, self._first)
        return processors

    def _run(self, name: Branch) -> Run:
        return self.main if name == "conditional" else self._branches[name]

    def _pass_begins(self, module: nn.Module, args: Any, kwargs: dict[str, Any]) -> None:
        self._inside += 1
        if self._inside > 1:
            return
        ids = kwargs.get("decoder_input_ids", kwargs.get("input_ids", args[0] if args else None))
        embeds, cache = kwargs.get("inputs_embeds"), kwargs.get("past_key_values")
        name = self._whose(cache, ids)
        run = self._run(name) if name in ("conditional", *self._branches) else self._foreign(ids, kwargs)
        rows = ids if embeds is None else embeds
        if run.window is not None and rows is not None:
            run.window.first, run.window.count = 0 if cache is None else cache.get_seq_length(), rows.shape[1]
        if name != "conditional":
            self._stack = ExitStack()
            self._stack.enter_context(self.passing(run))

    def _pass_ends(self, module: nn.Module, args: Any, kwargs: Any, output: Any) -> None:
        stack, self._stack = (self._stack, None) if self._inside == 2 and self._stack else (None, self._stack)
        if stack is not None:
            stack.close()
        self._inside -= 1

    def _whose(self, cache: Any, ids: torch.Tensor | None) -> Branch:
        """The branch of a pass that begins."""
        if self._draft_next:
            self._draft_next = False
            self._caches["draft"] = cache
            return "draft"
        if "conditional" not in self._caches:
            self._caches["conditional"], self._prompt = cache, ids
            return "conditional"
        if cache is not None and cache is self._caches.get("draft"):
            return "draft"
        main = self._caches["conditional"]
        if main is not None:
            return "conditional" if cache is main else "unconditional"
        prompt = self._prompt
        if cache is None and ids is not None and prompt is not None and len(ids) == len(prompt):
            goes_on = ids.shape[1] > prompt.shape[1] and torch.equal(ids[:, : prompt.shape[1]], prompt)
            return "conditional" if goes_on else "unconditional"
        return "unconditional"

    def _foreign(self, ids: torch.Tensor | None, kwargs: dict[str, Any]) -> Run:
        """The branch of code of the user's that runs the model in the middle of a generation."""
        tensors = {name: value for name, value in kwargs.items() if isinstance(value, torch.Tensor)}
        if ids is not None:
            tensors["input_ids"] = ids
        return self.branch("unconditional", lambda: self.model.batch(tensors))
