"""Which run is under way, and which positions of a sequence the pass holds that now reaches a point."""

from dataclasses import dataclass

import torch

from mmlens.core.errors import InputError
from mmlens.hooks.nodes import Node
from mmlens.inputs.point_rows import GROWING, sequence_length
from mmlens.models.hooked import HookedMultimodal
from mmlens.models.run import Run, Window


def run_of(model: HookedMultimodal, node: Node) -> Run:
    """The run of a model that is under way.

    Raises:
        InputError: if the Hugging Face model was called by itself.
    """
    run = model.current_run
    if run is None:
        raise InputError(
            f"Positions at {node.name} are those of the batch that a hooked model runs, and here the Hugging Face model was "
            "called by itself (or by another wrapper). Call the hooked model that the intervention is in force on: "
            "model(batch) or model.generate(batch)."
        )
    return run


@dataclass
class Passes:
    """Follows one run at one point, pass by pass.

    Attributes:
        grows: whether new tokens may follow on the point's sequence.
        prompt: positions that the sequence starts from.
        window: the positions of the pass under way, where they cannot be counted: passes may be taken back.
        seen: positions seen so far.
    """

    grows: bool
    prompt: int
    window: Window | None = None
    seen: int = 0

    @classmethod
    def of(cls, run: Run, node: Node, prompt: int) -> "Passes":
        """At the start of a run."""
        is_windowed = run.window is not None and node.sequence == run.model.graph["hook_logits"].sequence
        return cls(run.kind == "generate" and node.sequence in GROWING, prompt, run.window if is_windowed else None)

    def next(self, node: Node, count: int) -> int:
        """Position of the first row of the pass that now reaches the point with `count` rows.

        With a KV cache a step of a generation holds what is new alone; without one it holds everything so far.

        Raises:
            InputError: if they are not the positions of the batch.
        """
        if self.window is not None:
            return self.window.first + self.window.count - count  # logits may be those of the end alone
        first = self.seen if self.grows and count <= self.seen else 0
        if not self.seen and node.name == "hook_logits" and count < self.prompt:
            first = self.prompt - count  # Hugging Face works out the logits that it needs, those of the end
        fits = first + count == self.prompt or (self.grows and (bool(self.seen) or count <= self.prompt))
        if not fits:
            raise InputError(
                f"{node.name} holds {count} positions in this run, and the batch has {self.prompt} on the {node.sequence} "
                "sequence."
            )
        self.seen = first + count
        return first


class Follower:
    """Follows the passes of every run at one point. One for each hook: an intervention may be in force twice, and a run may
    lie inside another.

    Args:
        model: the hooked model.
        node: the point.
    """

    def __init__(self, model: HookedMultimodal, node: Node):
        self.model = model
        self.node = node

    def __call__(self, activation: torch.Tensor) -> tuple[Run, int, int]:
        """The pass that shows an activation now: its run, how many positions the sequence starts from, and its first row's.

        Raises:
            InputError: if there is no run, or the rows are not the positions of its batch.
        """
        run, node = run_of(self.model, self.node), self.node
        count = activation.shape[node.position_axis]
        passes = run.remember(self, lambda: self._begun(run, count))
        return run, passes.prompt, passes.next(node, count)

    def _begun(self, run: Run, count: int) -> Passes:
        # towers may have rows that the layout has no places for
        length = sequence_length(run.batch, self.node.sequence) if self.node.sequence in GROWING else None
        return Passes.of(run, self.node, count if length is None else length)


def refuse_known_positions(run: Run) -> None:
    """Refuse a run that goes on from keys and values of an earlier one: its passes hold part of the prompt only.

    Raises:
        InputError: if it is one.
    """
    past = run.options.get("past_key_values")
    if past is not None and (not hasattr(past, "get_seq_length") or past.get_seq_length()):
        raise InputError(
            "The run goes on from past_key_values of an earlier one, so that positions of the prompt cannot be told; run the "
            "whole prompt without past_key_values."
        )
