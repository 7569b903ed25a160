"""Contract: what a verb finds of a sample does not depend on what the sample runs with, in families of every kind."""

from collections.abc import Callable, Sequence
from functools import cache
from typing import Any, Literal

import pytest
import torch

import mmlens as mm
from mmlens.inputs.batch import MultimodalBatch
from mmlens.models.hooked import HookedMultimodal
from mmlens.models.rounding import rounding
from tests.conftest import LONG, SHORT
from tests.contracts.test_alone import BY_NAME, RIGHT_ONLY, model_of, prepared
from tests.tiny import VOCAB, picture

#: Rotary and counted positions, packed and tiled towers, Q-Formers, prefixes, cross-attention, encoder-decoders, experts.
NAMES = (
    *("llava_clip", "qwen2_vl", "instructblip", "paligemma", "gemma3", "mllama", "florence2", "instructblip_t5"),
    *("idefics", "kosmos2", "mistral_large4", "hunyuan_vl", "molmo2", "minimax_m3_vl"),
)
BLUE, RED = VOCAB["blue"], VOCAB["red"]
Values = list[torch.Tensor]


def metric(logits: torch.Tensor) -> torch.Tensor:
    """How much rather one word than another."""
    return logits[:, BLUE] - logits[:, RED]


def points(model: HookedMultimodal) -> list[str]:
    """A stream, neurons and heads of a block in the middle."""
    kinds = ("hook_resid_pre", "mlp.hook_post", "attn.hook_z")
    return [name for name in (f"blocks.1.{kind}" for kind in kinds) if name in model.graph]


def counterfactual(name: str, samples: Sequence[int], padding_side: Literal["left", "right"] | None) -> MultimodalBatch:
    """The same questions about other pictures."""
    sizes = BY_NAME[name].sizes
    images = [[picture(sample + 10, *sizes[sample])] for sample in samples]
    return model_of(name).prepare([(SHORT, LONG)[n] for n in samples], images=images, padding_side=padding_side)


def swept(verb: Callable[..., Any]) -> Callable[..., Values]:
    def run(model: HookedMultimodal, clean: MultimodalBatch, other: MultimodalBatch) -> Values:
        found = verb(model, clean, other, at=points(model), positions={"last": "last"}, metric=metric, progress=False)
        return list(found.values.unbind(-1))

    return run


def pictures_patched(model: HookedMultimodal, clean: MultimodalBatch, other: MultimodalBatch) -> Values:
    found = mm.patch(model, clean, other, at="projector.hook_out", positions="all", metric=metric, progress=False)
    return list(found.values.unbind(-1))


def scored(model: HookedMultimodal, clean: MultimodalBatch, other: MultimodalBatch) -> Values:
    """Scores of all neurons, added over the samples: those of each follow from the others."""
    return [mm.find_neurons(model, clean, token=RED, progress=False).scores]


def steered(model: HookedMultimodal, clean: MultimodalBatch, other: MultimodalBatch) -> Values:
    width = model.graph["blocks.1.hook_resid_post"].width
    direction = torch.randn(width or 1, generator=torch.Generator().manual_seed(3))
    with torch.no_grad(), model.intervene(mm.Add("blocks.1.hook_resid_post", direction, positions="last")):
        return list(ends(model, clean))


def ends(model: HookedMultimodal, batch: MultimodalBatch) -> torch.Tensor:
    """Logits at each sample's last position."""
    logits = model(batch)
    decodes = model.graph["hook_logits"].sequence == "decoder"
    return logits[:, -1] if decodes else logits[torch.arange(batch.size), batch.layout.last]


VERBS: dict[str, Callable[[HookedMultimodal, MultimodalBatch, MultimodalBatch], Values]] = {
    "patch": swept(mm.patch),
    "patch pictures": pictures_patched,
    "attribute": swept(mm.attribute),
    "find_neurons": scored,
    "steer": steered,
}


@cache
def found_alone(name: str, verb: str) -> tuple[Values, float, float]:
    """What a verb finds of each sample alone; the model's rounding, and the size of its logits."""
    model = model_of(name)
    batches = [prepared(name, [sample]) for sample in (0, 1)]
    values = [VERBS[verb](model, batch, counterfactual(name, [n], None))[0] for n, batch in enumerate(batches)]
    unit = max(rounding(model, batch) for batch in batches)
    return values, unit, max(float(ends(model, batch).detach().abs().max()) for batch in batches)


#: Mixtures of experts hold no neurons to score.
CASES = [
    (name, verb)
    for name in NAMES
    for verb in VERBS
    if not (verb == "find_neurons" and name in ("mistral_large4", "minimax_m3_vl"))
]


@pytest.mark.parametrize(("name", "verb"), CASES)
def test_a_verb_finds_of_a_sample_what_it_finds_of_it_alone(name: str, verb: str) -> None:
    model = model_of(name)
    alone, unit, size = found_alone(name, verb)
    if verb == "find_neurons":
        alone = [torch.stack(alone).mean(0)]
    largest = max(float(values.abs().max()) for values in alone)
    assert largest > 1e-4, "nothing is found, so nothing is tested"
    sides: list[Literal["left", "right"]] = ["right"] if name in RIGHT_ONLY else ["left", "right"]
    for side in sides:
        for samples in ([0, 1], [1, 0]):
            together = VERBS[verb](model, prepared(name, samples, side), counterfactual(name, samples, side))
            for found, sample in zip(together, samples, strict=False):
                gap = float((found - alone[0 if verb == "find_neurons" else sample]).abs().max())
                # two logits a number; what is multiplied by a gradient grows by its size
                assert gap <= 12 * unit * max(1.0, largest / size), (side, samples, sample, gap)


@pytest.mark.parametrize("name", NAMES)
def test_collected_states_are_those_of_samples_alone(name: str) -> None:
    model, sizes = model_of(name), BY_NAME[name].sizes
    data = [{"image": picture(n, *sizes[n]), "question": (SHORT, LONG)[n]} for n in (0, 1)]
    options: dict[str, Any] = {
        "at": "blocks.1.hook_resid_post",
        "positions": "last",
        "dtype": "float32",
        "progress": False,
    }
    together = mm.collect(model, data, batch_size=2, **options).at().values
    alone = mm.collect(model, data, batch_size=1, **options).at().values
    unit, size = found_alone(name, "steer")[1:]
    assert float((together - alone).abs().max()) <= 12 * unit * max(1.0, float(alone.abs().max()) / size)
