"""Mean activations: against means taken by hand from a cache."""

from types import SimpleNamespace
from typing import Any

import pytest
import torch

from mmlens.analysis.controls.unit_means import _adder, mean_activation, point_means, unit_sizes
from mmlens.core.errors import InputError
from mmlens.core.units import Head, Neuron
from mmlens.hooks.nodes import Node
from tests.conftest import Subject
from tests.tiny import llava as tiny_llava
from tests.tiny import picture

UNITS = [Neuron(1, 5), Head(2, 1), Neuron(0, 2, "vision"), Neuron(1, 4)]
FIVE = [Neuron(1, index) for index in range(5)]


@torch.no_grad()
def test_a_dataset_has_the_mean_of_its_rows(subject: Subject) -> None:
    model = subject.model
    pairs = [
        (picture(i), text) for i, text in enumerate(["describe the image", "what is the color of the circle", "who"])
    ]
    sums: list[torch.Tensor] = [torch.tensor(0.0)] * len(UNITS)
    counts = [0] * len(UNITS)
    for shown, text in pairs:
        batch = model.prepare(text, images=shown)
        _, cache = model.run_with_cache(batch)
        for i, unit in enumerate(UNITS):
            rows = cache[unit.hook].flatten(0, -3 if isinstance(unit, Head) else -2)
            sums[i] = sums[i] + rows[:, unit.index].sum(0)
            counts[i] += len(rows)
    expected = [total / count for total, count in zip(sums, counts, strict=True)]
    found = mean_activation(model, pairs, UNITS, batch_size=2, progress=False)
    for mean, right in zip(found, expected, strict=True):
        torch.testing.assert_close(mean, right, rtol=1e-4, atol=1e-5)


@torch.no_grad()
def test_positions_choose_the_rows(llava: Subject) -> None:
    batch = llava.batches["left"]
    _, cache = llava.model.run_with_cache(batch, names="blocks.1.mlp.hook_post")
    (found,) = mean_activation(llava.model, batch, [Neuron(1, 5)], positions="text")
    rows = torch.cat([cache["blocks.1.mlp.hook_post"][i, text, 5] for i, text in enumerate(batch.layout.text)])
    torch.testing.assert_close(found, rows.mean())


@pytest.mark.parametrize(
    ("axes", "shape"),
    [
        ("batch pos neuron", (2, 5, 3)),
        ("batch pos head d_head", (2, 5, 3, 4)),
        ("patch neuron", (5, 3)),
        ("patch head d_head", (5, 3, 4)),
    ],
)
def test_all_rows_of_a_point_are_added_up_by_unit(axes: str, shape: tuple[int, ...]) -> None:
    """Also where no rule says which row is whose, in towers that lay pictures one after the other."""
    node = Node("vision.blocks.0.mlp.hook_post", "vision", 0, "mlp.post", axes, shape[-1], "vision", units=3)
    reader: Any = SimpleNamespace(rows_at=lambda node, shape: SimpleNamespace(whole=True))
    sums: dict[str, tuple[torch.Tensor, int]] = {}
    add = _adder(node, reader, sums, lambda rows: rows)
    activations = [torch.randn(shape) for _ in range(2)]
    for activation in activations:
        add(activation, None)
    rows = torch.cat([activation.flatten(0, 1) if "batch" in axes else activation for activation in activations])
    total, count = sums[node.name]
    torch.testing.assert_close(total, rows.sum(0))
    assert count == len(rows)


@torch.no_grad()
def test_sizes_of_units_are_magnitudes_and_norms(llava: Subject) -> None:
    rows = torch.tensor([[[3.0, 4.0], [0.0, -2.0]]])
    assert unit_sizes(rows).tolist() == [[5.0, 2.0]]
    assert unit_sizes(rows[0]).tolist() == [[3.0, 4.0], [0.0, 2.0]]
    batch, names = llava.batches["left"], ["blocks.1.mlp.hook_post", "blocks.2.attn.hook_z"]
    found = point_means(llava.model, batch, names, positions="text", of=unit_sizes)
    _, cache = llava.model.run_with_cache(batch, names=names)
    for name, norm in zip(names, (torch.Tensor.abs, lambda rows: rows.norm(dim=-1)), strict=True):
        rows = torch.cat([cache[name][i, text] for i, text in enumerate(batch.layout.text)])
        torch.testing.assert_close(found[name], norm(rows).mean(0))


@torch.no_grad()
def test_means_of_half_precision_are_added_up_in_float32() -> None:
    """Against float64 sums of the very same rows: bfloat16 totals would be off by parts in a hundred."""
    model = tiny_llava().to(torch.bfloat16)
    batches = [model.prepare("describe the image", images=picture(i)) for i in range(6)]
    name = "blocks.1.mlp.hook_post"
    rows = torch.cat([model.run_with_cache(batch, names=name)[1][name].flatten(0, 1) for batch in batches])
    assert rows.dtype == torch.bfloat16
    found = mean_activation(
        model, [(picture(i), "describe the image") for i in range(6)], FIVE, batch_size=1, progress=False
    )
    torch.testing.assert_close(
        torch.stack(found).double(), rows.double().mean(0)[[unit.index for unit in FIVE]], rtol=1e-5, atol=1e-6
    )


def test_no_units_and_no_samples_are_refused(llava: Subject) -> None:
    with pytest.raises(InputError, match="was given no units"):
        mean_activation(llava.model, llava.batches["left"], [])
    with pytest.raises(InputError, match="holds no samples"):
        mean_activation(llava.model, [], [Neuron(0, 0)], progress=False)
    with pytest.raises(InputError, match=r"The model has no L9\.u0"):
        mean_activation(llava.model, llava.batches["left"], [Neuron(9, 0)])
