"""Contract: every verb takes the same rules, and what it finds of a sample is what it finds of that sample alone."""

from collections.abc import Callable
from typing import Any

import pytest
import torch

import mmlens as mm
from mmlens import positions
from mmlens.core.errors import InputError, NoPlaceError
from mmlens.core.rules import Joined, as_rule
from mmlens.inputs.batch import MultimodalBatch
from mmlens.models.hooked import HookedMultimodal
from tests.contracts.test_families import points_of
from tests.contracts.test_painting import painted
from tests.families import FAMILIES
from tests.tiny import TINY, Tiny, picture

AT = "blocks.1.hook_resid_post"
TEXTS = ["the red circle", "what is the color of the big red circle", "describe the red image"]
OTHERS = ["the blue circle", "what is the color of the big blue circle", "describe the blue image"]
METRIC = mm.metrics.logit_difference("red", "blue")
#: A box in each picture; the last sample has none.
BOXES: list[Any] = [(0, 0, 12, 16), (8, 16, 32, 30), None]

_MODEL: list[HookedMultimodal] = []


@pytest.fixture
def model() -> HookedMultimodal:
    """A tiny LLaVA."""
    if not _MODEL:
        _MODEL.append(TINY[0].make())
    return _MODEL[0]


def prepared(model: HookedMultimodal, texts: list[str], samples: list[int], side: str = "left") -> MultimodalBatch:
    """Some samples, the last of which comes without a picture."""
    images = [[picture(n)] if n < 2 else [] for n in samples]
    return model.prepare([texts[n] for n in samples], images=images, padding_side=side)  # type: ignore[arg-type]


def rules_of(samples: list[int]) -> dict[str, Any]:
    """Rules by name, for some of the samples."""
    return {
        "first": [0],
        "ends": [-1, 1],
        "slice": slice(1, -2),
        "last": "last",
        "text": "text",
        "image": "image",
        "prompt": "prompt",
        "word": "RED",
        "second": positions.word("the", which=0) | positions.index(1),
        "box": positions.box([BOXES[n] for n in samples]) | positions.last,
        "complement": (~positions.box([BOXES[n] for n in samples])) & positions.prompt,
        "difference": positions.text - "red",
        "own": [torch.tensor([n, 2]) for n in samples],
    }


def after(intervention: Callable[[Any], Any]) -> Callable[..., list[Any]]:
    """What the model answers at each sample's last position under an intervention."""

    def run(model: HookedMultimodal, clean: MultimodalBatch, corrupted: MultimodalBatch, rule: Any) -> list[Any]:
        with model.intervene(intervention(rule)):
            logits = model(clean)
        return list(logits[torch.arange(clean.size), clean.layout.last])

    return run


def direction(model: HookedMultimodal | None = None) -> torch.Tensor:
    """A direction of the stream."""
    return torch.randn(32, generator=torch.Generator().manual_seed(3))


def swept(verb: Callable[..., Any], **options: Any) -> Callable[..., list[Any]]:
    """The values of a sweep, by sample."""

    def run(model: HookedMultimodal, clean: MultimodalBatch, corrupted: MultimodalBatch, rule: Any) -> list[Any]:
        found = verb(model, clean, corrupted, positions={"group": rule}, metric=METRIC, progress=False, **options)
        values = getattr(found, "sweep", found).values
        return list(values[..., 0, :].unbind(-1))

    return run


def cached(model: HookedMultimodal, clean: MultimodalBatch, corrupted: MultimodalBatch, rule: Any) -> list[Any]:
    _, cache = model.run_with_cache(clean, names=[AT, "blocks.0.attn.hook_z"], positions=rule)
    return [
        torch.cat([a.flatten(), b.flatten()]) for a, b in zip(*(cache.samples(name) for name in cache), strict=True)
    ]


def traced(model: HookedMultimodal, clean: MultimodalBatch, corrupted: MultimodalBatch, rule: Any) -> list[Any]:
    trace = model.trace_generation(clean, names=AT, positions=rule, max_new_tokens=2)
    return [states[own < n] for states, own, n in zip(trace[AT], trace.rows, clean.layout.is_token.sum(1), strict=True)]


def lensed(model: HookedMultimodal, clean: MultimodalBatch, corrupted: MultimodalBatch, rule: Any) -> list[Any]:
    lens = mm.logit_lens(model, clean, at=AT, positions=rule, words=["red"], progress=False)
    return [values[:, :count] for values, count in zip(lens.word_probabilities, lens.counts, strict=True)]


def scoped(model: HookedMultimodal, clean: MultimodalBatch, corrupted: MultimodalBatch, rule: Any) -> list[Any]:
    scope = mm.lenses.patchscope(model, clean, at=AT, positions=rule, target_prompt="what is red", k=3, progress=False)
    return [p[:, own >= 0] for p, own in zip(scope.probabilities, scope.positions, strict=True)]


def looked(model: HookedMultimodal, clean: MultimodalBatch, corrupted: MultimodalBatch, rule: Any) -> list[Any]:
    return [
        None if found is None else found.values for found in mm.attention_map(model, clean, queries=rule, layers=[1])
    ]


def corrupted_by(model: HookedMultimodal, clean: MultimodalBatch, corrupted: MultimodalBatch, rule: Any) -> list[Any]:
    blank = mm.corrupt.blank(model, clean, at="hook_embed", positions=rule)
    return list(model(blank)[torch.arange(clean.size), clean.layout.last])


def cut(model: HookedMultimodal, clean: MultimodalBatch, corrupted: MultimodalBatch, rule: Any) -> list[Any]:
    # the query sees itself
    keys = Joined("-", as_rule(rule), positions.last) | positions.index(1)
    sweep = mm.knock_out(model, clean, queries="last", keys=keys, metric=METRIC, progress=False)
    return list(sweep.values[:, 0].unbind(-1))


VERBS: dict[str, Callable[..., list[Any]]] = {
    "run_with_cache": cached,
    "trace_generation": traced,
    "Scale": after(lambda rule: mm.Scale(AT, -1.0, positions=rule)),
    "Add": after(lambda rule: mm.Add(AT, direction(), positions=rule)),
    "Clamp": after(lambda rule: mm.Clamp(AT, low=-0.1, positions=rule)),
    "Ablate": after(lambda rule: mm.Ablate(["L1.u3", "L0.h1"], 0.3, positions=rule)),
    "Steer": after(lambda rule: mm.Steer(mm.steering.SteeringVector(direction(), AT), positions=rule)),
    "ProjectOut": after(lambda rule: mm.ProjectOut(mm.steering.SteeringVector(direction(), AT), positions=rule)),
    "KnockOut": after(lambda rule: mm.KnockOut(as_rule(rule) - [0], [0], layers=[1, 2])),
    "patch": swept(mm.patch, at="blocks.*.hook_resid_pre"),
    "attribute": swept(mm.attribute, at=["hook_embed", AT]),
    "path_patch": swept(mm.patching.path_patch, at="blocks.0.hook_mlp_out", to="hook_logits"),
    "knock_out": cut,
    "attention_map": looked,
    "logit_lens": lensed,
    "patchscope": scoped,
    "corrupt.blank": corrupted_by,
}


@pytest.mark.parametrize("side", ["left", "right"])
@pytest.mark.parametrize("verb", VERBS)
@torch.no_grad()
def test_a_sample_in_a_padded_batch_is_the_sample_alone(model: HookedMultimodal, verb: str, side: str) -> None:
    if verb == "trace_generation" and side == "right":
        pytest.skip("nothing is generated behind padding")
    everything = [0, 1, 2]
    clean, corrupted = (prepared(model, texts, everything, side) for texts in (TEXTS, OTHERS))
    assert len(set(clean.layout.is_token.sum(1).tolist())) == 3, "no sample is padded, so nothing is tested"
    by_rule: dict[str, Any] = {}
    for name, rule in rules_of(everything).items():
        if verb == "KnockOut" and name == "first":
            continue  # it sees itself alone
        found = VERBS[verb](model, clean, corrupted, rule)
        by_rule[name] = found[1]
        for sample in everything:
            alone = [prepared(model, texts, [sample]) for texts in (TEXTS, OTHERS)]
            if sample == 2 and (name == "image" or verb == "attention_map"):
                assert (
                    found[sample] is None or not found[sample].numel() or verb not in ("run_with_cache", "logit_lens")
                )
                continue  # without a picture the rule is refused
            given = rules_of([sample])[name]
            given = positions.last if name == "box" and sample == 2 else given
            given = positions.prompt if name == "complement" and sample == 2 else given
            (expected,) = VERBS[verb](model, *alone, given)
            torch.testing.assert_close(found[sample], expected, rtol=1e-3, atol=2e-4, msg=lambda m, n=name: f"{n}: {m}")
    one, other = by_rule["word"], by_rule["last"]
    assert one.shape != other.shape or (one - other).abs().max() > 1e-3, "the rule makes no difference"


@pytest.mark.parametrize("side", ["left", "right"])
@torch.no_grad()
def test_collected_states_are_those_of_the_sample_alone(model: HookedMultimodal, side: str) -> None:
    data = [(picture(0), TEXTS[0]), (picture(1), TEXTS[1])]
    for rule in ([0], [-1, 1], slice(1, -2), "text", "image", "red", positions.text - "red"):
        together = mm.collect(model, data, at=AT, positions=rule, dtype="float32", batch_size=2, progress=False)
        alone = mm.collect(model, data, at=AT, positions=rule, dtype="float32", batch_size=1, progress=False)
        torch.testing.assert_close(together.at().values, alone.at().values, rtol=1e-3, atol=1e-4)
        assert together.at().tokens == alone.at().tokens


@torch.no_grad()
def test_the_first_token_is_each_samples_own_and_padding_has_no_number() -> None:
    """Two questions of different length on the lab model, padded on the left."""
    model = mm.lab.load()
    scenes = [mm.lab.scene(seed=n) for n in (1, 2)]
    texts = ["where is this", "what color is the big red circle"]
    batch = model.prepare(texts, images=[[scene.image] for scene in scenes])
    assert batch.layout.is_token[:, 0].tolist() == [False, True]
    first = batch["attention_mask"].argmax(1).tolist()
    ids = [int(batch["input_ids"][sample, at]) for sample, at in enumerate(first)]
    _, cache = model.run_with_cache(batch, names="hook_embed", positions=[0])
    embedded = model.hf_model.get_input_embeddings()(torch.tensor(ids))
    torch.testing.assert_close(cache["hook_embed"][:, 0], embedded)
    other = model.prepare(["what is this", "what color is the big blue circle"], images=[[s.image] for s in scenes])
    other.inputs["input_ids"][0, first[0]] = model.to_single_token("yes")
    metric = mm.metrics.log_probability("sand")
    sweep = mm.patch(model, batch, other, at="hook_embed", positions={"first": [0]}, metric=metric, progress=False)
    alone = [model.batch({k: v[:1] for k, v in b.items()}) for b in (batch, other)]
    expected = mm.patch(model, *alone, at="hook_embed", positions={"first": [0]}, metric=metric, progress=False)
    torch.testing.assert_close(sweep.effect[0, 0, 0], expected.effect[0, 0, 0], rtol=0, atol=1e-4)
    assert sweep.effect[0, 0, 0].abs() > 1e-3, "the effect of a padded row"
    with model.intervene(mm.Scale("hook_embed", 0.0, positions=[0])):
        assert (model(batch)[0, -1] - model.run_with_hooks(batch)[0, -1]).abs().max() == 0
        scaled = model(batch)
    assert (scaled[0, -1] - model(batch)[0, -1]).abs().max() > 1e-3


def _family(name: str) -> Tiny:
    return next(tiny for tiny in [*TINY, *FAMILIES] if tiny.name == name)


#: One raster, packed towers of two kinds, one entry for all pictures, pooled rows, tiles of several layouts.
TOWERS = [
    "llava_clip",
    "qwen2_vl",
    "glm4v",
    "mistral3",
    "gemma3",
    "llava_next",
    "internvl",
    "idefics3",
    "llama4",
    "molmo2",
]


@pytest.mark.parametrize("name", TOWERS)
@torch.no_grad()
def test_an_object_is_the_same_in_every_tower(name: str) -> None:
    """A box of the picture is painted; put back at the rows that it names, in any tower, it is as if it never was."""
    tiny = _family(name)
    model = tiny.make()
    texts = ["describe the image", "what color is the circle" if tiny.padded else "describe the image"]
    sizes = tiny.sizes
    pictures = [picture(n, *size) for n, size in enumerate(sizes)]
    boxes = [(1, 3, size[1] // 2, size[0] // 2 + 1) for size in sizes]
    wide = [tuple(end + tiny.reach * sign for end, sign in zip(box, (-1, -1, 1, 1), strict=True)) for box in boxes]
    clean = model.prepare(texts, images=[[image] for image in pictures])
    spoiled = [[painted(image, box)] for image, box in zip(pictures, boxes, strict=True)]
    corrupted = model.prepare(texts, images=spoiled)
    thing = positions.box(wide)
    mixing = ("hook_attn_out", "hook_mixer_out")
    mixers = [name for name in model.graph.names if name.startswith("vision.") and name.endswith(mixing)]
    where = [at for at in points_of(model) if not (tiny.name == "molmo2" and at == "projector.hook_in")]
    groups = {"object": thing, "rest": positions.image - thing, "all but it": ~thing}
    for at in where:
        with model.hooks([(mixers, lambda a, hook: torch.zeros_like(a))]):  # rows do not mix in the tower
            sweep = mm.patch(model, clean, corrupted, at=at, positions=groups, metric=METRIC, progress=False)
        assert (sweep.clean - sweep.corrupted).abs().min() > 1e-4, "the paint changes nothing"
        torch.testing.assert_close(sweep.recovered[0, 0], torch.ones(2), rtol=0, atol=5e-2)
        torch.testing.assert_close(sweep.recovered[0, 1:], torch.zeros(2, 2), rtol=0, atol=5e-2)


@torch.no_grad()
def test_rows_of_one_sequence_are_refused_on_another(model: HookedMultimodal) -> None:
    clean, corrupted = (prepared(model, texts, [0]) for texts in (TEXTS, OTHERS))
    rows = clean.layout.patches(BOXES[0])
    vision = clean.layout.patches(BOXES[0], part="vision")
    text = "positions hold rows of the language sequence, and vision.* lies on the vision sequence"
    tower = "vision.blocks.1.hook_resid_pre"
    for joined in (rows, rows[:2], torch.cat([rows, rows]), rows.sort().values, [rows]):
        with pytest.raises(InputError, match=text):
            mm.patch(model, clean, corrupted, at=tower, positions={"o": joined}, metric=METRIC, progress=False)
    with pytest.raises(InputError, match=text), model.intervene(mm.Scale(tower, 0.0, positions=rows)):
        model(clean)
    with pytest.raises(InputError, match="hold rows of the vision sequence"):
        mm.attention_map(model, clean, queries=vision)
    for at, given in ((tower, vision), ("hook_embed", rows)):
        by_rows, by_rule = (
            mm.patch(model, clean, corrupted, at=at, positions={"o": rule}, metric=METRIC, progress=False)
            for rule in (given, positions.box(BOXES[0]))
        )
        assert torch.equal(by_rows.values, by_rule.values)


@torch.no_grad()
def test_points_of_pictures_need_no_word_from_the_user(model: HookedMultimodal) -> None:
    clean = prepared(model, TEXTS, [0, 1])
    corrupted = mm.corrupt.blur(model, clean, radius=8)
    for at in ("vision.blocks.*.hook_resid_pre", "projector.hook_out", ["vision.hook_embed", "hook_embed"]):
        for verb in (mm.patch, mm.attribute):
            sweep = verb(model, clean, corrupted, at=at, metric=METRIC, progress=False)  # type: ignore[operator]
            assert sweep.groups == ["all"]
        if verb is mm.patch:
            torch.testing.assert_close(sweep.recovered[:, 0], torch.ones_like(sweep.recovered[:, 0]), rtol=0, atol=1e-3)
    heat = mm.attention_map(model, clean, part="vision", layers=[1])
    assert all(found is not None for found in heat)
    lens = mm.logit_lens(model, clean, at=["vision.blocks.1.hook_resid_post", "projector.hook_out"], progress=False)
    assert lens.counts == clean.layout.is_image.sum(1).tolist()
    text = prepared(model, TEXTS, [2])
    sweep = mm.patch(model, text, prepared(model, OTHERS, [2]), at=AT, metric=METRIC, progress=False)
    assert sweep.groups == ["text", "last"]


@torch.no_grad()
def test_24_samples_are_looked_at_in_one_pass(model: HookedMultimodal) -> None:
    texts = [TEXTS[n % 2] for n in range(24)]
    batch = model.prepare(texts, images=[[picture(n)] for n in range(24)])
    passes: list[None] = []
    with model.hooks([("hook_embed", lambda a, hook: passes.append(None))]):
        maps = mm.attention_map(model, batch, queries="circle", layers=[1], heads=[0, 2])
    assert len(passes) == 1
    for sample in (0, 1, 23):
        alone = model.prepare(texts[sample], images=picture(sample))
        (expected,) = mm.attention_map(model, alone, queries="circle", layers=[1], heads=[0, 2])
        assert maps[sample] is not None
        assert expected is not None
        torch.testing.assert_close(maps[sample].values, expected.values, rtol=1e-3, atol=1e-5)  # type: ignore[union-attr]


@torch.no_grad()
def test_states_of_what_was_written(model: HookedMultimodal) -> None:
    """Positions of a generation are those of a forward over its tokens; a word is found in the prompt or behind it."""
    batch = prepared(model, TEXTS, [0, 1])
    push = torch.zeros(model.graph["hook_logits"].width or 0)
    push[model.to_single_token("blue")] = 1e4
    for use_cache in (True, False):
        options: dict[str, Any] = {"max_new_tokens": 3, "use_cache": use_cache}
        with model.intervene(mm.Add("hook_logits", push)):  # it writes "blue blue blue"
            for rule in ("blue", "generated", positions.last | positions.generated, ["red"][0], slice(-1, None), "all"):
                trace = model.trace_generation(batch, names=AT, positions=rule, **options)
                whole = model.extend(batch, trace.tokens[:, :-1])
                states = model.run_with_cache(whole, names=AT)[1][AT]
                for sample, own in enumerate(trace.rows or []):
                    count = int(batch.layout.is_token[sample].sum())
                    new = [count, count + 1]
                    ids = batch["input_ids"][sample, batch.layout.is_token[sample]].tolist()
                    meant = {
                        "blue": new,
                        "generated": new,
                        "red": [at for at, token in enumerate(ids) if token == model.to_single_token("red")],
                        "all": list(range(count + 2)),
                    }.get(str(rule), [count - 1, *new])
                    assert own.tolist() == meant, rule
                    columns = whole.layout.is_token[sample].nonzero().flatten()[own]
                    torch.testing.assert_close(trace[AT][sample], states[sample, columns], rtol=1e-3, atol=1e-4)
            with pytest.raises(InputError, match=r"'describe' does not stand in the text of samples \[0, 1\]"):
                model.trace_generation(batch, names=AT, positions="describe", **options)
    with pytest.raises(InputError, match="hold a number per pair of positions"):
        model.trace_generation(batch, names="blocks.0.attn.hook_pattern", positions="last", max_new_tokens=2)


@torch.no_grad()
def test_new_tokens_keep_a_key_to_look_at(model: HookedMultimodal) -> None:
    batch = prepared(model, TEXTS, [0])
    everything = mm.KnockOut("generated", "all")
    with pytest.raises(InputError, match="New tokens would have no key left to look at"), model.intervene(everything):
        model.generate(batch, max_new_tokens=3, min_new_tokens=3)
    # cut from what was written before it, and from the prompt but for its first token
    rule = mm.KnockOut("generated", positions.prompt - [0], layers=[1])
    seen: list[torch.Tensor] = []
    look = ("blocks.1.attn.hook_pattern", lambda a, hook: seen.append(a[0, :, -1].clone()))
    with model.intervene(rule), model.hooks([look]):
        model.generate(batch, max_new_tokens=3, min_new_tokens=3)
    count = batch["input_ids"].shape[1]
    assert seen[0][:, 1:].max() > 0
    assert all(pattern[:, 1:count].max() == 0 and pattern[:, 0].min() > 0 for pattern in seen[1:])


@torch.no_grad()
def test_a_window_of_keys_is_cut_where_they_are() -> None:
    """Keys that have left a sliding window are gone from the cache: the cut is that of a run without one."""
    model = _family("gemma3").make()
    batch = model.prepare("describe the image", images=picture())
    rule = mm.KnockOut("generated", positions.index(-1) | "image")
    with model.intervene(rule):
        found, expected = (
            model.trace_generation(batch, names="hook_logits", max_new_tokens=5, use_cache=cache)
            for cache in (True, False)
        )
    plain = model.trace_generation(batch, names="hook_logits", max_new_tokens=5)
    torch.testing.assert_close(found.logits, expected.logits, rtol=1e-3, atol=1e-3)
    assert (plain.logits - expected.logits).abs().max() > 1e-2


def test_queries_have_no_place_in_the_picture() -> None:
    model = TINY[3].make()
    batch = model.prepare("describe the image", images=picture())
    box = positions.box((0, 0, 8, 8))
    for at, why in (
        ("projector.hook_out", "rows of the queries sequence"),
        ("hook_embed", "queries of the Q-Former mix"),
    ):
        with pytest.raises(NoPlaceError, match=why):
            model.run_with_cache(batch, names=at, positions=box)
    _, cache = model.run_with_cache(batch, names="vision.hook_embed", positions=box)
    assert cache["vision.hook_embed"].shape[1] == 1
