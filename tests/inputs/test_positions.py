"""Rules as rows, written out by hand: of prompts with padding, of what is new behind them, of towers of every layout."""

from collections.abc import Sequence
from typing import Any

import pytest
import torch

from mmlens.core import positions
from mmlens.core.errors import InputError
from mmlens.core.rules import Row, Rule
from mmlens.inputs.batch import MultimodalBatch
from mmlens.inputs.layout import TokenLayout
from mmlens.inputs.point_rows import UnknownRowsError
from mmlens.inputs.positions import ResolvedPositions, resolve
from tests.inputs.layouts import TOKENS, batch_of, grid, node, place, two_samples

LANGUAGE, VISION = node("language", "language"), node("vision", "vision")
#: Four tokens, of which the middle two are a picture, behind two paddings; six of text; five with a picture in second place.
IMAGES = torch.zeros_like(TOKENS)
IMAGES[0, 3:5], IMAGES[2, 1] = True, True
BATCH = MultimodalBatch({"input_ids": TOKENS.long()}, TokenLayout(IMAGES, TOKENS, ()))


class Letters:
    """A tokenizer whose ids are letters: 1 is a, 2 is b."""

    all_special_ids = (0,)

    def decode(self, ids: Sequence[int], **options: Any) -> str:
        """Letters with spaces between them."""
        return "".join(" " + "?abcdefg"[number] for number in ids)


def numbers(rule: Any, batch: MultimodalBatch = BATCH, at: Any = LANGUAGE, **options: Any) -> list[list[int]]:
    """What a rule means, per sample."""
    return [some.tolist() for some in resolve(rule, batch, at, **options).numbers]


@pytest.mark.parametrize(
    ("rule", "expected"),
    [
        ("all", [[0, 1, 2, 3], [0, 1, 2, 3, 4, 5], [0, 1, 2, 3, 4]]),
        ("prompt", [[0, 1, 2, 3], [0, 1, 2, 3, 4, 5], [0, 1, 2, 3, 4]]),
        ("last", [[3], [5], [4]]),
        ("image", [[1, 2], [], [1]]),
        ("text", [[0, 3], [0, 1, 2, 3, 4, 5], [0, 2, 3, 4]]),
        (-4, [[0], [2], [1]]),
        ([3, 0, -1, 3], [[3, 0], [3, 0, 5], [3, 0, 4]]),
        (slice(1, None, 2), [[1, 3], [1, 3, 5], [1, 3]]),
        (slice(3, 9), [[3], [3, 4, 5], [3, 4]]),
        (slice(-2, -1), [[2], [4], [3]]),
        (torch.tensor([[0, -1], [5, 2], [1, 1]]), [[0, 3], [5, 2], [1]]),
        (positions.row(3), [[1], [3], [3]]),
        (positions.row(2, -2), [[0, 2], [2, 4], [2, 4]]),
        (positions.row(torch.tensor([[5, 2], [0, 5], [4, 0]])), [[3, 0], [0, 5], [4, 0]]),
        (positions.image | "last", [[1, 2, 3], [5], [1, 4]]),
        (positions.text & slice(0, 2), [[0], [0, 1], [0]]),
        (positions.prompt - "text", [[1, 2], [], [1]]),
        (~positions.text, [[1, 2], [], [1]]),
        (~(positions.image | "last"), [[0], [0, 1, 2, 3, 4], [0, 2, 3]]),
    ],
    ids=str,
)
def test_rules_of_a_prompt(rule: Any, expected: list[list[int]]) -> None:
    resolved = resolve(rule, BATCH, LANGUAGE)
    assert numbers(rule) == expected
    starts = [2, 0, 0]
    pairs = [[[sample, n + starts[sample]] for n in own] for sample, own in enumerate(expected)]
    assert [rows.tolist() for rows in resolved.rows] == pairs
    mask = torch.zeros(3, 6, dtype=torch.bool)
    for sample, row in (pair for own in pairs for pair in own):
        mask[sample, row] = True
    assert torch.equal(resolved.mask, mask)
    assert resolved.empty == [sample for sample in range(3) if not expected[sample]]
    assert not resolved.whole
    for sample in range(3):
        rows = resolved.rows_of(sample)
        assert rows is not None
        assert rows.tolist() == [row for _, row in pairs[sample]]
        assert rows.is_contiguous()


#: What rules mean of new tokens, by the number of the token counted from the first new one.
NEW: list[tuple[Any, Any]] = [
    ("all", lambda sample, step: True),
    ("generated", lambda sample, step: True),
    ("prompt", lambda sample, step: False),
    ("last", lambda sample, step: False),
    ("text", lambda sample, step: False),
    ("image", lambda sample, step: False),
    (2, lambda sample, step: False),
    (slice(1, None), lambda sample, step: True),
    (slice(5, 8), lambda sample, step: 5 <= (4, 6, 5)[sample] + step < 8),
    (slice(3, None, 3), lambda sample, step: ((4, 6, 5)[sample] + step - 3) % 3 == 0),
    (slice(-1, None, 2), lambda sample, step: step % 2 == 1),
    (slice(0, -1), lambda sample, step: False),
    (~positions.prompt, lambda sample, step: True),
    (~positions.generated, lambda sample, step: False),
    (positions.last | "generated", lambda sample, step: True),
    (
        positions.index(slice(5, None)) - positions.index(slice(0, 7)),
        lambda sample, step: (4, 6, 5)[sample] + step >= 7,
    ),
    (positions.generated & slice(0, 7), lambda sample, step: (4, 6, 5)[sample] + step < 7),
    (positions.index(slice(0, 1), slice(5, 6)), lambda sample, step: (4, 6, 5)[sample] + step == 5),
]


@pytest.mark.parametrize(("rule", "means"), NEW, ids=lambda value: str(value) if not callable(value) else "")
def test_rules_of_new_tokens(rule: Any, means: Any) -> None:
    resolved = resolve(rule, BATCH, LANGUAGE, steps=None)
    expected = torch.tensor([[bool(means(sample, step)) for step in range(2, 7)] for sample in range(3)])
    assert torch.equal(resolved.new(2, 5), expected)
    mask = resolved.mask
    for first, count in ((0, 6), (0, 9), (4, 3), (6, 1), (8, 2), (2, 3)):
        expected = torch.tensor(
            [
                [
                    bool(mask[sample, at]) if at < 6 else bool(means(sample, at - 6))
                    for at in range(first, first + count)
                ]
                for sample in range(3)
            ]
        )
        marks = resolved.marks(first, count, torch.device("cpu"))
        if isinstance(marks, bool):
            assert expected.all() if marks else not expected.any()
        else:
            assert torch.equal(marks, expected)
            assert expected.any()
            assert not expected.all()
    for sample, own in enumerate(resolved.all_numbers(4)):
        length = (4, 6, 5)[sample]
        assert own.tolist() == [
            *numbers(rule, required=False)[sample],
            *(length + s for s in range(4) if means(sample, s)),
        ]


def test_marks_of_a_long_generation_are_forgotten_nine_at_a_time() -> None:
    resolved = resolve(positions.image | "generated", BATCH, LANGUAGE)
    sizes = []
    for step in range(30):
        assert resolved.marks(6 + step, 1, torch.device("cpu")) is True
        sizes.append(len(resolved._memory))
    assert max(sizes) == 9
    first = resolved.marks(0, 6, torch.device("cpu"))
    assert resolved.marks(0, 6, torch.device("cpu")) is first


def test_teacher_forced_tokens_count_as_new() -> None:
    """The last two of five and four tokens behind padding."""
    tokens = torch.tensor([[0, 1, 1, 1, 1, 1], [0, 0, 1, 1, 1, 1]]).bool()
    batch = batch_of(tokens=tokens, n_forced=2)
    cases: list[tuple[Any, list[list[int]], list[list[int]]]] = [
        ("all", [[0, 1, 2], [0, 1]], [[1, 2, 3, 4, 5], [2, 3, 4, 5]]),
        ("generated", [[], []], [[4, 5]] * 2),
        ("last", [[2], [1]], [[3]] * 2),
        (slice(2, 4), [[2], []], [[3, 4], [4, 5]]),
        (slice(-1, None, 2), [[2], [1]], [[3, 5]] * 2),
    ]
    for rule, own, rows in cases:
        resolved = resolve(rule, batch, LANGUAGE)
        assert [some.tolist() for some in resolved.numbers] == own, rule
        for sample in range(2):
            assert resolved.rows_of(sample).tolist() == rows[sample], rule  # type: ignore[union-attr]
            assert resolved.mask[sample].nonzero().flatten().tolist() == rows[sample]
            assert resolved.forced[sample].nonzero().flatten().tolist() == [row - 4 for row in rows[sample] if row > 3]
        assert torch.equal(torch.as_tensor(resolved.marks(0, 6, torch.device("cpu"))).expand(2, 6), resolved.mask)
    # in a generation they are followed by others
    assert resolve("generated", batch, LANGUAGE).marks(6, 1, torch.device("cpu")) is True
    # teacher-forced tokens of a decoder are none of the encoder's
    decoder = batch_of(tokens=tokens, n_forced=2, inputs={"decoder_input_ids": torch.zeros(2, 3, dtype=torch.long)})
    assert numbers("last", decoder) == [[4], [3]]
    assert numbers("last", decoder, node("language", "decoder")) == [[0], [0]]
    assert numbers("text", decoder, node("language", "decoder")) == [[0], [0]]


def test_words_stand_in_the_prompt_and_in_what_was_written() -> None:
    ids = torch.tensor([[0, 0, 1, 2, 1, 3], [2, 1, 1, 1, 1, 0]])
    tokens = torch.tensor([[0, 0, 1, 1, 1, 1], [1, 1, 1, 1, 1, 0]]).bool()
    layout = TokenLayout(torch.zeros_like(tokens), tokens, ())
    batch = MultimodalBatch({"input_ids": ids}, layout, tokenizer=Letters())
    assert numbers("b", batch) == [[1], [0]]
    assert numbers(positions.word("a", which=-1), batch) == [[2], [4]]
    assert numbers(positions.word(["c", "b"]), batch) == [[3], [0]]
    written = [[4, 2, 1], [1, 2, 2]]
    resolved = resolve("b", batch, LANGUAGE, written=written)
    assert [some.tolist() for some in resolved.numbers] == [[1], [0]]
    assert resolved.new(0, 3).tolist() == [[False, True, False], [False, True, True]]
    assert [own.tolist() for own in resolved.all_numbers(3)] == [[1, 5], [0, 6, 7]]
    # a word that only what was written holds has no row of the prompt
    resolved = resolve(positions.word(["d", "b"]), batch, LANGUAGE, written=written, required=False)
    assert [own.tolist() for own in resolved.numbers] == [[], [0]]
    assert not resolve("b", batch, LANGUAGE).new(0, 3).any()
    with pytest.raises(InputError, match=r"is a word of the text, and vision.point holds rows of pictures"):
        resolve("b", batch_of(tokens=torch.ones(1, 3).bool(), tokenizer=Letters()), VISION, (1, 4, 2))


#: Two pictures in the first sample, of which the second lies in two entries, none in the second, one in the third.
TOWER = batch_of(
    place(0, vision=grid(1, [0, 1, 2])),
    place(0, 1, vision=(grid(2, [0, 2]), grid([2, 301], [1, 2]))),
    place(2, vision=grid(300, [0, 1, 2])),
)


@pytest.mark.parametrize(
    ("rule", "expected", "rows"),
    [
        ("all", [[0, 1, 2, 3, 4, 5, 6, 7, 8], [], [0, 1, 2]], [None, [], None]),
        (
            "image",
            [[0, 1, 2, 3, 4, 5, 8], [], [0, 1, 2]],
            [[[1, 0], [1, 1], [1, 2], [2, 0], [2, 1], [2, 2], [301, 2]], [], None],
        ),
        ([0, -1], [[0, 8], [], [0, 2]], [[[1, 0], [301, 2]], [], [0, 2]]),
        (positions.image[1], [[3, 4, 5, 8], [], []], [[[2, 0], [2, 1], [2, 2], [301, 2]], [], []]),
        (positions.row(1), [[1, 4, 7], [], [1]], [[[1, 1], [2, 1], [301, 1]], [], [1]]),
        (slice(7, None), [[7, 8], [], []], [[[301, 1], [301, 2]], [], []]),
    ],
    ids=str,
)
def test_rules_of_a_tower_whose_samples_have_entries_of_their_own(rule: Any, expected: Any, rows: Any) -> None:
    resolved = resolve(rule, TOWER, VISION)
    assert [some.tolist() for some in resolved.numbers] == expected
    assert [None if some is None else some.tolist() for some in map(resolved.rows_of, range(3))] == rows
    assert not resolved.new(0, 5).any()
    assert resolved.mask.shape == (302, 3)
    assert resolved.mask.sum() == sum(map(len, expected))


def test_rules_of_a_packed_tower() -> None:
    """Rows of both samples in one sequence: all of a sample's rows are not all of the rows."""
    packed = node("vision", "vision", "patch d_model")
    batch = batch_of(place(0, vision=grid(None, [0, 1])), place(1, vision=grid(None, [2, 3, 4])), **two_samples())
    for rule, rows in (("all", [[0, 1], [2, 3, 4]]), ("image", [[0, 1], [2, 3, 4]]), ([-1], [[1], [4]])):
        resolved = resolve(rule, batch, packed)
        assert [resolved.rows_of(sample).tolist() for sample in range(2)] == rows  # type: ignore[union-attr]
        assert resolved.mask.tolist() == [[row in rows[0] + rows[1] for row in range(5)]]
    with pytest.raises(InputError, match=r"name rows \[3\] of sample 0, which are rows of other samples' pictures at"):
        resolve(positions.row(torch.tensor([[3], [4]])), batch, packed)
    assert numbers(positions.row(3), batch, packed) == [[], [1]]


def test_where_only_a_run_tells_the_rows() -> None:
    """Indices from 0 up are known ahead; all rows are whole; ends and slices are not known."""
    batch, queries = batch_of(**two_samples()), node("projector", "queries")
    resolved = resolve([2, 0], batch, queries)
    assert [own.tolist() for own in resolved.numbers] == [[2, 0], [2, 0]]
    assert [own.tolist() for own in resolved.rows] == [[[0, 2], [0, 0]], [[1, 2], [1, 0]]]
    assert [resolved.rows_of(sample).tolist() for sample in range(2)] == [[2, 0]] * 2  # type: ignore[union-attr]
    assert (resolved.whole, resolved.boxes) == (False, None)
    assert numbers(torch.tensor([[1], [3]]), batch, queries) == [[1], [3]]
    for rule in (-1, slice(0, 2), positions.row(0), torch.tensor([[1], [-3]])):
        with pytest.raises(UnknownRowsError, match="use positions='all' or whole numbers from 0 up"):
            resolve(rule, batch, queries)
    for rule in ("all", "prompt", "image"):
        resolved = resolve(rule, batch, queries)
        assert (resolved.whole, [own.tolist() for own in resolved.numbers]) == (True, [[], []])
        assert resolved.rows_of(1) is None
        assert resolved.marks(3, 4, torch.device("cpu")) is True
        assert resolved.mask.shape == (1, 0)
        assert resolve(rule, batch, queries, (2, 3, 4)).mask.tolist() == [[True] * 3] * 2
    with pytest.raises(InputError, match="whose queries sequence holds rows of pictures and no tokens"):
        resolve("last", batch, queries)
    # a sequence that mixes pictures with words is no picture
    with pytest.raises(InputError, match="whose sequence mixes vision and language; use 'all' or indices"):
        resolve("image", batch, node("language", "vision+language"))
    assert resolve("all", batch, node("language", "vision+language")).whole
    # rows of the tower have places here, so that a picture's are not whole
    unknown = batch_of(place(0, vision=grid(None, [0])), place(1, vision=grid(None, [1])), **two_samples())
    with pytest.raises(InputError, match="which are whose is not known"):
        resolve("image", unknown, VISION, (3, 2, 4))


def test_texts_of_a_tower_of_their_own_are_text() -> None:
    text = node("language", "text")
    batch = batch_of(apart=True, inputs={"pixel_values": torch.zeros(3, 3, 2, 2)})
    assert numbers("text", batch, text, shape=(3, 4, 2)) == [[0, 1, 2, 3]] * 3
    with pytest.raises(InputError, match=r"positions='last' has no meaning at language.point"):
        resolve("last", batch, text, (3, 4, 2))
    with pytest.raises(InputError, match=r"positions='text' has no meaning at vision.point"):
        resolve("text", batch, VISION, (3, 4, 2))
    with pytest.raises(InputError, match=r"positions.image names nothing in samples"):
        resolve("image", batch, text)


def test_rows_that_do_not_exist_are_refused() -> None:
    cases: list[tuple[Any, Any, str]] = [
        (
            4,
            LANGUAGE,
            r"name \[4\], outside the 4 tokens of sample 0 \(samples \[0\] have \[4\] on the language sequence",
        ),
        ([0, -5, 5], LANGUAGE, r"name \[-5, 5\], outside the 4 tokens of sample 0 \(samples \[0, 2\] have \[4, 5\] on"),
        (
            [0, 6, -7],
            LANGUAGE,
            r"name \[6, -7\], outside the 4 tokens of sample 0 \(samples \[0, 1, 2\] have \[4, 6, 5\]",
        ),
        (
            torch.tensor([[0], [1]]),
            LANGUAGE,
            "positions were given for 2 samples, and the batch has 3; give one list each",
        ),
        (positions.row(torch.tensor([[0], [1]])), LANGUAGE, "positions were given for 2 samples, and the batch has 3"),
        (positions.row(0), LANGUAGE, r"name rows \[0\] of sample 0, which are padding at language.point"),
        (positions.row(6), LANGUAGE, r"name \[6\], outside the 6 rows of the language sequence"),
        (positions.row(7, -7, 7), LANGUAGE, r"name \[7, -7\], outside the 6 rows of the language sequence"),
        (BATCH.layout.text[1], LANGUAGE, "hold rows of sample 1 alone, and the batch has 3 samples"),
        (BATCH.layout.text[0], LANGUAGE, "hold rows of sample 0 alone, and the batch has 3 samples"),
        (
            BATCH.layout.last,
            node("language", "decoder"),
            "hold rows of the language sequence, and language.point lies on the decoder",
        ),
        ([9], VISION, r"name \[9\], outside the 9 rows of vision.point of sample 0 \(samples \[0, 2\] have \[9, 3\]"),
        (BATCH.layout.last, VISION, r'batch.layout.patches\(..., part="vision"\) has those of this point'),
    ]
    for rule, at, message in cases:
        with pytest.raises(InputError, match=message):
            resolve(rule, TOWER if at is VISION else BATCH, at)
    assert numbers(BATCH.layout.last) == [[3], [5], [4]]
    alone = batch_of(tokens=torch.ones(1, 4).bool())
    assert numbers(alone.layout.text[0], alone) == [[0, 1, 2, 3]]


def test_rules_that_name_nothing_are_refused() -> None:
    with pytest.raises(
        InputError, match=r"names nothing in samples \[0, 1, 2\] at language.point, on the language"
    ) as e:
        resolve("generated", BATCH, LANGUAGE)
    assert "New tokens are read in model.generate" in str(e.value)
    for rule, steps, named in (
        ("generated", 1, True),
        ("generated", None, True),
        (slice(8, 9), 2, False),
        (slice(8, 9), 3, True),
        (slice(4000, None), None, True),
        (slice(4102, None), None, False),
        (slice(4101, None), None, True),
        (slice(8, 9), 0, False),
        (slice(69, 70), 0, False),
    ):
        if named:
            assert not any(map(len, resolve(rule, BATCH, LANGUAGE, steps=steps).numbers))
        else:
            with pytest.raises(InputError, match=r"names nothing in samples \[0, 1, 2\]") as e:
                resolve(rule, BATCH, LANGUAGE, steps=steps)
            assert ("New tokens are read" in str(e.value)) == (steps == 0)
            assert resolve(rule, BATCH, LANGUAGE, steps=steps, required=False).empty == [0, 1, 2]
    # a hint for what 64 new tokens would hold
    with pytest.raises(InputError, match=r"text tokens .* pictures\)\.$"):
        resolve(slice(70, 71), BATCH, LANGUAGE)
    with pytest.raises(InputError, match=r"on the vision sequence \(3 rows\)\.$"):
        resolve(slice(9, None), TOWER, VISION)
    decoder = node("language", "decoder")
    with pytest.raises(InputError, match=r"on the decoder sequence \(1 positions of what the decoder has written\)"):
        resolve("image", BATCH, decoder)
    # what is forced is read in a forward pass
    forced = batch_of(tokens=torch.ones(2, 4).bool(), n_forced=2)
    assert numbers("generated", forced) == [[], []]
    with pytest.raises(InputError, match="names nothing"):
        resolve(slice(4, None), forced, LANGUAGE, steps=0)
    with pytest.raises(InputError, match=r"positions.Rule is no rule of mm.positions"):
        resolve(Rule(), BATCH, LANGUAGE)


def test_boxes_are_those_of_the_first_samples_rows() -> None:
    def boxed(first: int) -> Any:
        made = grid(first, [0, 1, 2])
        made.boxes[:] = torch.arange(12).view(3, 4) + 100 * first
        return made

    batch = batch_of(place(0, vision=boxed(0)), place(1, vision=boxed(1)), **two_samples())
    resolved = resolve(torch.tensor([[2, 0], [1, 1]]), batch, VISION)
    assert resolved.boxes.tolist() == [[8, 9, 10, 11], [0, 1, 2, 3]]  # type: ignore[union-attr]


def test_a_resolution_is_itself_alone() -> None:
    resolved = resolve("all", BATCH, LANGUAGE)
    assert resolved != ResolvedPositions(resolved.rule, resolved.point, resolved.numbers)
    assert hash(resolved) != hash(resolve("all", BATCH, LANGUAGE))
    with pytest.raises(AttributeError):
        resolved.whole = True  # type: ignore[misc]


def test_a_sample_that_names_no_rows_has_none() -> None:
    numbers = resolve(positions.text, BATCH, LANGUAGE).rows[0][:1, 1].tolist()
    found = resolve(Row((tuple(numbers), (), ()), per_sample=True), BATCH, LANGUAGE)
    assert [rows.tolist() for rows in found.rows] == [[[0, *numbers]], [], []]
