"""Information flow routes."""

from dataclasses import dataclass
from typing import ClassVar

import torch
from jaxtyping import Float

from mmlens.analysis.circuits.graph import EdgeGraph, Reader
from mmlens.analysis.circuits.method import CIRCUIT_METHODS, CircuitMethod
from mmlens.analysis.circuits.runs import Pair
from mmlens.analysis.circuits.writing import fitted, sums_of_samples
from mmlens.hooks.cache import record_activations
from mmlens.hooks.session import attached
from mmlens.models.claims import claimed


@CIRCUIT_METHODS.register("information-flow")
@dataclass(frozen=True)
class InformationFlow(CircuitMethod):
    """How much of what a reader receives a writer makes, by the clean run alone: no metric, no ablation, no gradient.

        near(w, r)  = relu(|r|_1 - |r - w|_1)           score = -mean over rows of near(w, r) / sum over w' of near(w', r)

    `circuit.grown(n)` chooses among these scores as the paper does, from the logits back.

    Source: Ferrando and Voita, "Information Flow Routes", EMNLP 2024 (https://arxiv.org/abs/2403.00824), equation 2.
    *Departs:* a head reads queries, keys and values from the stream as one, and rows are not told apart: an edge has one share,
    the mean over rows, which for the logits are those that the metric reads. The sign is that of the other methods.
    """

    needs: ClassVar[frozenset[str]] = frozenset({"edges"})
    unit: ClassVar[str] = "share of what the reader receives"

    def passes(self, graph: EdgeGraph, batches: int = 1) -> tuple[int, int]:
        return batches, 0

    @torch.no_grad()
    def scores(self, pair: Pair, *, progress: bool) -> Float[torch.Tensor, "reader writer sample"]:
        graph = pair.graph
        scores = torch.zeros(len(graph.readers), len(graph.writers), pair.clean.size)
        inputs: dict[str, torch.Tensor] = {}
        where = list(dict.fromkeys(reader.at for reader in graph.readers))
        with claimed(pair.model, "A circuit"), attached(pair.points, [(where, record_activations(inputs, None, None))]):
            pair.model(pair.clean)
        groups: dict[tuple[str, tuple[bool, ...]], list[int]] = {}
        for number, reader in enumerate(graph.readers):
            groups.setdefault((reader.at, tuple(graph.allowed[number].tolist())), []).append(number)
        for numbers in groups.values():
            scores[numbers] = -_shares(pair, graph.readers[numbers[0]], graph.allowed[numbers[0]], inputs)
        return scores


def _shares(
    pair: Pair, reader: Reader, allowed: torch.Tensor, inputs: dict[str, torch.Tensor]
) -> Float[torch.Tensor, "writer sample"]:
    """Each writer's mean share of what a reader receives."""
    writing = pair.writing
    result = torch.zeros(len(allowed), pair.clean.size)
    near: dict[int, torch.Tensor] = {}
    received = inputs[reader.at].float()
    for number in allowed.nonzero().flatten().tolist():
        only = torch.zeros_like(allowed)
        only[number] = True
        total = writing.added(pair.clean_values, only, reader.stream)
        if total is not None:
            fitted(total, received, reader)  # modules may hold the rows in another form, and no others
            stream = received.to(total.device).reshape(total.shape)
            near[number] = (stream.abs().sum(-1) - (stream - total.float()).abs().sum(-1)).clamp(min=0)
    if not near:
        return result
    rows = torch.stack(list(near.values()), -1)
    row_mask = _rows_that_count(pair, reader, rows[..., 0])
    shares = rows / rows.sum(-1, keepdim=True).clamp(min=1e-12) * row_mask[..., None]
    source = next(s for s in writing.sources if s.stream == reader.stream)
    totals = sums_of_samples(source.rows, writing.batch, torch.cat([shares, row_mask[..., None]], -1))
    result[list(near)] = (totals[:-1] / totals[-1].clamp(min=1)).cpu()
    return result


def _rows_that_count(pair: Pair, reader: Reader, rows: torch.Tensor) -> torch.Tensor:
    """Where there are tokens; for the logits, only where the metric reads them."""
    row_mask = torch.ones_like(rows)
    is_token = pair.clean.layout.is_token
    if reader.part != "language" or rows.shape[:2] != is_token.shape:
        return row_mask
    row_mask = row_mask * is_token.to(row_mask)
    if reader.name == "logits":
        from_end = row_mask.flip(1).cumsum(1).flip(1)
        row_mask = row_mask * (from_end <= pair.reading.n_rows)
    return row_mask
