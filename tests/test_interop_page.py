"""The page on other libraries: its code runs as it stands, and what it finds is right."""

from typing import Any

import pytest
import torch

from docs import executed

PAGE = executed.FOLDER / "interop.md"


@pytest.fixture(scope="module")
def names() -> dict[str, Any]:
    """What the page's blocks leave, but for captum's where it is not installed."""
    found: dict[str, Any] = {}
    for _ in executed.run(PAGE, found):
        pass
    return found


def test_an_interchange_changes_the_answer(names: dict[str, Any]) -> None:
    assert names["before"][: names["count"]].float().mean() > 0.9, "red ones are red"
    assert names["flipped"] > 0.9


def test_the_learned_direction_does_what_a_random_one_does_not(names: dict[str, Any]) -> None:
    assert names["accuracy"]["learned"] > 0.9
    assert names["accuracy"]["random"] < 0.2


def test_captum_runs_on_the_wrapped_model(names: dict[str, Any]) -> None:
    pytest.importorskip("captum", reason="captum is in the dev extra and is not installed")
    logit, ids, baseline, pixels = (names[name] for name in ("logit", "ids", "baseline", "pixels"))
    with torch.no_grad():
        gap = logit(ids, pixels) - logit(baseline, pixels)
    assert gap.abs() > 0.5
    torch.testing.assert_close(names["per_token"].sum(), gap[0], atol=0.1 * float(gap.abs()), rtol=0, check_dtype=False)
    assert names["per_token"][~names["is_text"][0]].abs().max() == 0, "the picture's rows stay"
    # by hand: channels weighted by their mean gradient
    seen: list[torch.Tensor] = []
    handle = names["convolution"].register_forward_hook(lambda module, args, output: seen.append(output))
    value = logit(ids, pixels)
    handle.remove()
    gradient = torch.autograd.grad(value, seen[0])[0]
    by_hand = (gradient.mean((2, 3), keepdim=True) * seen[0]).sum(1, keepdim=True).relu()
    torch.testing.assert_close(names["cam"], by_hand, atol=1e-5, rtol=1e-4)
    assert names["overlay"].shape[-2:] == pixels.shape[-2:]


def test_a_direction_of_pairs(names: dict[str, Any]) -> None:
    assert float(names["vector"].direction.norm()) == pytest.approx(1, abs=1e-5)
