"""The hook-point graph: every named point of a model as a node, every flow of data between them as an edge."""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import cached_property

import networkx as nx

from mmlens.core.contract import checked
from mmlens.core.errors import InputError, UnknownNameError
from mmlens.core.kinds import Count
from mmlens.core.names import PARTS, Names, Part, match_names, nearest_hint, require_part
from mmlens.hooks.drawing import Drawing, draw_graph
from mmlens.hooks.nodes import Node, Selection


class HookGraph:
    """Every hook point of a model and the flow of data between them.

    Args:
        nodes: the points, in execution order.
        edges: pairs of names, from the tensor that is read to the tensor that is computed from it.

    Attributes:
        digraph: the same as a `networkx.DiGraph`, each node with its `Node` under the key `"node"`.

    Example:
        >>> graph = model.graph
        >>> graph.select("blocks.1.hook_resid_*").names
        ['blocks.1.hook_resid_pre', 'blocks.1.hook_resid_mid', 'blocks.1.hook_resid_post']
        >>> "hook_logits" in graph.downstream("projector.hook_out").names
        True
    """

    def __init__(self, nodes: Sequence[Node], edges: Iterable[tuple[str, str]]):
        self._nodes = {node.name: node for node in nodes}
        self.digraph = nx.DiGraph()
        for node in nodes:
            self.digraph.add_node(node.name, node=node)
        for source, target in edges:
            for name in (source, target):
                if name not in self._nodes:
                    raise InputError(f"The edge {source} -> {target} names {name}, which is no node of the graph.")
            self.digraph.add_edge(source, target)

    def __len__(self) -> int:
        return len(self._nodes)

    def __contains__(self, name: object) -> bool:
        return name in self._nodes

    def __iter__(self) -> Iterator[Node]:
        return iter(self._nodes.values())

    def __getitem__(self, name: str) -> Node:
        return self._nodes[self._one(name)]

    def _ipython_key_completions_(self) -> list[str]:
        return self.names

    def __repr__(self) -> str:
        counts = ", ".join(f"{part} {sum(node.part == part for node in self)}" for part in PARTS)
        return f"HookGraph: {len(self)} hook points ({counts}), {self.digraph.number_of_edges()} edges"

    @property
    def names(self) -> list[str]:
        """All hook names, in execution order."""
        return list(self._nodes)

    @cached_property
    def unit_counts(self) -> dict[str, int]:
        """How many neurons or heads each point that holds some has, by name."""
        return {node.name: node.units for node in self if node.units is not None}

    def _one(self, name: str) -> str:
        return name if name in self._nodes else match_names([name], self.names)[0]

    @checked
    def select(
        self,
        at: "Names | Selection | None" = None,
        *,
        part: Part | None = None,
        layer: int | Iterable[int] | None = None,
        kind: str | None = None,
        where: Callable[[Node], bool] | None = None,
    ) -> Selection:
        """Choose nodes by name, glob, predicate or attributes; all conditions must hold.

        Args:
            at: a name, a glob (`*` within a dotted segment, `**` across), several of these, a predicate on names, or
                an earlier selection.
            part: `"vision"`, `"projector"` or `"language"`.
            layer: a block number, or several; negative numbers count from the last block of each stack.
            kind: e.g. `"resid_post"`, `"mlp.post"`, `"attn.pattern"`.
            where: a predicate on nodes.

        Returns:
            The nodes, in execution order.

        Raises:
            UnknownNameError: if a name or glob matches nothing.
            InputError: if nothing is left.
        """
        if isinstance(at, Selection):
            nodes = [self[node.name] for node in at]
        else:
            nodes = [self._nodes[name] for name in (self.names if at is None else match_names(at, self.names))]
        conditions = [] if at is None else [str(at.description if isinstance(at, Selection) else at)]
        if part is not None:
            require_part(part)
            nodes = [node for node in nodes if node.part == part]
            conditions.append(f"part={part!r}")
        if layer is not None:
            layers = {layer} if isinstance(layer, int) else set(layer)
            depth: dict[tuple[Part, str | None], int] = {}
            for node in self:
                if node.layer is not None:
                    key = (node.part, node.stack)
                    depth[key] = max(depth.get(key, 0), node.layer + 1)
            nodes = [n for n in nodes if n.layer is not None and {n.layer, n.layer - depth[n.part, n.stack]} & layers]
            conditions.append(f"layer={layer!r}")
        if kind is not None:
            kinds = sorted({node.kind for node in self})
            match_names([kind], kinds, kind="kind of point")
            nodes = [node for node in nodes if node.kind == kind]
            conditions.append(f"kind={kind!r}")
        if where is not None:
            nodes = [node for node in nodes if where(node)]
            conditions.append("where=...")
        words = ", ".join(conditions) or "all"
        if not nodes:
            raise InputError(f"No hook point fits {words}; the graph has {self!r}. Loosen one of the conditions.")
        return Selection(nodes, words)

    @checked
    def order(self, at: "Names | Selection | None" = None) -> list[str]:
        """Hook names in execution order: a topological order of the graph."""
        return self.select(at).names

    def _neighbours(self, names: set[str], description: str) -> Selection:
        return Selection((node for node in self if node.name in names), description)

    @checked
    def upstream(self, name: str) -> Selection:
        """Every point whose value can change what `name` holds, in execution order; without `name` itself."""
        name = self._one(name)
        return self._neighbours(nx.ancestors(self.digraph, name), f"upstream of {name}")

    @checked
    def downstream(self, name: str) -> Selection:
        """Every point that an edit at `name` can change, in execution order; without `name` itself."""
        name = self._one(name)
        return self._neighbours(nx.descendants(self.digraph, name), f"downstream of {name}")

    @checked
    def between(self, source: str, target: str) -> Selection:
        """The points on some path from `source` to `target`, both included.

        Raises:
            InputError: if no path leads from `source` to `target`.
        """
        source, target = self._one(source), self._one(target)
        after = nx.descendants(self.digraph, source) | {source}
        before = nx.ancestors(self.digraph, target) | {target}
        if target not in after:
            raise InputError(
                f"No path leads from {source} to {target}"
                + (
                    f"; one leads back, from {target} to {source}."
                    if source in nx.descendants(self.digraph, target)
                    else "."
                )
            )
        return self._neighbours(after & before, f"between {source} and {target}")

    @checked
    def residual_writers(
        self, part: Part = "language", *, before: Count | None = None, stack: str = "blocks"
    ) -> Selection:
        """The points whose sum is the residual stream of a part: its embedding and every branch that is added.

        With DeepStack the stream at image tokens holds besides what `projector.deepstack.*.hook_out` returned by then.

        Args:
            part: the tower.
            before: only what was written before this block; None for all blocks.
            stack: which stream, in parts with several stacks of blocks.

        Raises:
            UnknownNameError: for a stack that the part does not have.
        """
        require_part(part)
        stacks = list(dict.fromkeys(node.stack for node in self if node.part == part and node.stack is not None))
        if stack not in stacks:
            raise UnknownNameError(
                f"{part} has no stack {stack!r}; it has {', '.join(stacks)}.{nearest_hint(stack, stacks)}"
            )
        writers = (
            node
            for node in self
            if node.part == part
            and node.role == "writes"
            and node.stack in (stack, None)
            and (node.layer is None or before is None or node.layer < before)
        )
        return Selection(writers, f"residual writers of {part}" + ("" if before is None else f" before block {before}"))

    @checked
    def draw(self, values: Mapping[str, float] | None = None) -> Drawing:
        """Draw the graph as an SVG that shows in a notebook.

        Args:
            values: numbers to lay over the nodes by name (an effect, a score); coloured by size and sign.
        """
        return draw_graph(list(self), self.digraph.edges, values)
