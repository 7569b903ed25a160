"""Adapters in folders, as peft saves them: on which base, and whether they fit it."""

import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import peft
from peft import PeftModel, PeftType
from safetensors import SafetensorError
from torch import nn

from mmlens.architectures.checkpoint_errors import first_line
from mmlens.core.errors import InputError
from mmlens.core.names import nearest
from mmlens.inputs.checkpoint_files import content

#: How an adapter is wrapped on a base that the user has loaded.
WRAPPED = "HookedMultimodal.from_hf(PeftModel.from_pretrained(base, path), processor)"


def base_named(path: str | Path, adapter: Mapping[str, Any], options: Mapping[str, Any]) -> str:
    """The base of an adapter, as its configuration names it, once it is known that peft can read the adapter.

    Args:
        path: the adapter's folder, or a name.
        adapter: what its `adapter_config.json` holds.
        options: of `from_pretrained`.

    Raises:
        InputError: if no base is named or it is an adapter too, for kinds that peft does not know, and without weights.
    """
    kind = adapter.get("peft_type")
    if kind not in PeftType.__members__:
        raise InputError(
            f"adapter_config.json of {path} gives peft_type={kind!r}, which peft {peft.__version__} does not know"
            f"{f' (nearest: {close[0]})' if (close := nearest(str(kind), PeftType.__members__, count=1)) else ''}. Install the "
            "version that wrote it."
        )
    folder = Path(path) / (options.get("subfolder") or "")
    if folder.is_dir() and not any(folder.glob("adapter_model.*")):
        raise InputError(
            f"{path} is an adapter (adapter_config.json) without weights: adapter_model.safetensors is not there. Copy it from "
            "where it was trained."
        )
    base = adapter.get("base_model_name_or_path")
    if not base:
        raise InputError(f"{path} is an adapter (adapter_config.json) that names no base; wrap it on yours: {WRAPPED}.")
    base = str(Path(path) / base) if (Path(path) / base / "config.json").exists() else str(base)
    if Path(base).is_dir() and content(base, "adapter_config.json", {}) and not content(base, "config.json", {}):
        raise InputError(
            f"{path} is an adapter on {base}, which is an adapter too. Merge that into its base first (peft's "
            f"merge_and_unload, then save_pretrained), or wrap both on your own: {WRAPPED}."
        )
    return base


def with_adapter(
    model: nn.Module, path: str | Path, base: str, *, strict: bool, options: Mapping[str, Any]
) -> PeftModel:
    """A model with the adapter of a folder around it.

    Args:
        model: the base.
        path: the adapter's folder, or a name.
        base: the base's name, for messages.
        strict: refuse an adapter some of whose weights are not there.
        options: those that say which files are meant.

    Raises:
        InputError: if it does not fit the base.
    """
    with warnings.catch_warnings(record=True) as remarks:
        warnings.simplefilter("always")
        try:
            peft_model = PeftModel.from_pretrained(model, str(path), **options)
        except SafetensorError as error:
            raise InputError(
                f"The weights of the adapter {path} are damaged or cut off ({first_line(error)})."
            ) from error
        except (OSError, ValueError, RuntimeError, KeyError, TypeError, ImportError) as error:
            lines = str(error).strip().splitlines()
            why = " ".join(line.strip() for line in lines[:2]) or type(error).__name__
            raise InputError(f"The adapter {path} does not fit its base {base}: {why}") from error
    for remark in remarks:
        if strict and "missing adapter keys" in str(remark.message):
            raise InputError(
                f"The adapter {path} does not fit its base {base}: {first_line(remark.message)}; strict=False opens it all the "
                "same."
            )
    return peft_model
