"""What verbs carry out, counted: sweeps take two forward passes and what their cells can change, and little else."""

from typing import Any

import pytest
import torch

import mmlens as mm
from benchmarks.models import Subject, llava_1_5
from benchmarks.operations import operations
from mmlens.execution.strategies import WORTHWHILE

#: What may be carried out, as a multiple of what has to be.
_MOST = 1.3


@pytest.fixture(scope="module")
def narrow() -> Subject:
    """A narrow LLaVA-1.5 with its real sequence."""
    return llava_1_5(2, width=256, vocabulary=512)


@pytest.fixture(scope="module")
def corrupted(narrow: Subject) -> mm.MultimodalBatch:
    """The same text with another picture."""
    pixels = torch.randn(narrow.inputs["pixel_values"].shape, generator=torch.Generator().manual_seed(7))
    return narrow.hooked.batch({**narrow.inputs, "pixel_values": pixels})


@pytest.fixture(scope="module")
def forward(narrow: Subject) -> float:
    """Operations of one forward pass."""
    with torch.no_grad():
        return operations(lambda: narrow.hooked(narrow.batch))[0]


def test_operations_of_products_and_attention_are_counted() -> None:
    rows = torch.randn(1, 2, 5, 4)
    assert operations(lambda: rows @ rows.transpose(2, 3))[0] == 2 * 2 * 5 * 5 * 4
    attention = torch.nn.functional.scaled_dot_product_attention
    assert operations(lambda: attention(rows, rows, rows))[0] == 2 * 2 * 2 * 5 * 5 * 4


@pytest.mark.parametrize(
    ("at", "positions", "units"),
    [
        ("blocks.*.attn.hook_z", [mm.positions.row(row) for row in (590, 604)], "head"),
        ("blocks.*.hook_resid_pre", [mm.positions.row(row) for row in (2, 590, 604)], None),
        ("blocks.*.hook_resid_pre", mm.positions.grid(2), None),
        ("vision.blocks.*.hook_resid_pre", None, None),
    ],
)
def test_a_sweep_takes_two_passes_and_its_cells(
    narrow: Subject, corrupted: mm.MultimodalBatch, forward: float, at: str, positions: Any, units: Any
) -> None:
    options = {"at": at, "positions": positions, "units": units, "progress": False}
    metric = mm.metrics.log_probability(5)
    count, sweep = operations(lambda: mm.patch(narrow.hooked, narrow.batch, corrupted, metric=metric, **options))
    assert sweep.plan is not None
    assert sweep.plan.cells >= WORTHWHILE
    # in whole passes, since the plan leaves the attention of towers out on both sides
    passes, cells = count / forward, sweep.plan.fraction * sweep.plan.cells
    assert passes <= _MOST * (2 + cells)
    # a floor that is counted too high would hide what is spent in vain
    assert passes >= 0.7 * (2 + cells)


def test_few_cells_are_whole_passes(narrow: Subject, corrupted: mm.MultimodalBatch, forward: float) -> None:
    metric = mm.metrics.log_probability(5)
    count, _ = operations(
        lambda: mm.patch(
            narrow.hooked, narrow.batch, corrupted, metric=metric, at="blocks.0.hook_resid_pre", progress=False
        )
    )
    assert count / forward == pytest.approx(2 + 3, rel=0.01)


def test_a_circuit_takes_two_passes_and_those_of_its_steps(
    narrow: Subject, corrupted: mm.MultimodalBatch, forward: float
) -> None:
    metric = mm.metrics.log_probability(5)
    method = mm.circuits.EAPIG(steps=2)
    count, _ = operations(
        lambda: mm.find_circuit(
            narrow.hooked, (narrow.batch, corrupted), metric=metric, method=method, nodes="attention", progress=False
        )
    )
    # a backward pass takes what a forward pass does, and twice as much in attention
    assert 2 + 2 * 2 <= count / forward <= _MOST * (2 + 2 * 2)
