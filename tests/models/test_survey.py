"""The shipped survey says what the families of today are."""

from pathlib import Path

import pytest

from mmlens.core.names import PARTS
from mmlens.declarations.registry import families
from mmlens.models.survey import RECORDS, as_markdown, as_text, read_survey, write_survey
from tests.families import FAMILIES
from tests.tiny import TINY, Tiny

SURVEY = read_survey()
PAGE = Path(__file__).parents[2] / "docs" / "families.md"


@pytest.mark.parametrize("tiny", [*TINY, *FAMILIES], ids=lambda tiny: tiny.name)
def test_every_family_has_a_record_with_the_points_it_has_now(tiny: Tiny) -> None:
    (record,) = (record for record in SURVEY.records if record.model == tiny.name)
    model = tiny.make()
    assert record.class_name == type(model.hf_model).__name__
    assert record.points == tuple(sum(node.part == part for node in model.graph) for part in PARTS)
    assert record.failed == 0
    assert record.parity == 0
    assert record.hooked_parity <= 2e-5
    assert (record.video_parity is not None) == (model.family.videos is not None)


def test_every_declared_class_was_surveyed() -> None:
    """Classes of other mappings (a vision-language model under another head) may be declared besides."""
    declared = {name for name, outcome in SURVEY.classes.items() if outcome == "declared"}
    assert declared <= set(families())
    assert {record.class_name for record in SURVEY.records} <= set(families())


def test_three_classes_in_four_that_can_be_built_pass() -> None:
    counts = SURVEY.counts()
    passed = counts["declared"] + counts["discovered"]
    built = passed + counts.get("not discovered", 0) + counts.get("no example was found", 0)
    assert passed / built >= 0.75, counts


def test_the_page_is_the_survey() -> None:
    page = PAGE.read_text(encoding="utf-8")
    assert as_markdown(SURVEY.records) in page
    assert all(f"| {name} | {outcome} |" in page for name, outcome in SURVEY.classes.items())


def test_a_survey_written_and_read_is_the_same(tmp_path: Path) -> None:
    write_survey(SURVEY, tmp_path / "survey.json")
    assert read_survey(tmp_path / "survey.json") == SURVEY
    assert (tmp_path / "survey.json").read_bytes() == RECORDS.read_bytes()
    assert len(as_text(SURVEY.records).splitlines()) == 1 + len(SURVEY.records)
