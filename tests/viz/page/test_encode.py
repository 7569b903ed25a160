"""What the viewer reads out of an encoded pack is what was put in, to the stated precision."""

import json

import numpy as np
import pytest
from PIL import Image

from mmlens.core.errors import InputError
from mmlens.viz.page.encode import EXACT, decoded, encode_array, encode_pack
from mmlens.viz.page.pack import Pack, PackArray, PackWords
from mmlens.viz.page.show import BUDGET, show

RNG = np.random.default_rng(0)


def test_few_numbers_come_back_as_they_are() -> None:
    values = RNG.normal(size=(6, 64)).astype(np.float32)
    values[2, 3] = np.nan
    encoded = encode_array(PackArray("a", "a", values, ("layer", "patch")))
    assert encoded["exact"]
    np.testing.assert_array_equal(decoded(encoded), values.astype(np.float64))


@pytest.mark.parametrize("signed", [False, True])
def test_many_numbers_come_back_within_half_a_step_and_in_their_order(signed: bool) -> None:
    values = RNG.lognormal(size=(4, 40, 100)) * (RNG.choice([-1, 1], size=(4, 40, 100)) if signed else 1)
    values[1, 2, 3] = np.nan
    values[3] = 0
    assert values.size > EXACT
    encoded = encode_array(PackArray("a", "a", values, ("layer", "token", "patch")))
    back = decoded(encoded)
    assert np.isnan(back[1, 2, 3])
    assert np.isnan(back).sum() == 1
    largest = np.nanmax(np.abs(values), axis=-1, keepdims=True)
    # v = m s^2: half a step of s is off by at most (2 s + half) half of m
    half = 0.5 / (127 if signed else 254)
    bound = largest * (2 * half + half**2) + 1e-6
    assert (np.abs(np.nan_to_num(back - values)) <= bound).all()
    order = np.argsort(values[0, 0])
    assert (np.diff(back[0, 0][order]) >= 0).all()
    assert not back[3].any()


def test_a_row_of_small_numbers_beside_a_row_of_large_ones_keeps_its_own_precision() -> None:
    values = np.stack([np.linspace(0, 1e-6, 5000), np.linspace(0, 1e6, 5000)])
    back = decoded(encode_array(PackArray("a", "a", values, ("layer", "patch"))))
    np.testing.assert_allclose(back[0], values[0], atol=0.005 * 1e-6)


def test_packs_whose_arrays_do_not_fit_are_refused() -> None:
    boxes, picture = np.zeros((4, 4)), Image.new("RGB", (8, 8))
    array = PackArray("a", "a", np.zeros((2, 4)), ("layer", "patch"))
    with pytest.raises(InputError, match="needs a name for each axis"):
        Pack("x", arrays=(PackArray("a", "a", np.zeros((2, 4)), ("patch",)),), picture=picture, boxes=boxes)
    with pytest.raises(InputError, match="its last one is drawn"):
        Pack("x", arrays=(PackArray("a", "a", np.zeros((2, 4)), ("patch", "layer")),), picture=picture, boxes=boxes)
    with pytest.raises(InputError, match="has 4 along 'patch', where there are 5"):
        Pack("x", arrays=(array,), picture=picture, boxes=np.zeros((5, 4)))
    with pytest.raises(InputError, match="needs picture and boxes"):
        Pack("x", arrays=(array,))
    with pytest.raises(InputError, match="names the control 'b'"):
        Pack("x", arrays=(PackArray("a", "a", np.zeros(4), ("patch",), control="b"),), picture=picture, boxes=boxes)


def test_a_model_of_7b_stays_within_the_budget() -> None:
    side, layers, words = 24, 32, 5
    edges = np.linspace(0, 336, side + 1)
    top, left = np.meshgrid(edges[:-1], edges[:-1], indexing="ij")
    boxes = np.stack([left, top, left + 14, top + 14], -1).reshape(-1, 4)
    shares = np.sort(RNG.dirichlet(np.ones(words), size=(layers, side**2)))[..., ::-1]
    picture = Image.fromarray(RNG.integers(0, 255, (336, 336, 3), dtype=np.uint8))  # noise: nothing compresses less
    pack = Pack(
        "a lens",
        arrays=(PackArray("best", "best", shares[..., 0], ("layer", "patch")),),
        picture=picture,
        boxes=boxes,
        words=PackWords(RNG.integers(0, 3000, shares.shape), shares, tuple(f"word{i}" for i in range(3000))),
    )
    assert len(show(pack).html) < BUDGET


def test_what_a_pack_says_cannot_end_its_script() -> None:
    evil = "</script><img src=x onerror=alert(1)>"
    html = show(Pack(evil, caption=evil, labels={"layer": [evil]})).html
    assert "</script><img" not in html
    assert "<img src=x" not in html
    assert json.loads(json.dumps(encode_pack(Pack(evil))))["headline"] == evil
