"""`Circuit`: edges with their scores, and the choice of some of them."""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

import torch
from jaxtyping import Bool, Float

from mmlens.analysis.circuits.graph import EdgeGraph
from mmlens.analysis.circuits.selection import Ranking, grown, strengths, strongest
from mmlens.analysis.statistics.significance import Correction, sign_flip_p
from mmlens.core.contract import checked, checked_result
from mmlens.core.errors import InputError
from mmlens.core.kinds import Count, CountOrZero, NonNegative, Seed
from mmlens.core.pictures import drawn_by
from mmlens.core.saved import Saved
from mmlens.core.unit_sets import Units
from mmlens.core.units import Unit
from mmlens.core.view import Viewable

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.figure import Figure, SubFigure

    from mmlens.hooks.drawing import Drawing


@dataclass(frozen=True)
class Edge:
    """One edge of a circuit.

    Attributes:
        writer: who writes, e.g. `L0.h2`.
        reader: who reads, e.g. `L2.mlp`.
        score: mean over samples of what the metric changes, or is estimated to, when the edge alone is ablated; or what else the
            method says (`circuit.unit`).
    """

    writer: str
    reader: str
    score: float

    def __str__(self) -> str:
        return f"{self.writer} -> {self.reader} ({self.score:+.3f})"


@checked_result
@dataclass(frozen=True)
class Circuit(Viewable, Saved):
    """Scores of all edges of a model, and which of them are kept.

    Attributes:
        graph: the writers and readers.
        scores: what the metric changes when an edge alone is ablated, of each sample, or what the method says of all samples
            together; below zero where the edge carries the answer, zero where there is no edge.
        kept: the edges of the circuit.
        method: how edges were scored; all but `"exact"` are approximate.
        metric: its name and unit.
        clean, corrupted: the metric with no edge and with all edges ablated.
        ablation: what edges carried that were left out.
        unit: of the scores.
        identity: what decided the values: see `mmlens.models.identity.run_identity`; empty where it is not known.

    Example:
        >>> import mmlens as mm
        >>> circuit = mm.find_circuit(
        ...     model, (batch, mm.corrupt.blur(model, batch)), metric=mm.metrics.log_probability(5), nodes="attention",
        ...     method="eap", progress=False,
        ... )
        >>> len(circuit.strongest(10).edges) <= 10
        True
    """

    graph: EdgeGraph
    scores: Float[torch.Tensor, "reader writer score"]
    kept: Bool[torch.Tensor, "reader writer"]
    method: str
    metric: str
    clean: Float[torch.Tensor, "sample"]
    corrupted: Float[torch.Tensor, "sample"]
    ablation: str = "counterfactual"
    unit: str = ""
    identity: Mapping[str, str] = field(default_factory=dict, repr=False, compare=False)

    def __repr__(self) -> str:
        approximate = "" if self.method == "exact" else " (approximate)"
        best = ", ".join(map(str, self.edges[:3]))
        return (
            f"Circuit({int(self.kept.sum())} of {int(self.graph.allowed.sum())} {self._counted}; "
            f"{self.method}{approximate}, {self.metric}: clean {float(self.clean.mean()):.3f}, {self._ablated} "
            f"{float(self.corrupted.mean()):.3f}; strongest: {best})"
        )

    @property
    def _counted(self) -> str:
        return "nodes" if self.graph.by_node else f"edges, {len(self.nodes)} nodes"

    @property
    def _ablated(self) -> str:
        return "corrupted" if self.ablation == "counterfactual" else f"ablated ({self.ablation})"

    @property
    def edges(self) -> list[Edge]:
        """The kept edges, strongest first."""
        mean = self.scores.mean(-1)
        places = self.kept.nonzero()
        order = mean[self.kept].abs().argsort(descending=True, stable=True)
        return [
            Edge(self.graph.writers[w].name, self.graph.readers[r].name, float(mean[r, w]))
            for r, w in places[order].tolist()
        ]

    @property
    def nodes(self) -> list[str]:
        """The nodes that kept edges join, in execution order; queries, keys and values count as their head."""
        node_names: set[str] = {self.graph.writers[i].name for i in self.kept.any(0).nonzero().flatten().tolist()}
        for i in self.kept.any(1).nonzero().flatten().tolist():
            reader = self.graph.readers[i]
            node_names |= set(reader.feeds or [reader.name])
        names = [writer.name for writer in self.graph.writers] + ["logits"]
        return [name for name in names if name in node_names]

    @property
    def units(self) -> Units:
        """The heads, neurons and features among its nodes, in execution order; none where nothing was split into units."""
        nodes = set(self.nodes)
        return Units(writer.unit for writer in self.graph.writers if writer.unit is not None and writer.name in nodes)

    @checked
    def top(self, k: Count = 10) -> Units:
        """The k units that write the most: by the sum of the absolute mean scores of their kept edges.

        Raises:
            InputError: if it has no units.
        """
        if not self.units:
            raise InputError("This circuit has no units: find it with nodes='head', or keep more edges, .strongest(n).")
        amounts = (self.scores.mean(-1).abs() * self.kept).sum(0)
        strengths: dict[Unit | None, float] = {
            writer.unit: float(strength) for writer, strength in zip(self.graph.writers, amounts, strict=True)
        }
        return Units(sorted(self.units, key=lambda unit: -strengths[unit])[:k])

    @checked
    def strongest(self, n: CountOrZero, *, by: Ranking = "absolute") -> "Circuit":
        """The n strongest edges by mean score, less those on no path from an input to the logits.

        Args:
            n: how many.
            by: `"absolute"`, or `"signed"`, where edges that help the answer come first and those that harm it last.

        Raises:
            InputError: if n is not in 0..number of edges.
        """
        self._require_size(n)
        return self.restricted(strongest(self._strengths(by), n))

    @checked
    def grown(self, n: CountOrZero, *, by: Ranking = "absolute") -> "Circuit":
        """The n edges that are taken one by one from the logits back, each the strongest into what is there already.

        Args:
            n: how many; fewer where nothing more leads to the logits, and less those on no path from an input.
            by: as for `strongest`.

        Raises:
            InputError: if n is not in 0..number of edges.
        """
        self._require_size(n)
        return self.restricted(grown(self.graph, self._strengths(by), n))

    def _strengths(self, by: Ranking) -> torch.Tensor:
        return strengths(self.graph, self.scores.mean(-1), by)

    def _require_size(self, n: int) -> None:
        total = int(self.graph.allowed.sum())
        if n > total:
            raise InputError(f"n={n} must lie in 0..{total}, the number of edges.")

    @checked
    def threshold(self, minimum: NonNegative) -> "Circuit":
        """The edges whose absolute mean score is at least `minimum`, less those on no path from an input to the logits.

        Args:
            minimum: in the metric's unit.
        """
        return self.restricted(self.scores.mean(-1).abs() >= minimum)

    @checked
    def restricted(self, edges: Bool[torch.Tensor, "reader writer"]) -> "Circuit":
        """The same scores with other edges kept: those of the given ones that lie on a path from an input to the logits."""
        return replace(self, kept=self.graph.connected(edges))

    @checked
    def p_values(
        self, *, correction: Correction | None = "max-t", resamples: Count = 10_000, seed: Seed = 0
    ) -> Float[torch.Tensor, "reader writer"]:
        """Sign-flip permutation p of every edge's mean score, corrected for their number; 1 where there is no edge.

        With n samples no p is below `2 / 2**n`. Scores by gradients are estimates whose error has a sign too; a small p does not
        make them exact.

        Args:
            correction: for the number of edges; see `sign_flip_p`.
            resamples: random sign patterns where there are too many to try all.
            seed: of these.

        Raises:
            InputError: for a single sample, or where one score stands for all of them (`"acdc"`, masks).
        """
        if self.scores.shape[-1] < len(self.clean):
            raise InputError(
                f"{self.method} gives one score for all {len(self.clean)} samples together, of which no test can be made; score "
                "edges by a method that tells samples apart, such as 'eap-ig'."
            )
        mask = self.graph.allowed
        p_of_edges = sign_flip_p(self.scores[mask].numpy(), correction=correction, resamples=resamples, seed=seed)
        p = torch.ones(mask.shape, dtype=torch.float64)
        p[mask] = torch.from_numpy(p_of_edges)
        return p

    def to_frame(self) -> "pd.DataFrame":
        """The kept edges, strongest first: writer, reader, mean score, and its standard deviation over samples."""
        import pandas as pd

        spread = self.scores.std(-1, unbiased=False)
        number = (
            {w.name: i for i, w in enumerate(self.graph.writers)},
            {r.name: i for i, r in enumerate(self.graph.readers)},
        )
        rows = [
            {
                "writer": edge.writer,
                "reader": edge.reader,
                "score": edge.score,
                "std": float(spread[number[1][edge.reader], number[0][edge.writer]]),
            }
            for edge in self.edges
        ]
        return pd.DataFrame(rows, columns=["writer", "reader", "score", "std"])

    @checked
    def draw(self, *, n: Count = 60) -> "Drawing":
        """The circuit as an SVG that shows in a notebook: towers side by side, blocks upwards, edges by strength and sign.

        Args:
            n: at most so many of the kept edges, the strongest.
        """
        return drawn_by("circuits.draw_circuit")(self, n=n)

    @checked
    def plot(self, *, n: Count = 20, figure: "Figure | SubFigure | None" = None) -> "Figure":
        """The n strongest kept edges, with 95% intervals over samples; `draw` shows them as a graph.

        Args:
            n: how many.
            figure: a matplotlib figure or subfigure to draw into; a new one by default.
        """
        return drawn_by("circuit_plots.plot_edges")(self, n=n, figure=figure)
