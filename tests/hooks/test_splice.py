"""The points of a dictionary in the path as nodes and edges of the graph, by hand."""

from typing import Any

import pytest
import torch

from mmlens.core.errors import MMLensError
from mmlens.hooks.nodes import Node
from mmlens.hooks.splice import Slot, Splice


class Sizes:
    """What a splice asks of a dictionary before anything runs: 7 features, from 4 to 6 wide."""

    d_in, d_out = 4, 6

    def __len__(self) -> int:
        return 7


SITE = Node("blocks.1.hook_mlp_out", "language", 1, "mlp_out", "batch pos d_model", 6, "language", role="writes")
HEADS = Node("blocks.1.attn.hook_z", "language", 1, "attn.z", "batch pos head d_head", 3, "language", units=2)
READ = Node("blocks.1.ln2.hook_out", "language", 1, "ln2.out", "batch pos d_model", 4, "language")
KINDS = ("input", "acts_pre", "acts_post", "recons", "error", "output")


def named(site: Node) -> list[str]:
    return [f"{site.name}.hook_sae_{kind}" for kind in KINDS]


def splice(site: Node = SITE, source: Node | None = None) -> Splice:
    sizes: Any = Sizes()
    return Splice(sizes, site, source)


@pytest.mark.parametrize("source", [None, READ])
def test_edges(source: Node | None) -> None:
    """In a chain to the output, past it by the error, and on to what the site flows into."""
    given, pre, post, recons, error, output = named(SITE)
    read = SITE.name if source is None else source.name
    expected = [
        *((given, pre), (pre, post), (post, recons), (recons, output)),
        *((SITE.name, error), (error, output), (output, "next"), (output, "other")),
    ]
    edges = splice(source=source).edges(["next", "other"], {SITE.name, READ.name})
    assert sorted(edges) == sorted([*expected, (read, given)])
    assert sorted(splice(source=source).edges(["next", "other"], set())) == sorted(expected)


def test_nodes_have_the_axes_and_widths_of_what_they_hold() -> None:
    found = {node.name: (node.axes, node.width, node.units, node.role) for node in splice(source=READ).nodes()}
    wide, features = "batch pos d_model", "batch pos feature"
    assert found == dict(
        zip(
            named(SITE),
            [
                (wide, 4, None, None),
                (features, 7, None, None),
                (features, 7, 7, None),
                (wide, 6, None, None),
                (wide, 6, None, None),
                (wide, 6, None, None),
            ],
            strict=True,
        )
    )
    heads = [(node.axes, node.width) for node in splice(HEADS).nodes()]
    assert heads[0] == ("batch pos d_head", 4)  # heads side by side
    assert heads[1] == heads[2] == ("batch pos feature", 7)
    assert heads[3] == heads[4] == ("batch pos d_head", 6)
    assert heads[5] == (HEADS.axes, HEADS.width)
    assert [node.kind for node in splice(HEADS).nodes()] == [f"attn.z.sae_{kind}" for kind in KINDS]


def test_taps_of_a_slot_act_one_after_the_other() -> None:
    slot, x = Slot(), torch.ones(2)
    first, second = (lambda t: t + 1), (lambda t: 3 * t)
    slot.attach(first)
    slot.attach(second)
    assert torch.equal(slot.through(x), 3 * (x + 1))
    slot.detach(first)
    assert torch.equal(slot.through(x), 3 * x)


def test_it_is_active_while_one_of_its_points_has_a_hook() -> None:
    one = splice(source=READ)
    assert not one.active
    y = torch.ones(1, 6)
    assert one._write(y) is y
    for point in one.points.values():
        point.add_hook(lambda tensor, hook: tensor)
        assert one.active
        with pytest.raises(AttributeError):  # `Sizes` can be asked for nothing more
            one._write(y)
        point.remove_hooks()
        assert not one.active


def test_a_source_that_ran_too_late_is_said() -> None:
    one = splice(source=READ)
    sizes: Any = one.dictionary
    sizes.to = lambda device: sizes
    one.points[named(SITE)[0]].add_hook(lambda tensor, hook: tensor)
    with pytest.raises(MMLensError, match=r"blocks\.1\.hook_mlp_out ran before blocks\.1\.ln2\.hook_out"):
        one._write(torch.ones(1, 6))
