"""Running a hooked model: forward passes and generation, with hooks and interventions, cached or traced."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, Literal, Protocol, runtime_checkable

import torch
from jaxtyping import Float
from transformer_lens import HookedRootModule

from mmlens.core.names import Names
from mmlens.core.units import Positions
from mmlens.hooks.cache import ActivationCache, RowPicker, gather_rows, record
from mmlens.hooks.graph import HookGraph
from mmlens.hooks.nodes import Node, Selection
from mmlens.hooks.session import HookPair, attached, resolve_hooks
from mmlens.inputs.batch import MultimodalBatch
from mmlens.inputs.images import Picture
from mmlens.inputs.inputs import Batch, Inputs
from mmlens.inputs.layout import TokenLayout
from mmlens.inputs.options import require_options
from mmlens.inputs.prepare import Images
from mmlens.models.generation import GenerationTrace, refuse_right_padding, trace_generation
from mmlens.models.run import Run, Watching


@runtime_checkable
class Intervention(Protocol):
    """Something that can be done to activations: it says at which points, and how."""

    def hooks(self, model: "HookedMultimodal") -> list[HookPair]:
        """The hooks that carry it out on this model; raises InputError if it cannot happen there."""


class Running(Inputs, HookedRootModule):
    """What a hooked model does: the part of `HookedMultimodal` that runs it.

    Attributes:
        graph: the hook-point graph.
    """

    graph: HookGraph
    _watching: tuple[Watching, ...] = ()
    _run: Run | None = None

    @property
    def current_run(self) -> Run | None:
        """The run that is under way, the innermost one; None outside of `forward` and `generate`."""
        return self._run

    def forward(self, batch: Batch | None = None, **tensors: Any) -> Float[torch.Tensor, "batch pos vocab"]:
        """Run the model.

        Args:
            batch: a prepared batch, a mapping of keyword tensors, or token ids.
            tensors: keyword tensors of the Hugging Face model.

        Returns:
            Logits.

        Raises:
            InputError: for image tokens without pixels and the reverse, and for keywords that the model does not know.
        """
        require_options(self._base, tensors)
        inputs = self._inputs(batch, tensors)
        with self._running("forward", batch, tensors, inputs), self._carrying(batch):
            return self.hf_model(**{"use_cache": False, **inputs}).logits

    @contextmanager
    def _carrying(self, batch: Batch | None) -> Iterator[None]:
        """Have what a batch carries in force, ahead of the hooks that are there already."""
        carried = batch.carried if isinstance(batch, MultimodalBatch) else ()
        pairs = [pair for intervention in carried for pair in intervention.hooks(self)]
        with attached(self.hook_dict, pairs, first=True):  # type: ignore[arg-type]
            yield

    @contextmanager
    def hooks(  # type: ignore[override]
        self, fwd_hooks: Sequence[HookPair] = (), bwd_hooks: Sequence[HookPair] = ()
    ) -> Iterator["HookedMultimodal"]:
        """Have hooks attached inside the `with`; exactly these are removed on leaving, also after an exception.

        Args:
            fwd_hooks: pairs (names, fn): fn(activation, hook) returns a new activation or None. Names may be globs.
            bwd_hooks: the same for gradients; run `backward()` inside the `with`.

        Raises:
            UnknownNameError: if a name or glob matches nothing, before anything is attached.
        """
        with attached(self.hook_dict, fwd_hooks, bwd_hooks):  # type: ignore[arg-type]
            yield self

    def run_with_hooks(  # type: ignore[override]
        self, batch: Batch | None = None, *, fwd_hooks: Sequence[HookPair] = (), **tensors: Any
    ) -> Float[torch.Tensor, "batch pos vocab"]:
        """Run once with hooks attached.

        Args:
            batch: as for `forward`.
            fwd_hooks: pairs (names, fn).
            tensors: keyword tensors.

        Returns:
            Logits. For backward hooks use `with model.hooks(bwd_hooks=...)` around both passes.
        """
        with self.hooks(fwd_hooks):
            return self(batch, **tensors)

    def run_with_cache(  # type: ignore[override]
        self,
        batch: Batch | None = None,
        *,
        names: Names | Selection | None = None,
        positions: Positions = "all",
        device: torch.device | str | None = None,
        **tensors: Any,
    ) -> tuple[Float[torch.Tensor, "batch pos vocab"], ActivationCache]:
        """Run once and keep activations.

        Args:
            batch: as for `forward`.
            names: which points; by default all except attention scores and patterns, which are large and have to be named.
            positions: which positions to keep: `"all"`, `"image"`, `"text"`, `"last"`, indices, a slice or a tensor.
            device: where to keep them, e.g. `"cpu"`; by default where they are.
            tensors: keyword tensors.

        Returns:
            Logits and the cache. Cached tensors are detached.

        Raises:
            UnknownNameError: if a name matches nothing.
            InputError: for positions out of range or that samples do not share; before the forward pass where the
                sequence's length is known.
        """
        nodes = self.default_points if names is None else self.graph.select(names)
        store: dict[str, torch.Tensor] = {}
        everything = isinstance(positions, str) and positions == "all"
        layout = None if everything else self.batch(batch, **tensors).layout
        known: _KnownRows = {}
        fwd_hooks: list[HookPair] = [
            (node.name, record(store, None if layout is None else _picker(node, layout, positions, known), device))
            for node in nodes
        ]
        with self.hooks(fwd_hooks):
            logits = self(batch, **tensors)
        ordered = {node.name: store[node.name] for node in nodes if node.name in store}
        kept = None if everything else str(positions)
        return logits, ActivationCache(ordered, self, axes={node.name: node.axes for node in nodes}, positions=kept)

    @property
    def default_points(self) -> Selection:
        """The points that a cache holds by default: all but attention scores and patterns."""
        return self.graph.select(where=lambda node: not node.on_request)

    def add_hook(self, name: Names, hook: Any, dir: Literal["fwd", "bwd"] = "fwd", **options: Any) -> None:  # type: ignore[override]
        """Add a hook that stays until `reset_hooks()`; prefer `with model.hooks(...)`.

        Raises:
            UnknownNameError: if a name or glob matches nothing.
        """
        for point, function, _ in resolve_hooks(self.hook_dict, [(name, hook)], []):  # type: ignore[arg-type]
            point.add_hook(function, dir=dir, **options)

    @contextmanager
    def intervene(self, *interventions: Intervention) -> Iterator["HookedMultimodal"]:
        """Have interventions in force inside the `with`, for forward passes and generation alike.

        Args:
            interventions: carried out in the order given.

        Raises:
            InputError: if one of them cannot happen on this model, before anything is attached.
        """
        pairs = [pair for intervention in interventions for pair in intervention.hooks(self)]
        before = self._watching
        with self.hooks(pairs):
            self._watching = (*before, *(each for each in interventions if isinstance(each, Watching)))
            try:
                yield self
            finally:
                self._watching = before

    def generate(self, batch: Batch | None = None, **options: Any) -> Any:
        """Generate with the Hugging Face model, greedily unless told otherwise; hooks fire at every step.

        Args:
            batch: as for `forward`; samples padded on the left.
            options: keyword tensors and options of Hugging Face's `generate` (`max_new_tokens`, `do_sample`, ...).

        Returns:
            What Hugging Face returns: token ids `[batch pos]`, prompt included where the family includes it.

        Raises:
            InputError: for image tokens without pixels and the reverse, and for padding on the right of what is to be continued.
        """
        inputs = self._inputs(batch, options)
        mask = inputs.get("attention_mask")
        if isinstance(mask, torch.Tensor) and mask.ndim == 2 and self.graph["hook_logits"].sequence == "language":
            refuse_right_padding(mask)
        with self._running("generate", batch, options, inputs), self._carrying(batch):
            return self.hf_model.generate(**{"do_sample": False, **inputs})  # type: ignore[operator]

    @contextmanager
    def _running(
        self,
        kind: Literal["forward", "generate"],
        given: Batch | None,
        more: Mapping[str, Any],
        inputs: Mapping[str, Any],
    ) -> Iterator[None]:
        """Have a run under way, once the interventions in force have agreed to it.

        Args:
            kind: of the run.
            given: the batch.
            more: keyword tensors and options that came with it.
            inputs: both together, as the Hugging Face model gets them.
        """
        tensors = {name: value for name, value in inputs.items() if isinstance(value, torch.Tensor)}
        options = {name: value for name, value in inputs.items() if name not in tensors}
        kept = isinstance(given, MultimodalBatch) and not any(
            isinstance(value, torch.Tensor) for value in more.values()
        )

        def batch() -> MultimodalBatch:
            return given if kept else self.batch(tensors)  # type: ignore[return-value]

        run, around = Run(self, kind, options, batch), self._run  # type: ignore[arg-type]
        for intervention in self._watching:
            intervention.starts(run)
        self._run = run
        try:
            yield
        finally:
            self._run = around

    def trace_generation(
        self,
        batch: Batch | None = None,
        *,
        names: Names | Selection = "blocks.*.mlp.hook_post",
        max_new_tokens: int = 20,
        use_cache: bool = True,
        **tensors: Any,
    ) -> GenerationTrace:
        """Generate greedily and keep, for each new token, the states that predicted it.

        Args:
            batch: as for `forward`; samples padded on the left.
            names: language-model points to record.
            max_new_tokens: upper bound on the new tokens.
            use_cache: with or without a KV cache; the states are the same.
            tensors: keyword tensors.

        Returns:
            Tokens, states `[batch step ...]` by name, logits and text.

        Raises:
            InputError: for vision or projector points, which predict no token; for right padding.
        """
        made = self.batch(batch, **tensors)
        return trace_generation(self, made, names=names, max_new_tokens=max_new_tokens, use_cache=use_cache)

    def caption(self, images: Images, *, prompt: str = "describe the image", max_new_tokens: int = 30) -> Any:
        """Caption one picture (a string) or several (a list of strings), greedily.

        Args:
            images: a picture, or a list of pictures.
            prompt: what to ask for.
            max_new_tokens: upper bound on the caption's tokens.
        """
        return self.answer(images, prompt, max_new_tokens=max_new_tokens)

    def answer(self, images: Images, question: str | Sequence[str], *, max_new_tokens: int = 30) -> Any:
        """Answer a question about one picture (a string), or one question per picture (a list of strings).

        Args:
            images: a picture, or a list of pictures.
            question: the question; for several pictures one for all, or one each.
            max_new_tokens: upper bound on the answer's tokens.
        """
        several = isinstance(images, list | tuple)
        pictures: list[Picture] = list(images) if several else [images]  # type: ignore[arg-type, list-item]
        questions = [question] * len(pictures) if isinstance(question, str) else list(question)
        batch = self.prepare(questions, images=[[picture] for picture in pictures])
        text = self.trace_generation(batch, names="hook_logits", max_new_tokens=max_new_tokens).text
        return text if several else text[0]


#: Rows that a position rule means, by sequence, its length and device: worked out once, not at each point.
_KnownRows = dict[tuple[str, int, torch.device], torch.Tensor]


def _picker(node: Node, layout: TokenLayout, positions: Positions, known: _KnownRows) -> RowPicker:
    """Cuts a point's tensor down to the wanted positions; checks them now where the length is known."""

    def rows(length: int, device: torch.device) -> torch.Tensor:
        key = (node.sequence, length, device)
        if key not in known:
            known[key] = layout.rows(positions, node.sequence, length).to(device)
        return known[key]

    length = layout.length(node.sequence)
    if length is not None:
        rows(length, torch.device("cpu"))

    def pick(activation: torch.Tensor) -> torch.Tensor:
        return gather_rows(activation, node.axes, rows(activation.shape[node.position_axis], activation.device))

    return pick
