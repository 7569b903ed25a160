"""Heads by number and as units: which points they choose, and which of the heads there."""

from typing import Any

import pytest
import torch

from mmlens.core.errors import InputError
from mmlens.core.unit_sets import Units
from mmlens.core.units import Head, Neuron
from mmlens.interventions.attention_pairs import score_points
from mmlens.interventions.head_choice import head_masks
from tests.conftest import Subject


def chosen(llava: Subject, heads: Any, layers: Any = None) -> dict[int, list[int] | None]:
    """The heads that are chosen, by layer."""
    nodes = score_points(llava.model, "language", layers)
    masks = head_masks(llava.model, nodes, heads, layers, verb="Cut")
    return {node.layer or 0: None if mask is None else mask.nonzero().flatten().tolist() for node, mask in masks}


def test_heads_of_every_layer_or_of_their_own(llava: Subject) -> None:
    for heads, layers, expected in (
        (None, None, {0: None, 1: None, 2: None}),
        (None, [1], {1: None}),
        ([3, 0], None, {0: [0, 3], 1: [0, 3], 2: [0, 3]}),
        (range(2), [2, 0], {2: [0, 1], 0: [0, 1]}),
        ((torch.tensor(1).item(), 1), [1], {1: [1]}),
        ("L1.h2", None, {1: [2]}),
        (Head(0, 3), None, {0: [3]}),
        (["L2.h0", Head(2, 2), "L0.h1"], None, {0: [1], 2: [0, 2]}),
        (Units(["L2.h0", "L0.h1"]), None, {0: [1], 2: [0]}),
    ):
        assert chosen(llava, heads, layers) == expected, heads


@pytest.mark.parametrize(
    ("heads", "layers", "message"),
    [
        ([], None, r"^heads=\[\] must name some of the 4 heads, 0\.\.3\.$"),
        ([4], None, r"^heads=\[4\] must name some of the 4 heads, 0\.\.3\.$"),
        ([0, -1], None, r"^heads=\[0, -1\] must name some of the 4 heads"),
        ([True], None, "no unit"),
        ({1, 2}, None, "no unit"),
        ("", None, "no unit"),
        (Units([]), None, "no heads"),
        (Neuron(0, 1), None, "Cut"),
        ("L1.h2", [1], r"^layers=\[1\] have no meaning beside heads=.*L1.h2.*, which bring their layers along\.$"),
        (
            ["vision.L0.h1", "L0.h1"],
            None,
            r"^Cut acts on heads of blocks\.\*\.attn here, and vision\.L0\.h1 lie elsewhere; name their part",
        ),
    ],
)
def test_heads_that_cannot_be_meant(llava: Subject, heads: Any, layers: Any, message: str) -> None:
    with pytest.raises(InputError, match=message):
        chosen(llava, heads, layers)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"part": "nope"}, "nope"),
        ({"attention": "both"}, r"^attention='both' must be 'self' or 'cross'\.$"),
        (
            {"attention": "cross"},
            r"^The part 'language' has no cross-attention .* in the stack 'blocks'; stacks that have: none\.$",
        ),
        (
            {"stack": "encoder.blocks"},
            r"no self-attention .* the stack 'encoder.blocks'; stacks that have: 'blocks'\.$",
        ),
        ({"layers": []}, r"^No layer was named: layers is empty\.$"),
        (
            {"layers": [1, 3, 7]},
            r"^layers=\[3, 7\] of language have no attention scores; it has them in layers 0, 1, 2\.$",
        ),
    ],
)
def test_layers_and_stacks_that_are_not_there(llava: Subject, options: Any, message: str) -> None:
    with pytest.raises(InputError, match=message):
        score_points(llava.model, **{"part": "language", "layers": None, **options})
