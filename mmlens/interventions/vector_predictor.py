"""What predicts each sample's steering vector from a state of its prompt, and how that state is read."""

from abc import ABC, abstractmethod
from collections.abc import Iterable
from typing import Any

import torch
from jaxtyping import Float

from mmlens.core.errors import InputError
from mmlens.core.rules import as_rule
from mmlens.hooks.nodes import Node
from mmlens.hooks.point import reads_only
from mmlens.hooks.session import HookFunction, suspended
from mmlens.inputs.point_rows import GROWING
from mmlens.inputs.row_reader import RowReader
from mmlens.interventions.passes import run_of
from mmlens.models.claims import unwatched, wrappers_in_force
from mmlens.models.hooked import HookedMultimodal
from mmlens.models.run import Run


class VectorPredictor(ABC):
    """What predicts a steering vector for each sample; `mm.steering.learn_predictor` trains one.

    The state is that of the last position of the prompt, read once a run: in the same pass where it lies in front of what is
    steered, else in a pass of the prompt without anything in force.

    Attributes:
        at: the hook point to steer at.
        read_at: the hook point whose state it reads.
    """

    at: str
    read_at: str

    @property
    @abstractmethod
    def width(self) -> int:
        """How many entries a vector has."""

    @property
    @abstractmethod
    def state_width(self) -> int:
        """How many entries the state that it reads has."""

    @abstractmethod
    def predict(self, states: Float[torch.Tensor, "sample d_state"]) -> Float[torch.Tensor, "sample d_model"]:
        """A vector for each state; float32, on the CPU."""

    def check(self, model: HookedMultimodal, nodes: Iterable[Node]) -> None:
        """Refuse points that it cannot read or steer.

        Raises:
            InputError: if so.
        """
        node = model.graph[self.read_at]
        if node.sequence not in GROWING or node.width != self.state_width or node.axes.split()[-1] != "d_model":
            raise InputError(
                f"The predictor reads {self.state_width} numbers of the prompt's last token at {self.read_at}, which is "
                f"[{node.axes}] with {node.width} last; it was made for another model or point."
            )
        towers = [other.name for other in nodes if other.sequence not in GROWING]
        if towers:
            raise InputError(
                f"The predictor's vectors are for tokens, and {towers[0]} holds rows of pictures; steer in the text."
            )

    def precedes(self, model: HookedMultimodal, nodes: Iterable[Node]) -> bool:
        """Whether the state is there before anything is steered, in the same pass."""
        names = model.graph.names
        return names.index(self.read_at) <= min(names.index(node.name) for node in nodes)

    def directions(self, run: Run) -> Float[torch.Tensor, "sample d_model"]:
        """The vectors of a run, once the state was read.

        Raises:
            InputError: if it was not.
        """

        def missing() -> torch.Tensor:
            raise InputError(
                f"{self!r} has read no state at {self.read_at} in this run, which does not reach that point."
            )

        return run.remember((id(self), "vectors"), missing)


def reader_of(model: HookedMultimodal, predictor: VectorPredictor) -> HookFunction:
    """A hook that has a predictor read the state of each prompt's end, in the first pass of every run."""
    node = model.graph[predictor.read_at]

    @reads_only
    def read(activation: torch.Tensor, hook: Any) -> None:
        run = run_of(model, node)
        run.remember((id(predictor), "vectors"), lambda: _predicted(run, predictor, activation))

    return read


def _predicted(run: Run, predictor: VectorPredictor, activation: torch.Tensor) -> torch.Tensor:
    node = run.model.graph[predictor.read_at]
    beams = len(activation) // run.batch.size  # a generation holds each prompt once for every beam
    reader = RowReader(as_rule("last"), run.batch, [node])
    return predictor.predict(reader.flat(node, activation[::beams].detach()))


def predict_apart(run: Run, predictor: VectorPredictor) -> None:
    """Have a predictor read its state in a pass of the prompt without anything in force."""

    def read() -> torch.Tensor:
        model: HookedMultimodal = run.model
        points = [point for wrapper in wrappers_in_force(model) for point in wrapper.hook_dict.values()]
        with torch.no_grad(), suspended(points), unwatched(model):
            _, cache = model.run_with_cache(run.batch, names=predictor.read_at, positions="last")
        return predictor.predict(cache[predictor.read_at][:, 0])

    run.remember((id(predictor), "vectors"), read)
