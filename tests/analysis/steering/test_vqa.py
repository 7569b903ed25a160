"""The accuracy of the challenge, worked by hand."""

import pytest

from mmlens.analysis.steering.vqa import normalised, vqa_accuracy
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
    ("agreeing", "official", "simple"),
    # of ten people n agree: (n * min(1, (n - 1) / 3) + (10 - n) * min(1, n / 3)) / 10
    [(0, 0.0, 0.0), (1, 0.3, 1 / 3), (2, 0.6, 2 / 3), (3, 0.9, 1.0), (4, 1.0, 1.0), (10, 1.0, 1.0)],
)
def test_both_scorers(agreeing: int, official: float, simple: float) -> None:
    people = ["blue"] * agreeing + ["red"] * (10 - agreeing)
    assert vqa_accuracy(["Blue"], [people])[0] == pytest.approx(official)
    assert vqa_accuracy(["Blue"], [people], scorer="simple")[0] == pytest.approx(simple)


def test_one_reference_is_exact_match() -> None:
    assert vqa_accuracy(["two", "3"], [["2"], ["2"]]).tolist() == [1.0, 0.0]


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: vqa_accuracy(["a"], []), "1 answers for 0 questions"),
        (lambda: vqa_accuracy(["a"], ["yes"]), r"references\[0\]='yes' must be a list"),
        (lambda: vqa_accuracy(["a"], [["yes"]], scorer="mean"), "must be 'official' or 'simple'"),
    ],
)
def test_bad_input_is_refused(call, message) -> None:  # type: ignore[no-untyped-def]
    with pytest.raises(InputError, match=message):
        call()
