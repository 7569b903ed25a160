"""Pairs of runs whose pictures differ."""

from collections.abc import Callable

import pytest

from mmlens.analysis.circuits.build import edge_graph
from mmlens.analysis.circuits.graph import NodeKind, Towers
from mmlens.analysis.circuits.runs import Pair, graph_pairs
from mmlens.analysis.metrics import logit_difference
from mmlens.inputs.batch import MultimodalBatch
from mmlens.interventions.corruptions import swap
from tests.analysis.conftest import Wrapped
from tests.conftest import Subject
from tests.tiny import picture

METRIC = logit_difference("red", "blue")
GROUPS = {"image": "image", "text": "text", "last": "last"}
MakePair = Callable[..., Pair]


def other_pictures(subject: Subject, side: str = "left") -> tuple[MultimodalBatch, MultimodalBatch]:
    """A batch, and the same with other noise for pictures."""
    clean = subject.batches[side]
    seeds = range(8, 8 + clean.size)
    new = [[picture(seed, *p[0].size[::-1])] for seed, p in zip(seeds, clean.images, strict=True)]
    return clean, swap(subject.model, clean, new)


@pytest.fixture
def make_pair() -> MakePair:
    """A pair of a subject, with the graph asked for."""

    def make(subject: Subject, nodes: NodeKind = "head", towers: Towers = "all", side: str = "left") -> Pair:
        clean, corrupted = other_pictures(subject, side)
        graph = edge_graph(subject.model, [clean], nodes=nodes, groups=GROUPS, towers=towers)  # type: ignore[arg-type]
        return graph_pairs(subject.model, clean, corrupted, graph, METRIC)[0]

    return make


def planted_pair(wrapped: Wrapped, count: int = 3, *, twin: bool = False) -> tuple[MultimodalBatch, MultimodalBatch]:
    """Pictures with the cause and the same without it."""
    model = wrapped.twin if twin else wrapped.model
    batches = []
    for present in (True, False):
        pictures = [[wrapped.planted.image(present, seed=seed)] for seed in range(count)]
        batches.append(model.prepare([wrapped.planted.prompt] * count, images=pictures))
    return batches[0], batches[1]
