"""Exact runs in which only the edges of a circuit carry the clean run: what circuits are judged by."""

from collections.abc import Callable, Mapping, Sequence
from functools import partial

import torch
from jaxtyping import Bool, Float

from mmlens.analysis.circuits.ablation import Ablation
from mmlens.analysis.circuits.circuit import Circuit
from mmlens.analysis.circuits.dataset import PairData
from mmlens.analysis.circuits.pairs import BatchPair
from mmlens.analysis.metrics import Metric, MetricFunction
from mmlens.core.checkpoint import Checkpoint
from mmlens.core.errors import InputError
from mmlens.core.identity import identity_of
from mmlens.core.progress import ProgressBar
from mmlens.core.shares import shared_tensors
from mmlens.models.hooked import HookedMultimodal
from mmlens.models.identity import run_identity
from mmlens.models.processes import process_of


def measured(
    data: PairData,
    circuits: Mapping[str, Bool[torch.Tensor, "reader writer"]],
    results: Checkpoint,
    *,
    progress: bool,
) -> dict[str, Float[torch.Tensor, "sample"]]:
    """The metric when only a circuit's edges carry the clean run and all others are ablated, for each circuit.

    Circuits that are the same run once, and the empty one does not run again: it is the run with all edges ablated.

    Args:
        data: the pairs.
        circuits: their edges, by name.
        results: keeps finished runs.
        progress: show a progress bar.
    """
    edge_mask = data.graph.allowed
    different: dict[bytes, str] = {}
    name_of_run = {name: different.setdefault(mask.numpy().tobytes(), name) for name, mask in circuits.items()}
    names = [name for name in different.values() if circuits[name].any()]
    parts: dict[str, list[torch.Tensor]] = {name: [] for name in circuits}
    process = process_of(data.model)
    with ProgressBar(total=len(names) * len(data.pairs), desc="circuits", disable=not progress) as bar:
        for number, pairs in enumerate(data):

            def work(key: str, pairs: Sequence = pairs, start: int = len(f"batch {number}: ")) -> torch.Tensor:
                patched = edge_mask & ~circuits[key[start:]]
                return torch.stack([pair.run(patched) for pair in pairs]).sum(0).detach().cpu()

            keys = [f"batch {number}: {name}" for name in names]
            identity = partial(identity_of, list(data.pairs[number]))
            results_by_key = shared_tensors(keys, work, process, results, run=identity, on_done=bar.update)
            for name, other in name_of_run.items():
                empty = data.ends[number][1]
                parts[name].append(results_by_key[f"batch {number}: {other}"] if circuits[name].any() else empty)
    return {name: torch.cat(values) for name, values in parts.items()}


def judged_identity(
    model: HookedMultimodal,
    circuit: Circuit,
    pairs: Sequence[BatchPair],
    metric: Metric | MetricFunction,
    ablation: Ablation,
    settings: Sequence[object],
) -> Callable[[bool], Mapping[str, str]]:
    """What decides what a circuit is worth on some pairs; see `Checkpoint`."""
    graph = circuit.graph
    return lambda exact: run_identity(
        model,
        exact,
        the_clean_batches=[clean for clean, _ in pairs],
        the_corrupted_batches=[corrupted for _, corrupted in pairs],
        circuit=(
            circuit.kept,
            # their order decides what is judged; the scores themselves are rounded otherwise on another device
            circuit.scores.mean(-1)[circuit.kept].argsort(stable=True),
            [node.name for nodes in (graph.readers, graph.writers) for node in nodes],
        ),
        metric=metric,
        ablation=ablation,
        settings=list(settings),
    )


def require_gap(gap: float) -> None:
    """Refuse to take shares of nothing.

    Raises:
        InputError: if the runs with all edges and with none have the same metric.
    """
    if abs(gap) < 1e-6:
        raise InputError("The clean and the corrupted run have the same metric, so there is no gap to take shares of.")
