"""Loading checkpoints, and finding the family of a model."""

from dataclasses import replace
from pathlib import Path
from typing import Any, cast

import torch
from torch import nn
from transformers import MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING, AutoConfig, AutoModelForImageTextToText
from transformers.utils import logging

from mmlens.architectures import families as _declared  # noqa: F401 - importing registers the families
from mmlens.architectures.modules import HuggingFaceModel, find_module
from mmlens.core.errors import InputError, UnsupportedModelError
from mmlens.core.names import nearest
from mmlens.declarations.family import Family
from mmlens.declarations.registry import families
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
    hub_options = {
        key: options[key] for key in ("revision", "token", "trust_remote_code", "cache_dir") if key in options
    }
    try:
        config = AutoConfig.from_pretrained(path, **hub_options)
    except (OSError, ValueError) as error:
        raise InputError(f"There is no checkpoint at {path}: {_first_line(error)}") from error
    names = config.architectures or []
    if not names:
        raise InputError(f"The checkpoint {path} does not name its class (config.architectures is empty).")
    family = families().get(names[0])
    if family is None and type(config) not in MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING:
        family = family_of(names[0])
    if dtype is not None:
        options["dtype"] = _dtype(dtype)
    if device_map is not None:
        options["device_map"] = device_map
    try:
        model = AutoModelForImageTextToText.from_pretrained(path, **options)
    except OSError as error:
        raise InputError(f"The checkpoint {path} cannot be read: {_first_line(error)}") from error
    if device is not None:
        nn.Module.to(model, device)
    if processor is None:
        processor = load_processor(path, find_family(model) if family else None, model.config, **hub_options)
    return model, processor


def _dtype(dtype: str | torch.dtype) -> str | torch.dtype:
    if isinstance(dtype, torch.dtype) or dtype == "auto":
        return dtype
    value = getattr(torch, dtype, None)
    if not isinstance(value, torch.dtype):
        raise InputError(f"dtype={dtype!r} is no torch dtype; use e.g. 'float32', 'bfloat16', 'float16' or 'auto'.")
    return value


def _first_line(error: BaseException) -> str:
    return str(error).strip().splitlines()[0]


def quieten() -> None:
    """Keep transformers' loading bars and advice out of a command's output."""
    logging.set_verbosity_error()
    logging.disable_progress_bar()
