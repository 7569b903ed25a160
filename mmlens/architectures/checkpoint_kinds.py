"""What a checkpoint is, told from its files alone: what cannot be opened is refused by its name, with what to do."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import transformers
from transformers import CONFIG_MAPPING, MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING
from transformers.models.auto import modeling_auto

from mmlens.core.errors import InputError, UnsupportedModelError
from mmlens.core.names import nearest
from mmlens.declarations.registry import families


def refuse_files(path: str | Path, options: Mapping[str, Any]) -> None:
    """Refuse what is no folder of a transformers checkpoint.

    Raises:
        UnsupportedModelError: for GGUF, diffusers and original weights.
        InputError: for a file, or a folder that holds checkpoints in folders of its own.
    """
    folder = Path(path) / (options.get("subfolder") or "")
    if str(path).endswith(".gguf") or options.get("gguf_file") or (folder.is_dir() and _is_gguf(folder)):
        raise UnsupportedModelError(
            f"{path} holds weights for llama.cpp (GGUF), which have no modules to hook, and whose vision tower lies in a file of "
            "its own. Open the checkpoint that they were made from."
        )
    if not Path(path).exists() and (Path(path).is_absolute() or str(path).startswith((".", "~"))):
        raise InputError(f"There is no checkpoint at {path}: there is no such folder.")
    if Path(path).is_dir() and not folder.exists():
        inside = sorted(entry.name for entry in Path(path).iterdir() if entry.is_dir())
        raise InputError(
            f"There is no checkpoint at {folder}: {path} has no folder {options['subfolder']!r}; it has "
            f"{', '.join(inside[:6]) or 'none'}."
        )
    if folder.is_file():
        raise InputError(f"{path} is a file; pass the folder that it lies in, with its config.json and preprocessor.")
    if folder.is_dir():
        _refuse_folder(path, folder)


def _refuse_folder(path: str | Path, folder: Path) -> None:
    """Refuse a folder that is no checkpoint of transformers or peft; raises as `refuse_files`."""
    if pointers := [file.name for file in sorted(folder.glob("*.*")) if _is_pointer(file)]:
        raise InputError(
            f"{path} holds pointers of git-lfs where files should be ({', '.join(pointers[:3])}); fetch them with git lfs pull."
        )
    if (folder / "config.json").exists() or (folder / "adapter_config.json").exists():
        return
    if (folder / "model_index.json").exists():
        raise UnsupportedModelError(
            f"{path} is a pipeline of diffusers, which makes pictures; mmlens opens models that read pictures and write text."
        )
    if (folder / "params.json").exists() or any(folder.glob("consolidated.*")):
        raise UnsupportedModelError(
            f"{path} holds weights as their authors trained them (params.json, consolidated.*), not as transformers reads them; "
            "open the converted checkpoint (config.json, *.safetensors)."
        )
    inside = sorted(
        {file.parent.name for name in ("config", "adapter_config") for file in folder.glob(f"*/{name}.json")}
    )
    if inside:
        raise InputError(
            f"{path} holds no checkpoint, but folders in it do ({', '.join(inside[:5])}); pass subfolder={inside[-1]!r}, or "
            "the path of that folder."
        )
    raise InputError(
        f"There is no checkpoint at {path}: the folder has no config.json; it holds "
        f"{', '.join(sorted(file.name for file in folder.iterdir())[:6]) or 'nothing'}."
    )


def _is_gguf(folder: Path) -> bool:
    return any(folder.glob("*.gguf")) and not any(folder.glob("*.safetensors"))


def _is_pointer(file: Path) -> bool:
    """Whether git-lfs has put a note in the place of a file."""
    if file.suffix not in (".safetensors", ".bin", ".json", ".model") or not 0 < file.stat().st_size < 1024:
        return False
    return file.read_bytes().startswith(b"version https://git-lfs")


def refuse_kind(path: str | Path, config: Mapping[str, Any], *, trusted: bool) -> None:
    """Refuse models of another kind, as their configuration tells.

    Args:
        path: the checkpoint.
        config: what its `config.json` holds.
        trusted: whether code that comes with it may run.

    Raises:
        UnsupportedModelError: for original LLaVA, dual encoders, and models of text or of pictures alone.
        InputError: for one whose code comes with it and was not trusted, or whose type nobody knows.
    """
    names = config.get("architectures") or []
    kind = str(config.get("model_type", ""))
    title = f"{names[0]}, model_type {kind!r}" if names else f"model_type {kind!r}"
    if isinstance(config.get("quantization"), Mapping):
        raise UnsupportedModelError(
            f"{path} holds weights for MLX ({title}), whose codes torch does not read. Open the checkpoint that they were made "
            "from."
        )
    if names and names[0] in families() and kind in CONFIG_MAPPING:
        return
    if "mm_vision_tower" in config or "mm_projector_type" in config:
        raise UnsupportedModelError(
            f"{path} is an original LLaVA checkpoint ({title}), whose code is not part of transformers. Open the converted one "
            "(for liuhaotian/llava-v1.5-7b that is llava-hf/llava-1.5-7b-hf), or convert it with the script "
            "beside the class in transformers' repository."
        )
    if "auto_map" in config:
        if trusted:
            return
        raise InputError(
            f"The class of {path} ({title}) comes as code with the checkpoint; pass trust_remote_code=True if you trust its "
            "author, and its parts are discovered."
        )
    if kind in _kinds("IMAGE_TEXT_TO_TEXT"):
        return
    base_kind = kind.removesuffix("_vision_model").removesuffix("_text_model")
    if base_kind != kind and base_kind in _kinds("ZERO_SHOT_IMAGE_CLASSIFICATION"):
        raise UnsupportedModelError(
            f"{path} is one tower of a dual encoder ({title}), which scores nothing by itself; open the checkpoint of both."
        )
    for task, label in _OTHER_KINDS:
        if kind in _kinds(task):
            raise UnsupportedModelError(f"{path} is {label} ({title}); {_READS}")
    if config and kind not in CONFIG_MAPPING:
        raise UnsupportedModelError(
            f"transformers {transformers.__version__} knows no model_type {kind!r}, which config.json of {path} gives"
            f"{f' ({names[0]})' if names else ''}, and no code comes with the checkpoint. "
            + (f"Nearest: {', '.join(close)}. " if (close := nearest(kind, CONFIG_MAPPING, count=2)) else "")
            + "A newer transformers may know it; a model that you have loaded otherwise is wrapped by "
            "HookedMultimodal.from_hf(model, processor)."
        )


_READS = (
    "mmlens opens models that read pictures and write text, and dual encoders built like CLIP or SigLIP. `mmlens families` lists "
    "those that are covered."
)
#: The tasks under which transformers lists models of other kinds, and what they are; the first that fits is said.
_OTHER_KINDS = (
    ("ZERO_SHOT_IMAGE_CLASSIFICATION", "a dual encoder of a kind that no family covers"),
    ("SPEECH_SEQ_2_SEQ", "a model of speech"),
    ("CAUSAL_LM", "a language model that sees no pictures"),
    ("SEQ_TO_SEQ_CAUSAL_LM", "a language model that sees no pictures"),
    ("MASKED_LM", "a language model that sees no pictures"),
    ("IMAGE_CLASSIFICATION", "a vision encoder without a language model"),
    ("BACKBONE", "a vision encoder without a language model"),
    ("IMAGE", "a vision encoder without a language model"),
)


def _kinds(task: str) -> Mapping[str, Any]:
    """The model types that transformers lists under a task."""
    return getattr(modeling_auto, f"MODEL_FOR_{task}_MAPPING_NAMES", {})


def is_listed(config: object) -> bool:
    """Whether transformers has a class for pictures and text for a configuration."""
    return type(config) in MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING
