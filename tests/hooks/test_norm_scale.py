"""A norm's scale: what is written there is the number that the norm divides by, worked out from the norm's formula."""

from collections.abc import Callable
from typing import Any

import pytest
import torch

from tests.conftest import Subject


def by_formula(norm: torch.nn.Module, x: torch.Tensor, scale: torch.Tensor) -> torch.Tensor:
    """`(x - mean) / scale * gain + bias` of a layer norm, `x / scale * gain` of an RMS norm, in float64."""
    x = x.double()
    bias = getattr(norm, "bias", None)
    if bias is not None:
        x = x - x.mean(-1, keepdim=True)
    normed = x / scale.double() * norm.weight.double()
    return normed if bias is None else normed + bias.double()


@pytest.mark.parametrize(
    ("name", "module"),
    [
        ("vision.blocks.1.ln1.hook_scale", lambda hf: hf.model.vision_tower.encoder.layers[1].layer_norm1),
        ("blocks.1.ln2.hook_scale", lambda hf: hf.model.language_model.layers[1].post_attention_layernorm),
    ],
    ids=["layer norm", "rms norm"],
)
@torch.no_grad()
def test_a_written_scale_is_the_number_that_the_norm_divides_by(
    llava: Subject, name: str, module: Callable[[Any], torch.nn.Module]
) -> None:
    model, batch = llava.model, llava.batches["left"]
    norm = module(model.hf_model)
    seen: list[tuple[torch.Tensor, torch.Tensor]] = []
    handle = norm.register_forward_hook(lambda module, inputs, output: seen.append((inputs[0], output)))
    written: list[torch.Tensor] = []

    def write(scale: torch.Tensor, hook: Any) -> torch.Tensor:
        written.append(3 * scale + 0.5)
        return written[0]

    try:
        model.run_with_hooks(batch, fwd_hooks=[(name, write)])
    finally:
        handle.remove()
    (x, output), (scale,) = seen[0], written
    torch.testing.assert_close(output.double(), by_formula(norm, x, scale), atol=1e-5, rtol=1e-5)
    assert (output - norm(x)).abs().max() > 0.1
