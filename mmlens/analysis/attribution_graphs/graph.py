"""`AttributionGraph`: nodes, edges, what they do for the logits, and what is left when it is pruned."""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from jaxtyping import Bool, Float
from PIL import Image

from mmlens.analysis.attribution_graphs.check import checked_graph
from mmlens.analysis.attribution_graphs.check_result import GraphCheck
from mmlens.analysis.attribution_graphs.circuit_tracer import require_graph_path, viewer_json, write_graph
from mmlens.analysis.attribution_graphs.influence import GraphScores, influence_of, pruned, scores_of, shares_of
from mmlens.analysis.attribution_graphs.nodes import GraphNode
from mmlens.analysis.features.dictionary import SparseDictionary
from mmlens.core.contract import checked, checked_result
from mmlens.core.errors import InputError
from mmlens.core.kinds import Count, Fraction, Index, PathLike, Seed, Several, Text
from mmlens.core.names import nearest_hint
from mmlens.core.pictures import drawn_by
from mmlens.core.saved import Saved
from mmlens.core.unit_sets import Units
from mmlens.core.view import Viewable
from mmlens.inputs.batch import BatchLike
from mmlens.models.hooked import WritingModel

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.figure import Figure, SubFigure


@checked_result
@dataclass(frozen=True)
class AttributionGraph(Viewable, Saved):
    """What flows into logits and features on one sample, from features, errors, patches and words.

    Weights of edges are in the unit of their target: logits, or its code. They are those of the whole graph, also where it is
    pruned.

    Attributes:
        members: all nodes: features in execution order, errors, sources, logits.
        weights: of edges; targets are the features, then the logits.
        bias: what flows into each target besides.
        probabilities: of the logits, as the model gives them.
        shares: what each logit counts; they add up to 1.
        n_active: active features, nodes or not.
        texts: the prompt's tokens.
        images: the sample's pictures.
        identity: what decided the values: see `mmlens.models.identity.run_identity`.
        node_mask, edge_mask: what is shown; None: everything.
        threshold: the share of influence by which nodes were pruned.
    """

    members: tuple[GraphNode, ...] = field(repr=False)
    weights: Float[torch.Tensor, "target node"]
    bias: Float[torch.Tensor, "target"]
    probabilities: Float[torch.Tensor, "logit"]
    shares: Float[torch.Tensor, "logit"]
    n_active: int
    texts: tuple[str, ...] = ()
    images: tuple[Image.Image, ...] = field(default=(), repr=False, compare=False)
    identity: Mapping[str, str] = field(default_factory=dict, repr=False, compare=False)
    node_mask: Bool[torch.Tensor, "node"] | None = None
    edge_mask: Bool[torch.Tensor, "target node"] | None = None
    threshold: float | None = None

    def __repr__(self) -> str:
        counts = ", ".join(f"{sum(m.kind == kind for m in self._shown)} {kind}s" for kind in _KINDS)
        logits = ", ".join(
            f"{node.text!r} p {p:.2f}" for node, p in zip(self._logits[:3], self.probabilities.tolist(), strict=False)
        )
        scores = self.scores
        return (
            f"AttributionGraph({logits}: {counts}, {int(self._edge_mask.sum()):,} edges; replacement {scores.replacement:.2f}, "
            f"completeness {scores.completeness:.2f}, {scores.explored:.0%} of {self.n_active:,} active features are nodes)"
        )

    @checked
    def __getitem__(self, name: str) -> GraphNode:
        return self.members[self._number(name)]

    def _number(self, name: str) -> int:
        names = [node.name for node in self.members]
        if name not in names:
            raise InputError(f"The graph has no node {name!r}.{nearest_hint(name, names)}")
        return names.index(name)

    @property
    def _logits(self) -> tuple[GraphNode, ...]:
        return self.members[len(self.members) - len(self.shares) :]

    @property
    def _node_mask(self) -> torch.Tensor:
        return torch.ones(len(self.members), dtype=torch.bool) if self.node_mask is None else self.node_mask

    @property
    def _edge_mask(self) -> torch.Tensor:
        return self.weights != 0 if self.edge_mask is None else self.edge_mask

    @property
    def _shown(self) -> list[GraphNode]:
        return [node for node, there in zip(self.members, self._node_mask.tolist(), strict=True) if there]

    def _of_kind(self, *kinds: str) -> Bool[torch.Tensor, "node"]:
        return torch.tensor([node.kind in kinds for node in self.members])

    @cached_property
    def targets(self) -> tuple[GraphNode, ...]:
        """The nodes that edges lead to, in the order of `weights`: features, then logits."""
        return tuple(node for node in self.members if node.kind in ("feature", "logit"))

    @cached_property
    def influence(self) -> Float[torch.Tensor, "node"]:
        """The share of the logits that goes through each node, along all paths: 1 for sources and errors together."""
        return influence_of(shares_of(self.weights), self.shares.to(self.weights))

    @cached_property
    def scores(self) -> GraphScores:
        """How much of the model the features carry; of the whole graph, also where it is pruned."""
        sources, errors = self._of_kind("source"), self._of_kind("error")
        features = int(self._of_kind("feature").sum())
        shares = scores_of(self.weights, self.shares.to(self.weights), sources, errors)
        return GraphScores(*shares, explored=features / max(self.n_active, 1))

    @checked
    def prune(self, nodes: Fraction = 0.8, edges: Fraction = 0.98) -> "AttributionGraph":
        """The nodes and edges that carry most of the influence; sources and logits stay.

        Args:
            nodes: the share of all nodes' influence that is kept.
            edges: the share of what flows between these that is kept; nodes without any go too.
        """
        free = self._of_kind("feature", "error")
        masks = pruned(self.weights, self.shares.to(self.weights), free, nodes, edges)
        return replace(self, node_mask=masks[0], edge_mask=masks[1], threshold=nodes)

    @checked
    def top(self, k: Count = 10) -> Units:
        """The k features with the most influence, over all of their rows.

        Raises:
            InputError: if the graph has fewer.
        """
        total: dict[Any, float] = {}
        for node, value, there in zip(self.members, self.influence.tolist(), self._node_mask.tolist(), strict=True):
            if node.unit is not None and there:
                total[node.unit] = total.get(node.unit, 0.0) + value
        if k > len(total):
            raise InputError(f"k={k} must lie in 1..{len(total)}, the number of features in the graph.")
        return Units(sorted(total, key=lambda unit: -total[unit])[:k])

    @property
    def nodes(self) -> "pd.DataFrame":
        """The nodes that are shown, the most influential first: name, kind, point, rows, text, value, influence."""
        import pandas as pd

        rows = [
            (n.name, n.kind, n.at, n.rows[0] if len(n.rows) == 1 else list(n.rows), n.text, n.value, share)
            for n, share, there in zip(self.members, self.influence.tolist(), self._node_mask.tolist(), strict=True)
            if there
        ]
        frame = pd.DataFrame(rows, columns=["node", "kind", "at", "row", "text", "value", "influence"])
        return frame.sort_values("influence", ascending=False, kind="stable", ignore_index=True)

    @property
    def edges(self) -> "pd.DataFrame":
        """The edges that are shown, by what flows along them: source, target, weight in the target's unit, share of influence."""
        import pandas as pd

        target, source = self._edge_mask.nonzero(as_tuple=True)
        flow = self._flow[target, source]
        order = flow.argsort(descending=True, stable=True)
        target, source = target[order], source[order]
        return pd.DataFrame(
            {
                "source": [self.members[number].name for number in source.tolist()],
                "target": [self.targets[number].name for number in target.tolist()],
                "weight": self.weights[target, source].tolist(),
                "influence": flow[order].tolist(),
            }
        )

    @cached_property
    def _flow(self) -> Float[torch.Tensor, "target node"]:
        """The influence that flows along each edge."""
        count = len(self.weights) - len(self.shares)
        reach = torch.cat([self.influence[:count], self.shares.to(self.weights)])
        return shares_of(self.weights) * reach[:, None]

    def to_frame(self) -> "pd.DataFrame":
        """The nodes that are shown: see `nodes`."""
        return self.nodes

    @checked
    def into(self, name: Text) -> "pd.DataFrame":
        """What a target is made of, the largest first: all edges into it, pruned or not, and its bias; they add up to its value.

        Args:
            name: of a feature or logit.

        Raises:
            InputError: for a node that nothing flows into, or none.
        """
        import pandas as pd

        node = self[name]
        if node not in self.targets:
            raise InputError(f"Nothing flows into {name}, which is {_KINDS[node.kind]}; name a feature or a logit.")
        row = self.weights[self.targets.index(node)]
        names = [*(member.name for member in self.members), "bias"]
        values = torch.cat([row, self.bias[self.targets.index(node)][None].to(row)])
        order = values.abs().argsort(descending=True, stable=True)
        order = order[values[order] != 0]
        return pd.DataFrame({"source": [names[i] for i in order.tolist()], "weight": values[order].tolist()})

    @checked
    def check(
        self,
        model: WritingModel,
        batch: BatchLike,
        transcoders: SparseDictionary | Several[SparseDictionary],
        *,
        nodes: Count = 20,
        seed: Seed = 0,
    ) -> GraphCheck:
        """Take the most influential features out of the model, one at a time, and compare with what the graph says.

        Beside each, a random feature that writes as much is taken out. Runs the model twice for every node and control: with the
        final norm's divisor held, as the graph has it, and with nothing held.

        Args:
            model, batch, transcoders: what the graph was drawn of.
            nodes: how many features; fewer if it has fewer.
            seed: of the controls.

        Returns:
            r between predicted and measured effects in both, beside that with predictions swapped between nodes and controls,
            and how exact direct effects are.

        Raises:
            InputError: if it was drawn of something else, or has no features.
        """
        dictionaries = [transcoders] if isinstance(transcoders, SparseDictionary) else list(transcoders)
        return checked_graph(
            model, batch, dictionaries, self.members, self.weights, self.shares, self.influence, count=nodes, seed=seed
        )

    @checked
    def plot(self, *, n: Count = 60, image: Index = 0, figure: "Figure | SubFigure | None" = None) -> "Figure":
        """Draw the graph over the picture: sources on their patches and words, blocks upwards, logits on top.

        Args:
            n: at most so many edges, those along which most influence flows.
            image: which picture.
            figure: a matplotlib figure or subfigure to draw into; a new one by default.
        """
        return drawn_by("attribution_graphs.plot_attribution_graph")(self, n=n, image=image, figure=figure)

    @checked
    def to_circuit_tracer(self, path: PathLike, *, scan: Text = "mmlens") -> Path:
        """Write the nodes and edges that are shown as JSON for circuit-tracer's front end, and list it beside.

        Put it into the folder that `circuit-tracer start-server --graph_file_dir` serves: the front end lists what
        `graph-metadata.json` there names, to which the graph is added.

        Args:
            path: ends in .json; its name is the graph's.
            scan: the name of the transcoders.

        Raises:
            InputError: for another ending, or a folder that does not exist.
        """
        target = require_graph_path(path)
        order = self.influence.argsort(descending=True)
        running_share = torch.zeros_like(self.influence)
        running_share[order] = self.influence[order].cumsum(0) / self.influence.sum().clamp_min(1e-30)
        count = len(self.weights) - len(self.shares)
        targets = [*range(count), *range(len(self.members) - len(self.shares), len(self.members))]
        target_of, source_of = self._edge_mask.nonzero(as_tuple=True)
        places = zip(source_of.tolist(), target_of.tolist(), self.weights[target_of, source_of].tolist(), strict=True)
        content = viewer_json(
            self.members,
            [(source, targets[target], weight) for source, target, weight in places],
            texts=self.texts,
            slug=target.stem,
            scan=scan,
            cumulated=running_share.tolist(),
            probabilities=self.probabilities.tolist(),
            numbers=self._node_mask.nonzero().flatten().tolist(),
            threshold=self.threshold,
        )
        return write_graph(target, content)


#: Kinds of nodes, and what one of them is.
_KINDS = {"feature": "a feature", "error": "an error", "source": "a source", "logit": "a logit"}
