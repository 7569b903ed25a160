"""`Circuit`: edges with their scores, and the choice of some of them."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from typing import TYPE_CHECKING, Any

import torch
from jaxtyping import Bool, Float

from mmlens.analysis.circuits.graph import EdgeGraph, Reader, Writer
from mmlens.analysis.significance import Correction, sign_flip_p
from mmlens.core.contract import checked, checked_result
from mmlens.core.errors import InputError
from mmlens.core.kinds import Count, NonNegative, PathLike, Seed
from mmlens.core.pictures import drawn_by
from mmlens.core.results import JsonKind
from mmlens.core.rule_json import as_json, from_json
from mmlens.core.unit_sets import Units
from mmlens.core.units import Unit
from mmlens.core.view import Viewable

if TYPE_CHECKING:
    import pandas as pd

    from mmlens.hooks.drawing import Drawing

_FILE = JsonKind(
    "mmlens.circuits.Circuit",
    4,
    "circuit",
    {
        "method": str,
        "metric": str,
        "nodes": str,
        "towers": str,
        "groups": dict[str, Any],
        "writers": list[dict],
        "readers": list[dict],
        "clean": list[float],
        "corrupted": list[float],
        "edges": list[dict],
        "identity": dict[str, str],
    },
)


@dataclass(frozen=True)
class Edge:
    """One edge of a circuit.

    Attributes:
        writer: who writes, e.g. `L0.h2`.
        reader: who reads, e.g. `L2.mlp`.
        score: mean over samples of what the metric changes, or is estimated to, when the edge alone is patched.
    """

    writer: str
    reader: str
    score: float

    def __str__(self) -> str:
        return f"{self.writer} -> {self.reader} ({self.score:+.3f})"


@checked_result
@dataclass(frozen=True)
class Circuit(Viewable):
    """Scores of all edges of a model, and which of them are kept.

    Attributes:
        graph: the writers and readers.
        scores: what the metric changes when an edge alone is patched with the corrupted run, in the metric's unit; zero
            where there is no edge.
        kept: the edges of the circuit.
        method: how edges were scored; all but `"exact"` are approximate.
        metric: its name and unit.
        clean, corrupted: the metric of the two runs.
        identity: what decided the values: see `mmlens.models.identity.run_identity`; empty where it is not known.

    Example:
        >>> import mmlens as mm
        >>> circuit = mm.find_circuit(
        ...     model, batch, mm.corrupt.blur(model, batch), metric=mm.metrics.log_probability(5), nodes="attention",
        ...     method="eap", progress=False,
        ... )
        >>> len(circuit.strongest(10).edges) <= 10
        True
    """

    graph: EdgeGraph
    scores: Float[torch.Tensor, "reader writer sample"]
    kept: Bool[torch.Tensor, "reader writer"]
    method: str
    metric: str
    clean: Float[torch.Tensor, "sample"]
    corrupted: Float[torch.Tensor, "sample"]
    identity: Mapping[str, str] = field(default_factory=dict, repr=False, compare=False)

    def __repr__(self) -> str:
        approximate = "" if self.method == "exact" else " (approximate)"
        best = ", ".join(map(str, self.edges[:3]))
        return (
            f"Circuit({int(self.kept.sum())} of {int(self.graph.allowed.sum())} edges, {len(self.nodes)} nodes; "
            f"{self.method}{approximate}, {self.metric}: clean {float(self.clean.mean()):.3f}, corrupted "
            f"{float(self.corrupted.mean()):.3f}; strongest: {best})"
        )

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
        """The heads among its nodes, in execution order; none where attention was not split into heads."""
        nodes = set(self.nodes)
        return Units(writer.unit for writer in self.graph.writers if writer.unit is not None and writer.name in nodes)

    @checked
    def top(self, k: Count = 10) -> Units:
        """The k heads that write the most: by the sum of the absolute mean scores of their kept edges.

        Raises:
            InputError: if it has no heads.
        """
        if not self.units:
            raise InputError("This circuit has no heads: find it with nodes='head', or keep more edges, .strongest(n).")
        written = (self.scores.mean(-1).abs() * self.kept).sum(0)
        heads: dict[Unit | None, float] = {
            writer.unit: float(strength) for writer, strength in zip(self.graph.writers, written, strict=True)
        }
        return Units(sorted(self.units, key=lambda unit: -heads[unit])[:k])

    @checked
    def strongest(self, n: Count) -> "Circuit":
        """The n strongest edges by absolute mean score, less those on no path from an input to the logits.

        Args:
            n: how many.

        Raises:
            InputError: if n is not in 1..number of edges.
        """
        total = int(self.graph.allowed.sum())
        if not 1 <= n <= total:
            raise InputError(f"n={n} must lie in 1..{total}, the number of edges.")
        strength = self.scores.mean(-1).abs().masked_fill(~self.graph.allowed, -1.0)
        mask = torch.zeros(strength.numel(), dtype=torch.bool)
        mask[strength.flatten().argsort(descending=True, stable=True)[:n]] = True
        return self.restricted(mask.reshape(strength.shape))

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

        With n samples no p is below `2 / 2**n`. Scores of `"eap"` and `"eap-ig"` are estimates whose error has a sign too; a
        small p does not make them exact.

        Args:
            correction: for the number of edges; see `sign_flip_p`.
            resamples: random sign patterns where there are too many to try all.
            seed: of these.
        """
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
    def save(self, path: PathLike) -> None:
        """Write the circuit as JSON, whole or not at all.

        Args:
            path: file to write; the folder must exist.
        """
        content = {
            "method": self.method,
            "metric": self.metric,
            "nodes": self.graph.nodes,
            "towers": self.graph.towers,
            "groups": {name: as_json(rule) for name, rule in self.graph.groups.items()},
            "writers": [asdict(writer) for writer in self.graph.writers],
            "readers": [asdict(reader) for reader in self.graph.readers],
            "clean": self.clean.tolist(),
            "corrupted": self.corrupted.tolist(),
            "edges": [
                {"reader": r, "writer": w, "kept": bool(self.kept[r, w]), "scores": self.scores[r, w].tolist()}
                for r, w in self.graph.allowed.nonzero().tolist()
            ],
            "identity": dict(self.identity),
        }
        _FILE.write(path, content)

    @classmethod
    @checked
    def load(cls, path: PathLike) -> "Circuit":
        """Read a circuit that `save` wrote.

        Raises:
            InputError: if there is no file, or it holds no circuit.
        """
        content = _FILE.read(path)
        graph = EdgeGraph(
            tuple(Writer(**fields) for fields in content["writers"]),
            tuple(Reader(**{**fields, "feeds": tuple(fields["feeds"])}) for fields in content["readers"]),
            content["nodes"],
            content["towers"],
            {name: from_json(rule) for name, rule in content["groups"].items()},
        )
        scores = torch.zeros(len(graph.readers), len(graph.writers), len(content["clean"]))
        mask = torch.zeros(scores.shape[:2], dtype=torch.bool)
        for edge in content["edges"]:
            scores[edge["reader"], edge["writer"]] = torch.tensor(edge["scores"])
            mask[edge["reader"], edge["writer"]] = edge["kept"]
        clean, corrupted = (torch.tensor(content[name]) for name in ("clean", "corrupted"))
        method, metric, identity = (content[name] for name in ("method", "metric", "identity"))
        return cls(graph, scores, mask, method, metric, clean, corrupted, identity)
