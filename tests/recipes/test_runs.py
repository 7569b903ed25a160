"""Runs of studies: resumed where they stopped, refused where another began, at the cost of what they measure; other data."""

import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

import mmlens as mm
from mmlens.cli import app
from mmlens.core.errors import InputError
from mmlens.models.hooked import HookedMultimodal
from mmlens.recipes import study as study_module
from mmlens.recipes.sources import FileSources, halves
from mmlens.recipes.study import counted
from tests.recipes.conftest import SMALL


def run(paper: str, model: HookedMultimodal, into: Path, **options: Any) -> mm.recipes.Reproduction:
    return mm.recipes.reproduce(
        paper,
        into=into,
        model=model,
        **{"settings": SMALL[paper], "progress": False, **options},  # type: ignore[arg-type]
    )


def test_a_model_that_says_no_word_of_it(files: Path, tmp_path: Path, subword: HookedMultimodal) -> None:
    """A random LLaVA of the hub's layout and its real size of pictures: stages say what they lack."""
    study = run("parekh", subword, tmp_path, data=files, limit=2)
    assert all("None of the 2 samples gave a state" in table.reason for table in study.tables)
    page = (study.folder / "report.md").read_text(encoding="utf-8")
    assert page.count("Not answered: ") == len(study.tables)


def test_the_lab_model_with_published_files(lab_model: HookedMultimodal, files: Path, tmp_path: Path) -> None:
    settings = replace(SMALL["khayatan"], answer_tokens=3)  # type: ignore[type-var]
    study = run("khayatan", lab_model, tmp_path, data=files, settings=settings, only=["types", "style"])
    assert [table.reason for table in study.tables] == ["", ""]
    questions = FileSources(files, progress=False).questions(100, 0)
    second = [questions[number] for number in halves(questions)[1]]
    assert study["types"]["none", "other"].count == len(second)
    assert study["style"]["none", "color"].value == 1  # every caption of the lab has a colour
    assert study["style"]["none", "CIDEr-D"].value is not None


def test_files_are_read_as_published(files: Path, tmp_path: Path) -> None:
    sources = FileSources(files, progress=False)
    assert len(sources.captions(100, None, 0)) == 8
    assert [sample.prompt for sample in sources.captions(2, "what is it", 0)] == ["what is it"] * 2
    assert {sample.types["answer_type"] for sample in sources.questions(100, 0)} <= {"yes/no", "number", "other"}
    assert [len(side) for side in sources.requests(3, 0)] == [3, 3]
    tunes = sources.tunes(2, None, 0)
    assert len(tunes["color"]) == 2
    assert all(any(color in (sample.caption or "") for color in mm.scorers.COLORS) for sample in tunes["color"])
    with pytest.raises(InputError, match=r"There are no captions in .*: no file dataset_coco\.json or captions_val"):
        FileSources(tmp_path).captions(1, None, 0)
    with pytest.raises(InputError, match="is no folder"):
        FileSources(tmp_path / "none")


def test_a_killed_study_goes_on_where_it_was(
    talker: HookedMultimodal, albums: Callable[[str], Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    options = {"data": albums("khayatan"), "settings": None, "published": True, "limit": 8}
    only = ["types", "strengths"]
    whole = run("khayatan", talker, tmp_path / "whole", only=only, **options)
    texts = study_module.StudyTable.save

    def stop(table: Any, path: Any) -> Any:
        if table.stage == "strengths":
            raise KeyboardInterrupt
        return texts(table, path)

    with monkeypatch.context() as patch:
        patch.setattr(study_module.StudyTable, "save", stop)
        with pytest.raises(KeyboardInterrupt):
            run("khayatan", talker, tmp_path / "stopped", only=only, **options)
    with counted(talker) as count:
        resumed = run("khayatan", talker, tmp_path / "stopped", only=only, **options)
    assert count.forwards == 0  # answers and states were kept
    assert [table.rows for table in resumed.tables] == [table.rows for table in whole.tables]
    with counted(talker) as count:
        run("khayatan", talker, tmp_path / "stopped", only=only, **options)
    assert count.forwards == 0
    with pytest.raises(InputError, match=r"holds a study that differs in seed"):
        run("khayatan", talker, tmp_path / "stopped", seed=1, **options)
    with (
        talker.intervene(mm.Ablate([mm.Neuron(1, 7)])),
        pytest.raises(InputError, match="differs in interventions"),
    ):
        run("khayatan", talker, tmp_path / "stopped", **options)


def test_a_stage_without_an_answer_is_tried_again_when_its_data_are_there(
    talker: HookedMultimodal, albums: Callable[[str], Path], tmp_path: Path
) -> None:
    whole, data = albums("khayatan"), tmp_path / "data"
    shutil.copytree(whole, data, ignore=shutil.ignore_patterns("processed_questions", "imgs", "v2_*"))

    def study(*only: str) -> dict[str, mm.recipes.StudyTable]:
        options = {"data": data, "settings": None, "published": True, "limit": 8, "only": only}
        return {table.stage: table for table in run("khayatan", talker, tmp_path / "out", **options).tables}

    first = study("style", "safety", "types")
    assert not first["style"].reason
    assert "There are no requests of MM-SafetyBench in" in first["safety"].reason
    assert "There are no questions of VQAv2 in" in first["types"].reason
    (data / "v2_Questions_Val_mscoco.zip").write_bytes(b"PK")
    assert study("types")["types"].reason.endswith(" Unpack v2_Questions_Val_mscoco.zip.")
    shutil.copytree(whole, data, dirs_exist_ok=True)
    second = study("style", "safety", "types")
    assert [table.reason for table in second.values()] == ["", "", ""]
    assert second["style"] == first["style"]
    assert (
        first["types"].identity["questions of the data"]
        == "absent"
        != second["types"].identity["questions of the data"]
    )
    with counted(talker) as count:
        assert study("style", "safety", "types") == second
    assert count.forwards == 0
    captions = data / "annotations" / "captions_val2014.json"
    captions.write_text(captions.read_text(encoding="utf-8") + " ", encoding="utf-8")
    with pytest.raises(InputError, match=r"holds a study that differs in captions of the data, regions of the data\."):
        study("style")


def test_what_cannot_be_is_refused(lab_model: HookedMultimodal, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"'pan' has no stage 'casual'\. Nearest: causal"):
        run("pan", lab_model, tmp_path, only=["casual"])
    with pytest.raises(InputError, match=r"must be PanSettings for 'pan'"):
        run("pan", lab_model, tmp_path, settings=SMALL["parekh"])
    assert list(tmp_path.iterdir()) == []


def test_the_command(tmp_path: Path) -> None:
    done = CliRunner().invoke(
        app, ["reproduce", "pan", "--out", str(tmp_path / "out"), "--only", "cost", "--limit", "1"]
    )
    assert done.exit_code == 0, done.output
    assert "pan, cost: what finding costs, beside Mmns" in done.output
    assert (tmp_path / "out" / "pan" / "report.md").exists()
