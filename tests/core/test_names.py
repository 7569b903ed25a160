"""The grammar of hook names."""

import pytest

from mmlens.core.axes import batch_axis, position_axis
from mmlens.core.errors import InputError, UnknownNameError
from mmlens.core.names import HookName, match_names, nearest, nearest_hint, require_part
from mmlens.core.units import Head, Neuron

KNOWN = [
    "vision.blocks.0.hook_resid_pre",
    "vision.blocks.0.mlp.hook_post",
    "vision.blocks.10.hook_resid_pre",
    "projector.hook_out",
    "blocks.0.hook_resid_pre",
    "blocks.0.mlp.hook_post",
    "blocks.1.hook_resid_pre",
    "blocks.11.hook_resid_pre",
    "hook_logits",
]


@pytest.mark.parametrize(
    ("glob", "indices"),
    [
        ("hook_logits", [8]),
        ("blocks.*.hook_resid_pre", [4, 6, 7]),
        ("blocks.?.hook_resid_pre", [4, 6]),
        ("blocks.[0-1].hook_resid_pre", [4, 6]),
        ("**.hook_resid_pre", [0, 2, 4, 6, 7]),
        ("**mlp.hook_post", [1, 5]),
        ("vision.**", [0, 1, 2]),
        ("*.hook_out", [3]),
        ("*", list(range(9))),
        ("**", list(range(9))),
        (["hook_logits", "projector.*"], [3, 8]),
        (lambda name: "10" in name, [2]),
    ],
)
def test_globs(glob: str, indices: list[int]) -> None:
    assert match_names(glob, KNOWN) == [KNOWN[i] for i in indices]


@pytest.mark.parametrize(
    "wrong", ["blocks", "blocks.0", "hook_logit", "Hook_logits", "blocks.0.hook_resid.pre", "blocks.*.hook_post", ""]
)
def test_a_pattern_matches_whole_names_or_raises(wrong: str) -> None:
    with pytest.raises(UnknownNameError):
        match_names(wrong, KNOWN)


def test_dots_in_a_pattern_are_dots() -> None:
    with pytest.raises(UnknownNameError):
        match_names("blocks.0.hook_resid_pre", ["blocksx0xhook_resid_pre"])


def test_an_unclosed_set_is_a_plain_sign() -> None:
    with pytest.raises(UnknownNameError, match=r"The glob 'blocks\.\[0' matches no hook point"):
        match_names("blocks.[0", KNOWN)


@pytest.mark.parametrize("name", KNOWN)
def test_a_name_taken_apart_is_the_name_again(name: str) -> None:
    parsed = HookName.parse(name)
    assert str(parsed) == name
    assert parsed.part == (name.split(".")[0] if name.startswith(("vision", "projector")) else "language")


@pytest.mark.parametrize(
    ("name", "stack", "layer", "rest"),
    [
        ("encoder.blocks.3.hook_resid_pre", "encoder.blocks", 3, "hook_resid_pre"),
        ("vision.global_blocks.1.mlp.hook_post", "global_blocks", 1, "mlp.hook_post"),
        ("vision.stages.2.blocks.0.hook_attn_out", "stages.2.blocks", 0, "hook_attn_out"),
        ("projector.deepstack.0.mlp.hook_post", None, None, "deepstack.0.mlp.hook_post"),
    ],
)
def test_stacks_of_other_names(name: str, stack: str | None, layer: int | None, rest: str) -> None:
    parsed = HookName.parse(name)
    assert (parsed.stack, parsed.layer, parsed.rest) == (stack, layer, rest)
    assert str(parsed) == name


def test_what_is_no_name() -> None:
    with pytest.raises(InputError, match=r"'' is no hook name; names read \[part\.\]\[stack\.N\.\]hook_kind\."):
        HookName.parse("")
    assert require_part("vision") == "vision"


def test_an_unknown_name_reads_as_text_and_is_a_key_error() -> None:
    with pytest.raises(KeyError) as error:
        match_names("hook_logit", KNOWN)
    assert str(error.value).startswith("There is no hook point 'hook_logit' among 9 names. Nearest: hook_logits, ")
    assert nearest("projector.hook_in", KNOWN)[0] == "projector.hook_out"


def test_axes() -> None:
    assert [
        position_axis(axes)
        for axes in ("batch pos d_model", "patch d_vision", "batch head query key", "batch key head d_head")
    ] == [1, 0, 2, 1]
    assert (batch_axis("batch pos d_model"), batch_axis("patch d_vision")) == (0, None)
    with pytest.raises(
        InputError,
        match=r"^The axes 'batch d_model' have no axis of positions; found none of pos, patch, query, key, row.$",
    ):
        position_axis("batch d_model")


def test_units_name_the_point_that_holds_them() -> None:
    assert Neuron(1, 2, "vision").hook == "vision.blocks.1.mlp.hook_post"
    assert Head(1, 2).hook == "blocks.1.attn.hook_z"
    assert [str(unit) for unit in (Neuron(1, 2), Head(0, 3, "vision"))] == ["L1.u2", "vision.L0.h3"]
    assert sorted([Neuron(1, 0), Neuron(0, 5), Neuron(0, 2)]) == [Neuron(0, 2), Neuron(0, 5), Neuron(1, 0)]


def test_a_hint_is_of_names_that_are_alike_or_nothing() -> None:
    assert nearest_hint("ros", ["rows", "lens"]) == " Nearest: rows."
    assert nearest_hint("zzz", ["rows", "lens"]) == ""
