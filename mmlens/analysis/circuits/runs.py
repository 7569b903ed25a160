"""Runs in which edges are patched: what a reader receives over an edge is the ablation's, not this run's.

In a run with a set E of patched edges, reader r receives

    stream + sum over (w, r) in E of (w by the ablation - w in this run)

where `w in this run` is what w writes in this very run, other edges being patched as well. With no edge patched this is the
clean run, with all of them the corrupted one (where the ablation takes its values from there). Edges may be patched in part, by
a number from 0 to 1 in the place of a bool.

Source: Hanna, Pezzelle and Belinkov, "Have Faith in Faithfulness: Going Beyond Circuit Overlap When Finding Model Mechanisms",
COLM 2024 (https://arxiv.org/abs/2403.17806), section 2.
"""

from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from functools import cached_property, partial
from typing import Any

import torch
from jaxtyping import Float

from mmlens.analysis.circuits.ablation import ReadyAblation
from mmlens.analysis.circuits.ablations.counterfactual import CounterfactualAblation
from mmlens.analysis.circuits.graph import EdgeGraph, Reader
from mmlens.analysis.circuits.node_runs import node_hooks
from mmlens.analysis.circuits.wiring import Wiring, wiring_of
from mmlens.analysis.circuits.writing import Writing, dropped_rows, fitted, require_sums
from mmlens.analysis.metrics import Metric, MetricFunction, MetricReading, readings
from mmlens.analysis.statistics.rounding import off_by_rounding
from mmlens.core.errors import InputError
from mmlens.core.names import into_product
from mmlens.hooks.branch_inputs import KINDS, Reading, SplitReading
from mmlens.hooks.cache import record_activations
from mmlens.hooks.point import Point, reads_only
from mmlens.hooks.session import HookPair, attached
from mmlens.inputs.batch import MultimodalBatch
from mmlens.models.claims import claimed
from mmlens.models.hooked import HookedMultimodal

_COUNTERFACTUAL = ReadyAblation(CounterfactualAblation())


@dataclass(frozen=True)
class Pair:
    """A clean run and what ablated edges carry, and the graph whose edges are patched.

    Attributes:
        model: the hooked model.
        clean, corrupted: the batches; no corrupted one where the ablation needs none.
        graph: writers and readers.
        reading: what is read of a run.
        ends: its values with no edge and with all edges patched, `[sample]`.
        wiring: where readers receive their streams.
        writing: the writers on this model and batch.
        clean_values, reference: what every writer's point holds in the clean run, and by the ablation.
    """

    model: HookedMultimodal
    clean: MultimodalBatch
    corrupted: MultimodalBatch | None
    graph: EdgeGraph
    reading: MetricReading
    ends: tuple[torch.Tensor, torch.Tensor]
    wiring: Wiring
    writing: Writing
    clean_values: dict[str, torch.Tensor]
    reference: dict[str, torch.Tensor]

    @property
    def points(self) -> dict[str, Point]:
        """The model's points and its entrances."""
        return self.wiring.points

    def difference(self, point: str) -> torch.Tensor:
        """The ablation's values minus the clean ones at a writer's point."""
        return self.reference[point] - self.clean_values[point]

    def values(self, logits: torch.Tensor) -> Float[torch.Tensor, "sample"]:
        """The metric of a run's logits."""
        return self.reading.of_run(self.model, logits, self.clean)

    def require_edges(self, inputs: dict[str, torch.Tensor]) -> "Pair":
        """Check on the clean run that streams are sums of writers, and that heads can be given streams of their own.

        Args:
            inputs: what readers received in the clean run, by the name of their entrance.

        Returns:
            The pair, which knows the rows that the model drops.

        Raises:
            InputError: if not; says where.
        """
        if self.graph.by_node:
            return self
        missing = [reader.at for reader in self.graph.readers if reader.at not in inputs]
        if missing:
            raise InputError(
                f"{missing[0].rpartition('.')[0]} of {self.model.family.name} receives something else than what the norm in "
                "front of it returns, so that it cannot be given a stream of its own. Patch its points with mm.patch or "
                "mm.patching.path_patch."
            )
        values = self.clean_values
        rows = dropped_rows(self.writing, values, inputs)
        pair = replace(self, writing=replace(self.writing, kept=rows)) if rows else self
        require_sums(pair.writing, values, inputs, constants=self.graph.nodes == "head")
        if not self._split:
            return pair
        with claimed(self.model, "A circuit"), ExitStack() as stack, torch.no_grad():
            for readers in self._split.values():
                edges_of_readers = [
                    Reading(torch.zeros_like(inputs[group[0].at]), _by_kind(group))
                    for group in _by_entrance(readers).values()
                ]
                stack.enter_context(self._splitting(readers[0]).reading(partial(list, edges_of_readers)))
            again = self.values(self.model(self.clean))
        limit = 0.1 * max(off_by_rounding(stream.dtype) for stream in inputs.values())
        if not torch.allclose(again, self.ends[0], rtol=limit, atol=max(limit, 1e-6)):
            raise InputError(
                f"Heads of {self.model.family.name} cannot be given streams of their own: what their attention receives "
                "is not what the norm in front of it returns. Use nodes='attention'."
            )
        return pair

    @cached_property
    def _split(self) -> dict[str, list[Reader]]:
        """Readers of queries, keys and values, by attention."""
        groups: dict[str, list[Reader]] = {}
        for reader in self.graph.readers:
            if reader.kind in KINDS:
                groups.setdefault(reader.attn, []).append(reader)
        return groups

    def _splitting(self, reader: Reader) -> SplitReading:
        axis = self.model.graph[into_product(self.points, reader.attn, "q")].axes.split().index("head")
        norm, memory = self.wiring.norms.get(reader.attn), self.wiring.memory.get(reader.attn)
        return SplitReading(self.points, reader.attn, axis, norm, memory)

    @torch.no_grad()
    def run(self, patched: torch.Tensor) -> Float[torch.Tensor, "sample"]:
        """The metric of the clean run with some edges patched.

        Args:
            patched: which edges, `[reader writer]`, or how much of each; pairs that are no edges are left out.
        """
        return self.reading.values(self.rows(patched))

    def rows(self, patched: torch.Tensor) -> Float[torch.Tensor, "sample ..."]:
        """The logits that the metric reads, of such a run; a graph of torch goes from them to the amounts in `patched`."""
        if self.graph.by_node:
            with (
                claimed(self.model, "A circuit"),
                attached(self.points, node_hooks(self.writing, self.reference, patched[0])),
            ):
                return self.reading.rows(self.model, self.model(self.clean), self.clean)
        rows = dict(zip((reader.name for reader in self.graph.readers), patched * self.graph.allowed, strict=True))
        live: dict[str, torch.Tensor] = {}
        pairs: list[HookPair] = [(name, _differ(live, self.reference[name])) for name in self.writing.points]
        full_readers = [reader for reader in self.graph.readers if reader.kind not in KINDS]
        split: list[tuple[Reader, Callable[[], list[Reading]]]] = []
        for readers in self._split.values():
            entrances = [_by_row(group, rows) for group in _by_entrance(readers).values()]
            if all(len(groups) == 1 for groups in entrances):  # all heads read the same
                full_readers += [group[0] for ((_, group),) in entrances]
            else:
                split.append(
                    (readers[0], partial(self._readings, live, [member for groups in entrances for member in groups]))
                )
        pairs += [
            (reader.at, self._add(live, reader, rows[reader.name]))
            for reader in full_readers
            if rows[reader.name].any()
        ]
        with claimed(self.model, "A circuit"), ExitStack() as stack:
            stack.enter_context(attached(self.points, pairs))
            for reader, readings in split:
                stack.enter_context(self._splitting(reader).reading(readings))
            return self.reading.rows(self.model, self.model(self.clean), self.clean)

    def _add(
        self, live: Mapping[str, torch.Tensor], reader: Reader, row: torch.Tensor
    ) -> Callable[..., torch.Tensor | None]:
        """A hook that changes what a reader receives over its patched edges."""

        def add(activation: torch.Tensor, hook: Any) -> torch.Tensor | None:
            change = self.writing.added(live, row, reader.stream)
            return None if change is None else activation + fitted(change, activation, reader)

        return add

    def _readings(
        self, live: Mapping[str, torch.Tensor], groups: Sequence[tuple[torch.Tensor, list[Reader]]]
    ) -> list[Reading]:
        """The streams of an attention's heads, when it runs."""
        readings = []
        for row, readers in groups:
            change = self.writing.added(live, row, readers[0].stream)
            if change is not None:
                readings.append(Reading(change, _by_kind(readers)))
        return readings


@torch.no_grad()
def graph_pairs(
    model: HookedMultimodal,
    clean: MultimodalBatch,
    corrupted: MultimodalBatch | None,
    graph: EdgeGraph,
    metric: Metric | MetricFunction,
    ablation: ReadyAblation = _COUNTERFACTUAL,
) -> list[Pair]:
    """Run both batches, and check that the graph's edges mean what they say on this model.

    Returns:
        A pair for each reading of the metric, which is their sum.

    Raises:
        InputError: if they do not; says where.
    """
    pairs = []
    for reading in readings(metric, model, clean.size, clean=clean):
        first = reading.behind(model, clean)
        second = None if corrupted is None else reading.behind(model, corrupted)
        wiring, writing = wiring_of(model, first, graph), Writing(model, first, graph)
        entrances = [] if graph.by_node else [reader.at for reader in graph.readers]

        rows, store = _recorded(model, wiring, reading, first, [*writing.points, *entrances])
        reading = reading.against(rows)
        start = reading.values(rows)
        clean_values = {name: store[name] for name in writing.points}
        if second is not None and "corrupted" in ablation.needs:
            rows, reference = _recorded(model, wiring, reading, second, writing.points)
            ends = (start, reading.values(rows))
        else:
            reference = {
                name: ablation.values(first, model.graph[name], values) for name, values in clean_values.items()
            }
            ends = (start, start)
        pair = Pair(model, first, second, graph, reading, ends, wiring, writing, clean_values, reference)
        pair = pair.require_edges({at: store[at] for at in entrances if at in store})
        if ends[1] is start:
            pair = replace(pair, ends=(start, pair.run(graph.allowed)))
        pairs.append(pair)
    return pairs


def _recorded(
    model: HookedMultimodal, wiring: Wiring, reading: MetricReading, batch: MultimodalBatch, names: Sequence[str]
) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
    """The logits that the metric reads of a plain run, and what some points held."""
    store: dict[str, torch.Tensor] = {}
    recorder = (list(dict.fromkeys(names)), record_activations(store, None, None))
    with claimed(model, "A circuit"), attached(wiring.points, [recorder]):
        return reading.rows(model, model(batch), batch), store


def _differ(live: dict[str, torch.Tensor], reference: torch.Tensor) -> Callable[..., None]:
    """A hook that keeps how far a writer's point is from the ablation's values, in the run that goes on."""

    @reads_only
    def keep(activation: torch.Tensor, hook: Any) -> None:
        live[hook.name] = reference - activation

    return keep


def _by_kind(readers: Sequence[Reader]) -> dict[Any, list[int]]:
    """Heads by what they read as."""
    kinds = [kind for kind in KINDS if any(reader.kind == kind for reader in readers)]
    return {kind: [reader.head or 0 for reader in readers if reader.kind == kind] for kind in kinds}


def _by_entrance(readers: Sequence[Reader]) -> dict[str, list[Reader]]:
    """Readers that receive the same stream at the same place, together."""
    groups: dict[str, list[Reader]] = {}
    for reader in readers:
        groups.setdefault(reader.at, []).append(reader)
    return groups


def _by_row(readers: Sequence[Reader], rows: Mapping[str, torch.Tensor]) -> list[tuple[torch.Tensor, list[Reader]]]:
    """Readers whose patched edges come from the same writers, together; all apart where edges are patched in part."""
    groups: dict[object, list[Reader]] = {}
    for reader in readers:
        row = rows[reader.name]
        groups.setdefault(reader.name if row.is_floating_point() else tuple(row.tolist()), []).append(reader)
    return [(rows[members[0].name], members) for members in groups.values()]
