"""Every stage with published settings; on the lab model tables say what the verbs say, and what is not known is said."""

import json
from collections.abc import Callable
from pathlib import Path

import pandas as pd
import pytest

import mmlens as mm
from mmlens.analysis.concepts.bank import word_overlap
from mmlens.core.answer_text import normalised
from mmlens.models.hooked import HookedMultimodal
from mmlens.recipes.reproduce import _STAGES
from mmlens.recipes.sources import FileSources, LabSources, halves
from tests.recipes.conftest import PICTURES, SMALL

Studies = Callable[[str], mm.recipes.Reproduction]
Small = Callable[[str, list[str] | None], mm.recipes.Reproduction]


@pytest.fixture
def small(lab_model: HookedMultimodal, tmp_path: Path) -> Small:
    """Stages of a study of the lab model with few samples."""
    return lambda paper, only: mm.recipes.reproduce(
        paper, into=tmp_path, model=lab_model, settings=SMALL[paper], only=only, progress=False
    )


@pytest.mark.parametrize("paper", list(SMALL))
def test_every_stage_with_published_settings_has_its_files(
    studies: Studies, talker: HookedMultimodal, paper: str
) -> None:
    study = studies(paper)
    assert [table.stage for table in study.tables] == [stage.name for stage in _STAGES[paper]]
    assert [table.stage for table in study.tables if table.reason] == []
    page = (study.folder / "report.md").read_text(encoding="utf-8")
    for table in study.tables:
        folder = study.folder / table.stage
        assert mm.recipes.StudyTable.load(folder / "table.json") == table
        assert table.identity["weights"]
        assert "published" in pd.read_csv(folder / "table.csv").columns
        assert (folder / "table.png").read_bytes().startswith(b"\x89PNG")
        assert f"### {table.stage}: " in page
        assert table.rows
    assert json.loads((study.folder / "study.json").read_text())["identity"] == dict(study.tables[0].identity)
    assert len(study.to_frame()) == sum(len(table.rows) for table in study.tables)
    assert talker.adapters == ()
    assert (study.folder / "shared" / "tune place" / "adapter_model.safetensors").exists() == (paper == "khayatan")


@pytest.mark.parametrize(("paper", "limit", "answered"), [("pan", 1, 4), ("parekh", 3, 0), ("khayatan", 2, 3)])
def test_published_settings_on_the_lab(
    lab_model: HookedMultimodal, tmp_path: Path, paper: str, limit: int, answered: int
) -> None:
    """Of so few scenes stages are answered, or say what they lack; the scenes keep the prompt that the lab model knows."""
    study = mm.recipes.reproduce(paper, into=tmp_path, model=lab_model, published=True, limit=limit, progress=False)
    assert [table.stage for table in study.tables] == [stage.name for stage in _STAGES[paper]]
    assert all(bool(table.rows) != bool(table.reason) for table in study.tables)
    assert sum(not table.reason for table in study.tables) >= answered


def test_pan_says_what_the_verbs_say(small: Small, lab_model: HookedMultimodal) -> None:
    study = small("pan", ["sensitivity", "image_invariance", "layers", "cost"])
    samples = LabSources().captions(4, None, 0)
    direct = mm.properties.image_invariance(
        lab_model, samples, methods=("contribution",), k=[3, 8], together=2, nouns=mm.lab.NOUNS, progress=False
    )
    for k in (3, 8):
        row = study["image_invariance"][f"theirs, top {k}", "shared by two pictures"]
        assert row.value == pytest.approx(direct.interval("shared by two pictures", "contribution", k=k).mean)
    layers = study["layers"]
    for name in ("theirs", "Mmns"):
        assert sum(row.value or 0 for row in layers.rows if row.case == f"{name}, top 8") == pytest.approx(1)
    assert study["sensitivity"]["theirs, top 8", "noun among its words"].value > 0.5  # type: ignore[operator]
    assert study["cost"]["theirs", "nouns"].value == study["cost"]["Mmns", "nouns"].value
    assert all(row.published is None for table in study.tables for row in table.rows)


def test_parekh_says_what_the_verbs_say(small: Small, lab_model: HookedMultimodal) -> None:
    study = small("parekh", None)
    samples = LabSources().captions(48, None, 0)
    store = mm.collect(
        lab_model,
        samples,
        at="blocks.5.hook_resid_post",
        token=mm.lab.NOUNS,
        every_word=True,
        in_truth=True,
        max_new_tokens=16,
        progress=False,
    )
    word = study["overlap"].rows[0].case.split(",")[0]
    states = store.at().with_token(word)
    bank = mm.extract_concepts(states, 2)
    assert study["concepts"][f"{word}, semi_nmf", "reconstruction error"].value == pytest.approx(
        bank.reconstruction_error
    )
    words = mm.concepts.concept_words(lab_model, bank, k=15)
    assert study["overlap"][f"{word}, semi_nmf", "overlap"].value == pytest.approx(word_overlap(words))
    errors = {row.case: row.value for row in study["ablations"].rows if row.quantity == "reconstruction error"}
    first, second = (next(v for case, v in errors.items() if case.endswith(f", {n} concepts")) for n in (1, 2))
    assert second < first  # type: ignore[operator]
    assert study["grounding"][f"{word}, semi_nmf", "words in the caption, top 1"].control is not None


def test_khayatan_says_what_answers_say(small: Small, lab_model: HookedMultimodal) -> None:
    study = small("khayatan", ["answers", "layers"])
    questions = LabSources().questions(64, 0)
    judged = [questions[number] for number in halves(questions)[1]]
    texts = [lab_model.answer(sample.images[0], sample.prompt, max_new_tokens=5) for sample in judged]
    right = {kind: [] for kind in ("yes/no", "number", "other")}  # type: dict[str, list[bool]]
    for sample, text in zip(judged, texts, strict=True):
        right[sample.types["answer_type"]].append(text == sample.answer)
    for kind, several in right.items():
        row = study["answers"]["none", f"accuracy, {kind}"]
        assert row.value == pytest.approx(sum(several) / len(several))
        assert row.count == len(several)
    row = study["answers"]["yes -> no", "answers that are the source word, change"]
    assert row.control == sum(normalised(text) == "yes" for text in texts)
    assert row.value < 0  # type: ignore[operator]
    assert row.published == -828
    assert study["answers"]["yes -> no", "accuracy, yes/no"].published == 0.6903
    unmet = study["answers"]["1 -> 3", "accuracy, number"]  # the lab counts in words
    assert (unmet.value, unmet.published) == (None, 0.5452)
    points = [row.case for row in study["layers"].rows if row.quantity == "accuracy"]
    assert points == ["none", "blocks.5.hook_resid_post", "blocks.2.hook_resid_post"]


def test_published_settings_are_the_papers() -> None:
    pan, parekh, khayatan = (type(settings).published() for settings in SMALL.values())
    assert (pan.activation, pan.samples, pan.max_new_tokens, pan.words, pan.row_units) == ("act", 1000, 50, 10, False)
    assert (parekh.layer, parekh.n_concepts, parekh.penalty, parekh.through_norm) == (31, 20, 1.0, False)
    assert (khayatan.answer_layer, khayatan.caption_layer, khayatan.alpha) == (31, 19, 1.0)
    assert khayatan.layers == (31, 29, 27, 25, 23, 19, 15, 11, 7, 3, 1)
    assert (khayatan.answer_tokens, khayatan.caption_tokens, khayatan.n_concepts) == (5, 25, 20)


def _needs(paper: str, study: mm.recipes.Reproduction, files: Path) -> dict[str, int]:
    """How often samples have to be read from their start, stage by stage; stages that read what another one kept need none."""
    pictures, limit = PICTURES[paper]
    if paper == "pan":
        n, nouns = len(pictures), sum({"d": 4, "b": 3}[shade] for shade in pictures)
        neurons = n + 3 * nouns  # captions; two methods that score neurons at each noun, and how active all are there
        changed = 2 + 2 * 2 * 5  # each method's neurons, and five draws of both kinds of random ones
        causal = neurons + nouns * (
            changed + 3
        )  # each set noised; the caption as it is, and one sweep of all sets zeroed
        cost = 2 * 2 * n  # each method: captions, and one reading of each
        return {"sensitivity": neurons, "region_invariance": 2 * neurons, "causal": causal, "cost": cost}
    if paper == "parekh":
        return {"concepts": limit}
    half = len(pictures) // 2
    first, second = (len(side) for side in halves(FileSources(files, progress=False).questions(2 * limit, 0)))
    arms = {table.stage: len({row.case for row in table.rows if row.value is not None}) for table in study.tables}
    tried = 1 + 5 * 4  # five concepts of eleven questions
    return {
        "shift": 4 * limit + 3 * limit * limit,  # captions of the model and of each fine-tune; their steps
        "answers": first + arms["answers"] * second,
        "types": first + arms["types"] * second,
        "selection": tried * first + arms["selection"] * second,
        "style": 2 * half + arms["style"] * half,
        "gender": (1 + arms["gender"]) * half,
        "safety": half + 2 * half + 2 * limit,
        "layers": arms["layers"] * limit,
        "strengths": arms["strengths"] * limit,
    }


@pytest.mark.parametrize("paper", list(SMALL))
def test_stages_read_samples_as_often_as_they_need(studies: Studies, albums: Callable[[str], Path], paper: str) -> None:
    """But for edits, whose steps of training end when the word is said."""
    study = studies(paper)
    needs = _needs(paper, study, albums(paper))
    for table in study.tables:
        if table.stage != "edits":
            assert table.samples <= 1.1 * needs.get(table.stage, 0), table.stage
        assert (table.forwards > 0) == (table.stage in needs or table.stage == "edits")
