"""`HookedMultimodal`: a Hugging Face vision-language model with named hook points, itself untouched."""

import copy
from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar

import torch
from torch import nn

from mmlens.architectures.build import build
from mmlens.architectures.loading import base_of, find_family, is_covered, load_model, refuse_compiled
from mmlens.core.errors import InputError
from mmlens.declarations.family import Family
from mmlens.hooks.graph import HookGraph
from mmlens.inputs.batch import MultimodalBatch
from mmlens.inputs.inputs import Batch as Batch
from mmlens.models.adapters import Adapters
from mmlens.models.bound import BoundModel
from mmlens.models.row_edits import RowEdits
from mmlens.models.running import Intervention as Intervention
from mmlens.models.running import Running


class HookedMultimodal(RowEdits, Adapters, Running):
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

    must_be: ClassVar[str] = (
        "a HookedMultimodal: HookedMultimodal.from_hf(model, processor) wraps a Hugging Face model, "
        "from_pretrained(path) loads a checkpoint"
    )

    def __init__(self, hf_model: nn.Module, processor: Any | None = None, family: Family | None = None):
        super().__init__()
        self.hf_model = hf_model
        self.processor = processor
        base: Any = base_of(hf_model)
        self.family = find_family(base) if family is None else family
        self.config = base.config
        built = build(base, self.family, self.config)
        self.graph: HookGraph = built.graph
        self.hook_dict = built.points  # type: ignore[assignment]
        self.mod_dict = dict(built.points)
        self.__dict__["_base"] = base  # not a second submodule
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

    def __deepcopy__(self, memo: dict[int, Any]) -> "HookedMultimodal":
        """A hooked model of its own on a copy of the weights, e.g. to have the original and an edited one side by side.

        The copy is wrapped anew: how points reach their tensors is bound to the modules of the model that they were made for.

        Raises:
            InputError: while hooks are attached or edits are in force, which would be copied half.
        """
        hooked = [name for name, point in self.hook_dict.items() if point.attached]
        if hooked or self.edits:
            what = f"hooks are attached ({', '.join(hooked[:3])})" if hooked else f"{self.edits[0]!r} is in force"
            raise InputError(f"A model cannot be copied while {what}; copy it first, and hook or edit the copy.")
        copied = type(self)(copy.deepcopy(self.hf_model, memo), self.processor, self.family)
        memo[id(self)] = copied
        return copied

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
    base: Any = base_of(hf_model)
    if is_covered(base) or (processor is None and example is None):
        return None
    # discovery builds and verifies hooked models
    from mmlens.discover import discover, example_for

    if example is None:
        example = example_for(base, processor)
    return discover(base, example, processor)
