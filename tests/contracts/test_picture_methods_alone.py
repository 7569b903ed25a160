"""What is read of pictures in language models (heads, relevance, latent lens, back-patching, routes, ablated objects): of each
sample what it is alone, in batches padded on either side, beside several pictures, with sub-words, in every family; or refused by
name before any forward pass."""

from collections.abc import Callable, Sequence
from typing import Any

import pytest
import torch

import mmlens as mm
from mmlens.core.errors import InputError, NoPlaceError
from mmlens.models.hooked import HookedMultimodal
from tests.conftest import LONG, SHORT, Subject
from tests.interventions.passes import never_entered
from tests.tiny import picture

AT = "blocks.1.hook_resid_post"
#: From a model, a batch and words to look for, one a sample: numbers of each sample.
Measured = Callable[[HookedMultimodal, mm.MultimodalBatch, Sequence[str]], list[torch.Tensor]]


def by_sample(sweep: mm.patching.PatchSweep) -> list[torch.Tensor]:
    return list(sweep.values.movedim(-1, 0))


def relevance(method: str) -> Measured:
    def maps(model: HookedMultimodal, batch: mm.MultimodalBatch, words: Sequence[str]) -> list[torch.Tensor]:
        options: dict[str, Any] = {} if method == "rollout" else {"word": words}
        found = mm.lenses.relevance_map(model, batch, method=method, **options)
        return [heat.values for heat in found if heat is not None]

    return maps


def latent(model: HookedMultimodal, batch: mm.MultimodalBatch, words: Sequence[str]) -> list[torch.Tensor]:
    states = torch.randn(9, model.cfg.d_model, generator=torch.Generator().manual_seed(1))
    index = mm.lenses.ContextualIndex.of({AT: states}, {AT: [str(n) for n in range(9)]})
    reading = mm.lenses.latent_lens(model, batch, index, k=9)
    return [torch.tensor([[w.cosine for w in row] for row in rows]) for rows in reading.words[AT]]


def heads(model: HookedMultimodal, batch: mm.MultimodalBatch, words: Sequence[str]) -> list[torch.Tensor]:
    """The ranking is of all samples: as many times their mean."""
    scores = mm.rank_heads(model, batch, method="visual").scores
    return [scores * batch.size]


def back(model: HookedMultimodal, batch: mm.MultimodalBatch, words: Sequence[str]) -> list[torch.Tensor]:
    return by_sample(mm.patching.back_patch(model, batch, metric=mm.metrics.log_probability(list(words))))


def routes(model: HookedMultimodal, batch: mm.MultimodalBatch, words: Sequence[str]) -> list[torch.Tensor]:
    metric = mm.metrics.probability(list(words))
    return by_sample(mm.patching.information_flow(model, batch, metric=metric, window=2, progress=False))


def ablated(model: HookedMultimodal, batch: mm.MultimodalBatch, words: Sequence[str]) -> list[torch.Tensor]:
    mean, metric = torch.ones(model.cfg.d_model), mm.metrics.log_probability(list(words))
    box = mm.positions.box((0, 0, 8, 8))
    sweep = mm.patching.ablate_object(model, batch, objects=box, mean=mean, metric=metric, rings=(0, 1), seeds=(0, 1))
    names = ["object + 0 rings", "object + 1 rings", "random, as many as + 0", "random, as many as + 1", "registers"]
    by_name = dict(zip(sweep.groups, sweep.effect[0], strict=True))
    missing = torch.full((batch.size,), torch.nan)  # a column that no sample has is left out
    return list(torch.stack([by_name.get(name, missing) for name in names]).T)


MEASURED: dict[str, Measured] = {
    "relevancy": relevance("relevancy"), "rollout": relevance("rollout"), "grad_cam": relevance("grad_cam"),
    "latent lens": latent, "heads": heads, "back-patching": back, "routes": routes, "ablated object": ablated,
}  # fmt: skip
#: What a Q-Former's rows have no place for.
PLACED = ("relevancy", "rollout", "heads", "ablated object")


def require_alone(
    model: HookedMultimodal, name: str, batch: mm.MultimodalBatch, prompts: Sequence[str], words: Sequence[str]
) -> None:
    together = MEASURED[name](model, batch, words)
    alone = []
    for number, prompt in enumerate(prompts):
        one = model.prepare([prompt], images=[list(batch.images[number])])
        alone += MEASURED[name](model, one, [words[number]])
    if name == "heads":
        alone = [torch.stack(alone).sum(0)]
    assert len(together) == len(alone)
    for found, expected in zip(together, alone, strict=True):
        size = expected.nan_to_num().abs().max()
        assert found.nan_to_num().std() > 1e-3 * size
        torch.testing.assert_close(found / size, expected / size, atol=2e-4, rtol=0, equal_nan=True)


@pytest.mark.parametrize("side", ["left", "right"])
@pytest.mark.parametrize("name", MEASURED)
def test_a_sample_is_what_it_is_alone(subject: Subject, name: str, side: str) -> None:
    model, batch = subject.model, subject.batches[side]
    if subject.name == "instructblip" and name in PLACED:
        with pytest.raises(NoPlaceError, match="have no place in"), never_entered(model):
            MEASURED[name](model, batch, ["red", "blue"])
        return
    require_alone(model, name, batch, (SHORT, LONG), ["red", "blue"])


@pytest.mark.parametrize("name", MEASURED)
def test_beside_several_pictures(llava: Subject, qwen: Subject, name: str) -> None:
    for subject in (llava, qwen):
        require_alone(subject.model, name, subject.batches["several"], (SHORT, LONG), ["red", "blue"])


@pytest.mark.parametrize("name", MEASURED)
def test_with_sub_words(subword: HookedMultimodal, name: str) -> None:
    prompts = ["Is there a dog?", "What is the man holding, and where?"]
    batch = subword.prepare(prompts, images=[[picture(0)], [picture(1)]])
    require_alone(subword, name, batch, prompts, [" red", " blue"])


def test_routes_and_windows_that_are_not_there_are_refused_before_any_run(llava: Subject) -> None:
    model, batch = llava.model, llava.batches["left"]
    blind = model.prepare([SHORT])
    metric = mm.metrics.probability("red")
    cases: list[tuple[Callable[[], Any], str]] = [
        (lambda: mm.patching.information_flow(model, blind, metric=metric, progress=False), "no words behind a picture"),
        (lambda: mm.patching.back_patch(model, batch, metric=metric, window=9), "leaves no earlier layer"),
        (lambda: mm.rank_heads(model, batch, layers=[9]), "9"),
        (lambda: mm.lenses.relevance_map(model, batch, layers=[9]), "9"),
        (lambda: mm.lenses.relevance_map(model, batch, method="rollout", word="red"), "explains no word"),
    ]  # fmt: skip
    for call, message in cases:
        with pytest.raises(InputError, match=message), never_entered(model):
            call()
