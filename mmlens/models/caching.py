"""Recording activations into a cache: which points, and which rows of each."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import torch

from mmlens.hooks.cache import ActivationCache, record_activations
from mmlens.hooks.nodes import Node
from mmlens.hooks.session import HookPair
from mmlens.inputs.picture_tensors import require_running
from mmlens.inputs.row_reader import RowReader, sample_axes


def require_named(nodes: Iterable[Node], names: object, tensors: Callable[[], Mapping[str, Any]]) -> None:
    """Check that the points which are named one by one run on a batch; a glob means what is there.

    Raises:
        InputError: if one of them does not run.
    """
    exact = [names] if isinstance(names, str) else names if isinstance(names, list | tuple) else []
    matches = [node for node in nodes if node.name in exact]
    keywords = tensors() if matches else {}
    for node in matches:
        require_running(keywords, node.part, node.name)


class CacheRecorder:
    """Keeps the activations of one run.

    Args:
        nodes: which points.
        reader: of the positions that are kept; None for all.
        device: where they are kept; None for where they are.
    """

    def __init__(self, nodes: Sequence[Node], reader: RowReader | None, device: torch.device | str | None):
        self.nodes = nodes
        self.reader = reader
        self._store: dict[str, torch.Tensor] = {}
        self.hooks: list[HookPair] = [
            (node.name, record_activations(self._store, None if reader is None else reader.picker(node), device))
            for node in nodes
        ]

    def cache(self, model: object) -> ActivationCache:
        """The cache, once the run is over."""
        tensors = {node.name: self._store[node.name] for node in self.nodes if node.name in self._store}
        if self.reader is None:
            return ActivationCache(tensors, model, axes={node.name: node.axes for node in self.nodes})
        axes = {node.name: sample_axes(node.axes) for node in self.nodes}
        return ActivationCache(tensors, model, axes=axes, positions=str(self.reader.rule), counts=self.reader.counts)
