"""Runs of the whole model in which blocks that no change reaches return what they returned in the clean run.

One cell of each sample shares a run. This serves every family, however its parts are wired: what a change can reach is read off
the graph, and everything else of the model runs as it always does.
"""

from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
from torch import nn

from mmlens.core.errors import MMLensError
from mmlens.execution.cells import Cell
from mmlens.execution.recording import is_shared
from mmlens.execution.whole import hooks_for, with_positions
from mmlens.hooks.graph import HookGraph
from mmlens.inputs.batch import MultimodalBatch
from mmlens.models.claims import claimed
from mmlens.models.decoder import Decoder, blocks_by_name, projector_module
from mmlens.models.hooked import HookedMultimodal


class _EmbeddingsKnown(MMLensError):
    """Raised out of a run once the merged embeddings are known."""


class DownstreamPoints:
    """What changes at points can alter, read off the graph.

    Args:
        graph: the hook-point graph.
    """

    def __init__(self, graph: HookGraph):
        self.graph = graph
        self._below: dict[str, frozenset[str]] = {}

    def below(self, name: str) -> frozenset[str]:
        """Points that a change at a point alters, with the point itself."""
        if name not in self._below:
            self._below[name] = frozenset([name, *self.graph.downstream(name).names])
        return self._below[name]

    def past_embeddings(self, name: str) -> bool:
        """Whether a change in front of the language model gets into it by another way than the merged embeddings."""
        by_embeddings = self.below("hook_embed")
        frontier = self.below(name) - by_embeddings
        others = (
            target
            for source in frontier
            for target in self.graph.digraph.successors(source)
            if target != "hook_embed" and target in by_embeddings
        )
        return any(others) or any(self.graph[point].part == "language" for point in frontier)


class Frozen:
    """A clean run whose blocks can be frozen.

    Args:
        model: the hooked model.
        batch: the batch.
        decoder: the language model's modules, if they can be run by themselves.
    """

    def __init__(self, model: HookedMultimodal, batch: MultimodalBatch, decoder: Decoder | None):
        self.model = model
        self.batch = batch
        self.decoder = decoder
        self.reach = DownstreamPoints(model.graph)
        self.modules = blocks_by_name(model)
        projector = projector_module(model)
        if projector is not None:
            self.modules["projector"] = projector
        self._returned: dict[str, Any] | None = None

    @property
    def returned(self) -> dict[str, Any]:
        """What blocks returned in the clean run: of those that ran once, and did nothing but return."""
        if self._returned is None:
            with self.recorded(), torch.no_grad():
                self.model(self.batch)
        return self._returned or {}

    @contextmanager
    def recorded(self) -> Iterator[None]:
        """Have what blocks return in the one run inside the `with` be what they return when they are frozen."""
        outputs: dict[str, list[Any]] = {name: [] for name in self.modules}
        writes: set[str] = set()
        with claimed(self.model, "A sweep"), ExitStack() as stack:
            for name, module in self.modules.items():

                def keep(m: nn.Module, args: Any, kwargs: dict[str, Any], output: Any, name: str = name) -> None:
                    outputs[name].append(output)
                    if any(is_shared(value) for value in (*args, *kwargs.values())):
                        writes.add(name)

                stack.callback(module.register_forward_hook(keep, with_kwargs=True).remove)
            yield
        self._returned = {name: calls[0] for name, calls in outputs.items() if len(calls) == 1 and name not in writes}

    @property
    def tensors(self) -> list[torch.Tensor]:
        """The kept outputs; none before there are any."""
        outputs = (self._returned or {}).values()
        tensors = [tensor for output in outputs for tensor in (output if isinstance(output, tuple) else (output,))]
        return [tensor for tensor in tensors if isinstance(tensor, torch.Tensor)]

    def frozen(self, cells: Sequence[Cell]) -> list[str]:
        """The blocks that no change of these cells reaches."""
        changed_inputs: set[str] = set()
        for change in {change.at for cell in cells for change in cell.changes}:
            # a change behind a block does not make it run: hooks see what a frozen block returns
            leaves = change.endswith(".hook_resid_post")
            changed_inputs |= self.reach.below(change) - ({change} if leaves else set())
        return [name for name in self.returned if not _has(changed_inputs, name)]

    @torch.no_grad()
    def run(self, cells: Sequence[Cell]) -> torch.Tensor:
        """Logits `[batch pos vocab]` of a run in which cells of different samples happen."""
        names = self.frozen(cells)  # its clean run comes before the hooks
        with self.model.hooks(hooks_for(self.model, self.batch, cells)), self.freezing(names):
            return with_positions(self.model(self.batch))

    @torch.no_grad()
    def embeddings(self, cells: Sequence[Cell]) -> torch.Tensor:
        """The merged embeddings `[batch pos d_model]` of such a run, which ends there; changes in front of them happen."""
        if self.decoder is None:
            raise MMLensError("The language model's blocks cannot be run by themselves.")
        values: list[torch.Tensor] = []

        def leave(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
            values.append(args[0] if args else kwargs["hidden_states"])
            raise _EmbeddingsKnown("the merged embeddings are known")

        before = [
            Cell(
                cell.sample, tuple(change for change in cell.changes if self.model.graph[change.at].part != "language")
            )
            for cell in cells
        ]
        names = self.frozen(before)  # its clean run comes before the hook that ends runs
        with self.model.hooks(hooks_for(self.model, self.batch, before)), self.freezing(names):
            handle = self.decoder.blocks[0].register_forward_pre_hook(leave, with_kwargs=True)
            try:
                self.model(self.batch)
            except _EmbeddingsKnown:
                pass
            finally:
                handle.remove()
        return values[0]

    @contextmanager
    def freezing(self, names: Sequence[str]) -> Iterator[None]:
        """Have modules return what they returned in the clean run; afterwards they run themselves again."""
        forwards: list[tuple[nn.Module, Any]] = []
        try:
            for name in names:
                module = self.modules[name]
                forwards.append((module, vars(module).get("forward")))
                vars(module)["forward"] = _Returning(self.returned[name])
            yield
        finally:
            for module, forward in reversed(forwards):
                if forward is None:
                    del vars(module)["forward"]
                else:
                    vars(module)["forward"] = forward


class _Returning:
    """A forward that returns what was returned before, whatever it is given."""

    def __init__(self, output: Any):
        self.output = output

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        return _copied(self.output)


def _copied(output: Any) -> Any:
    """A copy, since the model may go on in place."""
    if isinstance(output, torch.Tensor):
        return output.clone()
    if isinstance(output, tuple):
        return tuple(_copied(item) for item in output)
    return output


def _has(paths: set[str], name: str) -> bool:
    return any(point.startswith(f"{name}.") for point in paths)
