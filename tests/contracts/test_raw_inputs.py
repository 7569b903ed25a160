"""Contract: what a processor of transformers gives is taken wherever a batch is, or the refusal says how to bring it."""

import pytest
from transformers import BatchFeature

import mmlens as mm
from tests.contracts.door.calls import Call, Fuzz, Public
from tests.contracts.door.world import World

#: Calls that need more of a batch than tensors tell, and what they ask for.
NEED_MORE = {
    **dict.fromkeys(("corrupt.blank", "corrupt.blur", "corrupt.twin"), r"model.batch(inputs, images=...)"),
    "corrupt.replace_words": "needs the prompts, and this batch was made from tensors",
    "MultimodalBatch": "must be a dict",
    "attribution_graph": "prepare the sample alone",
    "Contrast": "model.batch(inputs)",
    "FeatureScores": "model.batch(inputs)",
}


@pytest.fixture(scope="module")
def fuzz() -> Fuzz:
    return Fuzz(World())


def places(fuzz: Fuzz) -> list[tuple[Public, str]]:
    """The arguments that take a batch, and those that take a dataset."""
    found = []
    for item in fuzz.public:
        for name in item.parameters:
            try:
                example = fuzz.example(item, name)
            except KeyError:
                continue
            if isinstance(example, mm.MultimodalBatch) or name == "dataset":
                found.append((item, name))
    return found


def test_every_verb_takes_a_batch_feature_or_says_what_takes_it(fuzz: Fuzz) -> None:
    feature = BatchFeature(dict(fuzz.world.batch.inputs))
    wrong, count = [], 0
    for item, name in places(fuzz):
        arguments = fuzz.arguments(item)
        expected = fuzz.attempt(Call(item, name, "", None), arguments).outcome
        found = fuzz.attempt(Call(item, name, "", None), {**arguments, name: feature})
        sentence = NEED_MORE.get(item.name, "model.batch(inputs)" if name == "dataset" else None)
        same = found.outcome == expected and expected in ("forward", "returned")
        told = found.outcome == "clear" and sentence is not None and sentence in found.text
        count += 1
        if not (same or told):
            wrong.append(f"{item.name}({name}=...): {expected} became {found.outcome}: {found.text[:200]}")
    assert count > 40
    assert not wrong, "\n".join(wrong)
