"""Files of sparse dictionaries: which of a folder's files are the weights and the configuration, read without running code."""

import json
import pickle
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open

from mmlens.analysis.features.formats.pieces import Files
from mmlens.core.errors import DamagedFileError, InputError
from mmlens.core.files import require_file
from mmlens.core.tensor_files import TensorFile

_WEIGHTS = ("sae_weights.safetensors", "sae.safetensors", "params.safetensors", "ae.pt")
_CONFIGURATIONS = ("cfg.json", "config.json")
#: What the package writes says so, and is compared with its checksums.
FORM = "mmlens.features.SparseDictionary"


def read_files(path: str | Path) -> Files:
    """A dictionary's weights and configuration.

    Args:
        path: its folder, or the file of weights in it.

    Raises:
        InputError: if a file is missing, or cannot be read as what it is.
        DamagedFileError: for weights that are cut off, do not match their checksums, or hold no numbers.
    """
    weights = _weights(Path(path))
    where = next((weights.parent / name for name in _CONFIGURATIONS if (weights.parent / name).is_file()), None)
    if where is None:
        raise InputError(
            f"No {' or '.join(_CONFIGURATIONS)} beside {weights} says how codes come about. Take it from where the weights are "
            "from; or say it: mm.features.SparseDictionary(W_enc, b_enc, W_dec, b_dec, at, activation=..., centred=...)."
        )
    tensors = _pickled(weights) if weights.suffix == ".pt" else _safe(weights)
    empty = [name for name, tensor in tensors.items() if not torch.isfinite(tensor).all()]
    if empty:
        raise DamagedFileError(f"{weights} holds NaN or infinity in {', '.join(empty)}; take it from a copy.")
    return Files(str(weights.parent), weights.parent.resolve().name, _configuration(where), tensors)


def _weights(path: Path) -> Path:
    if not path.is_dir():
        return require_file(path, "file of a sparse dictionary")
    files = [path / name for name in _WEIGHTS if (path / name).is_file()] or sorted(path.glob("*.safetensors"))
    if len(files) == 1:
        return files[0]
    others = sorted(entry.name for entry in path.iterdir())
    pickles = [name for name in others if name.endswith((".pt", ".pth", ".bin", ".pkl"))]
    if not files and pickles:
        raise InputError(
            f"{path} holds {', '.join(pickles)}, which only running what it holds could open; convert it with the library that "
            "wrote it to SAELens's format (cfg.json and sae_weights.safetensors)."
        )
    folders = sorted(child.name for child in path.iterdir() if child.is_dir())
    hint = f" Its folders are {', '.join(folders[:6])}: name one." if folders else ""
    names = ", ".join(file.name for file in files) or ", ".join(others[:6]) or "nothing"
    raise InputError(
        f"{path} holds {names}, and one file of weights is expected ({', '.join(_WEIGHTS)}): name the file.{hint}"
    )


def _configuration(path: Path) -> Mapping[str, Any]:
    try:
        cfg = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise DamagedFileError(f"{path} is not a JSON file: {error}.") from error
    if not isinstance(cfg, Mapping):
        raise InputError(f"{path} holds a {type(cfg).__name__}, where a configuration has settings by name.")
    return cfg


def _safe(path: Path) -> dict[str, torch.Tensor]:
    try:
        with safe_open(path, framework="pt") as reader:
            if (reader.metadata() or {}).get("format") != json.dumps(FORM):
                names: list[str] = list(reader.keys())
                return {name: reader.get_tensor(name) for name in names}
    except (SafetensorError, OSError) as error:
        raise DamagedFileError(f"{path} is no safetensors file, or a damaged one: {error}.") from error
    file = TensorFile(path, "sparse dictionary", lambda form: None)
    return {name: file.tensor(name) for name in file.names}


def _pickled(path: Path) -> dict[str, torch.Tensor]:
    """Tensors of a pickle, nothing of which is run."""
    try:
        tensors = torch.load(path, map_location="cpu", weights_only=True)
    except (pickle.UnpicklingError, RuntimeError, EOFError, OSError, ValueError) as error:
        raise InputError(
            f"{path} holds more than tensors, or is damaged: it is opened without running what it holds, and that failed "
            f"({str(error).splitlines()[0]})."
        ) from error
    if not isinstance(tensors, Mapping) or not all(isinstance(value, torch.Tensor | int) for value in tensors.values()):
        raise InputError(f"{path} holds a {type(tensors).__name__}, where tensors by name are expected (a state dict).")
    return {name: torch.as_tensor(value) for name, value in tensors.items()}
