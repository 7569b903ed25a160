"""Who looks where: the attention of each token of the prompt to each patch of a picture, layer by layer and head by head."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal

import torch
from jaxtyping import Float
from PIL import Image

from mmlens.analysis.attention.shares import language_patterns
from mmlens.analysis.heatmap import HeatMap, map_of_rows
from mmlens.core.contract import checked, checked_result
from mmlens.core.errors import InputError, NoPlaceError
from mmlens.core.kinds import Index, Several
from mmlens.core.pictures import drawn_by
from mmlens.core.rules import Positions, as_rule
from mmlens.core.saved import Saved
from mmlens.core.view import View, Viewable
from mmlens.hooks.point import reads_only
from mmlens.inputs.batch import BatchLike
from mmlens.inputs.layout import TokenLayout
from mmlens.inputs.row_reader import RowReader
from mmlens.models.hooked import HookedMultimodal

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.figure import Figure, SubFigure


@checked_result
@dataclass(frozen=True)
class AttentionLooks(Viewable, Saved):
    """Attention to a picture's patches, in shares of each query's attention (0 to 1).

    Attributes:
        values: to each patch, in the order of `boxes`; what their sum lacks to 1 goes to text and to other pictures.
        layers: the layers that were read.
        queries: the tokens that look, as strings.
        positions: theirs, counted among the sample's own tokens.
        boxes: of the patches, in pixels of the picture: left, top, right, bottom.
        picture: the picture, if the batch holds it.
        layout: of the batch.
        sample, image: which picture.
        frame: which frame of it, if it is a video.

    Example:
        >>> import mmlens as mm
        >>> looks = mm.lenses.attention_looks(model, batch, queries=-1)
        >>> looks.shares.shape  # of the picture, layer by layer and head by head
        torch.Size([6, 6, 1])
    """

    values: Float[torch.Tensor, "layer head query patch"] = field(repr=False)
    layers: tuple[int, ...]
    queries: tuple[str, ...]
    positions: tuple[int, ...]
    boxes: Float[torch.Tensor, "patch 4"] = field(repr=False)
    picture: Image.Image | None = field(default=None, repr=False, compare=False)
    layout: TokenLayout | None = field(default=None, repr=False, compare=False)
    sample: int = 0
    image: int = 0
    frame: int | None = None

    def __repr__(self) -> str:
        layer, head, query = self.most
        return (
            f"AttentionLooks({len(self.queries)} tokens to {len(self.boxes)} patches, {len(self.layers)} layers x "
            f"{self.values.shape[1]} heads; at most {float(self.shares[layer, head, query]):.2f} of the attention of "
            f"{self.queries[query]!r} goes to the picture, in L{self.layers[layer]}.h{head})"
        )

    @property
    def shares(self) -> Float[torch.Tensor, "layer head query"]:
        """How much of each query's attention goes to the picture."""
        return self.values.sum(-1)

    @checked
    def map(self, query: Index, *, layer: Index | None = None, head: Index | None = None) -> HeatMap:
        """The attention of one token as a map over the picture.

        Args:
            query: its number among `queries`.
            layer: one of `layers`; their mean by default.
            head: its number; the mean of heads by default.

        Raises:
            InputError: for a query, layer or head that was not read.
        """
        if self.layout is None:
            raise InputError("These looks know no layout, so that they cannot be laid over a picture.")
        if query >= len(self.queries) or (layer is not None and layer not in self.layers):
            raise InputError(
                f"query={query}, layer={layer} was not read: there are {len(self.queries)} queries, counted from 0, and the "
                f"layers {list(self.layers)}."
            )
        if head is not None and head >= self.values.shape[1]:
            raise InputError(f"head={head} must lie in 0..{self.values.shape[1] - 1}.")
        look = self.values[:, :, query]
        look = look if layer is None else look[self.layers.index(layer)][None]
        look = look if head is None else look[:, head][:, None]
        rows = torch.zeros(self.layout.is_token.shape[1])
        place: dict[str, Any] = {"sample": self.sample, "image": self.image, "frame": self.frame}
        rows[self.layout.grid(**place).rows] = look.mean((0, 1))
        where = f"layer {layer}" if layer is not None else f"layers {self.layers[0]} to {self.layers[-1]}"
        title = f"attention of {self.queries[query]!r}, {where}" + ("" if head is None else f", head {head}")
        return map_of_rows(self.layout, rows, title=title, **place)

    @checked
    def view(self, image: Any = None, *, heads: Literal["best", "all"] = "best") -> View:
        """The looks as a piece of HTML to look into: see `Viewable.view`.

        Args:
            image: the picture that it is about, where the batch does not hold it.
            heads: maps of the heads that look at the picture most, as many as weigh about 1 MB; or `"all"`, up to 16 MB: all
                1,024 of a model of 7B for 24 tokens and 576 patches. The view says how many there are.

        Raises:
            InputError: if the picture cannot be read, or is not the one.
        """
        return drawn_by("page.show.looks_view")(self, image, heads)

    @checked
    def plot(self, *, figure: "Figure | SubFigure | None" = None) -> "Figure":
        """How much each head of each layer gives to the picture, and where the three tokens look that look at it most.

        Args:
            figure: a matplotlib figure or subfigure to draw into; a new one by default.
        """
        return drawn_by("heads.plot_looks")(self, figure=figure)

    def to_frame(self) -> "pd.DataFrame":
        """One row per layer, head and query: how much of its attention goes to the picture, and to which patch most of it."""
        import pandas as pd

        rows = []
        for layer, head, query in torch.cartesian_prod(*map(torch.arange, self.shares.shape)).tolist():
            most = int(self.values[layer, head, query].argmax())
            rows.append({
                "layer": self.layers[layer],
                "head": head,
                "position": self.positions[query],
                "token": self.queries[query],
                "share": float(self.shares[layer, head, query]),
                "patch": most,
                "share of the patch": float(self.values[layer, head, query, most]),
            })  # fmt: skip
        return pd.DataFrame(rows)

    @property
    def most(self) -> tuple[int, int, int]:
        """The layer (its number among `layers`), head and query with the largest share on the picture."""
        layer, rest = divmod(int(self.shares.argmax()), self.shares[0].numel())
        return layer, *divmod(rest, self.shares.shape[-1])


@checked
@torch.no_grad()
def attention_looks(
    model: HookedMultimodal,
    batch: BatchLike,
    *,
    queries: Positions = "text",
    layers: Several[Index] | None = None,
    sample: Index = 0,
    image: Index = 0,
    frame: Index | None = None,
) -> AttentionLooks:
    """Attention of each token to each patch, in one pass, without averaging over heads or layers; `attention_map` averages.

    Attention says where a head looks, and not what of it counts: `mm.knock_out` cuts it and measures what becomes of the answer.

    Args:
        model: the hooked model.
        batch: what to run on.
        queries: who looks (see `mm.positions`): the text of the prompt by default.
        layers: which layers; all by default.
        sample, image: whose picture.
        frame: which frame, if it is a video.

    Returns:
        The looks: as the last expression of a cell a view of them (token by token, a matrix of heads), `.map(query)`,
        `.to_frame()`.

    Raises:
        InputError: for layers, queries or pictures that do not exist; before any forward pass where that is known.
        NoPlaceError: where the queries see no row of the picture that has a place in it (Q-Formers, cross-attention, decoders).
    """
    nodes = language_patterns(model, layers)
    if sample >= batch.size:
        raise InputError(f"sample={sample} must lie in 0..{batch.size - 1}.")
    try:
        grid = batch.layout.grid(sample=sample, image=image, frame=frame)
    except NoPlaceError as error:
        raise NoPlaceError(
            f"{error} Looks are the language model's; where the encoder looks: mm.attention_map(model, batch, part='vision')."
        ) from error
    reader = RowReader(as_rule(queries), batch, nodes)
    patterns: list[torch.Tensor] = []

    @reads_only
    def keep(pattern: torch.Tensor, hook: Any) -> None:
        node = model.graph[hook.name]
        rows = reader.flat(node, pattern)  # [row head key]
        counts = [len(pairs) for pairs in reader.resolved[node.name].rows]
        sample_rows = rows[sum(counts[:sample]) : sum(counts[: sample + 1])]
        patterns.append(sample_rows[..., grid.rows.to(pattern.device)].float().cpu().transpose(0, 1))

    model.run_with_hooks(batch, fwd_hooks=[([node.name for node in nodes], keep)])
    numbers = reader.resolved[nodes[0].name].numbers[sample].tolist()
    if not numbers:
        raise InputError(f"queries={queries!r} name nothing in sample {sample}.")
    return AttentionLooks(
        torch.stack(patterns),
        tuple(int(node.layer or 0) for node in nodes),
        tuple(_strings(model, batch, sample, numbers)),
        tuple(numbers),
        grid.boxes.float(),
        _picture(batch, sample, image, frame),
        batch.layout,
        sample,
        image,
        frame,
    )


def _picture(batch: BatchLike, sample: int, image: int, frame: int | None) -> Image.Image | None:
    """The picture, or the frame of a video; None where the batch was made of tensors."""
    if batch.videos and frame is not None:
        return batch.videos[sample][image][frame]
    return batch.images[sample][image] if batch.images else None


def _strings(model: HookedMultimodal, batch: BatchLike, sample: int, numbers: Sequence[int]) -> list[str]:
    """The tokens at some of a sample's own positions, as they are read."""
    ids = batch["input_ids"][sample][batch.layout.is_token[sample]]
    return [model.tokenizer.decode([int(ids[number])]) for number in numbers]
