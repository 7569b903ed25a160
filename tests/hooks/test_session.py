"""Hooks attached first run ahead of those that are there, in the order given, and go by themselves."""

import torch

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
