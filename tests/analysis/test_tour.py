"""The main job as a function: every figure it reports equals one computed apart from it, on every family."""

import json
import re
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from mmlens.analysis.tour.noun_card import CounterfactualTwin, NounCard
from mmlens.analysis.tour.tour import Tour, tour
from mmlens.core.errors import InputError
from mmlens.core.units import Neuron
from mmlens.viz.tour_report import write_tour
from tests.analysis.conftest import Wrapped
from tests.conftest import Subject
from tests.tiny import picture


def run(subject: Subject, prompt: str = "what color is the circle") -> Tour:
    size = (48, 80) if subject.name == "qwen2_vl" else (40, 48)
    return tour(
        subject.model,
        picture(3, *size),
        prompt=prompt,
        nouns=str.split,
        max_nouns=2,
        doses=(2, 5, 900),
        draws=3,
        progress=False,
    )


def _log_odds(subject: Subject, noun: NounCard) -> float:
    """Of the noun's first token, by bare Hugging Face."""
    logits = subject.bare(**noun.scores.batch).logits[0, -1].double().log_softmax(-1)
    p = logits[noun.word.tokens[0]].exp()
    return float(p.log() - (1 - p).log())


@torch.no_grad()
def test_its_figures_equal_those_of_the_bare_model(subject: Subject, tmp_path: object) -> None:
    result = run(subject)
    assert result.nouns
    for noun in result.nouns:
        assert noun.doses == (2, 5)  # 900 would leave no control
        assert noun.log_odds == pytest.approx(_log_odds(subject, noun), abs=1e-3)
        blocks = subject.bare.get_submodule(subject.model.family.language.stack.path)
        others = noun.control[2], noun.control_ablated[2][1]
        for units, expected in ((noun.top, noun.ablated[1]), (noun.top[:2], noun.ablated[0]), others):
            saved = [block.mlp.down_proj.weight.clone() for block in blocks]
            for unit in units:
                blocks[unit.layer].mlp.down_proj.weight[:, unit.index] = 0
            ablated = _log_odds(subject, noun)
            for block, weight in zip(blocks, saved, strict=True):
                block.mlp.down_proj.weight.copy_(weight)
            assert expected == pytest.approx(ablated, abs=1e-3)
        assert noun.changes == pytest.approx([value - noun.log_odds for value in noun.ablated])
        assert not any(units & noun.top for units in noun.control)
        assert [unit.layer for unit in noun.control[0]] == [unit.layer for unit in noun.top]
        assert (noun.maps is None) == (not subject.tiny.has_places)
        assert (noun.localised, noun.carried) == ("not tested", "not tested")  # a blurred picture is no twin
    words = [noun.word.text for noun in result.nouns]
    assert all(word in result.caption for word in words)


def test_the_report_is_one_page_that_needs_no_network_with_its_numbers_beside_it(
    subject: Subject, tmp_path: Path
) -> None:
    path = tmp_path / "tour.html"
    result = run(subject)
    write_tour(result, path, model_name=subject.name, graph_svg=subject.model.graph.draw().svg, about={"seconds": 1.0})
    text = path.read_text(encoding="utf-8").replace("http://www.w3.org/2000/svg", "")
    assert "http" not in re.sub(r"base64,[\w+/=]*", "", text)
    assert len(text) < 2_000_000
    assert sorted(p.name for p in tmp_path.iterdir()) == ["tour.html", "tour.json"]
    numbers = json.loads((tmp_path / "tour.json").read_text(encoding="utf-8"))
    assert numbers["about"] == {"seconds": 1.0}
    for card, noun in zip(numbers["nouns"], result.nouns, strict=True):
        assert card["log_odds_ablated"] == list(noun.ablated)
        assert noun.sentence in text.replace("&#x27;", "'")
        assert card["sentence"] == noun.sentence


def test_the_planted_neuron_shows_up_in_the_tour(planted_neuron: Wrapped) -> None:
    truth = planted_neuron.truth
    planted = planted_neuron.planted
    twin = CounterfactualTwin(planted.image(False), truth.default_word)
    result = tour(
        planted_neuron.model,
        planted.image(True),
        prompt=planted.prompt,
        nouns=[truth.word],
        twins={truth.word: twin},
        doses=(1,),
        progress=False,
    )
    (noun,) = result.nouns
    assert noun.top == [Neuron(truth.layer, truth.neuron)]
    assert noun.changes[0] < -1
    assert max(map(abs, noun.control_changes[0])) < 0.05
    assert noun.written == "yes"
    assert noun.caption_ablated == truth.default_word
    assert noun.caption_control == truth.word
    assert (noun.shares, noun.carried) == (None, "not tested")  # the twin changes every patch


def test_neurons_that_do_nothing_more_than_others_do_not_write_the_noun(planted_neuron: Wrapped) -> None:
    truth, planted = planted_neuron.truth, planted_neuron.planted
    (noun,) = tour(
        planted_neuron.model, planted.image(True), prompt=planted.prompt, nouns=[truth.word], doses=(1,), progress=False
    ).nouns
    others = replace(noun, ablated=(noun.control_ablated[0][0],))
    assert others.written == "no"
    assert replace(noun, overlaps=(0.2, 0.3, 0.1)).localised == "no"
    assert replace(noun, overlaps=(0.2, 0.1, 0.3)).localised == "no"
    assert replace(noun, overlaps=(0.3, 0.2, 0.1)).localised == "yes"
    assert replace(noun, shares=(0.9, 0.8)).carried == "no"
    assert replace(noun, shares=(0.4, 0.0)).carried == "no"


def test_a_caption_without_the_nouns_is_refused(llava: Subject) -> None:
    with pytest.raises(InputError, match="has no noun among 'zebra'"):
        tour(llava.model, picture(0), nouns=["zebra"], progress=False)
