"""A small project in public names alone: where a colour travels, which heads carry it, and whether others do as well.

Its page is run, and held to what it says; beside it stand what a newcomer would otherwise count, parse or guess by hand.
"""

import re
from typing import Any

import pytest
import torch

import mmlens as mm
from docs import executed

PAGE = executed.FOLDER / "howto" / "where_a_colour_travels.md"


@pytest.fixture(scope="module")
def project() -> dict[str, Any]:
    """The names that the page leaves."""
    names: dict[str, Any] = {}
    shown = [value for _, value in executed.run(PAGE, names)]
    assert "<img" in (executed.html_of(shown[-1]) or ""), "it ends in a picture"
    return names


def test_it_needs_public_names_alone() -> None:
    code = "\n".join(block.code for block in executed.blocks(PAGE.read_text(encoding="utf-8")))
    assert set(re.findall(r"^import (\w+)", code, flags=re.M)) == {"mmlens", "pandas"}
    assert not re.findall(r"\b(?:from|hook_fn|fwd_hooks|rows|layout)\b|\._", code)


def test_the_colour_is_at_the_thing_and_then_at_the_last_position(project: dict[str, Any]) -> None:
    tower, stream = project["tower"].mean_share, project["stream"].mean_share
    assert (tower[:, 0] > 0.95).all()
    assert (stream[:3, 0] > 0.95).all()
    assert (stream[3:, 0] < 0.1).all()
    last = project["stream"].groups.index("last")
    assert (stream[:3, last] < 0.1).all()
    assert (stream[3:, last] > 0.95).all()
    for name in ("rest of the picture", "its name", "other words"):
        assert (stream[:, project["stream"].groups.index(name)].abs() < 0.05).all(), name


def test_the_heads_look_at_it_carry_it_and_others_do_not(project: dict[str, Any]) -> None:
    heads = project["heads"]
    assert all(project["at_thing"][head] > 0.9 > 0.1 > project["at_rest"][head] for head in heads)
    assert project["together"](heads) > 0.7
    assert max(project["shares"]) < 0.1
    assert not any(heads & units for units in project["others"])
    assert project["lost"]["none"] == project["lost"]["others"] == 1.0
    assert project["lost"][str(heads)] <= 0.75


def test_what_was_counted_by_hand(project: dict[str, Any]) -> None:
    model, clean, scenes = project["model"], project["clean"], project["scenes"]
    # the complement of a box, and the row in front of the patches, by a rule
    part = {name: states.shape[2] for name, states in _kept(project, "blocks.2.attn.hook_pattern").items()}
    assert part == {"blocks.2.attn.hook_pattern": 1}
    class_row = mm.positions.all - mm.positions.image
    _, cache = model.run_with_cache(clean, names="vision.hook_embed", positions=class_row)
    _, whole = model.run_with_cache(clean, names="vision.hook_embed")
    torch.testing.assert_close(cache["vision.hook_embed"], whole["vision.hook_embed"][:, :1])
    # cells of a map are those of the layout
    grid = clean.layout.grid(sample=0)
    pattern = _kept(project, "blocks.2.attn.hook_pattern")["blocks.2.attn.hook_pattern"][
        0, project["heads"][0].index, 0
    ]
    torch.testing.assert_close(project["looked"][0].values[grid.cells[:, 0], grid.cells[:, 1]], pattern[grid.rows])
    # a metric of logits that were kept
    measured = mm.metrics.measure(model, clean, metric=project["metric"])
    torch.testing.assert_close(project["metric"].on(model)(model(clean)[:, -1]), measured, atol=1e-4, rtol=1e-4)
    # rows of one part are refused in another
    rows = clean.layout.patches(scenes[0].objects[0].box)
    pair, metric = (clean, project["corrupted"]), project["metric"]
    with pytest.raises(mm.InputError, match='part="vision"'):
        mm.patch(model, *pair, at="vision.blocks.*.hook_resid_pre", positions=rows, metric=metric)
    with pytest.raises(mm.InputError, match='part="projector"'):
        mm.patching.path_patch(
            model, *pair, at="projector.hook_out", to="blocks.2.attn.hook_v", positions=rows, metric=metric
        )


def _kept(project: dict[str, Any], name: str) -> dict[str, torch.Tensor]:
    """A pattern's rows of the last position, of all samples and heads."""
    _, cache = project["model"].run_with_cache(project["clean"], names=name, positions="last")
    return dict(cache.items())
