"""Blocks of one stack that differ in heads, widths or weights: each is read as it is, and what cannot be is said."""

import pytest
import torch

from mmlens.core.errors import InputError
from mmlens.core.units import Head
from mmlens.interventions.ablation import Ablate
from mmlens.models.hooked import HookedMultimodal
from tests.families import FAMILIES
from tests.tiny import picture


def make(name: str) -> HookedMultimodal:
    return next(tiny for tiny in FAMILIES if tiny.name == name).make()


@pytest.fixture(scope="module")
def sharing() -> HookedMultimodal:
    """Gemma 4, small: the last two of four blocks take over keys and values; every other block has wider heads."""
    return make("gemma4_small")


@pytest.fixture(scope="module")
def uneven() -> HookedMultimodal:
    """dots3: the middle one of three language blocks has half as many heads."""
    return make("dots3_note")


def test_a_block_without_keys_of_its_own_knows_how_many_it_reads(sharing: HookedMultimodal) -> None:
    _, cache = sharing.run_with_cache(sharing.prepare("describe the image", images=picture(0, 56, 80)))
    for layer, block in enumerate(sharing.blocks):
        assert block.attn is not None
        *_, heads, d_head = cache[f"blocks.{layer}.attn.hook_q"].shape
        *_, grouped, _ = cache[f"blocks.{layer}.attn.hook_rot_k"].shape
        assert (f"blocks.{layer}.attn.hook_k" in cache) == (layer < 2)  # none are made where others are taken over
        assert (block.attn.heads, block.attn.kv_heads, block.attn.d_head) == (heads, grouped, d_head)
    assert sharing.blocks[1].attn.W_K.shape == (2, 32, 16)
    with pytest.raises(
        InputError,
        match=r"^This Gemma4TextDecoderLayer has no self_attn\.k_proj: it takes over the keys and values of an earlier "
        r"block; read the weights there\.$",
    ):
        sharing.blocks[2].attn.W_K  # noqa: B018


def test_values_that_are_keys() -> None:
    attn = make("gemma4_sparse").blocks[1].attn
    with pytest.raises(
        InputError,
        match=r"^This Gemma4TextDecoderLayer has no self_attn\.v_proj: its values are its keys; read W_K\.$",
    ):
        attn.W_V  # noqa: B018


def test_weights_of_different_shapes_are_not_stacked(sharing: HookedMultimodal) -> None:
    with pytest.raises(
        InputError,
        match=r"^W_Q cannot be stacked for the part 'language': its blocks differ in shape \(\[4, 32, 8\] in block 0, "
        r"\[4, 32, 16\] in block 1\); read it block by block, \.blocks\[i\]\.attn\.W_Q\.$",
    ):
        sharing.W_Q  # noqa: B018


@torch.no_grad()
def test_a_head_is_looked_for_in_its_own_block(uneven: HookedMultimodal) -> None:
    part = uneven.part("language")
    assert [block.attn.heads for block in part.blocks if block.attn is not None] == [4, 2, 4]
    batch = uneven.prepare("describe the image", images=picture(0, 32, 32))
    plain = uneven(batch)
    with uneven.intervene(Ablate([Head(1, 1), Head(2, 3)])):
        assert not torch.equal(uneven(batch), plain)
    with pytest.raises(InputError, match=r"^The model has no L1\.h2; it has L0\.h0 to L2\.h3 \(2 to 4 a layer\)\.$"):
        uneven.intervene(Ablate([Head(1, 2)])).__enter__()
