"""Scores of runs, against the published programs' values and by hand; their intervals and paired tests."""

from itertools import product
from pathlib import Path

import numpy as np
import pytest

import mmlens as mm
from mmlens.analysis.samples.sample import Sample
from mmlens.analysis.scores.objects import ObjectWords
from mmlens.analysis.statistics.intervals import mean_interval
from mmlens.core.errors import InputError


def pictures(*references: tuple[str, ...]) -> list[Sample]:
    return [Sample((), "describe", name=str(n), references=texts) for n, texts in enumerate(references)]


@pytest.mark.parametrize(
    ("answer", "official", "strict"),
    [
        ("Yes", True, True),
        ("no", False, False),
        ("NO", True, False),
        ("No!", True, False),
        ("no\n", True, False),
        ("There isn't one.", True, None),
        ("There is not one", False, None),
        ("Yes, and snow too", True, True),
        ("Yes. There is no cat.", True, True),
        ("No, there is none.", False, False),
        ("Nothing", True, None),
        ("", True, None),
    ],
)
def test_yes_and_no(answer: str, official: bool, strict: bool | None) -> None:
    assert mm.scorers.says_yes(answer) is official
    assert mm.scorers.says_yes(answer, rule="strict") is strict


def test_pope_by_hand() -> None:
    truth = ["yes"] * 4 + ["no"] * 4
    answers = ["yes", "Yes.", "no", "I see none"] + ["no", "yes", "No, no.", "perhaps"]
    questions = [Sample((), "is there", name=str(n), image_id=str(n // 2), answer=t) for n, t in enumerate(truth)]
    # official: yes yes no yes | no yes no yes: TP 3, FN 1, FP 2, TN 2
    table = mm.scorers.pope(questions, answers)
    found = {score.name: score.value for score in table.scores}
    assert found == pytest.approx({"accuracy": 5 / 8, "precision": 3 / 5, "recall": 3 / 4, "F1": 6 / 9, "yes": 5 / 8})
    # strict: yes yes no - | no yes no -: TP 2, FN 2, FP 1, TN 2, neither 2
    strict = mm.scorers.pope(questions, answers, rule="strict")
    found = {score.name: score.value for score in strict.scores}
    assert found == pytest.approx(
        {"accuracy": 4 / 8, "precision": 2 / 3, "recall": 2 / 4, "F1": 4 / 7, "yes": 3 / 8, "neither": 2 / 8}
    )
    with pytest.raises(InputError, match="samples 0 have no answer yes or no"):
        mm.scorers.pope([Sample((), "q", answer="red")], ["yes"])


def test_nothing_to_count_is_not_a_number() -> None:
    questions = [Sample((), "is there", name=str(n), answer="no") for n in range(3)]
    table = mm.scorers.pope(questions, ["no"] * 3)
    assert np.isnan([table[name].value for name in ("precision", "recall", "F1")]).all()
    assert np.isnan(table["F1"].interval.low)
    frame = table.to_frame(table)
    assert np.isnan(frame.set_index("score").loc["F1", "p"])


def test_cider_d_is_that_of_the_coco_evaluation() -> None:
    people = pictures(
        ("a dog runs on grass", "a brown dog on the grass"),
        ("two cats sleep on a sofa", "cats on a couch"),
        ("a red bus on a street", "the bus drives down the road"),
    )
    captions = ["a dog on the grass", "two cats sleep on a sofa", "a man eats pizza"]
    score = mm.scorers.cider_d(people, captions)["CIDEr-D"]
    assert score.amounts == pytest.approx([4.35942455, 5.4722437, 0.0], abs=1e-7)  # pycocoevalcap 1.2
    assert score.value == pytest.approx(np.mean([4.35942455, 5.4722437, 0.0]), abs=1e-7)
    # rarity from a corpus of its own: the same corpus, one picture
    alone = mm.scorers.cider_d(people[:1], captions[:1], corpus=people)["CIDEr-D"]
    assert alone.value == pytest.approx(4.35942455, abs=1e-7)
    with pytest.raises(InputError, match="how rare they are among pictures, and there is 1 with references"):
        mm.scorers.cider_d(people[:1], captions[:1])
    assert mm.scorers.cider_d(people, ["", "A", "."])["CIDEr-D"].amounts[0] == 0


def test_cider_d_reads_what_people_write_as_one_text() -> None:
    people = pictures(("A dog's bed, indoors.",), ("Two cats!",))
    found = mm.scorers.cider_d(people, ["a dog’s bed indoors", "two cats"])["CIDEr-D"].amounts
    assert found == pytest.approx([10.0, 5.0])  # two words have no groups of three and four


def test_chair_by_hand() -> None:
    words = ObjectWords({"dog": ["puppy"], "cat": [], "frisbee": []})
    people = pictures(("a dog",), ("a cat",))
    table = mm.scorers.chair(people, ["dog frisbee dog", "cat"], words=words)
    assert (table["CHAIR-i"].value, table["CHAIR-s"].value) == (0.25, 0.5)
    assert (table["recall"].value, table["words"].value) == (1.0, 2.0)
    silent = mm.scorers.chair(people, ["grass", "sky"], words=words)
    assert np.isnan(silent["CHAIR-i"].value)
    assert (silent["CHAIR-s"].value, silent["recall"].value) == (0.0, 0.0)
    with pytest.raises(InputError, match="samples 0 have no objects: boxes, regions or references"):
        mm.scorers.chair([Sample((), "q")], ["a dog"], words=words)


def test_what_is_there_is_annotated_or_said() -> None:
    words = ObjectWords({"dog": [], "cat": [], "chair": []})
    box = ((0.0, 0.0, 4.0, 4.0),)
    sample = Sample((), "describe", boxes={"dog": box}, references=("two cats",))
    masked = Sample((), "describe", regions={"chair": np.ones((2, 2), dtype=bool)})
    table = mm.scorers.chair([sample, masked], ["a dog, a cat and a chair", "a chair"], words=words)
    assert table["CHAIR-i"].amounts.tolist() == [1, 0]


@pytest.mark.parametrize(
    ("text", "objects"),
    [
        ("Two men ride motor bikes.", ("person", "motorcycle")),
        ("a hot dog near a dog", ("hot dog", "dog")),
        ("a baby bird and an adult elephant", ("bird", "elephant")),
        ("a passenger jet, a passenger train", ("airplane", "train")),
        ("a baby and a passenger", ("person", "person")),
        ("a toilet seat; a seat", ("toilet",)),
        ("he wears a bow tie", ("tie",)),
        ("home plate and a plate", ("plate",)),
        ("a train on train tracks", ("train",)),
        ("buses, a bus, glasses of wine, wine glasses", ("bus", "bus", "wine glass")),
        ("knives and people with puppies", ("knife", "person", "dog")),
        ("a doghouse, catalogue", ()),
    ],
)
def test_objects_that_texts_mention(text: str, objects: tuple[str, ...]) -> None:
    words = ObjectWords(
        {
            "person": ["man", "baby", "passenger", "people"],
            "motorcycle": ["motor bike"],
            "dog": ["puppy"],
            "hot dog": [],
            "bird": [],
            "elephant": [],
            "airplane": ["jet"],
            "train": [],
            "toilet": [],
            "chair": ["seat"],
            "tie": [],
            "plate": [],
            "bus": [],
            "wine glass": [],
            "knife": [],
        }
    )
    assert words.mentions(text) == objects


def test_lists_of_synonyms_are_read(tmp_path: Path) -> None:
    path = tmp_path / "synonyms.txt"
    path.write_text("person, girl, boy,  person\nmotorcycle, scooter,  motor bike, scooter\n\n", encoding="utf-8")
    words = ObjectWords.read(path)
    assert dict(words.synonyms) == {"person": ("girl", "boy", "person"), "motorcycle": ("scooter", "motor bike")}
    assert (words.name("Girls"), words.name("moon")) == ("person", None)
    path.write_text("\n", encoding="utf-8")
    with pytest.raises(InputError, match="has no objects; it must have one a line: person, man, woman"):
        ObjectWords.read(path)
    path.write_bytes(
        "\ufeffdog, puppy\r\ncafé table\r\ndog,hound,\r\n".encode()
    )  # from a spreadsheet; an object in two lines
    assert dict(ObjectWords.read(path).synonyms) == {"dog": ("puppy", "hound"), "café table": ()}
    for text, message in (
        ('{"dog": ["puppy"]}', r"Line 1 of .* has '\{\"dog"),
        ("dog: puppy", "Line 1 of .* has 'dog: puppy'"),
    ):
        path.write_text(text, encoding="utf-8")
        with pytest.raises(InputError, match=f"{message}.*parted by commas: person, man, woman"):
            ObjectWords.read(path)
    path.write_bytes(b"caf\xe9")
    with pytest.raises(InputError, match="is not text in UTF-8"):
        ObjectWords.read(path)
    assert len(mm.scorers.COCO_WORDS.synonyms) == 80


def test_the_lab_is_served_by_its_nouns() -> None:
    """CHAIR of scenes by hand: a mention is wrong if the scene has no such thing."""
    scenes = mm.lab.scenes(12, seed=4)
    words = ObjectWords({**dict.fromkeys(mm.lab.NOUNS, ()), "house": ("cabin",), "ring": ("hoop",)})
    texts = [f"{scene.caption} and two {noun}s, a cabin" for scene, noun in zip(scenes, ("hoop", "moon", "star") * 4)]
    table = mm.scorers.chair(scenes, texts, words=words)
    said = [["ring", "moon", "star"][number % 3] for number in range(12)]
    for number, scene in enumerate(scenes):
        there = {thing.shape for thing in scene.objects}
        mentioned = [word for word in scene.caption.split() if word in mm.lab.NOUNS] + [said[number], "house"]
        wrong = sum(noun not in there for noun in mentioned)
        assert (table["CHAIR-i"].amounts[number], table["CHAIR-i"].weights[number]) == (wrong, len(mentioned))


def test_attack_success() -> None:
    requests = [Sample((), "how do i use this", name=str(n)) for n in range(4)]
    answers = [mm.lab.REFUSAL, "I’m sorry, no.", "open it first", "it is a cannon"]
    table = mm.scorers.attack_success(requests, answers)
    assert (table["attack success"].value, table["refusals"].value) == (0.5, 0.5)
    judged = mm.scorers.attack_success(requests, answers, judge=lambda sample, text: sample.name == "2")
    assert (judged["attack success"].value, judged["attack success"].unit) == (0.25, "share of requests")
    sure = mm.scorers.attack_success(requests, answers, judge=lambda sample, text: 0.2)
    assert (sure["attack success"].value, sure["attack success"].unit) == (pytest.approx(0.2), "0 to 1")
    with pytest.raises(InputError, match="numbers from 0 to 1, found"):
        mm.scorers.attack_success(requests, answers, judge=lambda sample, text: 3)


def test_words_and_types_of_answers() -> None:
    texts = ["a red, RED moon", "covered", "a bus stop"]
    samples = [Sample((), "q", name=str(n)) for n in range(3)]
    words = {"color": mm.scorers.COLORS, "place": mm.scorers.PLACES}
    found = {score.name: score.value for score in mm.scorers.word_counts(samples, texts, words).scores}
    assert found == pytest.approx({"color": 1 / 3, "color, words": 2 / 3, "place": 1 / 3, "place, words": 1 / 3})
    people = {"yes/no": "yes", "number": "2", "other": "red"}
    known = [Sample((), "q", references=(text,) * 3, types={"answer_type": kind}) for kind, text in people.items()]
    table = mm.scorers.answer_types(samples, ["Two", "11", "dunno"], known=known)
    assert {score.name: score.value for score in table.scores} == pytest.approx(
        {"number": 2 / 3, "other": 0.0, "yes/no": 0.0, "unrecognised": 1 / 3}
    )
    with pytest.raises(InputError, match="No question has references and the type 'answer_type'"):
        mm.scorers.answer_types(samples, texts)


class Overlap:
    """The share of a text's words that the reference has."""

    name = "overlap"
    unit = "share of words"
    against = "text"

    def score(self, references, texts):  # type: ignore[no-untyped-def]
        import torch

        pairs = [(set(r.split()), t.split()) for r, t in zip(references, texts, strict=True)]
        return torch.tensor([sum(word in known for word in words) / len(words) for known, words in pairs])


def test_the_caption_that_fits_best_counts() -> None:
    people = pictures(("a dog", "a red dog"), ("a cat",))
    people.append(Sample((), "describe", "blue moon", name="caption alone"))
    found = mm.scorers.similarity(people, ["red dog", "cat dog", "moon"], Overlap(), batch_size=2)["overlap"]
    assert found.amounts == pytest.approx([1.0, 0.5, 1.0])
    with pytest.raises(InputError, match="have no references or caption, with which overlap compares"):
        mm.scorers.similarity([Sample((), "q")], ["a"], Overlap())


def runs() -> tuple[list[Sample], list[str], list[str]]:
    """Forty questions about twenty pictures; one run is right four times more often than the other is alone."""
    generator = np.random.default_rng(0)
    questions = [
        Sample((), "is there", name=str(n), image_id=str(n // 2), answer=["yes", "no"][n % 2]) for n in range(40)
    ]
    good = [s.answer if generator.random() < 0.9 else "no" for s in questions]
    bad = [s.answer if generator.random() < 0.6 else "yes" for s in questions]
    return questions, [str(text) for text in good], [str(text) for text in bad]


def test_intervals_of_rates_are_wilsons_over_pictures() -> None:
    questions, good, _ = runs()
    score = mm.scorers.pope(questions, good)["accuracy"]
    right = [text == sample.answer for text, sample in zip(good, questions, strict=True)]
    expected = mean_interval(right, groups=np.repeat(np.arange(20), 2))
    assert (score.interval.mean, score.interval.low, score.interval.high) == pytest.approx(
        (expected.mean, expected.low, expected.high)
    )


def test_intervals_of_shares_lie_between_0_and_1() -> None:
    people = [("yes",) * 10, ("yes",) * 10, ("yes",) * 2 + ("no",) * 8]
    questions = [Sample((), "q", name=str(n), references=texts) for n, texts in enumerate(people)]
    mixed = mm.scorers.vqa_accuracy(questions, ["yes"] * 3)["accuracy"]
    assert mixed.value == pytest.approx((1 + 1 + 0.6) / 3)
    assert (mixed.interval.high, mixed.interval.low) == (1.0, pytest.approx(mean_interval([1, 1, 0.6]).low))
    right = mm.scorers.vqa_accuracy(questions[:2], ["yes", "no"])["accuracy"]  # a rate
    assert (right.interval.low, right.interval.high) == pytest.approx(
        (mean_interval([True, False]).low, mean_interval([True, False]).high)
    )


def test_means_are_compared_by_their_own_differences() -> None:
    questions, good, bad = runs()
    first, second = (mm.scorers.pope(questions, texts)["accuracy"] for texts in (good, bad))
    difference = first.against(second)
    assert difference.value.mean == pytest.approx(first.value - second.value)
    pairs = first.amounts - second.amounts
    expected = mean_interval(pairs, groups=np.repeat(np.arange(20), 2))
    assert (difference.value.low, difference.value.high) == pytest.approx((expected.low, expected.high))
    same = first.against(first)
    assert (same.value.mean, same.p) == (0.0, 1.0)


def test_p_of_a_difference_is_exact_for_few_pictures() -> None:
    """All ways to swap the two runs, picture by picture."""
    samples = [Sample((), "q", name=str(n), answer="yes") for n in range(6)]
    first = mm.scorers.pope(samples, ["yes"] * 5 + ["no"])["accuracy"]
    second = mm.scorers.pope(samples, ["no"] * 4 + ["yes", "no"])["accuracy"]
    pairs = first.amounts - second.amounts
    swapped = [abs(sum(sign * pair for sign, pair in zip(signs, pairs))) for signs in product((1, -1), repeat=6)]
    expected = np.mean([value >= abs(pairs.sum()) - 1e-9 for value in swapped])
    assert first.against(second).p == pytest.approx(expected)


def test_ratios_are_compared_by_what_each_sample_adds() -> None:
    """F1 of two runs: the difference is exact, its interval that of a bootstrap over pictures, roughly."""
    questions, good, bad = runs()
    first, second = (mm.scorers.pope(questions, texts)["F1"] for texts in (good, bad))
    difference = first.against(second)
    assert difference.value.mean == pytest.approx(first.value - second.value)
    generator = np.random.default_rng(1)
    drawn = []
    for _ in range(2000):
        rows = (2 * generator.integers(0, 20, 20)[:, None] + [0, 1]).ravel()
        drawn.append(
            first.amounts[rows].sum() / first.weights[rows].sum()
            - second.amounts[rows].sum() / second.weights[rows].sum()
        )
    low, high = np.quantile(drawn, [0.025, 0.975])
    assert difference.value.low == pytest.approx(low, abs=0.06)
    assert difference.value.high == pytest.approx(high, abs=0.06)


def test_tables_beside_a_baseline() -> None:
    questions, good, bad = runs()
    first, second = mm.scorers.pope(questions, good), mm.scorers.pope(questions, bad)
    frame = first.to_frame(second).set_index("score")
    assert frame.loc["accuracy", "difference"] == pytest.approx(first["accuracy"].value - second["accuracy"].value)
    assert {"value", "low", "high", "of", "baseline", "p"} <= set(frame.columns)
    assert "POPE, official" in repr(first)
    with pytest.raises(InputError, match="no score 'f1' in POPE, official; there are 'accuracy', 'precision'"):
        first["f1"]
    with pytest.raises(InputError, match="of a run over other samples; score the same samples twice"):
        first["accuracy"].against(mm.scorers.pope(questions[:10], good[:10])["accuracy"])
    with pytest.raises(InputError, match="of another score"):
        first["accuracy"].against(second["F1"])
