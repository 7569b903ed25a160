"""Files of a checkpoint, in a folder or under a name that transformers knows."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from transformers.utils.hub import cached_file

from mmlens.core.errors import InputError

#: Options of `from_pretrained` that say which files are meant.
HUB_OPTIONS = ("revision", "token", "cache_dir", "subfolder", "local_files_only")


def hub_options(options: Mapping[str, Any]) -> dict[str, Any]:
    """The options that say which files are meant."""
    return {name: options[name] for name in HUB_OPTIONS if name in options}


def content(path: str | Path, name: str, options: Mapping[str, Any]) -> dict[str, Any]:
    """What a JSON file of a checkpoint holds; nothing if there is no such file.

    Raises:
        InputError: if it is not valid JSON.
    """
    text = file_text(path, name, options)
    try:
        return json.loads(text) if text is not None else {}
    except ValueError as error:
        raise InputError(f"{name} of {path} is no valid JSON: {error}.") from error


def file_text(path: str | Path, name: str, options: Mapping[str, Any]) -> str | None:
    """The text of a file of a checkpoint; None if there is no such file."""
    try:
        file = cached_file(path, name, _raise_exceptions_for_missing_entries=False, **hub_options(options))
    except (OSError, ValueError):  # no such checkpoint: whoever opens it says so
        return None
    return None if file is None else Path(file).read_text(encoding="utf-8")
