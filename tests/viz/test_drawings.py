"""Drawn circuits and graphs: words fit, and say what colours mean; nodes do not stand in one column."""

from itertools import pairwise
from xml.etree import ElementTree

import pytest
import torch

from mmlens.analysis.circuits.circuit import Circuit
from mmlens.analysis.circuits.graph import EdgeGraph, Reader, Writer
from mmlens.core.palette import FALL, RISE, signed
from tests.conftest import Subject

SVG = "{http://www.w3.org/2000/svg}"


def circuit(depth: int, metric: str = "logit('red') - logit('blue'), logits") -> Circuit:
    """One head per block; every head reads those before it, the first edge of each with a negative score."""
    writers = [Writer("embed[text]", "language", "hook_embed", "language", 0, group="text")]
    readers = []
    for i in range(depth):
        point = f"blocks.{i}.hook_attn_out"
        readers.append(Reader(f"L{i}.h7.q", "language", "q", point, "language", i, 7, (f"L{i}.h7",)))
        writers.append(Writer(f"L{i}.h7", "language", "hook_z", "language", i + 1, i, 7, branch=point))
    readers.append(Reader("logits", "language", "logits", "hook_logits", "language", depth))
    graph = EdgeGraph(tuple(writers), tuple(readers), "head", "language", {})
    scores = torch.where(torch.eye(depth + 1) > 0, -2.0, 1.0)[..., None] * graph.allowed[..., None]
    return Circuit(graph, scores, graph.allowed.clone(), "eap", metric, torch.ones(1), torch.zeros(1))


def fits(svg: str) -> bool:
    """Whether all words lie in the drawing, at 0.6 em per letter."""
    root = ElementTree.fromstring(svg)
    width, height = float(root.get("width", 0)), float(root.get("height", 0))
    for text in root.iter(f"{SVG}text"):
        size, x, y = (float(text.get(name, 0)) for name in ("font-size", "x", "y"))
        long = 0.6 * size * len(text.text or "")
        left = x - long / 2 if text.get("text-anchor") == "middle" else x
        if left < 0 or left + long > width or not size <= y <= height:
            return False
    return True


@pytest.mark.parametrize("depth", [1, 4, 32])
def test_a_circuit_has_room_for_all_its_words(depth: int) -> None:
    svg = circuit(depth).draw().svg
    assert fits(svg)
    assert fits(circuit(depth, "the mean of a metric with a very long name that somebody made up, nats").draw().svg)
    assert "by eap (approximate)" in svg
    assert "an edge of this strength changes it by 2" in svg


def test_edges_have_the_colour_of_their_sign() -> None:
    root = ElementTree.fromstring(circuit(3).draw().svg)
    colors = {path.find(f"{SVG}title").text: path.get("stroke") for path in root.iter(f"{SVG}path")}  # type: ignore[union-attr]
    assert colors["embed[text] -> L0.h7.q (-2.000)"] == f"rgb{FALL}"
    assert colors["embed[text] -> L1.h7.q (+1.000)"] == f"rgb{RISE}"


def test_nodes_of_neighbouring_blocks_stand_beside_each_other() -> None:
    root = ElementTree.fromstring(circuit(20).draw().svg)
    heads = [group for group in root.iter(f"{SVG}g") if group.get("data-name", "").endswith(".h7")]
    left = [float(head.find(f"{SVG}rect").get("x", 0)) for head in heads]  # type: ignore[union-attr]
    width = float(heads[0].find(f"{SVG}rect").get("width", 0))  # type: ignore[union-attr]
    assert len(left) == 20
    assert all(abs(one - other) > width for one, other in pairwise(left))


def test_a_graph_says_what_frames_and_colours_mean(subject: Subject) -> None:
    values = {"blocks.1.hook_mlp_out": 1.5, "hook_embed": -0.75}
    svg = subject.model.graph.draw(values).svg
    assert "red: rises, blue: falls, by 1.5 at most" in svg
    assert ("dashed: cannot reach the logits" in svg) == any(node.dead for node in subject.model.graph)
    assert svg.count(signed(1.5, 1.5)) == svg.count(signed(-0.75, 1.5)) == 1
    assert "red:" not in subject.model.graph.draw().svg
    assert fits(svg)
