"""Attribution patching: exact where the tail is affine, the slope elsewhere, and against planted truth."""

from dataclasses import replace
from typing import Any

import pytest
import torch

from mmlens.analysis.attribution.attribute import attribute
from mmlens.analysis.attribution.compare import agreement, compare_attribution
from mmlens.analysis.attribution.gradients import gradients_at
from mmlens.analysis.attribution.methods import ATTRIBUTION_METHODS, AttributionMethod
from mmlens.analysis.attribution.methods.atp import AtP
from mmlens.analysis.attribution.methods.ig import IntegratedGradients
from mmlens.analysis.metrics import kl_divergence, log_probability, logit_difference, rank, readings
from mmlens.analysis.patching.sweep import patch
from mmlens.core.errors import InputError
from mmlens.core.units import Head, Neuron
from mmlens.inputs.batch import MultimodalBatch
from tests.analysis.circuits.conftest import METRIC, other_pictures, planted_pair
from tests.analysis.conftest import Wrapped
from tests.conftest import Subject
from tests.tiny import TINY, picture

QUIET: dict[str, Any] = {"metric": METRIC, "progress": False}
every_method = pytest.mark.parametrize("cls", list(ATTRIBUTION_METHODS), ids=lambda cls: cls.name)


@every_method
@pytest.mark.parametrize("side", ["left", "right"])
def test_where_the_tail_is_affine_attribution_is_exact(
    subject: Subject, side: str, cls: type[AttributionMethod]
) -> None:
    clean, corrupted = other_pictures(subject, side)
    asked = {"at": "ln_final.hook_out", "positions": ["last", "image"], **QUIET}
    for direction in ("denoise", "noise"):
        found = attribute(subject.model, clean, corrupted, direction=direction, method=cls(), **asked)
        exact = patch(subject.model, clean, corrupted, direction=direction, **asked)
        torch.testing.assert_close(found.values, exact.values, rtol=0, atol=1e-5)
        torch.testing.assert_close(found.clean, exact.clean, rtol=0, atol=1e-6)
        torch.testing.assert_close(found.corrupted, exact.corrupted, rtol=0, atol=1e-6)
        assert (found.points, found.groups, found.direction) == (exact.points, exact.groups, exact.direction)
        assert float(found.effect[0, 0].abs().min()) > 0.01, "the comparison could not fail"
        assert not found.effect[0, 1].any()  # image positions of the last norm are read by nothing
    assert found.method == cls.name
    assert f"{cls.name} (approximate)" in repr(found)


def nearer(clean: MultimodalBatch, corrupted: MultimodalBatch, share: float) -> MultimodalBatch:
    """A batch a share of the way from one to another, in double precision."""
    pixels = [batch["pixel_values"].double() for batch in (clean, corrupted)]
    moved = pixels[0] + share * (pixels[1] - pixels[0])
    return replace(clean, inputs={**clean.inputs, "pixel_values": moved})


SLOPES: list[dict[str, Any]] = [
    {"at": ["blocks.*.hook_resid_mid", "blocks.*.hook_mlp_out", "hook_embed"]},
    {
        "at": ["blocks.1.attn.hook_z", "blocks.1.attn.hook_v", "blocks.1.attn.hook_q", "blocks.1.attn.hook_k"],
        "units": "head",
    },
    {"at": "blocks.1.attn.hook_pattern", "units": "head"},
    {"units": [Neuron(1, index) for index in range(6)]},
    {"at": ["vision.blocks.0.hook_attn_out", "vision.blocks.1.hook_resid_mid"], "positions": ["all"]},
    {"at": "vision.blocks.1.attn.hook_z", "units": "head", "positions": ["all"]},
    {"at": ["projector.hook_in", "projector.hook_out"], "positions": ["all"]},
]


@pytest.mark.parametrize("number", [0, 2, 3], ids=["llava", "qwen", "blip"])
def test_small_patches_are_as_large_as_their_slope_says(number: int) -> None:
    model = TINY[number].make()
    model.hf_model.double()
    batch = model.prepare(["describe the image"] * 2, images=[[picture(0)], [picture(1)]])
    other = model.prepare(["describe the image"] * 2, images=[[picture(8)], [picture(9)]])
    clean, corrupted = nearer(batch, other, 0.0), nearer(batch, other, 2e-3)
    for asked in SLOPES:
        kept = {"positions": ["image", "last"], **asked, **QUIET, "direction": "noise"}
        found = attribute(model, clean, corrupted, **kept).effect
        exact = patch(model, clean, corrupted, **kept).effect
        largest = float(exact.abs().max())
        assert largest > 1e-5, f"the comparison could not fail at {asked}"
        torch.testing.assert_close(found, exact, rtol=5e-2, atol=1e-2 * largest, msg=lambda m, a=asked: f"{a}: {m}")


def test_the_softmax_of_queries_and_keys_is_exact(subject: Subject) -> None:
    """Each cell against a run in which the patch is made, and the pattern that it gives."""
    model = subject.model
    clean, corrupted = other_pictures(subject)
    names = {kind: f"blocks.1.attn.hook_{kind}" for kind in ("q", "k", "pattern")}
    image, last = clean.layout.image, clean.layout.last
    positions = {
        "image": image,
        "last": "last",
        "both": [torch.cat([i, n[None]]) for i, n in zip(image, last, strict=True)],
    }
    (reading,) = readings(METRIC, model, corrupted.size)
    at, slopes, value = gradients_at(model, corrupted, [names["pattern"]], reading)
    _, source = model.run_with_cache(clean, names=[names["q"], names["k"]])
    rows = {"image": image, "last": [n[None] for n in last], "both": positions["both"]}
    for kind in ("q", "k"):
        sweep = attribute(model, clean, corrupted, at=names[kind], units="head", positions=positions, **QUIET)
        plain = attribute(
            model,
            clean,
            corrupted,
            at=names[kind],
            units="head",
            positions=positions,
            method=AtP(qk_fix=False),
            **QUIET,
        )
        assert not torch.allclose(sweep.effect, plain.effect, atol=1e-4), "the fix changed nothing"
        for head in range(len(sweep.points)):
            for j, group in enumerate(sweep.groups):

                def put(
                    activation: torch.Tensor, hook: Any, head: int = head, group: str = group, kind: str = kind
                ) -> torch.Tensor:
                    for sample, own in enumerate(rows[group]):
                        activation[sample, own, head] = source[names[kind]][sample, own, head]
                    return activation

                kept: dict[str, torch.Tensor] = {}
                read = (names["pattern"], lambda activation, hook, kept=kept: kept.update(new=activation))
                with torch.no_grad():
                    model.run_with_hooks(corrupted, fwd_hooks=[(names[kind], put), read])
                moved = (kept["new"] - at[names["pattern"]]) * slopes[names["pattern"]]
                torch.testing.assert_close(sweep.effect[head, j], moved.sum((1, 2, 3)), rtol=1e-4, atol=2e-5)
    torch.testing.assert_close(sweep.corrupted, value)


def test_integrated_gradients_sum_to_the_patch_of_the_whole_point(llava: Subject) -> None:
    clean, corrupted = other_pictures(llava)
    at = ["blocks.1.hook_resid_pre", "blocks.2.attn.hook_v"]
    parts = {"image": "image", "text": "text"}
    exact = patch(llava.model, clean, corrupted, at=at, positions=["all"], **QUIET).effect[:, 0]
    errors = []
    for steps in (4, 16):
        found = attribute(
            llava.model, clean, corrupted, at=at, positions=parts, method=IntegratedGradients(steps), **QUIET
        )
        assert found.method == f"ig(steps={steps})"
        errors.append(float((found.effect.sum(1) - exact).abs().max()))
    assert errors[1] < 0.02 * float(exact.abs().max())
    assert errors[1] < errors[0] / 4


@every_method
def test_the_planted_patch_layer_and_head_are_found(planted_patch: Wrapped, cls: type[AttributionMethod]) -> None:
    truth = planted_patch.truth
    clean, corrupted = planted_pair(planted_patch, 2)
    metric = logit_difference(truth.token, truth.default_token)
    asked: dict[str, Any] = {"metric": metric, "progress": False, "method": cls()}
    sweep = attribute(planted_patch.model, clean, corrupted, at="blocks.*.hook_resid_pre", positions="each", **asked)
    row, last = int(clean.layout.patches(truth.box)[0]), int(clean.layout.last[0])
    strongest = sweep.effect.mean(-1).abs().argmax(-1).tolist()
    assert strongest == [row, last, last]
    assert float(sweep.mean_recovered[range(3), strongest].min()) > 0.5
    heads = attribute(
        planted_patch.model, clean, corrupted, at="blocks.*.attn.hook_z", units="head", positions=["last"], **asked
    )
    assert heads.cells(1)[0].point == f"blocks.{truth.head_layer}.attn.hook_z[h{truth.head}]"
    assert list(heads.top(1)) == [Head(truth.head_layer, truth.head)]
    everything = float(heads.effect.abs().max())
    others = [
        e for e, p in zip(heads.effect.abs().amax((1, 2)), heads.points, strict=True) if p != heads.cells(1)[0].point
    ]
    assert max(map(float, others)) < 0.02 * everything
    twin = attribute(
        planted_patch.twin, clean, corrupted, at="blocks.*.attn.hook_z", units="head", positions=["last"], **asked
    )
    assert float(twin.effect.abs().max()) < 0.005 * everything


def test_metrics_that_compare_with_the_clean_run(llava: Subject) -> None:
    clean, corrupted = other_pictures(llava)
    asked: dict[str, Any] = {
        "at": "blocks.2.hook_resid_post",
        "positions": ["last"],
        "metric": kl_divergence(),
        "progress": False,
    }
    found, exact = attribute(llava.model, clean, corrupted, **asked), patch(llava.model, clean, corrupted, **asked)
    torch.testing.assert_close(found.clean, torch.zeros(2), rtol=0, atol=1e-6)
    torch.testing.assert_close(found.corrupted, exact.corrupted, rtol=0, atol=1e-6)
    assert (found.effect < 0).all()  # towards the clean run the divergence falls


def test_one_call_says_how_well_both_agree(llava: Subject) -> None:
    clean, corrupted = other_pictures(llava)
    report = compare_attribution(
        llava.model,
        clean,
        corrupted,
        at="blocks.*.attn.hook_z",
        units="head",
        positions=["image", "last"],
        k=4,
        **QUIET,
    )
    left, right = report.approximate.effect.mean(-1).flatten(), report.exact.effect.mean(-1).flatten()
    both = torch.stack([left, right])
    assert report.n == len(left) == 24
    assert report.pearson == pytest.approx(float(torch.corrcoef(both)[0, 1]), abs=1e-5)
    ranks = both.argsort(-1).argsort(-1).double()
    assert report.spearman == pytest.approx(float(torch.corrcoef(ranks)[0, 1]), abs=1e-3)  # up to ties
    best = [set(row.abs().topk(4).indices.tolist()) for row in both]
    assert report.overlap == len(best[0] & best[1]) / 4
    large = right.abs() >= 0.01 * right.abs().max()
    assert report.n_signed == int(large.sum())
    assert report.same_sign == pytest.approx(float((left.sign() == right.sign())[large].float().mean()))
    assert report.pearson > 0.5
    perfect = agreement(report.exact, report.exact, k=100)
    assert (perfect.pearson, perfect.same_sign, perfect.overlap, perfect.k) == (pytest.approx(1.0), 1.0, 1.0, 24)
    flipped = replace(report.exact, values=2 * report.exact.corrupted - report.exact.values)
    assert agreement(flipped, report.exact).pearson == pytest.approx(-1.0)
    assert agreement(flipped, report.exact).same_sign == 0.0
    constant = replace(report.exact, values=report.exact.corrupted.expand_as(report.exact.values))
    assert (
        agreement(constant, report.exact).pearson != agreement(constant, report.exact).pearson
    )  # NaN: no order to compare
    with pytest.raises(InputError, match=r"The sweeps differ in groups: \['image'\] and \['image', 'last'\]"):
        agreement(replace(report.exact, groups=["image"]), report.exact)


def test_what_cannot_be_is_refused_before_any_run(llava: Subject, monkeypatch: pytest.MonkeyPatch) -> None:
    clean, corrupted = other_pictures(llava)
    monkeypatch.setattr(type(llava.model.hf_model), "forward", _no_run)
    with pytest.raises(InputError, match=r"method='lime' is unknown; for estimating patches there are 'atp', 'ig'\."):
        attribute(llava.model, clean, corrupted, at="hook_embed", method="lime", **QUIET)
    with pytest.raises(InputError, match=r"direction='up' must be 'denoise' or 'noise'"):
        attribute(llava.model, clean, corrupted, at="hook_embed", direction="up", **QUIET)  # type: ignore[arg-type]
    with pytest.raises(InputError, match=r"differ in where image tokens are"):
        attribute(llava.model, clean, llava.batches["right"], at="hook_embed", **QUIET)
    with pytest.raises(InputError, match="is unknown to the tokenizer"):
        attribute(llava.model, clean, corrupted, at="hook_embed", metric=log_probability("zebra"), progress=False)
    for cls in ATTRIBUTION_METHODS:
        asked: dict[str, Any] = {"at": "hook_embed", "method": cls(), "progress": False}
        assert cls.needs <= {"gradients"}
        if "gradients" in cls.needs:
            with pytest.raises(InputError, match=r"rank\('red'\), tokens has no gradient: it counts"):
                attribute(llava.model, clean, corrupted, metric=rank("red"), **asked)
            with torch.inference_mode(), pytest.raises(InputError, match="needs gradients"):
                attribute(llava.model, clean, corrupted, metric=METRIC, **asked)
    with pytest.raises(InputError, match=r"steps=0 must be at least 1\."):
        IntegratedGradients(steps=0)
    with pytest.raises(InputError, match=r"no L9.h0"):
        attribute(llava.model, clean, corrupted, units=[Head(9, 0)], **QUIET)


def _no_run(*args: object, **kwargs: object) -> None:
    raise AssertionError("the model ran before the input was refused")
