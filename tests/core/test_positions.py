"""Rules are values: they print themselves, are equal and hashable, join, and come back from JSON."""

import copy
import json
import pickle
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

import mmlens as mm
from mmlens import positions
from mmlens.core.errors import InputError
from mmlens.core.packing import form_of
from mmlens.core.regions import Region
from mmlens.core.rule_groups import as_groups
from mmlens.core.rules import Row, Rule, as_rule
from mmlens.core.sequence_rows import SequenceRows

RULES: list[tuple[Any, str]] = [
    (positions.image, "positions.image"),
    (positions.image[1], "positions.image[1]"),
    (positions.image(frame=2), "positions.image(frame=2)"),
    (positions.image[1](frame=2), "positions.image[1](frame=2)"),
    (positions.text, "positions.text"),
    (positions.all, "positions.all"),
    (positions.index(0, -1), "positions.index(0, -1)"),
    (positions.index(slice(2, None, 2)), "positions.index(2::2)"),
    (positions.row(3, 4), "positions.row(3, 4)"),
    (positions.row([3], [4, 5]), "positions.row([3], [4, 5])"),
    (positions.word("moon"), "positions.word('moon')"),
    (positions.word(["moon", "traffic  light"], which=-1), "positions.word(['moon', 'traffic light'], which=-1)"),
    (positions.box((1, 2, 3.5, 4)), "positions.box((1, 2, 3.5, 4))"),
    (positions.box([(1, 2, 3, 4), None], image=1), "positions.box([(1, 2, 3, 4), None], image=1)"),
    (~positions.image & positions.prompt, "~positions.image & positions.prompt"),
    (
        (positions.last | "generated") - [0, 1],
        "(positions.last | positions.generated) - positions.index(0, 1)",
    ),
]


@pytest.mark.parametrize(("rule", "text"), RULES, ids=[text for _, text in RULES])
def test_rules_print_compare_and_come_back(rule: Any, text: str) -> None:
    assert repr(rule) == text
    form = form_of(Rule)
    back = form.unpack(json.loads(json.dumps(form.pack(rule, "rule", {}))), "rule", {})
    assert back == rule
    assert hash(back) == hash(rule)
    assert pickle.loads(pickle.dumps(rule)) == rule
    if "slice" not in text and "::" not in text:
        assert eval(text, {"positions": positions}) == rule


def test_a_rule_of_a_mask_comes_back_with_its_pixels() -> None:
    mask, tensors, form = torch.eye(3) > 0, dict[str, torch.Tensor](), form_of(Rule)
    data = json.loads(json.dumps(form.pack(positions.mask(mask) & "image", "rule", tensors)))
    back = form.unpack(data, "rule", tensors)
    assert torch.equal(back.left.areas[0].inside, mask)
    assert back.right == positions.image


def test_what_is_short_for_a_rule() -> None:
    short = as_rule
    assert short("image") == positions.image
    assert short("last") == positions.last
    assert short("Moon") == positions.word("Moon")
    assert short(3) == short([3]) == short(torch.tensor(3)) == short(np.int64(3)) == positions.index(3)
    assert short([0, -1]) == short(torch.tensor([0, -1])) == short(range(0, -2, -1)) == positions.index(0, -1)
    assert short(slice(1, 4)) == positions.index(slice(1, 4))
    own = short(torch.tensor([[0, 1], [2, 3]]))
    assert own == short([torch.tensor([0, 1]), torch.tensor([2, 3])])
    assert own.per_sample
    assert "image" | positions.last == positions.image | "last"
    assert [0] & positions.text == positions.index(0) & "text"
    assert "text" - positions.last == positions.text - "last"


def test_groups_have_names() -> None:
    groups = as_groups
    assert groups(["image", "moon", 3, slice(1, 3)]) == {
        "image": positions.image,
        "moon": positions.word("moon"),
        "3": positions.index(3),
        "1:3": positions.index(slice(1, 3)),
    }
    assert groups([0, 1]) == {"0, 1": positions.index(0, 1)}  # one group of two tokens
    assert groups({"rest": positions.image - "moon"}) == {"rest": positions.image - "moon"}
    assert groups(positions.image - positions.box((0, 0, 4, 4))).keys() == {"image - box(0, 0, 4, 4)"}
    assert groups("each") == positions.each
    assert groups(positions.each("image")) == positions.each(positions.image)
    assert groups(positions.grid(2)) == positions.grid(2)


@pytest.mark.parametrize(
    ("make", "text"),
    [
        (lambda: as_rule(True), "positions=True are none: give a rule of mm.positions"),
        (lambda: as_rule(0.5), "positions=0.5 are none"),
        (lambda: as_rule([0, "image"]), "are several rules where one is taken; join them"),
        (lambda: as_rule(" "), "positions=' ' is no word; the rules that are words: 'all', 'image'"),
        (lambda: as_rule(slice(5, 1, -1)), "must go forward: its step is at least 1"),
        (lambda: as_groups({}), "positions are empty: name at least one group"),
        (lambda: positions.index(), "index() names no token; give numbers or slices"),
        (lambda: positions.index(1.5), "index: numbers=1.5 must be a whole number, a slice"),
        (lambda: positions.row(), "row() names no row"),
        (lambda: positions.word(""), "word('') needs a word, or one word per sample"),
        (lambda: positions.word(["moon", 3]), "word[1]=3 must be a string"),
        (lambda: positions.box((0, 0, 4)), "box=(0, 0, 4) must be (left, top, right, bottom)"),
        (lambda: positions.box((0, 0, float("nan"), 4)), "box[2]=nan must be a finite number"),
        (lambda: positions.mask(torch.zeros(4, 4)), "holds truth values, found [4, 4] of torch.float32"),
        (lambda: positions.object(SimpleNamespace()), "takes things with a .mask or a .box"),
        (lambda: positions.grid(0), "side=0 must be at least 1"),
        (lambda: positions.image["a"], "image must be whole numbers, found 'a'"),
    ],
)
def test_what_is_no_rule_is_refused_at_once(make: Any, text: str) -> None:
    with pytest.raises(InputError) as error:
        make()
    assert text in str(error.value)


def test_a_thing_of_a_scene_is_its_mask_and_else_its_box() -> None:
    scene = mm.lab.scene(seed=7)
    thing = positions.object(scene.objects[0])
    assert thing.areas[0].inside.equal(torch.as_tensor(scene.objects[0].mask))
    boxed = positions.object([SimpleNamespace(box=(0, 0, 4, 4)), None])
    assert boxed == Region(((0, 0, 4, 4), None), per_sample=True, kind="object")
    assert thing != positions.object(scene.objects[0])  # masks are equal to themselves alone
    assert thing == thing


def test_rows_know_their_sequence() -> None:
    rows = SequenceRows.of(torch.tensor([5, 6, 7]), "vision", sample=1)
    kept = (rows[1:], rows[[0, 2]], torch.cat([rows, rows]), rows + 1, rows.flip(0), rows.unique(), rows.sort().values)
    for same in (*kept, rows.clone(), rows.to(torch.int32), copy.deepcopy(rows), pickle.loads(pickle.dumps(rows))):
        assert isinstance(same, SequenceRows)
        assert (same.sequence, same.sample) == ("vision", 1)
    for plain in (rows == 6, rows.float(), rows.plain, rows.argsort(), rows.sum(), torch.ones(9)[rows]):
        assert not hasattr(plain, "sequence"), plain
    assert torch.arange(9)[rows].tolist() == [5, 6, 7]
    assert repr(rows) == "vision rows [5, 6, 7] of sample 1"
    other = SequenceRows.of(torch.tensor([5]), "language", sample=1)
    with pytest.raises(InputError, match="Rows of the language and the vision sequence cannot be joined"):
        torch.cat([rows, other])
    assert torch.cat([rows, SequenceRows.of(torch.tensor([1]), "vision", sample=0)]).sample is None  # type: ignore[attr-defined]
    assert as_rule(rows) == Row(((5, 6, 7),), False, "vision", 1)
    last = SequenceRows.of(torch.tensor([3, 9]), "language", per_sample=True)
    assert as_rule(last) == as_rule(last[:, None]) == Row(((3,), (9,)), True, "language")
    assert as_rule(last[1]) == Row(((9,),), False, "language", 1)
