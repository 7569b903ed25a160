"""The states of one hook point over many samples: what concepts, shift and steering work on."""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
import torch
from jaxtyping import Bool, Float, Int

from mmlens.core.contract import checked, checked_result
from mmlens.core.errors import InputError
from mmlens.core.pictures import drawn_by
from mmlens.core.saved import Saved
from mmlens.core.view import Viewable

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.figure import Figure, SubFigure


@checked_result
@dataclass(frozen=True)
class States(Viewable, Saved):
    """States of one point, one row per sample (or per position, where several were asked for).

    Attributes:
        values: the states, in the unit of the point.
        at: the hook point.
        keys: per row, the hash of its sample's pixels and prompt; equal keys are the same sample in every run.
        tokens: per row, the word (or token) that the state predicts; for states of the prompt, the token it belongs to.
        captions: per row, what the model generated; empty where it did not generate.
        names: per row, the caller's identifier of the sample; empty where there is none.
        steps: per row, the generation step that the state made, or its position in the prompt.
        source: the model that they come from: class, fingerprint, active adapters, and how many edits and interventions
            were in force, with a hash of them.

    Example:
        >>> import mmlens as mm
        >>> states = mm.collect(model, [scene], at="blocks.4.hook_resid_post", token="person", progress=False).at()
        >>> states.values.shape, states.tokens
        (torch.Size([1, 192]), ('person',))
    """

    must_be: ClassVar[str] = (
        "states of one point; mm.collect(...).at(point) gives them, and tensors become them by mm.store.States(tensor, at=name)"
    )

    values: Float[torch.Tensor, "sample *width"]
    at: str
    keys: tuple[str, ...] = ()
    tokens: tuple[str, ...] = field(default=(), repr=False)
    captions: tuple[str, ...] = field(default=(), repr=False)
    names: tuple[str, ...] = field(default=(), repr=False)
    steps: tuple[int, ...] = field(default=(), repr=False)
    source: str = ""

    def __post_init__(self) -> None:
        count = len(self.values)
        for attribute in _PER_ROW:
            values = getattr(self, attribute)
            if values and len(values) != count:
                raise InputError(
                    f"There are {count} states but {len(values)} {attribute}; give one per state, or none."
                )

    def __repr__(self) -> str:
        words = ", ".join(sorted(set(self.tokens))[:4])
        about = f", for {words}" if words else ""
        return f"States({list(self.values.shape)} [sample width] at {self.at}{about})"

    def __len__(self) -> int:
        return len(self.values)

    @checked
    def __getitem__(
        self, rows: slice | Sequence[int] | Int[torch.Tensor, "row"] | Bool[torch.Tensor, "row"]
    ) -> "States":
        """Some of the rows: a slice, indices, or a mask."""
        index = rows if isinstance(rows, slice) else torch.as_tensor(rows, dtype=None if len(rows) else torch.long)
        if not isinstance(index, slice) and index.dtype != torch.bool:
            wrong = index[(index < -len(self)) | (index >= len(self))].tolist()
            if wrong:
                raise InputError(f"rows={wrong[:5]} are none of the {len(self)} states.")
        numbers = torch.arange(len(self))[index].tolist()
        selection: dict[str, Any] = {
            name: tuple(getattr(self, name)[i] for i in numbers) for name in _PER_ROW if getattr(self, name)
        }
        return replace(self, values=self.values[numbers], **selection)

    @checked
    def with_token(self, token: str | Sequence[str]) -> "States":
        """The states of one word, or of several.

        Raises:
            InputError: if there is no state of such a word; says which words there are.
        """
        words = {token} if isinstance(token, str) else set(token)
        rows = [number for number, word in enumerate(self.tokens) if word in words]
        if not rows:
            vocabulary = ", ".join(sorted(set(self.tokens))[:12]) or "none"
            raise InputError(f"There is no state of {', '.join(map(repr, sorted(words)))}; the words are {vocabulary}.")
        return self[rows]

    def numpy(self) -> Float[np.ndarray, "sample *width"]:
        """The values as a numpy array; bfloat16, which numpy lacks, becomes float32."""
        values = self.values.detach().cpu()
        return (values.float() if values.dtype == torch.bfloat16 else values).numpy()

    @checked
    def plot(self, *, figure: "Figure | SubFigure | None" = None) -> "Figure":
        """The states along their two leading directions, coloured by word.

        Args:
            figure: a matplotlib figure or subfigure to draw into; a new one by default.
        """
        return drawn_by("states.plot_states")(self, figure=figure)

    def to_frame(self) -> "pd.DataFrame":
        """A row per state: key, name, token, step and caption, then the values, numbered."""
        import pandas as pd

        about = {attribute: list(getattr(self, attribute)) for attribute in _PER_ROW if getattr(self, attribute)}
        flat = self.numpy().reshape(len(self), -1)
        return pd.concat([pd.DataFrame(about), pd.DataFrame(flat, columns=range(flat.shape[1]))], axis=1)

    def to_dataset(self) -> Any:
        """A Hugging Face `datasets.Dataset` in memory, with the values under `"values"`.

        Raises:
            InputError: if `datasets` is not installed.
        """
        datasets = import_datasets()
        about = {attribute: list(getattr(self, attribute)) for attribute in _PER_ROW if getattr(self, attribute)}
        return datasets.Dataset.from_dict({**about, "values": self.numpy()}).with_format("numpy", ["values"], True)


_PER_ROW = ("keys", "names", "tokens", "steps", "captions")


def import_datasets() -> Any:
    """Hugging Face's `datasets`, which few users need.

    Raises:
        InputError: if it is not installed.
    """
    try:
        import datasets
    except ImportError as error:
        raise InputError("This needs the package datasets, which is not installed: pip install datasets.") from error
    return datasets
