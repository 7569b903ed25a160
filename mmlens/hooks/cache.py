"""The activation cache: TransformerLens's, with parts, positions and files."""

import re
from collections.abc import Callable, Sequence
from typing import Annotated, Any, TypeAlias

import torch
from jaxtyping import Bool, Float, Int
from transformer_lens import ActivationCache as TransformerLensCache
from transformer_lens.utilities import get_act_name

from mmlens.core.axes import batch_axis, position_axis
from mmlens.core.contract import checked
from mmlens.core.errors import InputError, UnknownNameError
from mmlens.core.kinds import Must, PathLike
from mmlens.core.names import Part, nearest, part_prefix, require_part
from mmlens.core.results import TensorKind
from mmlens.core.tensor_kinds import Device
from mmlens.core.view import Display
from mmlens.hooks.point import reads_only

_FILE = TensorKind(
    "mmlens.store.ActivationCache",
    2,
    "activation cache",
    {"axes": dict[str, str], "positions": str | None, "has_batch_dim": bool, "counts": dict[str, list[int]] | None},
)


#: A hooked model, or None.
Hooked: TypeAlias = Annotated[
    Any, Must("a hooked model or None", lambda value: value is None or hasattr(value, "hook_dict"), instead=True)
]


class ActivationCache(TransformerLensCache, Display):
    """Activations of one run by hook name.

    Everything that TransformerLens's cache does works here (`cache["resid_post", 2]`, `accumulated_resid`,
    `decompose_resid`, `stack_head_results`, `logit_attrs`, ...); shorthands mean the language model, and
    `cache.part("vision")` speaks them for another part.

    Args:
        cache_dict: tensors by hook name.
        model: the hooked model (or a part of it); None for a cache read from a file without one.
        has_batch_dim: whether tensors keep their batch axis.
        axes: axis words by hook name.
        positions: the positions that were kept, if not all, in words.
        counts: by hook name, how many rows of each sample were kept, if not all. The first axis then runs over samples, in
            towers too; where samples differ, tensors hold NaN behind a sample's last row, and `samples` gives them without.

    Example:
        >>> logits, cache = model.run_with_cache(batch)
        >>> cache["resid_post", 0].shape == cache["blocks.0.hook_resid_post"].shape
        True
        >>> cache.part("vision")["resid_post", 0].shape[-1] == model.part("vision").cfg.d_model
        True
    """

    def __init__(
        self,
        cache_dict: dict[str, torch.Tensor],
        model: Any,
        has_batch_dim: bool = True,
        axes: dict[str, str] | None = None,
        positions: str | None = None,
        counts: dict[str, list[int]] | None = None,
    ):
        super().__init__(cache_dict, model, has_batch_dim)
        self.axes = axes or {}
        self.positions = positions
        self.counts = counts or {}

    def __getitem__(self, key: Any) -> torch.Tensor:
        if isinstance(key, str) and key in self.cache_dict:
            return self.cache_dict[key]
        parts = key if isinstance(key, tuple) else (key,)
        if not all(isinstance(part, str | int | None) for part in parts) or not isinstance(parts[0], str):
            raise InputError(f"{key!r} is no hook name and no short form of one, such as ('resid_post', 3).")
        if isinstance(key, tuple) and len(key) > 1 and isinstance(key[1], int) and key[1] < 0:
            if self.model is None:
                raise InputError(
                    f"Layer {key[1]} counts from the end, but this cache was loaded without a model; pass model=."
                )
            key = (key[0], self.model.cfg.n_layers + key[1], *key[2:])
        name = get_act_name(*key) if isinstance(key, tuple) else get_act_name(key)
        for candidate in (name, f"hook_{key}"):
            if candidate in self.cache_dict:
                return self.cache_dict[candidate]
        close = nearest(name, self.cache_dict)
        raise UnknownNameError(
            f"The cache holds nothing under {key!r} (hook name {name!r}); it holds {len(self)} activations."
            + (f" Nearest: {', '.join(close)}." if close else "")
            + " Scores and patterns are cached only when named: run_with_cache(..., names=...)."
        )

    def _ipython_key_completions_(self) -> list[str | tuple[str, int]]:
        """What stands behind `cache["` and a tab: names, and TransformerLens's shorthands for blocks of the language model."""
        blocks = (re.fullmatch(r"blocks\.(\d+)\.(?:attn\.|mlp\.)?hook_(\w+)", name) for name in self.cache_dict)
        short = [(match[2], int(match[1])) for match in blocks if match]
        return [*self.cache_dict, *(key for key in short if get_act_name(*key) in self.cache_dict)]

    def __repr__(self) -> str:
        size = sum(tensor.numel() * tensor.element_size() for tensor in self.cache_dict.values()) / 2**20
        rows = f", positions {self.positions}" if self.positions else ""
        return f"ActivationCache: {len(self)} activations, {size:.1f} MiB{rows}"

    @checked
    def samples(self, name: str) -> list[torch.Tensor]:
        """A point's activation sample by sample, each with as many rows as it has, without a batch axis.

        Args:
            name: hook name.

        Raises:
            InputError: if all positions were kept: then padding is among them.
        """
        tensor = self[name]
        if name not in self.counts:
            raise InputError(
                f"{name!r} was cached with all its rows, padding too; name positions: run_with_cache(..., positions='prompt')."
            )
        axis = position_axis(self.axes[name]) - 1
        return [
            sample_tensor.narrow(axis, 0, count) for sample_tensor, count in zip(tensor, self.counts[name], strict=True)
        ]

    @checked
    def mask(self, name: str) -> Bool[torch.Tensor, "batch row"]:
        """True at the rows of a point that samples have; False behind a sample's last."""
        return row_mask(
            [sample_tensor.shape[position_axis(self.axes[name]) - 1] for sample_tensor in self.samples(name)]
        )

    @checked
    def part(self, part: Part) -> "ActivationCache":
        """The activations of one part under bare names, so that shorthands work on it.

        Args:
            part: `"vision"`, `"projector"` or `"language"`.
        """
        prefix = part_prefix(require_part(part))
        others = tuple(part_prefix(p) for p in ("vision", "projector"))

        def own(entries: dict[str, Any]) -> dict[str, Any]:
            if prefix:
                return {name.removeprefix(prefix): value for name, value in entries.items() if name.startswith(prefix)}
            return {name: value for name, value in entries.items() if not name.startswith(others)}

        tensors = own(self.cache_dict)
        if not tensors:
            raise InputError(f"The cache holds no activations of the part {part!r}; name some when you run the model.")
        owner: Any = self.model
        model = None if owner is None else owner.part(part)
        return ActivationCache(tensors, model, self.has_batch_dim, own(self.axes), self.positions, own(self.counts))

    @checked
    def save(self, path: PathLike) -> None:
        """Write the cache as one safetensors file, whole or not at all.

        Args:
            path: file to write; the folder must exist.
        """
        about = {
            "axes": self.axes,
            "positions": self.positions,
            "has_batch_dim": self.has_batch_dim,
            "counts": self.counts,
        }
        _FILE.write(path, self.cache_dict, about)

    @classmethod
    @checked
    def load(cls, path: PathLike, model: Hooked = None, device: Device = "cpu") -> "ActivationCache":
        """Read a cache that `save` wrote.

        Args:
            path: the file.
            model: the hooked model, needed for negative layers and for TransformerLens's residual-stream methods.
            device: where the tensors go.

        Raises:
            InputError: if there is no file, or it is not a cache.
        """
        tensors, read = _FILE.read(path, device=device)
        tensors = {name: tensors[name] for name in read["axes"] if name in tensors} | tensors
        return cls(tensors, model, read["has_batch_dim"], read["axes"], read["positions"], read["counts"])


#: Picks rows along a point's position axis; built by the model from the batch's token layout.
RowPicker = Callable[[torch.Tensor], torch.Tensor]


def gather_samples(
    tensor: torch.Tensor, axes: str, rows: Sequence[Int[torch.Tensor, "row 2"]]
) -> Float[torch.Tensor, "batch ..."]:
    """Keep some rows of each sample.

    Args:
        tensor: an activation.
        axes: its axis words.
        rows: per sample, (entry of the batch axis, row along the position axis); the entry counts for nothing where there is
            no batch axis.

    Returns:
        The rows with a batch axis of samples in front and `row` in the place of the position axis; where samples differ in how
        many they have, NaN behind the last.
    """
    counts = [len(sample_rows) for sample_rows in rows]
    index = torch.nn.utils.rnn.pad_sequence(list(rows), batch_first=True).to(tensor.device)
    batch, axis = batch_axis(axes), position_axis(axes)
    if batch is None:
        values = tensor.movedim(axis, 0)[index[..., 1]]
        axis += 1
    else:
        values = tensor.movedim(axis, 1)[index[..., 0], index[..., 1]]
    if len(set(counts)) > 1:
        there = row_mask(counts).to(tensor.device)
        values = values.masked_fill(~there.reshape(*there.shape, *[1] * (values.ndim - 2)), torch.nan)
    return values.movedim(1, axis)


def row_mask(counts: Sequence[int]) -> Bool[torch.Tensor, "batch row"]:
    """True at the rows that samples have, of as many as the longest has."""
    return torch.arange(max(counts, default=0)) < torch.tensor(counts)[:, None]


def record_activations(
    store: dict[str, torch.Tensor], pick: RowPicker | None, device: torch.device | str | None
) -> Callable[..., None]:
    """A hook function that keeps the activation it sees, detached, under the point's name.

    Args:
        store: where it is kept.
        pick: which rows to keep; None for all.
        device: where to keep it; None for where it is.
    """

    @reads_only
    def keep(activation: torch.Tensor, hook: Any) -> None:
        value = activation.detach()
        value = value if pick is None else pick(value)
        store[hook.name] = value if device is None else value.to(device)

    return keep
