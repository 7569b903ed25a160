"""README and docs say what the ledger says, and every figure has a claim; the cheapest claims are made again."""

import re
from dataclasses import replace
from pathlib import Path

import pytest

import mmlens as mm
from benchmarks.claims import ledger
from benchmarks.claims.catalogue import CLAIMS, PRINTED
from benchmarks.claims.claim import Claim, Figure, Setting
from benchmarks.claims.documents import Document, every, figures, single_blanks
from benchmarks.claims.ledger import Row
from benchmarks.splits import fresh_scenes, fresh_seed, training_captions

HOW = "Run `python -m benchmarks.claims`, and say what it finds."


@pytest.mark.parametrize("document", every(), ids=lambda document: document.name)
def test_every_figure_of_a_document_has_a_claim(document: Document) -> None:
    """New figures are declared in benchmarks/claims/catalogue/; settings and versions are found by rule."""
    assert not ledger.uncovered(document)


def test_sentences_say_what_their_tables_say() -> None:
    assert not [line for claim in CLAIMS for line in ledger.wrong_quotes(claim)]


def test_the_ledger_is_that_of_the_documents() -> None:
    kept = ledger.rows()
    changed = [
        item.name for item in (*CLAIMS, *PRINTED) if item.name not in kept or kept[item.name].says != ledger.says(item)
    ]
    assert not changed, HOW
    assert ledger.PAGE.read_text(encoding="utf-8") == ledger.page(kept), HOW
    assert len({item.name for item in (*CLAIMS, *PRINTED)}) == len(CLAIMS) + len(PRINTED)


def test_commands_name_files_that_are_there() -> None:
    named = {path for item in (*CLAIMS, *PRINTED) for path in re.findall(r"(?:tests|benchmarks)/[\w./]+", item.command)}
    assert named
    assert not [path for path in sorted(named) if not Path(path).exists()]


def test_figures_are_told_from_names_settings_and_code() -> None:
    text = """On 200 held-out scenes, LLaVA-1.5 (torch 2.13.0, NeurIPS 2024) is right in 0.93 [0.91, -0.95] and 1.9x as fast
    at 24 tokens and layers 1 to 5, [see](page_0.5.md), `0.7`, 16 x 16 patches, -2.1 nats, 5% of 1,024 or 7e-06."""
    found = [match[0] for match in figures(single_blanks(text))]
    assert found == ["0.93", "0.91", "-0.95", "1.9", "-2.1", "5", "1,024", "7e-06"]


def test_another_value_and_a_figure_without_a_claim_are_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    claim = next(claim for claim in CLAIMS if claim.name == "maps of magnitudes")
    assert not ledger.wrong_quotes(claim)
    other = Document("README.md").raw.replace("reach IoU 0.316", "reach IoU 0.361") + "\nIt is right in 0.777 of all.\n"
    raw = Document.__dict__["raw"]
    read = raw.func
    monkeypatch.setattr(raw, "func", lambda document: other if document.name == "README.md" else read(document))
    assert [line.split(" (")[0] for line in ledger.wrong_quotes(claim)] == ["README.md says 0.361"]
    assert [line.split(" in ")[0] for line in ledger.uncovered(Document("README.md"))] == ["README.md: 0.777"]


def test_what_is_measured_again_is_kept_beside_what_it_excludes() -> None:
    answers = iter([Figure(0.5, 0.4, 0.6), Figure(0.7, 0.55, 0.8), Figure(0.9, 0.85, 0.95)])
    claim = Claim("a", "README.md", "is {share:.2f} here", "", "cheap", lambda setting: {"share": next(answers)})
    row = ledger.measured(claim, Row({"share": "0.58"}), Setting("lab", 3), "0123456789")
    assert (row.measured["share"], row.seed, row.commit, ledger.moved(claim, row)) == (
        [0.5, 0.4, 0.6],
        3,
        "0123456",
        [],
    )
    row = ledger.measured(claim, row, Setting("lab", 4), "1123456789")
    assert (row.before, ledger.moved(claim, row)) == (
        {"share": [0.5, 0.4, 0.6]},
        [],
    )  # 0.58 lies in both, 0.5 in the first
    row = ledger.measured(claim, row, Setting("lab", 5), "2123456789")
    assert (row.before, ledger.moved(claim, row)) == ({"share": [0.7, 0.55, 0.8]}, ["share"])
    with pytest.raises(ValueError, match="Nothing measures 'a' again"):
        ledger.measured(replace(claim, cost="slow"), row, Setting("lab", 5), "2")
    holds = {(0.455, "0.45"): True, (0.455, "0.46"): True, (0.4561, "0.45"): False, (1.7e-05, "1.7e-05"): True}
    assert {pair: Figure(pair[0]).holds(pair[1]) for pair in holds} == holds
    assert not Figure(1.8e-05).holds("1.7e-05")


def test_fresh_scenes_are_of_the_commit_and_share_no_caption_with_training() -> None:
    assert fresh_seed("58a20cf8bde6") == 0x58A20CF
    known = training_captions(3000)
    found = fresh_scenes(120, 5, trained=3000)
    plain = mm.lab.scenes(400, seed=5)
    assert [scene.seed for scene in found] == [scene.seed for scene in plain if scene.caption not in known][:120]
    assert any(scene.caption in known for scene in plain[:120])
    assert all(mm.lab.scene(index, split="train").caption in known for index in (0, 1, 2999))


@pytest.mark.parametrize("name", ["overlays", "lab model, loading", "edits, time"])
def test_the_cheapest_claims_are_made_again(name: str) -> None:
    claim = next(claim for claim in CLAIMS if claim.name == name)
    row = ledger.measured(claim, Row(ledger.says(claim)), Setting(claim.model, 0), "0")
    if name == "overlays":
        assert not ledger.moved(claim, row)
    else:  # times are those of the machine
        [figure] = row.measured
        assert 0 < row.measured[figure][0] < 10 * float(row.says[figure])


def test_the_page_of_methods_is_made_again() -> None:
    page = next(item for item in PRINTED if item.name == "methods, page")
    assert page.text is not None
    assert page.text() == page.content
