"""Which positions of a sequence a forward pass holds: all of them, or in a step of a generation only the newest."""

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import torch
from jaxtyping import Bool

from mmlens.core.errors import MMLensError
from mmlens.hooks.graph import Node
from mmlens.models.run import Run

if TYPE_CHECKING:
    from mmlens.interventions.steering import SteeredPositions
    from mmlens.models.layout import TokenLayout


@dataclass(frozen=True)
class Step:
    """One forward pass as a point sees it.

    Attributes:
        first: position of its first row, counted from the start of the prompt.
        count: number of its rows.
        prompt: number of positions of the prompt.
        generating: whether new tokens may follow the prompt.
        layout: of the prompt; None on a decoder's sequence, which holds no pictures.
    """

    first: int
    count: int
    prompt: int
    generating: bool
    layout: "TokenLayout | None"

    @property
    def is_new(self) -> bool:
        """Whether it holds new tokens alone."""
        return self.first >= self.prompt

    def mask(self, positions: "SteeredPositions", batch: int) -> Bool[torch.Tensor, "batch pos"]:
        """True at the rows that a rule means; never at padding."""
        at = torch.arange(self.first, self.first + self.count)
        new = (at >= self.prompt).expand(batch, -1)
        old = at[at < self.prompt]
        pad = self.count - len(old)

        def of_prompt(known: torch.Tensor) -> torch.Tensor:
            return torch.nn.functional.pad(known[:, old], (0, pad))

        layout = self.layout
        real = torch.ones(batch, self.prompt, dtype=torch.bool) if layout is None else layout.is_token
        image = torch.zeros_like(real) if layout is None else layout.is_image
        if isinstance(positions, slice):
            known = torch.arange(max(self.prompt, self.first + self.count))
            return torch.isin(at, known[positions]).expand(batch, -1) & (of_prompt(real) | new)
        if positions == "generated":
            return new
        if positions == "last_prompt":
            last = torch.zeros_like(real)
            ends = torch.full((batch,), self.prompt - 1) if layout is None else layout.last
            last[torch.arange(batch), ends] = True
            return of_prompt(last) | new
        if positions in ("prompt", "image"):
            return of_prompt(real if positions == "prompt" else image)
        return of_prompt(real & ~image if positions == "text" else real) | new


@dataclass
class Clock:
    """Follows a run pass by pass, at each point on its own."""

    run: Run | None = None
    _seen: dict[str, int] = field(default_factory=dict)

    def restart(self, run: Run) -> None:
        """A new run begins."""
        self.run = run
        self._seen.clear()

    def tick(self, node: Node, count: int) -> Step:
        """The pass that now reaches a point, which sees `count` rows in it.

        With a KV cache a step of a generation holds one new row; without one it holds everything so far.
        """
        if self.run is None:
            raise MMLensError(f"{node.name} ran outside of the model's own forward and generate; run the hooked model.")
        decoder = node.sequence == "decoder"
        layout = None if decoder else self.run.batch.layout
        seen = self._seen.get(node.name, 0)
        first = seen if seen and count != seen + 1 else 0
        self._seen[node.name] = first + count
        prompt = _decoder_prompt(self.run) if layout is None else layout.is_token.shape[1]
        return Step(first, count, prompt, self.run.kind == "generate", layout)


def _decoder_prompt(run: Run) -> int:
    """Number of positions that a decoder starts from: what it was given, or one start token."""
    given = run.batch.inputs.get("decoder_input_ids")
    return 1 if given is None else given.shape[1]
