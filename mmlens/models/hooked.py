"""`HookedMultimodal`: a Hugging Face vision-language model with named hook points, itself untouched."""

import copy
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, NoReturn, TypeAlias, cast

import torch
from torch import nn

from mmlens.architectures.build import build
from mmlens.architectures.loading import base_of, find_family, is_covered, load_model, refuse_compiled
from mmlens.architectures.modules import HuggingFaceModel
from mmlens.core.contract import checked
from mmlens.core.errors import InputError
from mmlens.core.identity import counts_with
from mmlens.core.kinds import PathLike, With
from mmlens.core.tensor_kinds import Device
from mmlens.core.view import Display
from mmlens.declarations.family import Family
from mmlens.declarations.structure import Config
from mmlens.discover import discover, example_for
from mmlens.hooks.graph import HookGraph
from mmlens.hooks.point import Point
from mmlens.hooks.splice import Splice
from mmlens.inputs.batch import BatchLike
from mmlens.inputs.inputs import Inputs, device_of
from mmlens.inputs.processing import Processor
from mmlens.models.adapters import Adapters, InPlace, refuse_prompts
from mmlens.models.answers import Answers
from mmlens.models.bound.model import BoundModel
from mmlens.models.delegation import method_of, property_of
from mmlens.models.dual_encoder import writes
from mmlens.models.fingerprint import fingerprint
from mmlens.models.module_paths import hook_name_of
from mmlens.models.protocol import inputs_of
from mmlens.models.row_edits import RowEdits, WeightEdit
from mmlens.models.runs import Runs
from mmlens.models.splices import Splices
from mmlens.models.transformer_lens_names import TransformerLensNames
from mmlens.models.trial import Trial
from mmlens.models.verify import verify as verified

if TYPE_CHECKING:
    # run methods take other arguments than TransformerLens's of the same name, on purpose
    from torch.nn import Module as HookedRootModule
else:
    from transformer_lens import HookedRootModule


@counts_with(fingerprint)
class HookedMultimodal(TransformerLensNames, HookedRootModule, Display):
    """A vision-language model whose every residual stream, MLP neuron and attention step has a named hook point.

    The Hugging Face model stays itself: no module is replaced, no weight folded. A hook point attaches to the real
    module while it has a hook and detaches afterwards, so that without hooks the model is bit-equal to the bare one.

    Its parts have files of their own, and what they do is listed here part by part: the inputs it takes
    (`mmlens.inputs.inputs`), its runs, the edits of its weights, its adapters; its weights and its vocabulary are in
    `mmlens.models.transformer_lens_names`.

    Attributes:
        hf_model: the Hugging Face model.
        processor: its processor, or None.
        family: the declaration of where its parts are.
        config: its configuration.
        graph: the hook-point graph, with the points of sparse dictionaries while these are attached.
        plain_graph: the graph without those.
        spliced: sparse dictionaries in the path, by the point that they write; `attach` puts them there.
        hook_dict: the points by name.

    Example:
        >>> batch = model.prepare("describe the image", images=scene.image)
        >>> logits, cache = model.run_with_cache(batch, names="blocks.*.hook_resid_post")
        >>> logits.shape[0], len(cache) == model.cfg.n_layers
        (1, True)
    """

    must_be: ClassVar[str] = (
        "a HookedMultimodal: HookedMultimodal.from_hf(model, processor) wraps a Hugging Face model, "
        "from_pretrained(path) loads a checkpoint"
    )
    hf_model: HuggingFaceModel
    hook_dict: dict[str, Point]
    reset_hooks: Callable[..., None]

    @checked
    def __init__(self, hf_model: nn.Module, processor: Processor | None = None, family: Family | None = None):
        super().__init__()
        self.hf_model = cast(HuggingFaceModel, hf_model)
        self.processor = processor
        self.family = find_family(self.base) if family is None else family
        self.config: Config = self.base.config
        structure = build(self.base, self.family, self.config)
        self.graph: HookGraph = structure.graph
        self.plain_graph: HookGraph = structure.graph
        self.spliced: dict[str, Splice] = {}
        self.hook_dict = structure.points
        self.mod_dict = dict(structure.points)
        self._in_place = InPlace(hf_model)
        self.training = hf_model.training  # train() would put all of the model's modules into one mode

    def follow(self) -> None:
        """Have points reach the modules that act now, if adapters came or a copy of a module (`modules_to_save`) took over."""
        if self._in_place.changed():
            for name, point in build(self.base, self.family, self.config).points.items():
                self.hook_dict[name].rebind(point)

    # -- its parts ---------------------------------------------------------------------------------------------------

    @property
    def base(self) -> HuggingFaceModel:
        """The Hugging Face model itself, without adapters around it."""
        return base_of(self.hf_model)

    @property
    def discovered(self) -> bool:
        """Whether its family was discovered, not declared."""
        return self.family.discovered

    @property
    def device(self) -> torch.device:
        """Where inputs go: the device of the model's first weights, or where offloaded ones are brought to run."""
        return device_of(self.hf_model)

    def hook_name_of(self, path: str) -> str:
        """The hook point that holds what a module returns, or takes; see `mmlens.models.module_paths.hook_name_of`."""
        return hook_name_of(self, path)

    def extra_repr(self) -> str:
        """What `print(model)` adds."""
        how = " (not declared: its parts were discovered and verified)" if self.discovered else ""
        return f"family={self.family.name}{how}, {self.graph!r}"

    # -- making one --------------------------------------------------------------------------------------------------

    @classmethod
    @checked
    def from_hf(
        cls,
        hf_model: nn.Module,
        processor: Processor | None = None,
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
        refuse_prompts(hf_model)
        base = base_of(hf_model)
        if is_covered(base) or (processor is None and example is None):
            return cls(hf_model, processor)
        tensors = example_for(base, processor) if example is None else example
        return cls(hf_model, processor, discover(base, tensors, processor, trial=Trial(cls, base, tensors)))

    @classmethod
    @checked
    def from_pretrained(
        cls,
        path: PathLike,
        *,
        dtype: str | torch.dtype | None = None,
        device: Device | None = None,
        device_map: str | int | torch.device | Mapping[str, int | str | torch.device] | None = None,
        processor: Processor | None = None,
        verify: bool = False,
        strict: bool = True,
        trust_remote_code: bool = False,
        **options: Any,
    ) -> "HookedMultimodal":
        """Load a checkpoint and its processor.

        Args:
            path: checkpoint folder, or a name that transformers knows; or the folder of a peft adapter, whose base is opened.
            dtype: of the weights, e.g. `"bfloat16"`; the checkpoint's own by default. `torch_dtype` means the same.
            device: where to put the model; exclusive with `device_map`.
            device_map: as in transformers, e.g. `"auto"`.
            processor: a processor to use in place of the checkpoint's.
            verify: check every hook point after loading (one forward per point); raises if one fails.
            strict: refuse a checkpoint whose weights are not exactly those of its class.
            trust_remote_code: run code that comes with the checkpoint, where its class is not part of transformers.
            options: those of transformers' `from_pretrained` (`subfolder`, `revision`, `quantization_config`, ...).

        Raises:
            InputError: if there is no checkpoint, its weights do not fit, or a part is missing; says what to do.
            UnsupportedModelError: if no family covers its class and it could not be discovered.
            VerificationError: if `verify` finds a point that fails.
        """
        hf_model, processor = load_model(
            path,
            dtype=dtype,
            device=device,
            device_map=device_map,
            processor=processor,
            strict=strict,
            trust_remote_code=trust_remote_code,
            options=options,
        )
        model = cls.from_hf(hf_model, processor)
        if verify and not model.discovered:
            verified(model).raise_if_failed()
        return model

    @checked
    def save_pretrained(self, folder: PathLike) -> None:
        """Save model and processor as a checkpoint that plain transformers loads."""
        self.hf_model.save_pretrained(folder)
        if self.processor is not None:
            self.processor.save_pretrained(folder)

    def __deepcopy__(self, memo: dict[int, Any]) -> "HookedMultimodal":
        """A hooked model of its own on a copy of the weights, e.g. to have the original and an edited one side by side.

        The copy is wrapped anew: how points reach their tensors is bound to the modules of the model that they were made for.

        Raises:
            InputError: while hooks are attached or edits are in force, which would be copied half.
        """
        hooked = [name for name, point in self.hook_dict.items() if point.attached]
        if hooked or self.edits:
            reason = f"hooks are attached ({', '.join(hooked[:3])})" if hooked else f"{self.edits[0]!r} is in force"
            raise InputError(f"A model cannot be copied while {reason}; copy it first, and hook or edit the copy.")
        twin = type(self)(copy.deepcopy(self.hf_model, memo), self.processor, self.family)
        memo[id(self)] = twin
        return twin

    def __reduce__(self) -> NoReturn:
        """Never: transformers' own hooks on a model that ran, and how points reach their tensors, cannot be written down.

        Raises:
            InputError: always; says what to do.
        """
        raise InputError(
            "A HookedMultimodal cannot be pickled (sent to another process, put into a file by pickle or torch.save). Save it by "
            "model.save_pretrained(folder) and load it where it is needed; results that hold a model, such as scores and caches, "
            "have save() and load(model=...)."
        )

    # -- what goes in ------------------------------------------------------------------------------------------------

    prepare = method_of(inputs_of, Inputs.prepare)
    extend = method_of(inputs_of, Inputs.extend)
    batch = method_of(inputs_of, Inputs.batch)

    @checked
    def bind(self, batch: BatchLike) -> BoundModel:
        """This model with a batch's picture held fast, for tools whose signatures take only tokens.

        Args:
            batch: supplies pictures and masks for every run; tokens of the same shape may replace its own.
        """
        return BoundModel(self, batch)

    # -- running it --------------------------------------------------------------------------------------------------

    forward = method_of(Runs, Runs.forward)
    generate = method_of(Runs, Runs.generate)
    current_run = property_of(Runs, Runs.current)
    hooks = method_of(Runs, Runs.hooks)
    add_hook = method_of(Runs, Runs.add_hook)
    intervene = method_of(Runs, Runs.intervene)
    run_with_hooks = method_of(Runs, Runs.run_with_hooks)
    run_with_cache = method_of(Runs, Runs.run_with_cache)
    default_points = property_of(Runs, Runs.default_points)
    trace_generation = method_of(Answers, Answers.trace_generation)
    caption = method_of(Answers, Answers.caption)
    answer = method_of(Answers, Answers.answer)

    # -- edits of its weights ----------------------------------------------------------------------------------------

    edits = property_of(RowEdits, RowEdits.edits)
    edited = method_of(RowEdits, RowEdits.edited)
    revert = method_of(RowEdits, RowEdits.revert)
    unedited_fingerprint = property_of(RowEdits, RowEdits.unedited_fingerprint)

    @checked
    def apply(self, edit: WeightEdit | Callable[[nn.Module], None]) -> "HookedMultimodal":
        """Put an edit in force until `revert`; what `save_pretrained` then saves is the edited model.

        Args:
            edit: from `mm.edits`. (A function is called on every module, as in torch.)

        Returns:
            The model.

        Raises:
            InputError: if it was made for another model or cannot be made here, before anything is written.
        """
        if not isinstance(edit, WeightEdit):
            return super().apply(edit)
        RowEdits(self).put(edit)
        return self

    # -- its adapters ------------------------------------------------------------------------------------------------

    adapters = property_of(Adapters, Adapters.names)
    active_adapters = property_of(Adapters, Adapters.active)
    adapter = method_of(Adapters, Adapters.adapter)

    # -- sparse dictionaries -------------------------------------------------------------------------------------------

    attach = method_of(Splices, Splices.attach)
    dictionaries = property_of(Splices, Splices.dictionaries)


#: A model that writes words, as verbs take it that need a vocabulary or an answer; dual encoders are refused before any work.
WritingModel: TypeAlias = Annotated[HookedMultimodal, With(writes)]
