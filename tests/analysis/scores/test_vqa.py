"""The accuracy of the challenge, worked by hand."""

import pytest

from mmlens.analysis.samples.sample import Sample
from mmlens.analysis.scores.vqa import normalised, vqa_accuracy, vqa_score
from mmlens.core.errors import InputError


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ("Yes.", "yes"),
        ("a man in the  hat", "man in hat"),
        ("TEN", "10"),
        ("none", "0"),
        ("3.5", "3.5"),
        ("it is 5.", "it is 5"),
        ("red, white", "red white"),
        ("red,white", "red white"),
        ("10,000", "10000"),
        ("t-shirt", "t shirt"),
        ("isnt", "isn't"),
        ("couldn'tve", "couldn't've"),
        ("\ttwo\n", "2"),
    ],
)
def test_answers_are_compared_in_one_form(given: str, expected: str) -> None:
    assert normalised(given) == expected


@pytest.mark.parametrize(
    ("agreeing", "corrected", "simple"),
    # of ten people n agree: (n * min(1, (n - 1) / 3) + (10 - n) * min(1, n / 3)) / 10
    [(0, 0.0, 0.0), (1, 0.3, 1 / 3), (2, 0.6, 2 / 3), (3, 0.9, 1.0), (4, 1.0, 1.0), (10, 1.0, 1.0)],
)
def test_all_rules(agreeing: int, corrected: float, simple: float) -> None:
    people = ["blue"] * agreeing + ["red"] * (10 - agreeing)
    assert vqa_score("blue", people) == pytest.approx(corrected)
    assert vqa_score("Blue", people, rule="corrected") == pytest.approx(corrected)
    assert vqa_score("Blue", people, rule="simple") == pytest.approx(simple)


@pytest.mark.parametrize(
    ("answer", "people", "script", "corrected"),
    # the second figure is what the challenge's vqaEval.py gives
    [
        ("Dog.", ["dog"] * 10, 0.0, 1.0),  # nothing is normalised where all agree
        ("the Two dogs!", ["2 dogs"] * 4 + ["dogs"] * 6, 1.0, 1.0),
        ("dont know", ["don't know"] * 2 + ["no"] * 8, 0.6, 0.6),
        ("Im", ["I'm"] * 3 + ["x"] * 7, 0.0, 0.9),
        ("somebody'd", ["somebodyd"] * 5 + ["b"] * 5, 1.0, 0.0),
        ("1,000-m", ["1000m"] * 3 + ["a"] * 7, 0.9, 0.9),
        ("e.g. 3.5", ["eg 3.5"] * 2 + ["c"] * 8, 0.6, 0.6),
        ("red,white", ["red white"] + ["d"] * 9, 0.3, 0.3),
        ("none", ["0"] * 10, 0.0, 1.0),
        ("none", ["0"] * 9 + ["1"], 1.0, 1.0),
        ("lets", ["let's"] * 6 + ["go"] * 4, 0.0, 1.0),
        ("dog\n", ["dog"] * 10, 1.0, 1.0),
    ],
)
def test_the_script_is_the_script(answer: str, people: list[str], script: float, corrected: float) -> None:
    assert vqa_score(answer, people) == pytest.approx(script)
    assert vqa_score(answer, people, rule="corrected") == pytest.approx(corrected)


def test_one_reference_is_exact_match() -> None:
    assert [vqa_score(text, ["2"], rule="corrected") for text in ("two", "3")] == [1.0, 0.0]


def questions() -> list[Sample]:
    kinds = ("yes/no", "number", "other", "other")
    truth = ("yes", "2", "red", "blue")
    return [
        Sample((), "q", name=str(n), image_id=str(n // 2), references=(text,) * 9 + ("x",), types={"answer_type": kind})
        for n, (text, kind) in enumerate(zip(truth, kinds, strict=True))
    ]


def test_accuracy_over_all_and_by_type() -> None:
    table = vqa_accuracy(questions(), ["yes", "2", "red", "green"])
    found = {score.name: score.value for score in table.scores}
    assert found == {"accuracy": 0.75, "accuracy, number": 1.0, "accuracy, other": 0.5, "accuracy, yes/no": 1.0}
    assert [score.name for score in vqa_accuracy(questions(), [""] * 4, by=None).scores] == ["accuracy"]


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: vqa_accuracy(questions(), ["a"]), "1 answers for 4 samples"),
        (lambda: vqa_accuracy([Sample((), "q")], ["a"]), "samples 0 have no references, people's answers"),
        (
            lambda: vqa_accuracy(questions(), ["a"] * 4, by="kind"),
            "No question has the type 'kind'; they have 'answer_type'",
        ),
        (lambda: vqa_score("a", "yes"), r"people='yes' must be a list"),
        (lambda: vqa_score("a", []), "must be non-empty"),
        (lambda: vqa_score("a", ["yes"], rule="mean"), "must be 'script', 'corrected' or 'simple'"),
    ],
)
def test_bad_input_is_refused(call, message) -> None:  # type: ignore[no-untyped-def]
    with pytest.raises(InputError, match=message):
        call()
