"""On the lab model with its transcoders: answers come from the thing that is asked about, and the model does what graphs say."""

from typing import Any

import numpy as np
import pytest
import torch

import mmlens as mm


@pytest.fixture(scope="module")
def drawn() -> list[tuple[Any, Any, Any, Any, Any]]:
    """Scenes with a question for a colour, their batches, graphs and checks."""
    model, transcoders = mm.lab.load(), mm.lab.dictionaries("transcoders")
    results: list[tuple[Any, Any, Any, Any, Any]] = []
    for scene in mm.lab.scenes(20, seed=950):
        question = next((q for q in scene.questions if q.kind == "color"), None)
        if question is None or len(results) == 3:
            continue
        batch = model.prepare(question.text, images=scene.image)
        graph = mm.attribution_graph(model, batch, transcoders, max_nodes=300, progress=False)
        results.append((scene, question, batch, graph, graph.check(model, batch, transcoders, nodes=8)))
    return results


def test_features_carry_the_answer_and_the_model_does_what_the_graph_says(drawn: Any) -> None:
    for _, question, _, graph, check in drawn:
        assert graph.targets[-len(graph.shares)].text == question.answer
        assert graph.scores.replacement > 0.8
        assert graph.scores.completeness > 0.9
        assert check.direct < 1e-3
    checks = [check for *_, check in drawn]
    assert np.mean([check.r for check in checks]) > 0.65
    assert np.mean([check.r_free for check in checks]) > 0.65
    assert np.mean([check.r_control for check in checks]) < 0.3
    assert np.mean([check.r_free_control for check in checks]) < 0.3
    assert np.mean([check.effect for check in checks]) > 2 * np.mean([check.effect_control for check in checks])


def test_more_influence_comes_from_the_thing_that_is_asked_about_than_from_the_rest_of_the_picture(drawn: Any) -> None:
    shares = []
    for scene, question, batch, graph, _ in drawn:
        thing = next(thing for thing in scene.objects if thing.shape in question.text)
        rows = set(batch.layout.patches(thing.box).tolist())
        sources = [
            (node.rows[0] in rows, float(value))
            for node, value in zip(graph.members, graph.influence, strict=True)
            if node.kind == "source" and node.box is not None
        ]
        inside = sum(value for within, value in sources if within)
        shares.append(inside / sum(value for _, value in sources))
        assert len(rows) < len(sources) / 3
    assert min(shares) > 0.6


def test_features_of_the_labs_vision_encoder_are_nodes(drawn: Any) -> None:
    model = mm.lab.load()
    dictionaries = [*mm.lab.dictionaries("vision_transcoders"), *mm.lab.dictionaries("transcoders")]
    _, _, batch, language, _ = drawn[0]
    graph = mm.attribution_graph(model, batch, dictionaries, max_nodes=150, progress=False)
    total = graph.weights.sum(1) + graph.bias
    value = torch.tensor([node.value for node in graph.targets])
    assert float(((total - value).abs() / (graph.weights.abs().sum(1) + graph.bias.abs())).max()) < 5e-6
    assert any(node.kind == "feature" and node.at.startswith("vision.") for node in graph.members)
    assert graph.targets[-1].value == pytest.approx(language.targets[-1].value, abs=1e-3)
