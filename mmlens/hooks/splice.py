"""A sparse dictionary in the path of a point: its codes, what they give back, and what is left, as hook points.

    x = site  ->  input  ->  acts_pre  ->  acts_post  ->  recons  ->  output -> on
                              error = y - decode(encode(x))  ------------^

What goes on is what was there, plus what edits at these points change:

    y' = y + (decode(f') - decode(f)) + (error' - error)

so that a row in which nothing was edited is bit-equal to what it was, and what the dictionary cannot give back is kept. Gradients
go through the codes alone: the error is a constant.

Source: names as in SAELens's HookedSAETransformer (https://github.com/decoderesearch/SAELens), error term as in Marks et al.,
"Sparse Feature Circuits", ICLR 2025 (https://arxiv.org/abs/2403.19647).
*Departs:* `recons` is in the unit of the point, with what a transcoder leads past its features, so that recons + error = output.
"""

from collections.abc import Callable, Iterator
from dataclasses import replace
from itertools import pairwise
from typing import Protocol, TypeVar, runtime_checkable

import torch

from mmlens.core.errors import MMLensError
from mmlens.hooks.nodes import Node, node_kind
from mmlens.hooks.point import Point
from mmlens.hooks.site import Tap

_D = TypeVar("_D", bound="Dictionary")


@runtime_checkable
class Dictionary(Protocol):
    """A sparse dictionary as a splice uses it: `mmlens.features.SparseDictionary`."""

    @property
    def at(self) -> str:
        """The hook point whose states it gives back."""

    @property
    def at_in(self) -> str | None:
        """What it reads, if that is another point."""

    @property
    def d_in(self) -> int:
        """Width of what it reads."""

    @property
    def d_out(self) -> int:
        """Width of what it writes."""

    @property
    def W_dec(self) -> torch.Tensor:
        """What each feature writes, `[feature d_out]`."""

    @property
    def W_skip(self) -> torch.Tensor | None:
        """What goes past the features, `[d_out d_in]`."""

    @property
    def scales(self) -> bool:
        """Whether what is decoded is scaled by a number of each state."""

    def __len__(self) -> int: ...

    def to(self: _D, device: torch.device) -> _D:
        """The same on a device."""

    def flat(self, x: torch.Tensor, width: int) -> torch.Tensor:
        """States with heads side by side."""

    def pre_codes(self, x: torch.Tensor) -> torch.Tensor:
        """What codes are made of."""

    def codes(self, pre_codes: torch.Tensor, x: torch.Tensor) -> torch.Tensor:
        """Codes."""

    def written(self, codes: torch.Tensor, x: torch.Tensor | None) -> torch.Tensor:
        """What codes write."""


class Slot:
    """One place in a splice where a point stands; it is an attachment (`mmlens.hooks.attachment`)."""

    def __init__(self) -> None:
        self.taps: list[Tap] = []

    def attach(self, tap: Tap) -> None:
        """Put the tap in the path."""
        self.taps.append(tap)

    def detach(self, tap: Tap) -> None:
        """Take it out."""
        self.taps.remove(tap)

    def through(self, tensor: torch.Tensor) -> torch.Tensor:
        """The tensor as the taps leave it."""
        for tap in tuple(self.taps):
            tensor = tap(tensor)
        return tensor


class Splice:
    """A dictionary in the path of a point, and its points; nothing is computed while none of them has a hook.

    Args:
        dictionary: the dictionary.
        site: the point that it writes.
        source: what it reads, if that is another point.

    Attributes:
        points: by name.
    """

    def __init__(self, dictionary: Dictionary, site: Node, source: Node | None = None):
        self.dictionary, self.site, self.source = dictionary, site, source
        slots = {kind: Slot() for kind in ("input", "acts_pre", "acts_post", "recons", "error", "output")}
        self._input, self._pre, self._post, self._recons, self._error, self._output = slots.values()
        self._slots = tuple(slots.values())
        self.points = {self._name(kind): Point(self._name(kind), slot) for kind, slot in slots.items()}
        self._received: torch.Tensor | None = None

    def _name(self, kind: str) -> str:
        return f"{self.site.name}.hook_sae_{kind}"

    @property
    def active(self) -> bool:
        """Whether one of its points has a hook."""
        return any(slot.taps for slot in self._slots)

    def attach(self, point: Point, source: Point | None) -> Callable[[], None]:
        """Be in the path, until what is returned is called.

        Args:
            point: the point that it writes.
            source: that which it reads, if that is another one.
        """
        leave = [source.then(self._read)] if source is not None else []
        leave.append(point.then(self._write))

        def detach() -> None:
            self._received = None
            for undo in leave:
                undo()

        return detach

    def nodes(self) -> Iterator[Node]:
        """The points as nodes of the graph, in their order."""
        read = self.site if self.source is None else self.source
        count, width = len(self.dictionary), self.dictionary.d_in
        rows, features = _wide(read.axes), f"{_rows(self.site.axes)} feature"
        shapes: dict[str, tuple[str, int | None]] = {
            "input": (rows, width),
            "acts_pre": (features, count),
            "acts_post": (features, count),
            "output": (self.site.axes, self.site.width),
        }
        for kind in ("input", "acts_pre", "acts_post", "recons", "error", "output"):
            axes, size = shapes.get(kind, (_wide(self.site.axes), self.dictionary.d_out))
            name, units = self._name(kind), count if kind == "acts_post" else None
            yield replace(self.site, name=name, kind=node_kind(name), axes=axes, width=size, role=None, units=units)

    def edges(self, successors: list[str], names: set[str]) -> list[tuple[str, str]]:
        """The flow through it.

        Args:
            successors: the points that the site flows into.
            names: those of the graph.
        """
        read = self.site.name if self.source is None else self.source.name
        chain = [self._name(kind) for kind in ("input", "acts_pre", "acts_post", "recons", "output")]
        edges = [*pairwise(chain), (self.site.name, self._name("error"))]
        edges += [(self._name("error"), chain[-1]), *((chain[-1], name) for name in successors)]
        return [*edges, (read, chain[0])] if read in names else edges

    def _read(self, x: torch.Tensor) -> torch.Tensor:
        self._received = x if self.active else None
        return x

    def _write(self, y: torch.Tensor) -> torch.Tensor:
        if not self.active:
            return y
        dictionary, source = self.dictionary.to(y.device), y
        if self.source is not None:
            if self._received is None:
                raise MMLensError(f"{self.site.name} ran before {self.source.name}, which its dictionary reads.")
            source, self._received = self._received.to(y.device), None
        x = dictionary.flat(source, dictionary.d_in).to(dictionary.W_dec.dtype)
        new = self._changed(dictionary, x, dictionary.flat(y, dictionary.d_out).detach())
        return self._output.through(new.to(y.dtype).reshape(y.shape))

    def _changed(self, dictionary: Dictionary, x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        """What goes on. What was not edited is taken for clean as it was computed, so that differences are exactly 0."""
        x_new = self._input.through(x)
        is_same = _equal(x_new, x)
        pre = dictionary.pre_codes(x_new)
        pre_new = self._pre.through(pre)
        codes = dictionary.codes(pre_new, x_new)
        codes_new = self._post.through(codes)
        same_codes = is_same and _equal(pre_new, pre)
        with torch.no_grad():
            clean = codes if same_codes else dictionary.codes(pre if is_same else dictionary.pre_codes(x), x)
        clean = clean.detach()
        same_written = same_codes and _equal(codes_new, codes)
        by_whole = dictionary.scales or bool(self._recons.taps)
        if by_whole or not same_written:
            output = dictionary.written(codes_new, x_new)
            with torch.no_grad():
                recons = output if same_written else dictionary.written(clean, x)
        else:
            recons = output = dictionary.written(clean, x)
        recons = recons.detach()
        wide = y.to(torch.promote_types(y.dtype, recons.dtype))
        if by_whole:
            change = self._recons.through(output) - recons
        else:  # smaller numbers, so more of their digits
            change = (codes_new - clean) @ dictionary.W_dec
            if dictionary.W_skip is not None:
                change = change + (x_new - x.detach()) @ dictionary.W_skip.T
        new = wide + change
        if self._error.taps:
            error = wide - recons
            new = new + (self._error.through(error) - error)
        return new


def _equal(new: torch.Tensor, old: torch.Tensor) -> bool:
    return new is old or torch.equal(new, old)


def _rows(axes: str) -> str:
    """The axes of rows, without those of what a row holds."""
    words = axes.split()
    return " ".join(words[:-2] if words[-2:] == ["head", "d_head"] else words[:-1])


def _wide(axes: str) -> str:
    """Axes with heads side by side."""
    return f"{_rows(axes)} {axes.split()[-1]}"
