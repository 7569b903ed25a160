"""What a set of cells costs: how much is computed of what whole forward passes would, what is served, and why not more."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Plan:
    """The counted cost of cells.

    Attributes:
        cells: how many there are.
        computed: floating-point operations of matrix products that are carried out.
        whole: those that one whole forward pass per cell would take.
        kept: memory of what is kept of the clean run, in bytes.
        served: what comes from the clean run, in words.
        widened: why more is computed than a cell can change, in words; empty if nothing is.
    """

    cells: int
    computed: float
    whole: float
    kept: int = 0
    served: tuple[str, ...] = ()
    widened: tuple[str, ...] = ()

    def __add__(self, other: "Plan") -> "Plan":
        served, widened = (
            tuple(dict.fromkeys((*first, *second)))
            for first, second in ((self.served, other.served), (self.widened, other.widened))
        )
        peak = max(self.kept, other.kept)  # one is over when the other begins
        return Plan(
            self.cells + other.cells, self.computed + other.computed, self.whole + other.whole, peak, served, widened
        )

    @property
    def fraction(self) -> float:
        """The share of the full cost that is computed."""
        return self.computed / self.whole

    def __repr__(self) -> str:
        lines = [
            f"Plan: {self.cells} cells, {self.computed / 1e9:.3g} of {self.whole / 1e9:.3g} GFLOP "
            f"({self.fraction:.1%} of whole forward passes)"
        ]
        lines += [f"  kept: {self.kept / 2**20:.3g} MiB of the clean run"]
        lines += [f"  served: {line}" for line in self.served]
        lines += [f"  widened: {line}" for line in self.widened]
        return "\n".join(lines)
