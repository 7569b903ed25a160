"""Each sample's own rows at a point: layouts written out by hand, of every way in which rows lie in a tensor."""

from types import SimpleNamespace

import pytest
import torch

from mmlens.core.errors import InputError
from mmlens.inputs.batch import MultimodalBatch
from mmlens.inputs.layout import TokenLayout
from mmlens.inputs.point_rows import (
    PointRows,
    UnknownRowsError,
    entry_rows,
    owned_entries,
    place_part,
    places_of,
    prompt_point,
    require_own_rows,
    sequence_length,
)
from tests.inputs.layouts import TOKENS, batch_of, grid, node, place, two_samples


def own(point: PointRows) -> list[list[list[int]]]:
    """The rows of every sample."""
    return [rows.tolist() for rows in point.known]


def test_the_parts_that_sequences_have_places_in() -> None:
    assert [place_part(name) for name in ("language", "vision", "projector", "decoder", "queries")] == [
        *("language", "vision", "projector"),
        *(None, None),
    ]


def test_tokens_are_counted_without_padding_and_without_what_counts_as_new() -> None:
    at = [[[0, 2], [0, 3], [0, 4], [0, 5]], [[1, n] for n in range(6)], [[2, n] for n in range(5)]]
    point = PointRows.of(batch_of(), node("language", "language"))
    assert own(point) == at
    assert (point.length, point.entries, point.size, point.counts, point.shared) == (6, 3, 3, [4, 6, 5], False)
    forced = PointRows.of(batch_of(n_forced=2), node("language", "language"))
    assert forced.length == 4
    assert own(forced) == [[pair for pair in sample if pair[1] < 4] for sample in at]
    assert [
        point.numbers(0, torch.tensor([[0, 5], [0, 3]])).tolist(),
        point.numbers(1, torch.tensor([[0, 5]])).tolist(),
    ] == [
        [1, 3],
        [],
    ]


def test_a_decoder_starts_from_one_position_or_from_its_ids() -> None:
    for inputs, forced, count in (({}, 0, 1), ({"decoder_input_ids": torch.zeros(3, 4, dtype=torch.long)}, 1, 3)):
        batch = batch_of(inputs=inputs, n_forced=forced)
        assert sequence_length(batch, "decoder") == count + forced
        point = PointRows.of(batch, node("language", "decoder"))
        assert own(point) == [[[sample, row] for row in range(count)] for sample in range(3)]
    assert sequence_length(batch_of(), "language") == 6
    assert sequence_length(batch_of(), "queries") is None


def test_what_the_projector_receives_has_the_towers_rows() -> None:
    """As many as up to the last that is a patch: class rows behind the patches are not handed on, and the layout counts them."""
    batch = batch_of(
        place(0, lengths={"vision": 9}, vision=grid(0, [1, 2, 3]), projector=grid(0, [0, 1])),
        place(1, vision=(grid(1, [1, 2]), grid([2, 2], [1, 5])), projector=grid(1, [0])),
        **two_samples(),
    )
    assert PointRows.of(batch, node("projector", "vision")).length == 6
    assert PointRows.of(batch, node("vision", "vision")).length == 9
    assert PointRows.of(batch, node("projector", "projector")).length == 2
    assert PointRows.of(batch_of(), node("projector", "vision")).length is None
    assert PointRows.of(batch, node("projector", "vision"), (3, 7, 4)).length == 7
    # and what it reads on the tower's rows is owned as these are
    assert own(PointRows.of(batch, node("projector", "vision"))) == [
        [[0, row] for row in range(6)],
        [[entry, row] for entry in (1, 2) for row in range(6)],
    ]


def test_entries_belong_to_the_sample_whose_pictures_lie_in_them() -> None:
    batch = batch_of(
        place(0, vision=grid(1, [1, 2]), projector=grid(3, [0])),
        place(0, 1, vision=grid([2, 4], [1, 2]), projector=grid(3, [1])),
        place(2, vision=grid(0, [1, 2]), projector=grid(0, [0])),
    )
    vision = PointRows.of(batch, node("vision", "vision"))
    assert own(vision) == [[[e, r] for e in (1, 2, 4) for r in range(3)], [], [[0, r] for r in range(3)]]
    assert vision.known[1].shape == (0, 2)
    assert (vision.entries, vision.length, vision.counts, vision.shared) == (5, 3, [9, 0, 3], False)
    assert PointRows.of(batch, node("vision", "vision"), (6, 4, 8)).entries == 6
    assert own(PointRows.of(batch, node("projector", "projector")))[0] == [[3, 0], [3, 1]]
    # windows of the projector are counted by its own entries
    assert owned_entries(batch, node("projector", "windows"), 4) == [[3], [], [0]]
    assert owned_entries(batch, node("projector", "vision"), 5) == [[1, 2, 4], [], [0]]
    # fewer entries than the layout names: whose they are is not known
    assert owned_entries(batch, node("vision", "vision"), 4) is None
    assert [places.image for places in places_of(batch, 0)] == [0, 1]


def test_entries_that_samples_share_are_told_apart_by_rows() -> None:
    batch = batch_of(
        place(0, vision=grid(1, [4, 5])),
        place(1, vision=(grid([0, 1], [2, 3]), grid(1, [3, 2]))),
        **two_samples(),
    )
    point = PointRows.of(batch, node("vision", "vision"), (2, 6, 4))
    assert own(point) == [[[1, 4], [1, 5]], [[0, 2], [1, 2], [1, 3]]]
    assert point.shared
    assert point.numbers(1, torch.tensor([[1, 3], [0, 3]])).tolist() == [2]
    both = batch_of(
        place(0, vision=grid(0, [4, 5]), projector=grid(0, [0])),
        place(1, vision=grid(0, [2]), projector=grid(0, [1])),
        **two_samples(),
    )
    assert own(PointRows.of(both, node("projector", "vision"))) == [[[0, 4], [0, 5]], [[0, 2]]]
    assert own(PointRows.of(both, node("projector", "projector"))) == [[[0, 0]], [[0, 1]]]
    without = batch_of(place(0, vision=grid(0, [4])), place(1, vision=grid(0, [5])), **two_samples(tokens=TOKENS))
    assert own(PointRows.of(without, node("vision", "vision"))) == [[[0, 4]], [[0, 5]], []]
    assert PointRows.of(without, node("vision", "vision")).known[2].shape == (0, 2)


def test_packed_rows_belong_to_the_sample_of_their_picture() -> None:
    """Rows without a batch axis lie in entry 0, whatever entry a grid names for other points."""
    packed = node("vision", "vision", "patch d_model")
    batch = batch_of(place(0, vision=grid(None, [4, 5])), place(1, vision=grid(3, [6, 1])), **two_samples())
    assert own(PointRows.of(batch, packed)) == [[[0, 4], [0, 5]], [[0, 1], [0, 6]]]
    point = PointRows.of(batch, packed, (9, 4))
    assert (point.length, point.entries, point.shared) == (9, None, True)
    # where one sample has all of them, those without a place are its own too
    alone = batch_of(place(0, vision=grid(None, [4, 5])), tokens=torch.ones(1, 3).bool())
    assert own(PointRows.of(alone, packed, (7, 4))) == [[[0, row] for row in range(7)]]
    unplaced = batch_of(place(0, projector=grid(None, [4])), place(1, projector=grid(None, [6])), **two_samples())
    assert PointRows.of(unplaced, packed, (9, 4)).own is None
    assert own(PointRows.of(unplaced, node("projector", "projector", "row d_model"), (9, 4))) == [[[0, 4]], [[0, 6]]]


def test_entries_of_one_sample_or_one_picture_each_are_known_without_places() -> None:
    point = node("vision", "queries")
    alone = batch_of(tokens=torch.ones(1, 3).bool())
    assert owned_entries(alone, point, 5) == [[0, 1, 2, 3, 4]]
    assert owned_entries(alone, point, None) is None
    one_each = batch_of(place(0), place(1), **two_samples())
    assert owned_entries(one_each, point, None) == [[0], [1]]
    assert owned_entries(one_each, point, 2) == [[0], [1]]
    assert owned_entries(one_each, point, 3) is None
    packed = batch_of(place(0, vision=grid(None, [1])), place(1, vision=grid(None, [2])), **two_samples())
    assert owned_entries(packed, point, 2) == [[0], [1]]
    two_in_one = batch_of(place(0), place(1), place(1, 1), **two_samples())
    assert owned_entries(two_in_one, point, 3) is None
    assert owned_entries(two_in_one, point, 2) is None
    assert owned_entries(batch_of(**two_samples()), point, 2) is None
    # the tower's entries, where the part itself has no place
    queries = batch_of(place(0, vision=grid(1, [1])), place(1, vision=grid(0, [2])), **two_samples())
    assert owned_entries(queries, node("projector", "queries"), 2) == [[1], [0]]
    # no row at all, in one entry
    nothing = batch_of(place(0, vision=grid(0, [])), place(1, vision=grid(0, [])), **two_samples())
    assert owned_entries(nothing, node("vision", "vision"), 1) == [[], []]
    assert PointRows.of(nothing, node("vision", "vision"), (1, 2, 3)).entries == 1


def test_rows_of_unknown_owners_and_of_unknown_number() -> None:
    point = PointRows.of(batch_of(), node("vision", "vision"), (5, 4, 8))
    assert (point.own, point.length, point.entries, point.shared) == (None, 4, 5, False)
    with pytest.raises(InputError, match="holds rows of all 3 samples, and which are whose is not known") as refusal:
        _ = point.counts
    assert not isinstance(refusal.value, UnknownRowsError)
    unknown = PointRows.of(batch_of(), node("vision", "vision"))
    assert (unknown.own, unknown.length, unknown.entries) == (None, None, None)
    with pytest.raises(UnknownRowsError, match="is known once it runs"):
        _ = unknown.counts
    with pytest.raises(AttributeError):
        point.length = 3  # type: ignore[misc]
    assert len({point, unknown}) == 2
    assert point != PointRows.of(batch_of(), node("vision", "vision"), (5, 4, 8))


def test_rows_of_a_grid() -> None:
    assert entry_rows(grid(3, [1, 2])).tolist() == [[3, 1], [3, 2]]
    assert entry_rows(grid([5, 6], [1, 2])).tolist() == [[5, 1], [6, 2]]
    assert entry_rows(grid([5, 6], [1, 2]), is_packed=True).tolist() == [[0, 1], [0, 2]]
    assert entry_rows(grid(None, [1])).tolist() == [[0, 1]]


def test_the_first_point_of_the_prompt() -> None:
    nodes = [node("vision", "language"), node("language", "vision"), node("language", "language")]
    assert prompt_point(nodes) is nodes[2]  # type: ignore[arg-type]


def test_texts_that_are_no_samples_own_are_refused() -> None:
    """Of a dual encoder: three texts for two pictures."""

    def apart(pictures: int) -> MultimodalBatch:
        return batch_of(apart=True, inputs={"pixel_values": torch.zeros(pictures, 3, 2, 2)})

    nodes = [node("vision", "vision"), SimpleNamespace(part="language", name="first"), node("language", "language")]
    expected = "first is a point of the text tower, and the batch has 3 texts for 2 pictures"
    with pytest.raises(InputError, match=expected):
        require_own_rows(apart(2), nodes)  # type: ignore[arg-type]
    require_own_rows(apart(2), [node("vision", "vision"), node("projector", "projector")])
    require_own_rows(apart(3), nodes)  # type: ignore[arg-type]
    require_own_rows(batch_of(), nodes)  # type: ignore[arg-type]
    # of the text tower there are as many samples as texts
    assert [PointRows.of(apart(2), node(part, part)).size for part in ("language", "vision")] == [3, 2]
    assert own(PointRows.of(apart(2), node("language", "language")))[1] == [[1, n] for n in range(6)]


def test_the_length_of_a_sequence_of_pictures() -> None:
    layout = batch_of(
        place(0, vision=grid(0, [3, 8, 1]), projector=grid(0, [0, 1])),
        place(1, lengths={"projector": 6}, vision=(grid(0, [2]), grid(1, [5]))),
        **two_samples(),
    ).layout
    assert [
        layout.length(name) for name in map("".join, ("language", "vision", "projector", "queries", "decoder"))
    ] == [
        *(3, 9, 6),
        *(None, None),
    ]
    assert batch_of().layout.length("vision") is None


def test_what_a_layout_says_of_its_samples() -> None:
    is_image = torch.zeros_like(TOKENS)
    is_image[0, 3:5], is_image[2, 1] = True, True
    layout = TokenLayout(is_image, TOKENS, (place(0), place(0, 1), place(0, 1), place(2)))
    assert repr(layout) == (
        "TokenLayout: 3 samples of 6 positions; image tokens [2, 0, 1], text tokens [2, 6, 4], 3 pictures"
    )
    assert [rows.tolist() for rows in layout.image] == [[3, 4], [], [1]]
    assert [rows.tolist() for rows in layout.text] == [[2, 5], [0, 1, 2, 3, 4, 5], [0, 2, 3, 4]]
    assert [rows.sample for rows in layout.text] == [0, 1, 2]
    assert (layout.last.tolist(), layout.last.sequence, layout.last.per_sample) == ([5, 5, 4], "language", True)
