"""What goes wrong while a checkpoint is read, said by its cause: files, packages, options, weights of another class."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from pickle import UnpicklingError
from typing import Any

import transformers
from safetensors import SafetensorError, safe_open

from mmlens.core.errors import InputError

#: What code of a checkpoint's own may raise when it was written for another version of transformers.
_OF_OTHER_VERSIONS = (AttributeError, TypeError, KeyError, IndexError, NotImplementedError, AssertionError)


@contextmanager
def reading(path: str | Path, *, is_there: bool = True, remote: bool = False) -> Iterator[None]:
    """Say what went wrong inside the `with`, where transformers reads a checkpoint.

    Args:
        path: the checkpoint.
        is_there: whether its configuration was found.
        remote: whether code that comes with it runs.

    Raises:
        InputError: in place of what transformers and torch raise.
    """
    fault = f"The checkpoint {path} cannot be read" if is_there else f"There is no checkpoint at {path}"
    try:
        yield
    except InputError:
        raise
    except ImportError as error:
        raise InputError(f"{fault} without a package that is not installed: {first_line(error)}") from error
    except (SafetensorError, UnpicklingError, EOFError) as error:
        raise InputError(
            f"{fault}: {_damaged(path)} is damaged or cut off ({first_line(error)}). Copy it again."
        ) from error
    except TypeError as error:
        if not remote and "unexpected keyword argument" in str(error):
            name = str(error).rpartition("keyword argument ")[2]
            raise InputError(
                f"from_pretrained and {str(error).partition('.')[0]} know no option {name}. (mmlens takes dtype, device, "
                "device_map, processor, verify, strict and trust_remote_code; the others go to transformers.)"
            ) from error
        _raise_of_code(path, error, remote)
    except (OSError, ValueError, RuntimeError) as error:  # RuntimeError: weights of other shapes
        raise InputError(f"{fault}: {first_line(error)}") from error
    except _OF_OTHER_VERSIONS as error:
        _raise_of_code(path, error, remote)


def _raise_of_code(path: str | Path, error: Exception, remote: bool) -> None:
    """Say that code of a checkpoint's own failed; what it was not, goes on as it is.

    Raises:
        InputError: if it did.
    """
    if not remote:
        raise error
    raise InputError(
        f"The code that comes with {path} does not run under transformers {transformers.__version__}: "
        f"{type(error).__name__}: {first_line(error)}. Install the version that it was written for, or open a checkpoint of a "
        "class that transformers has."
    ) from error


def _damaged(path: str | Path) -> str:
    """The first file of weights in a folder that cannot be opened."""
    for file in sorted(Path(path).glob("*.safetensors")):
        try:
            with safe_open(file, framework="pt"):
                continue
        except (SafetensorError, OSError):
            return file.name
    return "a file of its weights"


def first_line(error: object) -> str:
    """What an error says, without its explanations."""
    text = str(error).strip()
    return text.splitlines()[0] if text else type(error).__name__


def require_all_weights(path: str | Path, name: str, info: Mapping[str, Any]) -> None:
    """Check that a checkpoint has the weights of its class and no others.

    Args:
        path: the checkpoint.
        name: of the class.
        info: what transformers tells of the loading.

    Raises:
        InputError: names those that are missing, unexpected or of another shape.
    """
    notes = {
        "lacks": ("which would be drawn at random", sorted(info.get("missing_keys", ()))),
        "has": ("which have no place in it", sorted(info.get("unexpected_keys", ()))),
        "has other shapes of": (
            "which would be drawn at random",
            sorted(str(key) for key in info.get("mismatched_keys", ())),
        ),
    }
    lines = [
        f"{kind} {len(keys)} ({', '.join(keys[:4])}{', ...' if len(keys) > 4 else ''}), {why}"
        for kind, (why, keys) in notes.items()
        if keys
    ]
    if lines:
        raise InputError(
            f"The weights of {path} are not those of {name}: it {'; it '.join(lines)}. Open the checkpoint with the class "
            "that it was made with; strict=False opens it all the same."
        )
