"""The main job as a function: every figure it reports equals one computed apart from it, on every family."""

import re

import pytest
import torch

from mmlens.analysis.tour import Tour, tour
from mmlens.core.errors import InputError
from mmlens.core.units import Neuron
from mmlens.viz.tour_report import write_tour
from tests.analysis.conftest import Wrapped
from tests.conftest import Subject
from tests.tiny import picture


def run(subject: Subject, prompt: str = "what color is the circle") -> Tour:
    size = (48, 80) if subject.name == "qwen2_vl" else (40, 48)
    return tour(subject.model, picture(3, *size), prompt=prompt, nouns=str.split, max_nouns=2, k=5, progress=False)


@torch.no_grad()
def test_its_figures_equal_those_of_the_bare_model(subject: Subject, tmp_path: object) -> None:
    result = run(subject)
    assert result.nouns
    for noun in result.nouns:
        batch = noun.scores.batch
        token = noun.word.tokens[0]
        bare = subject.bare(**batch).logits[0, -1].log_softmax(-1)[token]
        assert noun.log_probability == pytest.approx(float(bare), abs=1e-4)
        blocks = subject.bare.get_submodule(subject.model.family.language.stack.path)
        saved = [block.mlp.down_proj.weight.clone() for block in blocks]
        for unit in noun.top:
            blocks[unit.layer].mlp.down_proj.weight[:, unit.index] = 0
        ablated = subject.bare(**batch).logits[0, -1].log_softmax(-1)[token]
        for block, weight in zip(blocks, saved, strict=True):
            block.mlp.down_proj.weight.copy_(weight)
        assert noun.ablated == pytest.approx(float(ablated), abs=1e-4)
        assert noun.change == pytest.approx(noun.ablated - noun.log_probability)
        assert len(noun.control) == len(noun.control_ablated) == 10
        assert not any(units & noun.top for units in noun.control)
        assert (noun.maps is None) == (not subject.tiny.has_places)
    words = [noun.word.text for noun in result.nouns]
    assert all(word in result.caption for word in words)


def test_the_report_is_one_file_that_needs_no_network(subject: Subject, tmp_path) -> None:  # type: ignore[no-untyped-def]
    path = tmp_path / "tour.html"
    write_tour(run(subject), path, model_name=subject.name, graph_svg=subject.model.graph.draw().svg)
    text = path.read_text(encoding="utf-8").replace("http://www.w3.org/2000/svg", "")
    assert "http" not in re.sub(r"base64,[\w+/=]*", "", text)
    assert "<script" not in text
    assert text.count("data:image/png;base64,") >= 5
    assert [p.name for p in tmp_path.iterdir()] == ["tour.html"]


def test_the_planted_neuron_shows_up_in_the_tour(planted_neuron: Wrapped) -> None:
    truth = planted_neuron.truth
    planted = planted_neuron.planted
    twin = (planted.image(False), truth.default_word)
    result = tour(
        planted_neuron.model,
        planted.image(True),
        prompt=planted.prompt,
        nouns=[truth.word],
        twins={truth.word: twin},
        k=1,
        progress=False,
    )
    (noun,) = result.nouns
    assert noun.top == [Neuron(truth.layer, truth.neuron)]
    assert noun.change < -1
    assert -0.05 < noun.control_change.low <= noun.control_change.high < 0.05
    assert noun.caption_ablated == truth.default_word
    assert noun.caption_control == truth.word
    recovered = noun.patched.recovered[..., 0]
    assert recovered[0, 0] == pytest.approx(1, abs=0.05)  # the picture carries it below the head
    assert recovered[-1, 2] == pytest.approx(1, abs=0.05)  # the last position above it


def test_a_caption_without_the_nouns_is_refused(llava: Subject) -> None:
    with pytest.raises(InputError, match="has no noun among 'zebra'"):
        tour(llava.model, picture(0), nouns=["zebra"], progress=False)
