"""What the rows of a stream are, and the form in which modules hold them where hooks see another."""

from dataclasses import dataclass

from mmlens.declarations.structure import Config, Stack


@dataclass(frozen=True)
class Rows:
    """What the rows of a stream are.

    Attributes:
        axes: axis words of the stream, e.g. `"batch pos d_model"`.
        width: its last axis.
        sequence: what the position axis runs over.
        map_axes: axes of the stream itself where it is a map, whose last axis is no width; the rows are what its blocks
            flatten it to.
    """

    axes: str
    width: int
    sequence: str
    map_axes: str | None = None

    def inner(self, word: str) -> str:
        """The axes with another last one."""
        return f"{self.axes.rsplit(' ', 1)[0]} {word}"

    @property
    def packed(self) -> bool:
        """Whether there is no batch axis."""
        return "batch" not in self.axes.split()


@dataclass(frozen=True)
class Form:
    """The form in which modules hold rows, where hooks see them in another.

    Attributes:
        nested: they hold rows in several axes, of which hooks see one.
        lone_axis: an axis of length one that they hold beside those that hooks see.
        channels_first: they hold maps, `[batch d row column]`, of which hooks see rows.
        active: they hold several streams, `[stream batch pos d_model]`, of which hooks see the one of this number.
        rows_first: they hold `[row batch d]`, where hooks see `[batch row d]`.
        one_row: they hold one row of each sample, `[batch d]`, where hooks see `[batch query d]`.
    """

    nested: bool = False
    lone_axis: int | None = None
    channels_first: bool = False
    rows_first: bool = False
    active: int | None = None
    one_row: bool = False


def form_of(stack: Stack, config: Config) -> Form:
    """The form in which the modules of a stack hold rows, given the model's configuration."""
    active = None if stack.active is None else stack.active(stack.config(config))
    return Form(stack.nested, stack.lone_axis, stack.channels_first, active=active)
