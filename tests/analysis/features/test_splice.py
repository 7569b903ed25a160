"""A dictionary in the path: the same logits to the bit without an edit, and with one what the formula says."""

import contextvars
import threading
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch

import mmlens as mm
from mmlens.analysis.features.dictionary import SparseDictionary
from mmlens.analysis.features.formats.sites import point_of
from mmlens.core.errors import InputError
from mmlens.core.units import Feature, Unit
from mmlens.models import claims
from mmlens.models.hooked import HookedMultimodal
from mmlens.models.identity import run_identity
from tests.families.cross_attending import mllama
from tests.families.gemma_like import gemma3
from tests.tiny import instructblip, llava, picture, qwen2_vl

MAKERS: dict[str, Callable[[], HookedMultimodal]] = {
    "llava": llava,
    "qwen2_vl": qwen2_vl,
    "instructblip": instructblip,
    "gemma3": gemma3,
    "mllama": mllama,
}
SITES = ("blocks.1.hook_resid_post", "vision.blocks.0.hook_resid_post", "projector.hook_out")
KINDS = ("input", "acts_pre", "acts_post", "recons", "error", "output")
COUNT = 40
_MADE: dict[str, tuple[HookedMultimodal, Any]] = {}


def made(name: str) -> tuple[HookedMultimodal, Any]:
    """A tiny model and a batch of it, made once."""
    if name not in _MADE:
        model = MAKERS[name]()
        texts, images = ["describe the image", "what color is the big circle"], [[picture(0)], [picture(1)]]
        _MADE[name] = model, model.prepare(texts, images=images)
    return _MADE[name]


def dictionary(model: HookedMultimodal, at: str, at_in: str | None = None, **settings: Any) -> SparseDictionary:
    """Random weights of a point's width, that give back little."""
    node = model.graph[at]
    width = (node.width or 0) * (node.units or 1 if "head" in node.axes else 1)
    make = torch.Generator().manual_seed(len(at))
    W_enc = torch.randn(width, COUNT, generator=make) / width**0.5
    W_dec = torch.nn.functional.normalize(torch.randn(COUNT, width, generator=make), dim=1)
    b_enc, b_dec = torch.randn(COUNT, generator=make) / 4, torch.randn(width, generator=make) / 4
    return SparseDictionary(W_enc, b_enc, W_dec, b_dec, at, at_in, **settings)


SETTINGS: dict[str, dict[str, Any]] = {
    "relu": {},
    "topk": {"activation": "topk", "k": 8},
    "jumprelu": {"activation": "jumprelu", "threshold": torch.full((COUNT,), 0.2), "centred": False},
    "normed": {"normalization": "layer_norm"},
}


@pytest.mark.parametrize("site", SITES)
@pytest.mark.parametrize("name", MAKERS)
@torch.no_grad()
def test_without_an_edit_the_logits_are_the_same_to_the_bit(name: str, site: str) -> None:
    model, batch = made(name)
    clean, before = model(batch), model.graph
    for settings in SETTINGS.values():
        sae = dictionary(model, site, **settings)
        with model.attach(sae):
            assert torch.equal(model(batch), clean)
            logits, cache = model.run_with_cache(batch)
            assert torch.equal(logits, clean)
            assert torch.equal(cache[f"{site}.hook_sae_output"], cache[site])
            x = cache[site]
            codes = cache[f"{site}.hook_sae_acts_post"]
            assert torch.equal(codes, sae.encode(x))
            assert 0 < float((codes != 0).float().mean()) < 1
            recons, error = cache[f"{site}.hook_sae_recons"], cache[f"{site}.hook_sae_error"]
            torch.testing.assert_close(recons, sae.decode(codes, x), atol=1e-5, rtol=1e-5)
            torch.testing.assert_close(recons + error, x, atol=1e-5, rtol=1e-5)
            assert float(error.norm() / x.norm()) > 0.3, "the dictionary gives back everything"
            # every hook that may write sees a copy, so that what is not edited is computed from other memory
            assert torch.equal(
                model.run_with_hooks(batch, fwd_hooks=[("**hook_sae_*", lambda a, hook: a.clone())]), clean
            )
    assert model.graph is before
    assert not any(point.attached for point in model.hook_dict.values())


@torch.no_grad()
def test_what_is_not_edited_is_not_computed_again(monkeypatch: pytest.MonkeyPatch) -> None:
    """A kernel that adds up in another order the second time would make a difference where there is none."""
    model, batch = made("llava")
    sae, calls = dictionary(model, SITES[0]), []
    codes = SparseDictionary.codes
    monkeypatch.setattr(SparseDictionary, "codes", lambda self, *args: calls.append(1) or codes(self, *args))
    with model.attach(sae):
        model.run_with_hooks(batch, fwd_hooks=[("**hook_sae_*", lambda a, hook: a.clone())])
        assert len(calls) == 1
        model.run_with_hooks(batch, fwd_hooks=[(f"{SITES[0]}.hook_sae_input", lambda a, hook: a + 1)])
        assert len(calls) == 3  # of what was there too


def by_hand(sae: SparseDictionary, kind: str, feature: int, value: float) -> Callable[..., torch.Tensor]:
    """What a point holds once a code is another: `y + (value - f_i) s W_dec_i`, written out."""

    def moved(y: torch.Tensor, hook: Any) -> torch.Tensor:
        z, scale = y, torch.ones(())
        if kind == "normed":
            mean = y.mean(-1, keepdim=True)
            scale = (((y - mean) ** 2).sum(-1, keepdim=True) / (y.shape[-1] - 1)).sqrt()
            z = (y - mean) / (scale + 1e-5)
        z = z - sae.b_dec if kind != "jumprelu" else z
        p = z @ sae.W_enc + sae.b_enc
        codes = p.clamp_min(0)
        if kind == "topk":
            codes = torch.where(p >= p.sort(-1, descending=True).values[..., 7:8], codes, 0)
        if kind == "jumprelu":
            codes = codes * (p > 0.2)
        return y + (value - codes[..., feature, None]) * scale * sae.W_dec[feature]

    return moved


@pytest.mark.parametrize("site", SITES)
@pytest.mark.parametrize("name", MAKERS)
@torch.no_grad()
def test_an_edit_of_a_code_moves_the_logits_as_the_formula_says(name: str, site: str) -> None:
    model, batch = made(name)
    clean = model(batch)
    for kind, settings in SETTINGS.items():
        sae = dictionary(model, site, **settings)
        with model.attach(sae):
            _, cache = model.run_with_cache(batch, names=f"{site}.hook_sae_acts_post")
            used = (cache[f"{site}.hook_sae_acts_post"] != 0).flatten(0, -2).float().mean(0).topk(3).indices.tolist()
            unit = Unit.parse(str(Feature.at(f"{site}.hook_sae_acts_post", used[1])))
            with model.intervene(mm.Ablate(unit)):
                ablated = model(batch)
            with model.intervene(mm.Ablate(unit, value=3.0)):
                clamped = model(batch)

        for found, value in ((ablated, 0.0), (clamped, 3.0)):
            expected = model.run_with_hooks(batch, fwd_hooks=[(site, by_hand(sae, kind, used[1], value))])
            assert float((expected - clean).abs().max()) > 1e-3, "the edit does nothing here"
            torch.testing.assert_close(found, expected, atol=2e-5, rtol=2e-5)


@torch.no_grad()
def test_an_edit_agrees_with_hugging_face_alone() -> None:
    model, batch = made("llava")
    sae = dictionary(model, SITES[0], activation="topk", k=8)
    with model.attach(sae), model.intervene(mm.Ablate("L1.f3", value=2.0, positions="image")):
        found = model(batch)
    image = batch.layout.is_image

    def moved(module: Any, args: Any, output: Any) -> Any:
        y = output[0] if isinstance(output, tuple) else output
        p = (y - sae.b_dec) @ sae.W_enc + sae.b_enc
        code = torch.where(p[..., 3] >= p.sort(-1, descending=True).values[..., 7], p[..., 3].clamp_min(0), 0)
        new = y + (image * (2.0 - code))[..., None] * sae.W_dec[3]
        return (new, *output[1:]) if isinstance(output, tuple) else new

    bare = model.hf_model
    handle = bare.model.language_model.layers[1].register_forward_hook(moved)
    try:
        expected = model(batch)
    finally:
        handle.remove()
    assert float((expected - model(batch)).abs().max()) > 1e-3
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-5)


@torch.no_grad()
def test_every_point_is_real_and_every_edit_a_difference() -> None:
    model, batch = made("llava")
    sae, site = dictionary(model, SITES[0]), SITES[0]
    clean = model(batch)
    with model.attach(sae):
        _, cache = model.run_with_cache(batch, names=[site, f"{site}.hook_sae_*"])
        x, codes = cache[site], cache[f"{site}.hook_sae_acts_post"]
        vector = torch.randn(x.shape[-1], generator=torch.Generator().manual_seed(0))

        def run(kind: str, change: Callable[[torch.Tensor], torch.Tensor]) -> torch.Tensor:
            return model.run_with_hooks(batch, fwd_hooks=[(f"{site}.hook_sae_{kind}", lambda a, hook: change(a))])

        found = {kind: run(kind, lambda a: a + vector) for kind in ("input", "recons", "error", "output")}
        found["acts_pre"] = run("acts_pre", lambda a: a + 0.5)
    r = sae.decode(codes)
    p = (x - sae.b_dec) @ sae.W_enc + sae.b_enc
    moved = {
        "input": x + sae.decode(sae.encode(x + vector)) - r,
        "acts_pre": x + sae.decode((p + 0.5).clamp_min(0)) - r,
        "recons": x + vector,
        "error": x + vector,
        "output": x + vector,
    }
    for kind, value in moved.items():
        expected = model.run_with_hooks(batch, fwd_hooks=[(site, lambda a, hook, value=value: value)])
        assert float((expected - clean).abs().max()) > 1e-3
        torch.testing.assert_close(found[kind], expected, atol=2e-5, rtol=2e-5)


@pytest.mark.parametrize("name", ["llava", "gemma3", "qwen2_vl"])
@pytest.mark.parametrize("place", ["mlp.hook_in", "hook_mlp_in", "hook_resid_mid"])
@torch.no_grad()
def test_transcoders_read_one_point_and_write_another(name: str, place: str) -> None:
    model, batch = made(name)
    clean = model(batch)
    at, at_in = "blocks.1.hook_mlp_out", f"blocks.1.{place}"
    width = model.cfg.d_model
    W_skip = torch.randn(width, width, generator=torch.Generator().manual_seed(1)) / width**0.5
    sae = dictionary(model, at, at_in, W_skip=W_skip)
    block = model.blocks[1]
    received: list[torch.Tensor] = []
    norm = block.ln2
    assert norm is not None

    def receive(module: Any, args: Any, output: Any = None) -> None:
        received.append(args[0] if output is None else output)

    handle = norm.register_forward_hook(receive) if place == "mlp.hook_in" else norm.register_forward_pre_hook(receive)
    with model.attach(sae):
        logits, cache = model.run_with_cache(batch)
        x = received[-1]
        assert torch.equal(logits, clean)
        assert torch.equal(cache[f"{at}.hook_sae_input"], x)
        codes = ((x @ sae.W_enc) + sae.b_enc).clamp_min(0)
        torch.testing.assert_close(cache[f"{at}.hook_sae_acts_post"], codes, atol=1e-5, rtol=1e-5)
        recons = codes @ sae.W_dec + sae.b_dec + x @ W_skip.T
        torch.testing.assert_close(cache[f"{at}.hook_sae_recons"], recons, atol=1e-5, rtol=1e-5)
        torch.testing.assert_close(cache[f"{at}.hook_sae_error"], cache[at] - recons, atol=1e-5, rtol=1e-5)
        with model.intervene(mm.Ablate("L1.hook_mlp_out.f7")):
            found = model(batch)
    handle.remove()
    y = cache[at] - codes[..., 7, None] * sae.W_dec[7]
    expected = model.run_with_hooks(batch, fwd_hooks=[(at, lambda a, hook: y)])
    assert float((expected - clean).abs().max()) > 1e-4
    torch.testing.assert_close(found, expected, atol=2e-5, rtol=2e-5)


@pytest.mark.parametrize(
    "place",
    [
        "output",
        "self_attn.o_proj.input",
        "pre_feedforward_layernorm.output",
        "post_feedforward_layernorm.output",
    ],
)
@torch.no_grad()
def test_places_of_gemma_scope_hold_what_hugging_face_has_there(place: str) -> None:
    model, batch = made("gemma3")
    path, _, side = place.rpartition(".")
    module = model.hf_model.model.language_model.layers[1].get_submodule(path)
    there: list[torch.Tensor] = []

    def receive(module: Any, args: Any, kwargs: Any = None, output: Any = None) -> None:
        value = args[0] if output is None else output
        there.append(value[0] if isinstance(value, tuple) else value)

    if side == "input":
        handle = module.register_forward_pre_hook(receive, with_kwargs=True)
    else:
        handle = module.register_forward_hook(receive, with_kwargs=True)
    point = point_of(f"model.language_model.layers.1.{place}")
    reads, at = (point, "blocks.1.hook_mlp_out") if point.endswith("hook_in") else (None, point)
    with model.attach(dictionary(model, at, reads)):
        _, cache = model.run_with_cache(batch, names=f"{at}.hook_sae_input")
    handle.remove()
    assert torch.equal(cache[f"{at}.hook_sae_input"], there[-1])


@torch.no_grad()
def test_what_an_mlp_returns_is_what_is_added_unless_a_norm_stands_between() -> None:
    model, batch = made("llava")
    sae = replace(dictionary(model, "blocks.1.hook_mlp_out", "blocks.1.mlp.hook_in"), at="blocks.1.mlp.hook_out")
    with model.attach(sae):
        assert list(model.dictionaries) == ["blocks.1.hook_mlp_out"]
        assert float(mm.find_features(model, batch, word="red").scores["blocks.1.hook_mlp_out"].abs().max()) > 0
    assert mm.features.sae_card(model, sae, batch).at == "blocks.1.hook_mlp_out"
    normed, _ = made("gemma3")
    message = r"blocks\.1\.mlp\.hook_out is what the MLP returns, and in gemma3 a norm stands between"
    with pytest.raises(InputError, match=message), normed.attach(sae):
        pass


@torch.no_grad()
def test_heads_side_by_side_and_neurons() -> None:
    model, batch = made("llava")
    clean = model(batch)
    for site in (
        "blocks.1.attn.hook_z",
        "vision.blocks.0.attn.hook_z",
        "blocks.1.mlp.hook_post",
        "projector.mlp.hook_post",
    ):
        sae = dictionary(model, site)
        with model.attach(sae):
            logits, cache = model.run_with_cache(batch, names=f"{site}.hook_sae_*")
            assert torch.equal(logits, clean)
            used = int(cache[f"{site}.hook_sae_acts_post"].flatten(0, -2).mean(0).argmax())
            unit = Feature.at(f"{site}.hook_sae_acts_post", used)
            with model.intervene(mm.Ablate(unit)):
                assert float((model(batch) - clean).abs().max()) > 1e-4
        assert cache[f"{site}.hook_sae_output"].ndim == len(model.graph[site].axes.split())


def test_gradients_go_through_the_codes_alone() -> None:
    model, batch = made("llava")
    sae, site = dictionary(model, SITES[0], activation="topk", k=8), SITES[0]
    kept: dict[str, torch.Tensor] = {}

    def hold(a: torch.Tensor, hook: Any) -> torch.Tensor:
        kept[hook.name] = a if a.requires_grad else a.requires_grad_()
        return kept[hook.name]

    before = "blocks.1.hook_resid_pre"
    names = [f"{site}.hook_sae_acts_post", f"{site}.hook_sae_error", f"{site}.hook_sae_output"]
    with model.attach(sae), torch.enable_grad(), model.hooks([([before, *names], hold)]):
        logits = model(batch)
        codes, error, out, entering = torch.autograd.grad(
            logits[0, -1].max(), [*(kept[name] for name in names), kept[before]], allow_unused=True
        )
    assert torch.equal(logits, model(batch))
    torch.testing.assert_close(codes, out @ sae.W_dec.T, atol=1e-6, rtol=1e-5)
    assert torch.equal(error, out)
    # by hand: what enters block 1 acts through what the dictionary gives back, and the error stays
    layer = model.hf_model.model.language_model.layers[1]

    def replaced(module: Any, args: Any, output: Any) -> Any:
        y = output[0] if isinstance(output, tuple) else output
        recons = sae.decode(sae.encode(y))
        new = recons + (y - recons).detach()
        return (new, *output[1:]) if isinstance(output, tuple) else new

    handle = layer.register_forward_hook(replaced)
    with torch.enable_grad(), model.hooks([(before, hold)]):
        expected = torch.autograd.grad(model(batch)[0, -1].max(), kept[before])[0]
    handle.remove()
    assert float(expected.abs().max()) > 1e-4
    torch.testing.assert_close(entering, expected, atol=1e-5, rtol=1e-4)


@torch.no_grad()
def test_generation_sees_every_new_token() -> None:
    model, batch = made("llava")
    plain = model.generate(batch, max_new_tokens=5)
    sae = dictionary(model, SITES[0])
    rows = []
    with model.attach(sae):
        assert torch.equal(model.generate(batch, max_new_tokens=5), plain)
        with model.hooks([(f"{SITES[0]}.hook_sae_acts_post", lambda a, hook: rows.append(a.shape[1]))]):
            assert torch.equal(model.generate(batch, max_new_tokens=5), plain)
        assert rows == [batch["input_ids"].shape[1], *[1] * (len(rows) - 1)]
        with model.intervene(mm.Clamp(f"{SITES[0]}.hook_sae_acts_post", high=0.0)):
            assert not torch.equal(model.generate(batch, max_new_tokens=5), plain)


@torch.no_grad()
def test_several_dictionaries_and_what_is_left_of_them() -> None:
    model, batch = made("llava")
    clean, names, graph = model(batch), list(model.hook_dict), model.graph
    first, second = dictionary(model, SITES[0]), dictionary(model, "blocks.2.hook_resid_post")
    with model.attach(first, dictionary(model, SITES[2])):
        assert list(model.dictionaries) == [SITES[0], SITES[2]]
        with model.attach(second):
            _, cache = model.run_with_cache(batch)
            assert {f"{site}.hook_sae_{kind}" for site in model.dictionaries for kind in KINDS} <= set(cache.keys())
            assert (
                "blocks.2.hook_resid_post.hook_sae_acts_post"
                in model.graph.downstream(f"{SITES[0]}.hook_sae_error").names
            )
            assert "hook_logits" in model.graph.downstream(f"{SITES[2]}.hook_sae_acts_pre").names
        assert list(model.dictionaries) == [SITES[0], SITES[2]]
        assert "blocks.2.hook_resid_post.hook_sae_error" not in model.graph
    assert model.graph is graph
    assert list(model.hook_dict) == names
    assert not model.dictionaries
    with pytest.raises(ZeroDivisionError), model.attach(first):
        _ = 1 / 0
    assert model.graph is graph
    assert not any(point.attached for point in model.hook_dict.values())
    assert torch.equal(model(batch), clean)


def test_what_cannot_be_attached_is_refused_before_anything_runs() -> None:
    model, _ = made("llava")
    sae = dictionary(model, SITES[0])
    wrong: list[tuple[tuple[Any, ...], str]] = [
        ((), "attach was given no sparse dictionary"),
        (("blocks.1",), "A sparse dictionary is expected .* found str"),
        ((sae, sae), r"blocks\.1\.hook_resid_post has a sparse dictionary in its path already"),
        (
            (dictionary(model, SITES[1], at_in="blocks.9.mlp.hook_in"),),
            r"no hook point 'blocks\.9\.mlp\.hook_in'.*Nearest",
        ),
        ((SparseDictionary(sae.W_enc, sae.b_enc, sae.W_dec, sae.b_dec),), "does not say where it belongs: mm.load_sae"),
        (
            (SparseDictionary(sae.W_enc, sae.b_enc, sae.W_dec, sae.b_dec, "blocks.7.hook_resid_post"),),
            "Nearest: blocks",
        ),
        (
            (SparseDictionary(sae.W_enc, sae.b_enc, sae.W_dec, sae.b_dec, SITES[1]),),
            r"states of d=32, and vision.* holds 24",
        ),
    ]
    for dictionaries, message in wrong:
        with pytest.raises(InputError, match=message), model.attach(*dictionaries):
            pass
        assert not model.dictionaries
    absent = pytest.raises(InputError, match=r"The model has no L1\.f3; .* with model\.attach\(sae\)")
    with absent, model.intervene(mm.Ablate("L1.f3")):
        pass
    beyond = pytest.raises(InputError, match=r"has no L1\.f40; it has L1\.f0 to L1\.f39")
    with model.attach(sae), beyond, model.intervene(mm.Ablate("L1.f40")):
        pass


def test_other_threads_are_refused_by_name(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(claims, "PATIENCE", 0.2)
    model, batch = made("llava")
    refused: list[str] = []

    def run() -> None:
        try:
            model(batch)
        except InputError as error:
            refused.append(str(error))

    with model.attach(dictionary(model, SITES[0])):
        thread = threading.Thread(target=contextvars.Context().run, args=(run,))
        thread.start()
        thread.join()
    assert len(refused) == 1
    assert "The sparse dictionary at blocks.1.hook_resid_post is in force on the same weights" in refused[0]


@torch.no_grad()
def test_runs_are_told_apart_by_the_dictionary_in_force() -> None:
    model, _ = made("llava")
    plain = run_identity(model)
    with model.attach(dictionary(model, SITES[0])):
        first = run_identity(model)
    with model.attach(dictionary(model, SITES[0], activation="topk", k=3)):
        second = run_identity(model)
    assert len({str(plain), str(first), str(second)}) == 3
