"""Sparse dictionaries in force on a model: attached, with their points in its graph, and taken out again."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from typing import TypeVar

from mmlens.core.errors import InputError
from mmlens.core.names import match_names
from mmlens.hooks.attachment import AtSite
from mmlens.hooks.graph import HookGraph
from mmlens.hooks.indirect import NormScale
from mmlens.hooks.nodes import Node
from mmlens.hooks.point import Point
from mmlens.hooks.splice import Dictionary, Splice
from mmlens.models.claims import claimed
from mmlens.models.protocol import HookedModel

_D = TypeVar("_D", bound=Dictionary)
#: After all hooks on a norm.
_RANK = 80


@dataclass(frozen=True)
class Splices:
    """The sparse dictionaries of a model.

    Attributes:
        model: the hooked model.
    """

    model: HookedModel

    @property
    def dictionaries(self) -> Mapping[str, Dictionary]:
        """The sparse dictionaries in force, by the point that they write."""
        return {name: splice.dictionary for name, splice in self.model.spliced.items()}

    @contextmanager
    def attach(self, *dictionaries: Dictionary) -> Iterator[HookedModel]:
        """Have sparse dictionaries in the path inside the `with`, with their codes as hook points.

        Each adds `<point>.hook_sae_input, _acts_pre, _acts_post, _recons, _error, _output`. What a dictionary cannot give back is
        kept, so that without an edit the logits are the same to the bit, and an edit of a code moves a row by what it changes and
        nothing else. Gradients go through the codes alone. The points are in the graph, in caches, and units can be named
        there (`Feature`); afterwards they are gone.

        Args:
            dictionaries: from `mm.load_sae`; each at a point of its own. Several act in their order along the model.

        Raises:
            InputError: for what is no dictionary, a point that the model does not have or that is of another width, and points
                that have one already; while another thread has something in force on the model.

        Example:
            >>> with model.attach(sae):  # doctest: +SKIP
            ...     logits, cache = model.run_with_cache(batch, names="**.hook_sae_acts_post")
        """
        if not dictionaries:
            raise InputError("attach was given no sparse dictionary; mm.load_sae(folder) gives one.")
        task = f"The sparse dictionary at {', '.join(str(getattr(d, 'at', d)) for d in dictionaries)}"
        with claimed(self.model, task, acts=dictionaries), ExitStack() as stack:
            self.model.follow()
            splices = self._splices(dictionaries)
            stack.callback(self._forget, list(splices))
            for splice, source in splices.values():
                stack.callback(splice.attach(self.model.hook_dict[splice.site.name], source))
            self.model.spliced.update({name: splice for name, (splice, _) in splices.items()})
            self._show()
            yield self.model

    def sites(self, dictionaries: Sequence[_D]) -> dict[str, tuple[_D, Point | None]]:
        """What each dictionary writes, by the name of the point, and what it reads if that is another one.

        Raises:
            InputError: as for `attach`.
        """
        sources = [(name, source) for name, (_, source) in self._splices(dictionaries).items()]
        return {name: (dictionary, source) for (name, source), dictionary in zip(sources, dictionaries, strict=True)}

    def _splices(self, dictionaries: Sequence[Dictionary]) -> dict[str, tuple[Splice, Point | None]]:
        """Splices by the point that they write, and what they read if that is another point.

        Raises:
            InputError: if one of them cannot be.
        """
        result: dict[str, tuple[Splice, Point | None]] = {}
        for dictionary in dictionaries:
            if not isinstance(dictionary, Dictionary):
                raise InputError(
                    f"A sparse dictionary is expected (mm.load_sae(folder) gives one), found {type(dictionary).__name__}."
                )
            if not dictionary.at:
                raise InputError(
                    f"{dictionary!r} does not say where it belongs: mm.load_sae(folder, at='blocks.3.hook_resid_post')."
                )
            node = self.model.graph[match_names([self._written(dictionary.at)], self.model.graph.names)[0]]
            if node.name in result or node.name in self.model.spliced:
                raise InputError(f"{node.name} has a sparse dictionary in its path already; attach one at a time.")
            if ".hook_sae_" in node.name or "row column" in node.axes:
                raise InputError(
                    f"{node.name} [{node.axes}] holds no rows of states; attach dictionaries where they were trained."
                )
            _require_width(node, dictionary.d_out, dictionary)
            source = None if dictionary.at_in is None else self._source(dictionary.at_in, node)
            if source is not None:
                _require_width(source[1], dictionary.d_in, dictionary)
            result[node.name] = (Splice(dictionary, node, source and source[1]), source and source[0])
        return result

    def _written(self, name: str) -> str:
        """The point that a dictionary writes; what an MLP returns is what is added to the stream, unless a norm stands between.

        Raises:
            InputError: if one does.
        """
        out = f"{name.removesuffix('.mlp.hook_out')}.hook_mlp_out"
        if not name.endswith(".mlp.hook_out") or out not in self.model.graph:
            return name
        node = self.model.graph[out]
        blocks = self.model.part(node.part).blocks
        mlp = blocks[node.layer].mlp if node.layer is not None and node.layer < len(blocks) else None
        declaration = None if mlp is None else mlp.declared
        if (
            declaration is not None
            and declaration.branch
            and not f"{declaration.down}.".startswith(f"{declaration.branch}.")
        ):
            raise InputError(
                f"{name} is what the MLP returns, and in {self.model.family.name} a norm stands between that and the stream, "
                f"behind which {out} is; no point holds it."
            )
        return out

    def _source(self, name: str, site: Node) -> tuple[Point, Node]:
        """What a transcoder reads: a point, or the input of an MLP in front of its norm or behind it."""
        points = self.model.hook_dict
        if name in points:
            return points[name], self.model.graph[name]
        block = next((name.removesuffix(end) for end in (".mlp.hook_in", ".hook_mlp_in") if name.endswith(end)), None)
        scale = None if block is None else points.get(f"{block}.ln2.hook_scale")
        middle = None if block is None else points.get(f"{block}.hook_resid_mid")
        if scale is not None and isinstance(scale.attachment, NormScale):
            norm = scale.attachment
            access = norm.target if name.endswith(".mlp.hook_in") else norm.source
            return Point(name, AtSite(access, _RANK)), replace(site, name=name)
        if middle is not None and middle.name is not None:
            return middle, self.model.graph[middle.name]
        if not name:
            raise InputError(
                "The transcoder does not say what it reads: mm.load_sae(folder, at_in='blocks.3.mlp.hook_in')."
            )
        inputs = [f"{n.rpartition('.ln2')[0]}.mlp.hook_in" for n in points if n.endswith(".ln2.hook_scale")]
        return points[match_names([name], [*points, *inputs])[0]], self.model.graph[name]

    def _show(self) -> None:
        """Have the points of what is in force, and no others, in the graph and among the model's points."""
        model = self.model
        for name in [name for name in model.hook_dict if ".hook_sae_" in name]:
            del model.hook_dict[name], model.mod_dict[name]
        model.graph = _extended(model.plain_graph, list(model.spliced.values()))
        for splice in model.spliced.values():
            model.hook_dict.update(splice.points)
            model.mod_dict.update(splice.points)

    def _forget(self, names: Sequence[str]) -> None:
        for name in names:
            self.model.spliced.pop(name, None)
        self._show()


def _extended(graph: HookGraph, splices: Sequence[Splice]) -> HookGraph:
    """A graph with the points of splices behind those that they write; the graph itself without any."""
    if not splices:
        return graph
    by_site = {splice.site.name: splice for splice in splices}
    nodes: list[Node] = []
    edges = list(graph.digraph.edges)
    for node in graph:
        nodes.append(node)
        if node.name in by_site:
            nodes += by_site[node.name].nodes()
            edges += by_site[node.name].edges(list(graph.digraph.successors(node.name)), set(graph.names))
    return HookGraph(nodes, edges)


def _require_width(node: Node, width: int, dictionary: Dictionary) -> None:
    """Refuse a point of another width."""
    there = node.width if node.width is None or "head" not in node.axes.split() else node.width * (node.units or 1)
    if there not in (None, width):
        raise InputError(
            f"{dictionary!r} has states of d={width}, and {node.name} [{node.axes}] holds {there}; it belongs to another "
            "model, or to another point of this one."
        )
