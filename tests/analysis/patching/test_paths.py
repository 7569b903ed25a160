"""Path patching: against plain steps on bare Hugging Face modules, and a model whose path is known."""

from typing import Any

import pytest
import torch

from mmlens.analysis.metrics import logit_difference
from mmlens.analysis.patching.paths import path_patch
from mmlens.analysis.patching.sweep import patch
from mmlens.core.errors import InputError
from mmlens.core.positions import box
from mmlens.core.units import Head, Neuron
from tests.analysis.circuits.conftest import METRIC, other_pictures, planted_pair
from tests.analysis.conftest import Wrapped
from tests.conftest import Subject

QUIET: dict[str, Any] = {"metric": METRIC, "progress": False}


def difference(model: Any, logits: torch.Tensor) -> torch.Tensor:
    return logits[:, model.to_single_token("red")] - logits[:, model.to_single_token("blue")]


@torch.no_grad()
def test_a_path_along_the_stream_alone_moves_the_stream_by_what_the_sender_wrote(llava: Subject) -> None:
    model, bare = llava.model, llava.bare
    clean, corrupted = other_pictures(llava)
    sender, end = "blocks.0.hook_mlp_out", "blocks.2.hook_resid_post"
    own, other = (model.run_with_cache(batch)[1] for batch in (clean, corrupted))
    moved = own[end] + other[sender] - own[sender]  # every branch above is held
    expected = difference(model, bare.lm_head(bare.model.language_model.norm(moved))[:, -1])
    found = path_patch(model, clean, corrupted, at=sender, to="hook_logits", **QUIET)
    torch.testing.assert_close(found.sweep.values[0, 0], expected, rtol=0, atol=1e-5)
    assert float(found.effect.abs().max()) > 0.01, "the comparison could not fail"
    above = [f"blocks.{layer}.hook_{branch}_out" for layer in (1, 2) for branch in ("attn", "mlp")]
    assert found.frozen == {sender: above}
    assert repr(found).startswith("PathSweep(to hook_logits, branches frozen: PatchSweep(noise, 1 points x 1 groups")


@torch.no_grad()
def test_mlps_may_be_left_free(llava: Subject) -> None:
    model, layers = llava.model, llava.bare.model.language_model.layers
    clean, corrupted = other_pictures(llava)
    sender = "blocks.0.hook_mlp_out"
    own, other = (model.run_with_cache(batch)[1] for batch in (clean, corrupted))
    stream = own["blocks.0.hook_resid_post"] + other[sender] - own[sender]
    for number in (1, 2):  # attention is held at its clean output, MLPs run on the moved stream
        stream = stream + own[f"blocks.{number}.hook_attn_out"]
        stream = stream + layers[number].mlp(layers[number].post_attention_layernorm(stream))
    expected = difference(model, llava.bare.lm_head(llava.bare.model.language_model.norm(stream))[:, -1])
    found = path_patch(model, clean, corrupted, at=sender, to="hook_logits", freeze="attention", **QUIET)
    torch.testing.assert_close(found.sweep.values[0, 0], expected, rtol=0, atol=1e-5)
    held = path_patch(model, clean, corrupted, at=sender, to="hook_logits", **QUIET)
    assert not torch.allclose(found.effect, held.effect, atol=1e-3)


def test_with_nothing_in_between_a_path_is_a_plain_patch(subject: Subject) -> None:
    clean, corrupted = other_pictures(subject)
    asked: dict[str, Any] = {"at": "blocks.2.hook_resid_post", **QUIET}
    for direction in ("noise", "denoise"):
        direct = path_patch(subject.model, clean, corrupted, to="hook_logits", direction=direction, **asked)
        whole = patch(subject.model, clean, corrupted, positions=["all"], direction=direction, **asked)
        for mine, plain in ((direct.sweep.clean, whole.clean), (direct.sweep.corrupted, whole.corrupted)):
            torch.testing.assert_close(mine, plain, rtol=0, atol=1e-6)
        torch.testing.assert_close(direct.sweep.values, whole.values, rtol=0, atol=1e-5)
        assert float(whole.effect.abs().max()) > 0.01


def test_the_planted_head_reaches_the_logits_directly(planted_patch: Wrapped) -> None:
    truth, model = planted_patch.truth, planted_patch.model
    clean, corrupted = planted_pair(planted_patch, 2)
    asked: dict[str, Any] = {"metric": logit_difference(truth.token, truth.default_token), "progress": False}
    heads = path_patch(model, clean, corrupted, at="blocks.*.attn.hook_z", units="head", to="hook_logits", **asked)
    gap = float((heads.sweep.clean - heads.sweep.corrupted).mean())
    effects = dict(zip(heads.sweep.points, heads.effect.mean((1, 2)).tolist(), strict=True))
    own = f"blocks.{truth.head_layer}.attn.hook_z[h{truth.head}]"
    assert effects.pop(own) == pytest.approx(-gap, rel=0.02)
    assert max(map(abs, effects.values())) < 0.01 * gap
    # from the planted patch by way of that head's values, and by no other way
    rows = {"patch": box(truth.box), "other": [rows[:3] for rows in clean.layout.image]}
    for name, share in ((f"hook_v[h{truth.head}]", 1.0), ("hook_v[h0]", 0.0), (f"hook_k[h{truth.head}]", 0.0)):
        to = f"blocks.{truth.head_layer}.attn.{name}"
        paths = path_patch(model, clean, corrupted, at="hook_embed", positions=rows, to=to, **asked)
        assert paths.receivers == [to]
        assert paths.effect[0].mean(-1).tolist() == pytest.approx([-share * gap, 0.0], abs=0.02 * gap)
    twin = path_patch(planted_patch.twin, clean, corrupted, units=[Head(0, 2)], to="hook_logits", **asked)
    assert float(twin.effect.abs().max()) < 0.005 * gap


def test_positions_of_the_receivers_are_the_only_ones_that_change(llava: Subject) -> None:
    model = llava.model
    clean, corrupted = other_pictures(llava)
    asked: dict[str, Any] = {"at": "vision.blocks.0.hook_mlp_out", "to": "blocks.1.hook_resid_pre", **QUIET}
    image = path_patch(model, clean, corrupted, to_positions="image", **asked)
    last = path_patch(model, clean, corrupted, to_positions="last", **asked)
    everywhere = path_patch(model, clean, corrupted, **asked)
    # the change enters at image positions; block 0 is held, so nothing else has it
    torch.testing.assert_close(image.effect, everywhere.effect, rtol=0, atol=1e-5)
    assert float(image.effect.abs().max()) > 1e-3
    assert float(last.effect.abs().max()) < 1e-6


def test_single_neurons_send_and_receive(llava: Subject) -> None:
    clean, corrupted = other_pictures(llava)
    found = path_patch(
        llava.model, clean, corrupted, units=[Neuron(0, 3), Neuron(0, 4)], to="blocks.2.mlp.hook_post[u7]", **QUIET
    )
    assert found.sweep.points == ["blocks.0.mlp.hook_post[u3]", "blocks.0.mlp.hook_post[u4]"]
    assert found.receivers == ["blocks.2.mlp.hook_post[u7]"]
    assert "blocks.0.hook_mlp_out" not in found.frozen["blocks.0.mlp.hook_post"]
    whole = path_patch(llava.model, clean, corrupted, units=[Neuron(0, 3)], to="blocks.2.mlp.hook_post", **QUIET)
    assert float(whole.effect.abs().max()) > float(found.effect[0].abs().max()) > 0


def test_what_cannot_be_is_refused_before_any_run(llava: Subject, monkeypatch: pytest.MonkeyPatch) -> None:
    clean, corrupted = other_pictures(llava)
    monkeypatch.setattr(type(llava.model.hf_model), "forward", _no_run)
    with pytest.raises(InputError, match=r"No path leads from blocks.2.hook_mlp_out to blocks.1.hook_mlp_out"):
        path_patch(llava.model, clean, corrupted, at="blocks.2.hook_mlp_out", to="blocks.1.hook_mlp_out", **QUIET)
    with pytest.raises(InputError, match=r"names a head, but blocks.1.hook_mlp_out is \[batch pos d_model\]"):
        path_patch(llava.model, clean, corrupted, at="hook_embed", to="blocks.1.hook_mlp_out[h1]", **QUIET)
    with pytest.raises(InputError, match=r"freeze='mlps' .*'branches' or 'attention'"):
        path_patch(llava.model, clean, corrupted, at="hook_embed", to="hook_logits", freeze="mlps", **QUIET)  # type: ignore[arg-type]
    with pytest.raises(InputError, match=r"There is no hook point 'hook_logit'"):
        path_patch(llava.model, clean, corrupted, at="hook_embed", to="hook_logit", **QUIET)


def _no_run(*args: object, **kwargs: object) -> None:
    raise AssertionError("the model ran before the input was refused")
