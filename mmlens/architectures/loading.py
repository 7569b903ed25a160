"""Loading checkpoints, and finding the family of a model."""

import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

import torch
import transformers
from torch import nn
from transformers import AutoConfig, AutoModel, AutoModelForImageTextToText, PreTrainedModel
from transformers.utils import logging

from mmlens.architectures import families as _declared  # noqa: F401 - importing registers the families
from mmlens.architectures.adapter_files import WRAPPED, base_named, with_adapter
from mmlens.architectures.checkpoint_errors import reading, require_all_weights
from mmlens.architectures.checkpoint_kinds import is_listed, refuse_files, refuse_kind
from mmlens.architectures.modules import HuggingFaceModel, find_module
from mmlens.core.errors import InputError, UnsupportedModelError
from mmlens.core.names import nearest
from mmlens.declarations.family import Family
from mmlens.declarations.registry import families
from mmlens.inputs.checkpoint_files import content, hub_options
from mmlens.inputs.processing import load_processor


def family_of(class_name: str) -> Family:
    """The family that covers a Hugging Face class.

    Raises:
        UnsupportedModelError: if none does; lists the classes that are covered.
    """
    registry = families()
    if class_name not in registry:
        close = nearest(class_name, registry, count=1)
        raise UnsupportedModelError(
            f"No family covers {class_name}; covered are {', '.join(sorted(registry))}."
            + (f" Nearest: {close[0]}." if close else "")
            + " Declare it with mmlens.register_family, or pass a processor or example=tensors to from_hf, and its parts are "
            "discovered."
        )
    return registry[class_name]


def is_covered(model: nn.Module) -> bool:
    """Whether a family covers a model's class, or a base class of it."""
    registry = families()
    return any(cls.__name__ in registry for cls in type(model).__mro__)


def find_family(model: nn.Module) -> Family:
    """The family of a model, by its class or the nearest base class that is covered, with the parts that it has."""
    registry = families()
    names = [cls.__name__ for cls in type(model).__mro__ if cls.__name__ in registry]
    family = registry[names[0]] if names else family_of(type(model).__name__)
    for tower in (family, *family.other_towers):
        if find_module(model, tower.vision.stacks[0].path) is not None:
            family = tower
            break
    for language in (family.language, *family.other_languages):
        if find_module(model, language.stack.path) is not None:
            return replace(family, language=language)
    return family


def refuse_compiled(model: nn.Module) -> None:
    """Refuse models that torch.compile has taken hold of: compiled code passes by hooks that come later, without a word.

    Raises:
        UnsupportedModelError: names the compiled modules.
    """
    names = [
        name.replace("_orig_mod.", "") or type(model).__name__
        for name, module in model.named_modules()
        if hasattr(module, "_orig_mod") or getattr(module, "_compiled_call_impl", None) is not None
    ]
    if names:
        raise UnsupportedModelError(
            f"{', '.join(names[:4])} went through torch.compile, whose code does not see hooks that come and go. Wrap the "
            "model as it was before (compiled._orig_mod), and compile after the analysis."
        )


def base_of(hf_model: nn.Module) -> HuggingFaceModel:
    """The Hugging Face model itself: a peft model holds it inside."""
    unwrap = getattr(hf_model, "get_base_model", None)
    return cast(HuggingFaceModel, hf_model if unwrap is None else unwrap())


def load_model(
    path: str | Path,
    *,
    dtype: str | torch.dtype | None,
    device: str | torch.device | None,
    device_map: Any | None,
    processor: Any | None,
    strict: bool = True,
    trust_remote_code: bool = False,
    options: dict[str, Any],
) -> tuple[nn.Module, Any]:
    """Load model and processor; see `HookedMultimodal.from_pretrained`."""
    if device is not None and device_map is not None:
        raise InputError(f"device={device!r} and device_map={device_map!r} exclude each other; give one.")
    if "torch_dtype" in options:
        legacy_dtype = options.pop("torch_dtype")
        if dtype is not None and dtype != legacy_dtype:
            raise InputError(f"dtype={dtype!r} and torch_dtype={legacy_dtype!r} differ; give dtype alone.")
        dtype = legacy_dtype
    # said in either case: where transformers is not told, it asks on the terminal
    options["trust_remote_code"] = trust_remote_code
    if dtype is not None:
        options["dtype"] = _dtype(dtype)
    if device_map is not None:
        options["device_map"] = device_map
    refuse_files(path, options)
    adapter = content(path, "adapter_config.json", options)
    model: nn.Module
    if adapter:
        model, processor = _load_adapter(path, adapter, processor, strict=strict, options=options)
    else:
        model, processor = _load_whole(path, processor, strict=strict, options=options)
    if device is not None:
        nn.Module.to(model, device)
    return model, processor


def _load_whole(
    path: str | Path, processor: Any | None, *, strict: bool, options: dict[str, Any]
) -> tuple[PreTrainedModel, Any]:
    """Load a checkpoint with all of its weights.

    Raises:
        InputError: if it is none, cannot be read, or does not fit its class.
        UnsupportedModelError: if no family covers its class, or it is of another kind.
    """
    trusts_code = options["trust_remote_code"]
    load_options = hub_options(options) | {"trust_remote_code": trusts_code}
    raw = content(path, "config.json", options)
    refuse_kind(path, raw, trusted=trusts_code)
    remote = trusts_code and "auto_map" in raw
    with reading(path, is_there=bool(raw), remote=remote):
        config = AutoConfig.from_pretrained(path, **load_options)
    names = config.architectures or []
    if not names:
        raise InputError(
            f"config.json of {path} does not name the model's class: architectures is empty. Put it there, e.g. "
            '"architectures": ["LlavaForConditionalGeneration"].'
        )
    family = families().get(names[0])
    if family is None and not remote and not is_listed(config):
        family = family_of(names[0])
    scores = family is not None and family.score is not None
    with reading(path, remote=remote):
        cls = AutoModel if scores else _auto_class(raw if remote else {})
        model, info = cls.from_pretrained(path, output_loading_info=True, **options)
    if strict:
        require_all_weights(path, type(model).__name__, info)
    if processor is None:
        processor = load_processor(path, find_family(model) if family else None, model.config, **load_options)
    return model, processor


def _auto_class(config: Mapping[str, Any]) -> Any:
    """The transformers class that builds a model, given the configuration of one whose code comes with it."""
    auto_map = config.get("auto_map", {})
    for name in ("AutoModelForImageTextToText", "AutoModelForCausalLM", "AutoModel"):
        if name in auto_map:
            return getattr(transformers, name)
    return AutoModelForImageTextToText


def _load_adapter(
    path: str | Path, adapter: Mapping[str, Any], processor: Any | None, *, strict: bool, options: dict[str, Any]
) -> tuple[nn.Module, Any]:
    """Load the adapter of peft that a folder holds, on the base that its configuration names.

    Raises:
        InputError: if its base cannot be had, or it does not fit the base.
    """
    base = base_named(path, adapter, options)
    rest = {name: value for name, value in options.items() if name not in ("subfolder", "revision")}
    if adapter.get("revision"):
        rest["revision"] = adapter["revision"]
    try:
        model, of_base = _load_whole(base, processor, strict=strict, options=rest)
    except InputError as error:
        raise InputError(
            f"{path} is an adapter on {base} (base_model_name_or_path), which cannot be opened: {error} Correct that name "
            f"in adapter_config.json, or wrap it on your own: {WRAPPED}."
        ) from error
    return with_adapter(model, path, base, strict=strict, options=hub_options(options)).eval(), of_base


def _dtype(dtype: str | torch.dtype) -> str | torch.dtype:
    if isinstance(dtype, torch.dtype) or dtype == "auto":
        return dtype
    value = getattr(torch, dtype, None)
    if not isinstance(value, torch.dtype):
        raise InputError(f"dtype={dtype!r} is no torch dtype; use e.g. 'float32', 'bfloat16', 'float16' or 'auto'.")
    return value


def quieten() -> None:
    """Keep transformers' loading bars and advice out of a command's output."""
    logging.set_verbosity_error()
    logging.disable_progress_bar()


@contextmanager
def without_bars() -> Iterator[None]:
    """Load without transformers' bars: what takes no time needs none."""
    is_shown = logging.is_progress_bar_enabled()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        if is_shown:
            with warnings.catch_warnings():  # where an environment variable forbids the hub's bars
                warnings.simplefilter("ignore")
                logging.enable_progress_bar()
