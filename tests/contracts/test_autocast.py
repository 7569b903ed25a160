"""Contract: under `torch.autocast` every verb gives what it gives in float32, as far as a forward pass does."""

from collections.abc import Callable
from typing import Any

import pytest
import torch

import mmlens as mm
from tests.conftest import LONG, SHORT, Subject
from tests.tiny import VOCAB, picture

AT = "blocks.*.hook_resid_pre"


def red(logits: torch.Tensor) -> torch.Tensor:
    """The logit of a word."""
    return logits[:, VOCAB["red"]]


def patch(model: Any, batch: Any, other: Any, **options: Any) -> torch.Tensor:
    return mm.patch(model, batch, other, metric=red, progress=False, **options).values


#: By name: the numbers of a verb, given (model, batch, another batch of the same layout).
VERBS: dict[str, Callable[[Any, Any, Any], torch.Tensor]] = {
    "cells of rows": lambda m, b, o: patch(m, b, o, at=AT, positions="text"),
    "heads": lambda m, b, o: patch(m, b, o, at="blocks.*.attn.hook_z", positions="last"),
    "patterns": lambda m, b, o: patch(m, b, o, at="blocks.*.attn.hook_pattern", positions="last"),
    "vision": lambda m, b, o: patch(m, b, o, at="vision.blocks.*.hook_resid_pre", positions="all"),
    "knock_out": lambda m, b, o: mm.knock_out(m, b, queries="last", keys="image", metric=red, progress=False).values,
    "attribute": lambda m, b, o: mm.attribute(m, b, o, at=AT, metric=red).effect,
    "neurons": lambda m, b, o: mm.find_neurons(m, b, token="red").scores,
    "direct effect": lambda m, b, o: mm.find_neurons(m, b, token="red", method="direct_effect").scores,
    "trace": lambda m, b, o: m.trace_generation(b, names="hook_logits", max_new_tokens=1).logits,
}


@pytest.mark.parametrize("verb", VERBS)
def test_a_verb_under_autocast(subject: Subject, verb: str) -> None:
    model, run = subject.model, VERBS[verb]
    batch, other = (model.prepare([SHORT, LONG], images=[[picture(seed)], [picture(seed + 1)]]) for seed in (0, 2))
    with torch.no_grad():
        plain_logits, plain = model(batch), run(model, batch, other)
        with torch.autocast("cpu", dtype=torch.bfloat16):
            rough_logits = model(batch)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        rough = run(model, batch, other)
    real = batch.layout.is_token
    allowed = 3 * float((rough_logits - plain_logits)[real].abs().max()) / float(plain_logits[real].abs().max())
    assert 0 < allowed < 0.2
    assert float((rough - plain).abs().max()) <= allowed * max(
        float(plain.abs().max()), float(plain_logits.abs().max())
    )


def test_circuits_under_autocast(llava: Subject) -> None:
    """Sums of writers are rounded at half precision, which is no stream that something else is added to."""
    batch, other = (llava.model.prepare(SHORT, images=picture(seed)) for seed in (0, 2))
    plain = mm.find_circuit(llava.model, (batch, other), metric=red, progress=False)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        rough = mm.find_circuit(llava.model, (batch, other), metric=red, progress=False)
    same, theirs = (torch.as_tensor(found.scores).float() for found in (rough, plain))
    assert float(torch.corrcoef(torch.stack([same.flatten(), theirs.flatten()]))[0, 1]) > 0.99
