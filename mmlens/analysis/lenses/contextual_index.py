"""Words in texts with their states, which stay in files where there are too many for memory: what a latent lens reads by."""

import pickle
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float

from mmlens.analysis.store.mapped import MappedStates
from mmlens.analysis.store.store import ActivationStore
from mmlens.core.contract import checked, checked_result
from mmlens.core.errors import DamagedFileError, InputError
from mmlens.core.kinds import Count, PathLike
from mmlens.core.results import TensorKind
from mmlens.core.tensor_files import TensorFile

_FILE = TensorKind("mmlens.lenses.ContextualIndex", 1, "contextual index", {"entries": dict[str, Any]})
#: What reading a file that is something else raises.
_DAMAGES = (ValueError, KeyError, TypeError, AttributeError, RuntimeError, EOFError, OSError, pickle.UnpicklingError)


@checked_result
@dataclass(frozen=True, repr=False)
class ContextualIndex:
    """States of words in texts, by hook point.

    Attributes:
        states: by hook name, a state per entry (`values`), its word (`tokens`) and the text up to the word (`captions`); read
            by slices, of any length: cosines are compared.

    Example:
        >>> import mmlens as mm
        >>> index = mm.lenses.contextual_index(model, ["a red circle", "a blue moon"], at="blocks.[24].hook_resid_post")
        >>> index.words["blocks.4.hook_resid_post"][:2]
        ('circle', 'moon')
    """

    states: Mapping[str, MappedStates]

    @classmethod
    @checked
    def of(
        cls,
        states: Mapping[str, Float[torch.Tensor, "entry d_model"]],
        words: Mapping[str, Sequence[str]],
        contexts: Mapping[str, Sequence[str]] | None = None,
    ) -> "ContextualIndex":
        """An index of tensors.

        Args:
            states: by hook name.
            words: by hook name, the word of each entry.
            contexts: by hook name, the text that it stands in, up to the word.

        Raises:
            InputError: for another number of words or contexts than of states, or no states.
        """
        about = {
            name: (words.get(name, ()), (contexts or {}).get(name) or ("",) * len(rows))
            for name, rows in states.items()
        }
        wrong = [name for name, sides in about.items() if any(len(side) != len(states[name]) for side in sides)]
        if wrong or not states or not all(map(len, states.values())):
            raise InputError(
                f"An index needs states, and a word and a context for each; found other numbers at {', '.join(wrong) or states}."
            )
        rows = _TensorRows(states)
        return cls(
            {
                name: MappedStates.of_rows(
                    rows, name, tuple(tensor.shape), tokens=about[name][0], captions=about[name][1]
                )
                for name, tensor in states.items()
            }
        )

    @classmethod
    @checked
    def of_store(cls, store: ActivationStore) -> "ContextualIndex":
        """The index that a store holds."""
        return cls({point: store.mapped(point) for point in store.points})

    def __repr__(self) -> str:
        return f"ContextualIndex({', '.join(f'{name}: {len(rows)} words' for name, rows in self.states.items())})"

    @property
    def words(self) -> dict[str, tuple[str, ...]]:
        """By hook name, the word of each entry."""
        return {name: states.tokens for name, states in self.states.items()}

    @property
    def contexts(self) -> dict[str, tuple[str, ...]]:
        """By hook name, the text that each word stands in, up to it."""
        return {name: states.captions for name, states in self.states.items()}

    @checked
    def save(self, path: PathLike) -> Path:
        """Write it as one safetensors file, whole or not at all, in float16. All of it is read for this; an index made with
        `into=` is in its folder already."""
        about = {name: {"words": states.tokens, "contexts": states.captions} for name, states in self.states.items()}
        return _FILE.write(
            path, {name: states.values[:].half() for name, states in self.states.items()}, {"entries": about}
        )

    @classmethod
    @checked
    def load(cls, path: PathLike) -> "ContextualIndex":
        """Open one that `save` wrote, or the folder that `contextual_index(into=...)` made; states stay there.

        Raises:
            InputError: if there is none, or it is no contextual index.
        """
        if Path(path).is_dir():
            return cls.of_store(ActivationStore.load(path))
        file, about = _FILE.open(path)
        states = {}
        for name, entry in about["entries"].items():
            file.check(name)
            states[name] = MappedStates.of_rows(
                _FileRows(file), name, file.shapes[name], tokens=entry["words"], captions=entry["contexts"]
            )
        return cls(states)

    @classmethod
    @checked
    def from_latentlens(cls, folder: PathLike, *, n_layers: Count) -> "ContextualIndex":
        """Open an index that the package latentlens wrote: `layer_N/embeddings_cache.pt`, for each layer; states stay there.

        Its layer N is `blocks.{N-1}.hook_resid_post`, 0 the embedding; that behind the last block is normed, and left out, as its
        states are not of the stream. Its files are pickles, which are opened as data alone.

        Args:
            folder: the folder.
            n_layers: blocks of the model that it was made with.

        Raises:
            InputError: for a folder without layers.
            DamagedFileError: for files that hold something else.
        """
        parts: dict[str, dict[str, Any]] = {"states": {}, "words": {}, "contexts": {}}
        for path in sorted(
            Path(folder).glob("layer_*/embeddings_cache.pt"), key=lambda p: int(p.parent.name.split("_")[1])
        ):
            number = int(path.parent.name.split("_")[1])
            if number < n_layers:
                name = "hook_embed" if number == 0 else f"blocks.{number - 1}.hook_resid_post"
                for part, value in zip(parts.values(), _layer(path), strict=True):
                    part[name] = value
        if not parts["states"]:
            raise InputError(
                f"{folder} holds no layer_N/embeddings_cache.pt of a latentlens index (layers below {n_layers})."
            )
        return cls.of(**parts)


def _layer(path: Path) -> tuple[torch.Tensor, tuple[str, ...], tuple[str, ...]]:
    """States, words and contexts of a layer's file; the states are mapped into memory."""
    try:
        content = torch.load(path, weights_only=True, map_location="cpu", mmap=True)
        rows, about = content["embeddings"], content["metadata"]
        if rows.ndim != 2 or len(rows) != len(about) or not len(rows):
            raise ValueError(f"{list(rows.shape)} embeddings and {len(about)} entries")
        words = tuple(str(entry["token_str"]).strip() for entry in about)
        return rows, words, tuple(str(entry.get("caption", "")) for entry in about)
    except _DAMAGES as error:
        raise DamagedFileError(f"{path} is no layer of a latentlens index: {str(error).splitlines()[0]}") from error


@dataclass(frozen=True)
class _TensorRows:
    """The rows of an index of tensors, which may be mapped into memory themselves."""

    states: Mapping[str, torch.Tensor]

    def values(self, point: str, rows: slice) -> torch.Tensor:
        """Some rows of a point."""
        return self.states[point][rows]


@dataclass(frozen=True)
class _FileRows:
    """The rows of an index in one file."""

    file: TensorFile

    def values(self, point: str, rows: slice) -> torch.Tensor:
        """Some rows of a point."""
        return self.file.rows(point, rows)
