"""`HookedMultimodal`: a Hugging Face vision-language model with named hook points, itself untouched."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal, Protocol, runtime_checkable

import torch
from jaxtyping import Float, Int
from torch import nn
from transformer_lens import HookedRootModule

from mmlens.core.errors import InputError
from mmlens.core.names import Names
from mmlens.core.places import Positions
from mmlens.hooks.cache import ActivationCache, RowPicker, gather_rows, record
from mmlens.hooks.graph import HookGraph, Node, Selection
from mmlens.hooks.session import HookPair, attached, resolve_hooks
from mmlens.models.adapters import Adapters
from mmlens.models.batch import MultimodalBatch, make_batch, require_pictures
from mmlens.models.bound import BoundModel
from mmlens.models.build import build
from mmlens.models.family import Family
from mmlens.models.generation import GenerationTrace, trace_generation
from mmlens.models.images import Picture
from mmlens.models.layout import TokenLayout
from mmlens.models.loading import find_family, is_covered, load_model, refuse_compiled
from mmlens.models.parts import Parts
from mmlens.models.prepare import Images, prepare_batch, with_tokens
from mmlens.models.prompts import Text
from mmlens.models.row_edits import RowEdits
from mmlens.models.run import Run, Watching
from mmlens.models.videos import Videos, holds_videos, prepare_videos

#: What run methods take: a prepared batch, a mapping of Hugging Face keyword tensors, or token ids `[batch pos]`.
Batch = MultimodalBatch | Mapping[str, torch.Tensor] | torch.Tensor


@runtime_checkable
class Intervention(Protocol):
    """Something that can be done to activations: it says at which points, and how."""

    def hooks(self, model: "HookedMultimodal") -> list[HookPair]:
        """The hooks that carry it out on this model; raises InputError if it cannot happen there."""


class HookedMultimodal(Parts, RowEdits, Adapters, HookedRootModule):
    """A vision-language model whose every residual stream, MLP neuron and attention step has a named hook point.

    The Hugging Face model stays itself: no module is replaced, no weight folded. A hook point attaches to the real
    module while it has a hook and detaches afterwards, so that without hooks the model is bit-equal to the bare one.

    Attributes:
        hf_model: the Hugging Face model.
        processor: its processor, or None.
        family: the declaration of where its parts are.
        graph: the hook-point graph.
        hook_dict: the points by name.

    Example:
        >>> batch = model.prepare("describe the image", images=scene.image)
        >>> logits, cache = model.run_with_cache(batch, names="blocks.*.hook_resid_post")
        >>> logits.shape[0], len(cache) == model.cfg.n_layers
        (1, True)
    """

    def __init__(self, hf_model: nn.Module, processor: Any | None = None, family: Family | None = None):
        super().__init__()
        self.hf_model = hf_model
        self.processor = processor
        unwrap: Any = getattr(hf_model, "get_base_model", None)  # peft models hold the real one inside
        base = hf_model if unwrap is None else unwrap()
        self.family = find_family(base) if family is None else family
        self.config = base.config
        built = build(base, self.family, self.config)
        self.graph: HookGraph = built.graph
        self.hook_dict = built.points  # type: ignore[assignment]
        self.mod_dict = dict(built.points)
        self.__dict__["_base"] = base  # not a second submodule
        self._watching: tuple[Watching, ...] = ()
        self.train(hf_model.training)

    @property
    def discovered(self) -> bool:
        """Whether its family was discovered, not declared."""
        return self.family.discovered

    # -- making one --------------------------------------------------------------------------------------------------

    @classmethod
    def from_hf(
        cls,
        hf_model: nn.Module,
        processor: Any | None = None,
        *,
        example: Mapping[str, torch.Tensor] | None = None,
    ) -> "HookedMultimodal":
        """Wrap a model that you have: fine-tuned, with an adapter, quantised, spread over devices.

        The parts of a class that no family covers are discovered from how it runs on an example, and verified.

        Args:
            hf_model: a Hugging Face vision-language model.
            processor: its processor; needed for `prepare`, `caption` and token strings.
            example: keyword tensors of a batch with a picture and text, to discover an undeclared class with; by default the
                processor makes one.

        Raises:
            UnsupportedModelError: if no family covers the class and it could not be discovered; says what was found, and the
                lines of a declaration to write.
        """
        refuse_compiled(hf_model)
        return cls(hf_model, processor, _discovered(hf_model, processor, example))

    @classmethod
    def from_pretrained(
        cls,
        path: str | Path,
        *,
        dtype: str | torch.dtype | None = None,
        device: str | torch.device | None = None,
        device_map: Any | None = None,
        processor: Any | None = None,
        verify: bool = False,
        **options: Any,
    ) -> "HookedMultimodal":
        """Load a checkpoint and its processor.

        Args:
            path: checkpoint folder, or a name that transformers knows.
            dtype: of the weights, e.g. `"bfloat16"`; the checkpoint's own by default. `torch_dtype` means the same.
            device: where to put the model; exclusive with `device_map`.
            device_map: as in transformers, e.g. `"auto"`.
            processor: a processor to use in place of the checkpoint's.
            verify: check every hook point after loading (one forward per point); raises if one fails.
            options: passed to transformers' `from_pretrained` (`quantization_config`, `revision`, `attn_implementation`, ...).

        Raises:
            InputError: if there is no checkpoint.
            UnsupportedModelError: if no family covers its class and it could not be discovered.
            VerificationError: if `verify` finds a point that fails.
        """
        hf_model, processor = load_model(
            path, dtype=dtype, device=device, device_map=device_map, processor=processor, options=options
        )
        model = cls.from_hf(hf_model, processor)
        if verify and not model.discovered:
            from mmlens.models.verify import verify as check

            check(model).raise_if_failed()
        return model

    def save_pretrained(self, folder: str | Path) -> None:
        """Save model and processor as a checkpoint that plain transformers loads."""
        self.hf_model.save_pretrained(folder)  # type: ignore[operator]
        if self.processor is not None:
            self.processor.save_pretrained(folder)

    # -- what goes in ------------------------------------------------------------------------------------------------

    def prepare(
        self,
        text: Text,
        images: Images = None,
        *,
        videos: Videos = None,
        fps: float = 24.0,
        padding_side: Literal["left", "right"] = "left",
    ) -> MultimodalBatch:
        """Make a batch of text and pictures, or of text and videos; chat template, placeholders and padding are taken care of.

        Args:
            text: a question (the chat template is put around it), a full prompt with placeholders, chat messages, or a
                list of these, one per sample.
            images: pictures (PIL, path or array): one; one per sample; or a list per sample. With a single text, a list
                means several pictures of that sample.
            videos: in place of pictures, the frames of videos: one video per sample (an array `[frame height width 3]` or a
                list of pictures), or a list of videos per sample. All frames given are read; choose them beforehand.
            fps: how many of the given frames make a second, for models that tell the time of a frame; 24 is what most Hugging
                Face processors take for granted.
            padding_side: where shorter samples are padded; generation needs `"left"`.

        Returns:
            The batch, on the model's device.

        Raises:
            InputError: for unreadable pictures, wrong channel counts, or numbers of texts, pictures and placeholders that
                do not fit; before any forward pass.
        """
        processor = self._require_processor("prepare")
        if videos is None and not holds_videos(text):
            batch = prepare_batch(self.family, self.config, processor, text, images, padding_side=padding_side)
        elif images is None:
            batch = prepare_videos(
                self.family, self.config, processor, text, videos, fps=fps, padding_side=padding_side
            )
        else:
            raise InputError("images= and videos= were both given; put pictures and videos into batches of their own.")
        return batch.to(self.device)

    def extend(self, batch: MultimodalBatch, tokens: Int[torch.Tensor, "batch step"]) -> MultimodalBatch:
        """The batch with further tokens at its end, as if they had been generated.

        Args:
            batch: padded on the left.
            tokens: new token ids, the same number for every sample.

        Returns:
            A batch whose last position predicts the token after them.
        """
        return with_tokens(self.family, self.config, batch, tokens)

    def batch(self, inputs: Batch | None = None, **tensors: Any) -> MultimodalBatch:
        """A batch from raw keyword tensors, checked, with its token layout.

        Args:
            inputs: a batch (returned as it is), a mapping, or token ids `[batch pos]`.
            tensors: keyword tensors, added to those of `inputs`.
        """
        if isinstance(inputs, MultimodalBatch) and not tensors:
            return inputs
        # raw tensors: how the pictures were made is unknown, so pixels mean processed pixels
        return make_batch(self.family, self.config, self._keywords(inputs, tensors))

    def _keywords(self, inputs: Batch | None, tensors: Mapping[str, Any]) -> dict[str, Any]:
        """The Hugging Face keyword tensors of what a run method was given."""
        if isinstance(inputs, torch.Tensor):
            found: dict[str, Any] = {"input_ids": inputs}
        elif isinstance(inputs, Mapping):
            found = dict(inputs)
        elif inputs is None:
            found = {}
        else:
            raise InputError(
                f"A run method takes a batch, a mapping of tensors or token ids, found {type(inputs).__name__}; make a batch "
                "of text and pictures with model.prepare(text, images=...)."
            )
        found |= tensors
        if not found:
            raise InputError("Nothing to run on: pass a batch, or keyword tensors (input_ids=..., pixel_values=...).")
        return found

    def _inputs(self, inputs: Batch | None, tensors: Mapping[str, Any]) -> dict[str, Any]:
        """Checked keyword tensors on the model's device."""
        found = self._keywords(inputs, tensors)
        require_pictures(self.family, self.config, found)
        device = self.device
        return {key: value.to(device) if isinstance(value, torch.Tensor) else value for key, value in found.items()}

    # -- running -----------------------------------------------------------------------------------------------------

    def forward(self, batch: Batch | None = None, **tensors: Any) -> Float[torch.Tensor, "batch pos vocab"]:
        """Run the model.

        Args:
            batch: a prepared batch, a mapping of keyword tensors, or token ids.
            tensors: keyword tensors of the Hugging Face model.

        Returns:
            Logits.

        Raises:
            InputError: for image tokens without pixels and the reverse.
        """
        inputs = self._inputs(batch, tensors)
        self._announce("forward", batch, inputs)
        with self._carrying(batch):
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
        """
        inputs = self._inputs(batch, options)
        self._announce("generate", batch, inputs)
        with self._carrying(batch):
            return self.hf_model.generate(**{"do_sample": False, **inputs})  # type: ignore[operator]

    def _announce(self, kind: Literal["forward", "generate"], given: Batch | None, inputs: Mapping[str, Any]) -> None:
        """Tell the interventions in force that act on some positions only what is about to run."""
        if not self._watching:
            return
        tensors = {name: value for name, value in inputs.items() if isinstance(value, torch.Tensor)}
        batch = given if isinstance(given, MultimodalBatch) and given.inputs.keys() == tensors.keys() else None
        options = {name: value for name, value in inputs.items() if name not in tensors}
        run = Run(kind, self.batch(tensors) if batch is None else batch, options)
        for intervention in self._watching:
            intervention.starts(run)

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

    def bind(self, batch: MultimodalBatch) -> BoundModel:
        """This model with a batch's picture held fast, for tools whose signatures take only tokens.

        Args:
            batch: supplies pictures and masks for every run; tokens of the same shape may replace its own.
        """
        return BoundModel(self, batch)

    def extra_repr(self) -> str:
        """What `print(model)` adds."""
        how = " (not declared: its parts were discovered and verified)" if self.discovered else ""
        return f"family={self.family.name}{how}, {self.graph!r}"


def _discovered(
    hf_model: nn.Module, processor: Any | None, example: Mapping[str, torch.Tensor] | None
) -> Family | None:
    """The discovered family of a model that none covers; None if one does, or there is nothing to discover it with."""
    unwrap: Any = getattr(hf_model, "get_base_model", None)
    base = hf_model if unwrap is None else unwrap()
    if is_covered(base) or (processor is None and example is None):
        return None
    # discovery builds and verifies hooked models
    from mmlens.models.discover import discover, example_for

    if example is None:
        example = example_for(base, processor)
    return discover(base, example, processor)


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
