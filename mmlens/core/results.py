"""The files that results are kept in: tensors with what they are, or JSON alone; each says which kind of result it holds."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file

from mmlens.core.errors import InputError
from mmlens.core.files import require_file, whole_file


def write_tensors(
    path: str | Path, tensors: Mapping[str, torch.Tensor], *, format: str, about: Mapping[str, Any]
) -> Path:
    """Write one safetensors file, whole or not at all.

    Args:
        path: file to write; its folder must exist.
        tensors: by name; tensors that share memory are told apart.
        format: the kind of result and its version, e.g. `"mmlens.PatchSweep/1"`.
        about: what the tensors are, kept as JSON in the file's metadata.
    """
    metadata = {"format": format, **{name: json.dumps(value) for name, value in about.items()}}
    copies = {name: tensor.detach().cpu().clone().contiguous() for name, tensor in tensors.items()}
    with whole_file(path) as temporary:
        save_file(copies, temporary, metadata=metadata)
    return Path(path)


def read_tensors(
    path: str | Path, *, format: str, result: str, device: torch.device | str = "cpu"
) -> tuple[dict[str, torch.Tensor], dict[str, Any]]:
    """Read a file that `write_tensors` wrote: its tensors, and what they are.

    Args:
        path: the file.
        format: the kind of result that it must hold.
        result: the same in words, for messages.
        device: where the tensors go.

    Raises:
        InputError: if there is no file, or it holds something else.
    """
    file = require_file(path, result)
    try:
        with safe_open(file, framework="pt", device=str(device)) as reader:
            metadata = reader.metadata() or {}
            kind = metadata.pop("format", None)
            tensors = {name: reader.get_tensor(name) for name in reader.keys()} if kind == format else {}  # noqa: SIM118
    except SafetensorError as error:
        raise InputError(f"{path} is not a safetensors file: {error}.") from error
    _require(path, kind, format, result)
    return tensors, {name: json.loads(value) for name, value in metadata.items()}


def write_json(path: str | Path, content: Mapping[str, Any], *, format: str) -> Path:
    """Write a result as JSON, whole or not at all.

    Args:
        path: file to write; its folder must exist.
        content: the result.
        format: the kind of result and its version.
    """
    with whole_file(path) as temporary:
        temporary.write_text(json.dumps({"format": format, **content}, indent=1) + "\n", encoding="utf-8")
    return Path(path)


def read_json(path: str | Path, *, format: str, result: str) -> dict[str, Any]:
    """Read a file that `write_json` wrote.

    Args:
        path: the file.
        format: the kind of result that it must hold.
        result: the same in words, for messages.

    Raises:
        InputError: if there is no file, or it holds something else.
    """
    file = require_file(path, result)
    try:
        content = json.loads(file.read_text(encoding="utf-8"))
    except ValueError as error:  # neither text nor JSON
        raise InputError(f"{path} is not a JSON file: {error}.") from error
    kind = content.pop("format", None) if isinstance(content, dict) else None
    _require(path, kind, format, result)
    return content


def _require(path: str | Path, kind: str | None, format: str, result: str) -> None:
    if kind != format:
        raise InputError(f"{path} is no {result} (format {kind!r}, expected {format!r}).")
