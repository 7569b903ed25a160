"""Which states of a sample are kept: what a rule is, and what it gives."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import torch

from mmlens.analysis.samples.sample import Sample
from mmlens.core.errors import InputError
from mmlens.core.identity import identity_of
from mmlens.hooks.nodes import Selection
from mmlens.inputs.batch import MultimodalBatch
from mmlens.models.contrast.method import ContrastMethod
from mmlens.models.generation import GenerationTrace
from mmlens.models.hooked import HookedMultimodal


@dataclass(frozen=True)
class CollectedBatch:
    """What a batch gave.

    Attributes:
        states: by hook name, `[row *width]`, where the model put them.
        counts: rows of each sample.
        steps, tokens: per row; see `Shard`.
        captions: per sample; empty where nothing was generated.
        words: per sample, the word of each of its rows; empty where none was looked for.
    """

    states: dict[str, torch.Tensor]
    counts: list[int]
    steps: list[int]
    tokens: list[int]
    captions: list[str]
    words: list[tuple[str, ...]]


class CollectionRule(Protocol):
    """Says which states are kept."""

    def __str__(self) -> str:
        """In words; two rules that keep the same say the same."""

    def check(self, model: HookedMultimodal, nodes: Selection) -> None:
        """Refuse points or samples at which it cannot be followed."""

    def take(
        self, model: HookedMultimodal, nodes: Selection, samples: Sequence[Sample], batch: MultimodalBatch
    ) -> CollectedBatch:
        """Run a batch and keep what is asked for."""


def contrasted(contrast: ContrastMethod | None) -> str:
    """Contrastive decoding as a rule's words end with it: with all that decides what comes out, functions by their code."""
    return "" if contrast is None else f", contrast {contrast.name} {identity_of(contrast, 'contrast')}"


def refuse_keys(nodes: Selection) -> None:
    """Refuse points that hold a row per pair of positions, whose size differs from sample to sample."""
    wrong = [node.name for node in nodes if "key" in node.axes.split() and "query" in node.axes.split()]
    if wrong:
        raise InputError(
            f"{', '.join(wrong[:4])} hold one number per pair of positions, so their rows differ in length from sample to "
            "sample and cannot be stored together; collect streams, neurons or heads (hook_z)."
        )


def picked(trace: GenerationTrace, nodes: Selection, rows: list[tuple[int, int]]) -> dict[str, torch.Tensor]:
    """The states of some (sample, step), by name, `[row *width]`."""
    numbers = torch.tensor([number for number, _ in rows], dtype=torch.long)
    steps = torch.tensor([step for _, step in rows], dtype=torch.long)
    states_of = {node.name: trace[node.name] for node in nodes}
    return {name: states[numbers.to(states.device), steps.to(states.device)] for name, states in states_of.items()}
