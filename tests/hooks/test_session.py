"""Hooks attached first run ahead of those that are there, in the order given, and go by themselves; what they return fits."""

from collections.abc import Callable
from typing import Any

import pytest
import torch

from mmlens.core.errors import InputError
from mmlens.hooks.session import attached
from tests.conftest import Subject


@torch.no_grad()
def test_hooks_attached_first_run_ahead_in_the_order_given(llava: Subject) -> None:
    model, batch = llava.model, llava.batches["left"]
    ran: list[str] = []

    def says(name: str):  # type: ignore[no-untyped-def]
        return "hook_embed", lambda activation, hook: ran.append(name)

    points = model.hook_dict
    with attached(points, [says("there")]):  # type: ignore[arg-type]
        with attached(points, [says("one"), says("two")], first=True):  # type: ignore[arg-type]
            model(batch)
        assert ran == ["one", "two", "there"]
        model(batch)
    assert ran == ["one", "two", "there", "there"]
    model(batch)
    assert len(ran) == 4


@pytest.mark.parametrize(
    ("returned", "described"),
    [
        (
            lambda x: x.mean(1, keepdim=True),
            r"\[2, 1, WIDTH\] float32 on cpu",
        ),  # torch would spread it over the positions
        (lambda x: x[:1], r"\[1, \d+, WIDTH\] float32 on cpu"),
        (lambda x: x.double(), r"\[2, \d+, WIDTH\] float64 on cpu"),
        (lambda x: (x, None), "a tuple"),
        (lambda x: 0.0, "a float"),
    ],
    ids=["one row", "one sample", "another dtype", "a tuple", "a number"],
)
@pytest.mark.parametrize("name", ["blocks.1.hook_attn_out", "blocks.1.hook_resid_mid", "vision.blocks.0.mlp.hook_post"])
@torch.no_grad()
def test_what_cannot_take_an_activations_place_is_refused(
    llava: Subject, name: str, returned: Callable[[torch.Tensor], Any], described: str
) -> None:
    model, batch = llava.model, llava.batches["left"]
    described = described.replace("WIDTH", str(model.graph[name].width))
    with pytest.raises(
        InputError,
        match=rf"^A hook at {name} returned {described}, where the activation is \[2, \d+, \d+\] float32 on cpu; return a "
        r"tensor like it \(new\.to\(activation\) takes over dtype and device\), or None to leave it as it is\.$",
    ):
        model.run_with_hooks(batch, fwd_hooks=[(name, lambda activation, hook: returned(activation))])
