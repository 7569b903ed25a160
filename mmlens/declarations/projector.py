"""What a family declares of what stands between the vision encoder and the language model."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

from mmlens.core.contract import checked
from mmlens.core.kinds import Text
from mmlens.declarations.structure import Attention, Config, Mlp, Stack


@checked
@dataclass(frozen=True)
class DeepStack:
    """Mergers that read earlier vision blocks, whose features are added to the stream between language blocks.

    Attributes:
        path: the `nn.ModuleList` of mergers.
        mlp: the hidden layer of each, relative to the merger.
        argument: name of the argument by which a merger receives the vision features.
        read: the vision block that each reads, given the model's configuration.
        into: the language block whose input each is added to; the second and those behind it by default.
        side_by_side: how many of the tower's rows are laid side by side in each row that a merger receives, given the
            model's configuration.
    """

    path: Text
    mlp: Mlp
    argument: str
    read: Callable[[Config], Sequence[int]] = lambda config: config.vision_config.deepstack_visual_indexes
    into: Callable[[Config], Sequence[int]] = lambda config: range(
        1, 1 + len(config.vision_config.deepstack_visual_indexes)
    )
    side_by_side: Callable[[Config], int] = lambda config: 1


@checked
@dataclass(frozen=True)
class FeatureMethod:
    """A method whose result holds the features, where no module returns them all at once.

    Attributes:
        path: the module that has it.
        name: the method.
        field: the attribute of its result that holds the features: a tensor, or one per picture.
    """

    path: Text
    name: str
    field: str


@checked
@dataclass(frozen=True)
class Pooling:
    """Attention of a projector that stands in no block: there is no stream that its output is added to.

    Attributes:
        attention: where its linears are, in paths relative to the model.
        heads: number of heads, given the model's configuration.
        windows: every row that it returns is pooled from a window of patches of its own, so that the batch axis of its
            points runs over windows; else learned queries look at all patches.
    """

    attention: Attention
    heads: Callable[[Config], int]
    windows: bool = False


@checked
@dataclass(frozen=True)
class Projector:
    """What stands between the vision encoder and the language model.

    Attributes:
        receives: the module that receives the vision features, and the name of that argument; or the module of the tower
            that returns them, and None.
        returns: the module (or method) that returns the features in the language model's width.
        mlp: its hidden layer, if it has one.
        mlp_first: the hidden layer stands in front of what queries look at, not behind it.
        mlp_rows: what the rows of the hidden layer are called, where they are put into another order before they are
            returned; they have no places then.
        mlp_rows_first: the hidden layer holds its rows in front of the batch, `[row batch d]`; hooks see `[batch row d]`.
        stack: the blocks of a Q-Former or perceiver.
        pooling: attention in no block, which pools patches or lets learned queries look at them.
        mixer: a module that does the same without hook points inside.
        queries: the rows it returns are learned queries, not patches.
        width: how wide the rows are that it returns, given the model's configuration; as the language model's stream, if
            None.
        receives_rows: whether the rows it receives are those that it returns (`"projector"`), or the tower's own
            (`"vision"`), which it merges or which queries look at.
        side_by_side: how many of the tower's rows are laid side by side in each row that it receives, given the model's
            configuration.
        received_width: how wide the rows are that it receives, given the model's configuration; as what is read, if None.
        packed: the rows of all pictures lie in one sequence, without a batch axis; as in the tower, if None.
        laid_out: a module whose output has the layout that `returns` loses, where that one gets the rows of all pictures in
            one sequence; its point shows them picture by picture.
        nested: its modules hold rows in several axes (pictures, tiles and patches of a sample, or the rows and columns of a
            raster); hooks see one.
        lone_axis: as for `Stack`.
        one_row: it returns one row for each picture, `[batch d_model]`, which hooks see as `[batch query d_model]`.
        deepstack: further mergers, whose features enter the language model above its first block.
    """

    receives: tuple[str, str | None]
    returns: str | FeatureMethod
    mlp: Mlp | None = None
    mlp_first: bool = False
    mlp_rows: str | None = None
    mlp_rows_first: bool = False
    stack: Stack | None = None
    pooling: Pooling | None = None
    mixer: str | None = None
    queries: bool = False
    width: Callable[[Config], int] | None = None
    receives_rows: Literal["vision", "projector"] = "projector"
    side_by_side: Callable[[Config], int] = lambda config: 1
    received_width: Callable[[Config], int] | None = None
    packed: bool | None = None
    laid_out: str | None = None
    nested: bool = False
    lone_axis: int | None = None
    one_row: bool = False
    deepstack: DeepStack | None = None
