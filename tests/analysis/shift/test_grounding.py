"""Words and pictures of shifted concepts, and what the lab's fine-tunes do to them."""

from dataclasses import replace

import pytest
import torch

from mmlens import lab
from mmlens.analysis.concepts.extract import extract_concepts
from mmlens.analysis.shift.grounding import ground_shift
from mmlens.analysis.shift.shift import concept_shift
from mmlens.analysis.store.collect import collect
from mmlens.analysis.store.states import States
from mmlens.core.errors import InputError
from mmlens.lab.checkpoints import STYLES
from mmlens.models.hooked import HookedMultimodal
from tests.analysis.shift.planted import planted_shift

AT = "blocks.5.hook_resid_post"
SCENES = lab.scenes(48, seed=5)


@pytest.fixture(scope="module")
def states() -> dict[str, States]:
    """States that predict the first noun, of the base model and of each fine-tune."""
    pytest.importorskip("peft")
    model = lab.load_tuned()
    found = {}
    for style in (None, *STYLES):
        with model.adapter(style):
            store = collect(model, SCENES, at=AT, token=lab.NOUNS, max_new_tokens=16, batch_size=32, progress=False)
        found[style or "base"] = store.at()
    return found


@pytest.fixture(scope="module")
def model() -> HookedMultimodal:
    return lab.load()


def words_by_hand(model: HookedMultimodal, vector: torch.Tensor, k: int) -> set[str]:
    """The k highest words through the bare final norm and unembedding."""
    bare = model.hf_model.model.language_model.norm  # type: ignore[union-attr]
    logits = model.hf_model.lm_head(bare(vector.float()))  # type: ignore[operator]
    ranked = (model.to_string(token).strip() for token in logits.argsort(descending=True).tolist())
    return set([word for word in ranked if word.isalpha()][:k])


@pytest.mark.parametrize("style", STYLES)
def test_shifting_leads_to_the_tuned_concepts_of_the_lab(
    model: HookedMultimodal, states: dict[str, States], style: str
) -> None:
    bank = extract_concepts(states["base"], 6, method="kmeans")
    shift = concept_shift(states["base"], states[style], bank, pairs="common")
    assert len(shift.shifts) >= 44
    assert shift.source[0] != shift.source[1]
    for quantity in ("recovery", "cosine_gain", "recovery_distance"):
        assert shift.mean(quantity).low > 0  # type: ignore[arg-type]
        assert shift.control().mean(quantity).mean < 0  # type: ignore[arg-type]
        assert shift.mean(quantity).mean > shift.control("shuffled").mean(quantity).mean  # type: ignore[arg-type]
    before, shifted = ground_shift(model, shift).text_overlap.nanmean(1).tolist()
    assert shifted > before + 0.05


def test_words_overlap_and_pictures(model: HookedMultimodal, states: dict[str, States]) -> None:
    shift = concept_shift(
        states["base"], states["mood"], extract_concepts(states["base"], 4, method="kmeans"), pairs="common"
    )
    shown = ground_shift(model, shift, SCENES, words=5, pictures=2, keep=str.isalpha)
    said = [set(zip(states[name].keys, states[name].tokens, strict=True)) for name in ("base", "mood")]
    base = states["base"]
    both = [row for row in range(len(base)) if (base.keys[row], base.tokens[row]) in said[0] & said[1]]
    for k in range(4):
        sides = [words_by_hand(model, vectors[k], 5) for vectors in (shift.base, shift.shifted, shift.matched)]
        assert [set(side[k].words) for side in (shown.before, shown.shifted, shown.after)] == sides
        expected = [len(side & sides[2]) / 5 for side in sides[:2]]
        assert shown.text_overlap[:, k].tolist() == pytest.approx(expected)
        distances = (states["base"].values.double() - shift.base[k]).norm(dim=1).tolist()
        row = min(both, key=distances.__getitem__)
        assert shown.before[k].pictures[0].tobytes() == SCENES[row].image.convert("RGB").tobytes()
        assert len(shown.shifted[k].pictures) == 2
    frame = shown.to_frame()
    assert frame["text_overlap_shifted"].tolist() == pytest.approx(shown.text_overlap[1].tolist())
    figure = shown.plot(concepts=[1, 3])
    texts = [text.get_text() for part in figure.subfigs for axes in part.axes for text in axes.texts]
    assert sum(text.startswith(("concept 1: ", "concept 3: ")) for text in texts) == 2
    assert sum(len(axes.images) for part in figure.subfigs for axes in part.axes) == 2 * 3 * 2
    assert figure._repr_png_().startswith(b"\x89PNG")
    dots = [len(each.get_offsets()) for axes in shift.plot(quantity="magnitude").axes for each in axes.collections]
    assert sum(dots) == 2 * 4


def test_concepts_without_samples_have_no_words(model: HookedMultimodal, states: dict[str, States]) -> None:
    base, tuned = states["base"], states["place"]
    bank = extract_concepts(base, 4, method="kmeans")
    gone = int(bank.dominant()[0])
    kept = base[bank.dominant() != gone]
    shift = concept_shift(kept, tuned, bank, extract_concepts(tuned, 4, method="kmeans"), pairs="common")
    shown = ground_shift(model, shift)
    assert shown.shifted[gone].words == ()
    assert torch.isnan(shown.text_overlap[1]).tolist() == [k == gone for k in range(4)]
    assert shown.before[gone].words
    assert "(none)" in repr(shown)
    assert shown.plot()._repr_png_().startswith(b"\x89PNG")


def test_pictures_that_there_cannot_be_are_refused(model: HookedMultimodal, states: dict[str, States]) -> None:
    bank = extract_concepts(states["base"], 2, method="kmeans")
    unpaired = concept_shift(states["base"], states["place"], bank, pairs="none")
    with pytest.raises(InputError, match="unpaired states, which have no pictures in common"):
        ground_shift(model, unpaired, SCENES)
    paired = concept_shift(states["base"], states["place"], bank, pairs="common")
    with pytest.raises(InputError, match=r"The dataset lacks \d+ of \d+ samples"):
        ground_shift(model, paired, SCENES[:5])
    other = replace(planted_shift().base, at="blocks.5.hook_resid_post")
    with pytest.raises(InputError, match="write no words"):
        ground_shift(model, concept_shift(other, other, extract_concepts(other, 2, method="kmeans")))
