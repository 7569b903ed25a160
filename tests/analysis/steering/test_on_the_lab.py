"""The whole way on the trained lab model: states, vector, concepts, gate, report, on scenes that were not used before."""

import pytest

import mmlens as mm
from mmlens.analysis.samples.sample import Sample

AT = "blocks.5.hook_resid_post"


def _asked(scenes: list[mm.lab.Scene], wanted: dict[str, int]) -> list[Sample]:
    """So many questions with each answer, one per scene and answer."""
    found: dict[str, list[Sample]] = {answer: [] for answer in wanted}
    for scene in scenes:
        for question in scene.questions:
            some = found.get(question.answer, [])
            if len(some) < wanted.get(question.answer, 0) and str(scene.seed) not in [each.name for each in some]:
                some.append(Sample((scene.image,), question.text, name=str(scene.seed), answer=question.answer))
    return [each for some in found.values() for each in some]


@pytest.fixture(scope="module")
def steering(request: pytest.FixtureRequest) -> tuple[mm.HookedMultimodal, mm.Steer]:
    """From yes to no, where a concept of yes is active."""
    model = mm.lab.load()
    others = ("red", "blue", "two", "grass", "sunny", "left")
    taught = _asked(mm.lab.scenes(120, seed=7, split="train"), {"yes": 16, "no": 16, **dict.fromkeys(others, 6)})
    words = ("yes", "no", *others)
    store = mm.collect(
        model, taught, at=AT, token=words, max_new_tokens=1, dtype="float32", batch_size=34, progress=False
    )
    states = store.at()
    bank = mm.extract_concepts(states, 12, method="kmeans")
    active = {c for c, word in zip(bank.dominant().tolist(), states.tokens, strict=True) if word == "yes"}
    vector = mm.steering_vector(states.with_token("yes"), states.with_token("no"))
    return model, mm.Steer(
        vector,
        positions=mm.positions.last | mm.positions.generated,
        gate=mm.steering.ActiveConcept(bank, sorted(active)),
    )


def test_yes_becomes_no_and_the_rest_stays(steering: tuple[mm.HookedMultimodal, mm.Steer]) -> None:
    model, steer = steering
    scenes = mm.lab.scenes(60, seed=8)
    sets = {
        "yes": _asked(scenes, {"yes": 8}),
        "others": _asked(scenes, {"no": 2, "red": 2, "one": 2, "water": 1, "gloomy": 1}),
    }
    report = mm.steering.steering_report(model, steer, sets, max_new_tokens=3, progress=False)
    assert report.became("steered", "yes", "no", "yes").mean >= 0.85
    assert report.changed("steered", "others").mean == 0
    assert report.changed("steered, isotropic 0").mean == 0
    assert report.diversity("steered", "yes")[1].length == 1  # the answer is "no", and nothing after it
