"""Dual encoders: sweeps, gradients and neurons of the image-text score, against plain loops and formulas written out here."""

from collections.abc import Callable
from typing import Any

import pytest
import torch

import mmlens as mm
from mmlens.core.errors import InputError, UnsupportedModelError
from mmlens.inputs.batch import MultimodalBatch
from mmlens.models.hooked import HookedMultimodal
from tests.conftest import bare_copy
from tests.families.dual_encoders import TINY, clip
from tests.tiny import Tiny, picture

TEXTS = ["a red circle", "what is the big circle on sand"]
OTHER_TEXTS = ["a blue circle", "what is the small circle on grass"]
PICTURES = [picture(0), picture(1, 32, 48)]
OTHERS = [picture(5), picture(6, 32, 48)]
OWN = mm.metrics.image_text_score()

_MADE: dict[str, HookedMultimodal] = {}


@pytest.fixture(params=TINY, ids=lambda tiny: tiny.name)
def model(request: pytest.FixtureRequest) -> HookedMultimodal:
    """Each dual encoder in turn; read-only."""
    tiny: Tiny = request.param
    return _MADE.setdefault(tiny.name, _MADE.get(tiny.name) or tiny.make())


@pytest.fixture
def batch(model: HookedMultimodal) -> MultimodalBatch:
    """Two pictures with a text each."""
    return model.prepare(TEXTS, images=PICTURES)


def looped(
    model: HookedMultimodal,
    target: MultimodalBatch,
    states: torch.Tensor,
    name: str,
    rows: list[Any],
    value: Callable[[torch.Tensor], torch.Tensor],
) -> list[float]:
    """The metric of each sample after a patch of its own rows alone, in a forward pass of its own."""
    results = []
    for sample, sample_rows in enumerate(rows):

        def put(activation: torch.Tensor, hook: Any, at: tuple[Any, ...] = (sample, sample_rows)) -> torch.Tensor:
            patched = activation.clone()
            patched[at] = states[at]
            return patched

        results.append(float(value(model.run_with_hooks(target, fwd_hooks=[(name, put)]))[sample]))
    return results


def of_contrast(scores: torch.Tensor) -> torch.Tensor:
    """Each picture's score with the first text, minus that with the second."""
    return scores[:, 0] - scores[:, 1]


METRICS: list[tuple[Any, Callable[[torch.Tensor], torch.Tensor]]] = [
    (OWN, torch.diagonal),
    (mm.metrics.logit_difference(0, 1), of_contrast),
    (of_contrast, of_contrast),
    (mm.metrics.log_probability(1), lambda scores: scores.log_softmax(-1)[:, 1]),
]


@pytest.mark.parametrize(("metric", "value"), METRICS, ids=["own", "difference", "function", "log p"])
@torch.no_grad()
def test_sweeps_of_both_towers_are_plain_loops(
    model: HookedMultimodal, batch: MultimodalBatch, metric: Any, value: Callable[[torch.Tensor], torch.Tensor]
) -> None:
    last = batch.layout.last.tolist()
    cases = [
        (model.prepare(TEXTS, images=OTHERS), "vision.blocks.*.hook_resid_post", ["all"], [[slice(None)] * 2]),
        (model.prepare(OTHER_TEXTS, images=PICTURES), "blocks.*.hook_resid_pre", ["last", [2]], [last, [2, 2]]),
        (model.prepare(OTHER_TEXTS, images=PICTURES), "hook_projected", ["all"], [[slice(None)] * 2]),
        (model.prepare(TEXTS, images=OTHERS), "projector.hook_out", ["all"], [[slice(None)] * 2]),
    ]
    for corrupted, at, positions, rows in cases:
        sweep = mm.patch(model, batch, corrupted, at=at, positions=positions, metric=metric, progress=False)
        torch.testing.assert_close(sweep.clean, value(model(batch)), atol=1e-5, rtol=1e-5)
        for point, name in enumerate(sweep.points):
            _, cache = model.run_with_cache(batch, names=name)
            for group, group_rows in enumerate(rows):
                expected = looped(model, corrupted, cache[name], name, group_rows, value)
                assert sweep.values[point, group].tolist() == pytest.approx(expected, abs=2e-5), (name, group)


@torch.no_grad()
def test_heads_are_patched_one_by_one_and_many_cells_agree_with_few(
    model: HookedMultimodal, batch: MultimodalBatch
) -> None:
    corrupted = model.prepare(OTHER_TEXTS, images=OTHERS)
    for at in ("vision.blocks.1.attn.hook_z", "blocks.1.attn.hook_z"):
        sweep = mm.patch(model, batch, corrupted, at=at, units="head", positions=["all"], metric=OWN, progress=False)
        _, cache = model.run_with_cache(batch, names=at)
        for head in range(len(sweep.points)):
            part = torch.zeros_like(cache[at], dtype=torch.bool)
            part[:, :, head] = True
            for sample in range(2):

                def put(
                    z: torch.Tensor, hook: Any, part: Any = part, sample: int = sample, z_of: Any = cache[at]
                ) -> Any:
                    own = part.clone()
                    own[1 - sample] = False
                    return torch.where(own, z_of, z)

                expected = model.run_with_hooks(corrupted, fwd_hooks=[(at, put)])[sample, sample]
                assert float(sweep.values[head, 0, sample]) == pytest.approx(float(expected), abs=2e-5)


def test_attribution_of_embeddings_is_the_derivative(model: HookedMultimodal, batch: MultimodalBatch) -> None:
    """At an embedding the effect of a small patch is the score's derivative, worked out here by finite differences."""
    corrupted = model.prepare(OTHER_TEXTS, images=OTHERS)
    for at in ("projector.hook_out", "hook_projected", "blocks.0.hook_resid_pre", "vision.blocks.1.hook_resid_post"):
        estimate = mm.attribute(model, batch, corrupted, at=at, positions=["all"], metric=OWN, progress=False)
        _, clean = model.run_with_cache(batch, names=at)
        _, other = model.run_with_cache(corrupted, names=at)
        difference, step, ends = clean[at] - other[at], 1e-2, []
        for sign in (1, -1):

            def put(activation: torch.Tensor, hook: Any, change: Any = sign * step * difference) -> torch.Tensor:
                return activation + change

            ends.append(model.run_with_hooks(corrupted, fwd_hooks=[(at, put)]).diagonal().double())
        expected = ((ends[0] - ends[1]) / (2 * step)).tolist()
        assert estimate.effect[0, 0].tolist() == pytest.approx(expected, rel=2e-2, abs=2e-3), at


def in_double(model: HookedMultimodal, batch: MultimodalBatch) -> tuple[HookedMultimodal, dict[str, torch.Tensor]]:
    """The model and the batch in float64."""
    inputs = {name: tensor.double() if tensor.is_floating_point() else tensor for name, tensor in batch.items()}
    return HookedMultimodal.from_hf(bare_copy(model).double(), model.processor), inputs


@torch.no_grad()
def test_neurons_heads_and_biases_add_up_to_the_score(model: HookedMultimodal, batch: MultimodalBatch) -> None:
    """The straight way of every tower that ends in one row times a matrix, with norms held, written out."""
    double, inputs = in_double(model, batch)
    bare: Any = double.hf_model
    for part in double.family.score.linear:  # type: ignore[union-attr]
        vision = part == "vision"
        prefix, tower = ("vision.", bare.vision_model) if vision else ("", bare.text_model)
        norm = tower.post_layernorm if vision else tower.final_layer_norm
        projection = bare.visual_projection if vision else getattr(bare, "text_projection", None) or tower.head
        scores, cache = double.run_with_cache(inputs)
        ends = [cache[name][:, 0] for name in ("projector.hook_out", "hook_projected")]
        own, other = ends if vision else reversed(ends)
        unit = bare.logit_scale.exp() * other / other.norm(dim=-1, keepdim=True) / own.norm(dim=-1, keepdim=True)
        rows = torch.zeros(2).long() if vision else batch.layout.last.plain
        samples = torch.arange(2)
        stream = cache[f"{prefix}blocks.2.hook_resid_post"][samples, rows]
        divisor = (stream.var(-1, unbiased=False, keepdim=True) + norm.eps).sqrt()

        def worth(
            written: torch.Tensor, norm: Any = norm, divisor: Any = divisor, P: Any = projection, unit: Any = unit
        ):  # type: ignore[no-untyped-def]
            """What something that is written to the row of each sample adds to its score."""
            centred = written - written.mean(-1, keepdim=True)
            return ((centred / divisor * norm.weight) @ P.weight.T * unit).sum(-1)

        found = mm.find_neurons(double, inputs, part=part, method="direct_effect")
        plain = mm.find_neurons(double, inputs, part=part)
        total = worth(cache[f"{prefix}hook_embed"][samples, rows])
        for layer, block in enumerate(tower.encoder.layers):
            hidden = cache[f"{prefix}blocks.{layer}.mlp.hook_post"][samples, rows]
            columns = block.mlp.fc2.weight.T
            for neuron in (0, 7, 39):
                expected = worth(hidden[:, neuron, None] * columns[neuron]).mean()
                torch.testing.assert_close(found.scores[layer, neuron], expected, atol=1e-9, rtol=1e-7)
                undivided = (hidden[:, neuron, None] * (columns[neuron] @ projection.weight.T * unit)).sum(-1).mean()
                torch.testing.assert_close(plain.scores[layer, neuron], undivided, atol=1e-9, rtol=1e-7)
            z = cache[f"{prefix}blocks.{layer}.attn.hook_z"][samples, rows]
            per_head = block.self_attn.out_proj.weight.unflatten(-1, z.shape[1:])
            heads = torch.einsum("shd,mhd->hsm", z, per_head)
            assert torch.allclose(
                torch.einsum("shd,hdm->hsm", z, double.part(part).blocks[layer].attn.W_O),  # type: ignore[union-attr]
                heads,
            )
            total = total + sum(worth(head) for head in heads) + worth(block.self_attn.out_proj.bias.expand(2, -1))
            total = total + found_sum(hidden, columns, worth) + worth(block.mlp.fc2.bias.expand(2, -1))
        constant = (norm.bias @ projection.weight.T + (0 if projection.bias is None else projection.bias)) * unit
        total = total + constant.sum(-1) + getattr(bare, "logit_bias", torch.zeros(1))
        torch.testing.assert_close(total, scores.diagonal(), atol=1e-8, rtol=1e-7)


def found_sum(hidden: torch.Tensor, columns: torch.Tensor, worth: Callable[..., torch.Tensor]) -> torch.Tensor:
    """What all neurons of a layer add, one by one."""
    return sum(worth(hidden[:, i, None] * columns[i]) for i in range(len(columns)))  # type: ignore[return-value]


def test_gradient_x_activation_is_written_out(model: HookedMultimodal, batch: MultimodalBatch) -> None:
    for part, prefix in (("vision", "vision."), ("language", "")):
        scores = mm.find_neurons(model, batch, part=part, method="gradient_x_activation")  # type: ignore[arg-type]
        held: list[torch.Tensor] = []

        def hold(activation: torch.Tensor, hook: Any, held: list[torch.Tensor] = held) -> None:
            activation.retain_grad()
            held.append(activation)

        with model.hooks([(f"{prefix}blocks.1.mlp.hook_post", hold)]):
            model(batch).diagonal().sum().backward()
        model.hf_model.zero_grad()
        product = held[0].detach() * held[0].grad  # type: ignore[operator]
        rows = product.sum(1) if part == "vision" else product[torch.arange(2), batch.layout.last.plain]
        torch.testing.assert_close(scores.scores[1], rows.mean(0).cpu(), atol=1e-6, rtol=1e-4)


@torch.no_grad()
def test_ablated_neurons_and_heads_of_both_towers_are_those_of_bare_torch_hooks(
    model: HookedMultimodal, batch: MultimodalBatch
) -> None:
    bare = bare_copy(model)
    for part, tower in (("vision", bare.vision_model), ("language", bare.text_model)):
        block = tower.encoder.layers[1]

        def zeroed(module: Any, args: Any, at: Any) -> Any:
            hidden = args[0].clone()
            hidden[..., at] = 0
            return (hidden, *args[1:])

        d_head = block.self_attn.out_proj.in_features // block.self_attn.num_heads
        for unit, module, at in (
            (mm.Neuron(1, 3, part), block.mlp.fc2, 3),  # type: ignore[arg-type]
            (mm.Head(1, 1, part), block.self_attn.out_proj, slice(d_head, 2 * d_head)),  # type: ignore[arg-type]
        ):
            handle = module.register_forward_pre_hook(lambda m, args, at=at: zeroed(m, args, at))
            expected = bare(**batch).logits_per_image
            handle.remove()
            with model.intervene(mm.Ablate(unit)):
                torch.testing.assert_close(model(batch), expected, atol=1e-6, rtol=1e-5)
            assert not torch.allclose(model(batch), expected, atol=1e-4)


@torch.no_grad()
def test_a_pair_does_not_depend_on_the_others(model: HookedMultimodal, batch: MultimodalBatch) -> None:
    """Padding of texts and of patches, and what else is in the batch, change nothing of a pair."""
    scores = model(batch)
    corrupted = model.prepare(OTHER_TEXTS, images=OTHERS)
    at = ["vision.blocks.1.hook_resid_post"]
    sweep = mm.patch(model, batch, corrupted, at=at, metric=OWN, progress=False)
    texts = mm.patch(model, batch, corrupted, at="blocks.1.hook_resid_post", metric=OWN, progress=False)
    for sample in range(2):
        alone = model.prepare(TEXTS[sample], images=PICTURES[sample])
        other = model.prepare(OTHER_TEXTS[sample], images=OTHERS[sample])
        torch.testing.assert_close(model(alone)[0, 0], scores[sample, sample], atol=1e-5, rtol=1e-5)
        for whole, points in ((sweep, at), (texts, "blocks.1.hook_resid_post")):
            single = mm.patch(model, alone, other, at=points, metric=OWN, progress=False)
            torch.testing.assert_close(single.values[..., 0], whole.values[..., sample], atol=1e-5, rtol=1e-5)


@torch.no_grad()
def test_two_pictures_and_three_texts(model: HookedMultimodal) -> None:
    """Rows of each tower know their own sequence, and pictures are the samples."""
    three = [*TEXTS, "a"]
    batch = model.prepare(three, images=PICTURES)
    assert (batch.size, batch.texts, batch.paired) == (2, 3, False)
    scores, cache = model.run_with_cache(batch, names=["blocks.1.hook_resid_post", "vision.blocks.1.hook_resid_post"])
    assert torch.equal(scores, bare_copy(model)(**batch).logits_per_image)
    _, last = model.run_with_cache(batch, names="blocks.1.hook_resid_post", positions="last")
    rows = batch.layout.last.plain
    assert torch.equal(last["blocks.1.hook_resid_post"][:, 0], cache["blocks.1.hook_resid_post"][torch.arange(3), rows])
    _, words = model.run_with_cache(
        batch, names="blocks.1.hook_resid_post", positions=mm.positions.word(["red", "big", "a"])
    )
    assert words["blocks.1.hook_resid_post"].shape[0] == 3
    boxes = mm.positions.box((16, 0, 24, 8))
    _, boxed = model.run_with_cache(batch, names="vision.blocks.1.hook_resid_post", positions=boxes)
    first = [batch.layout.patches(box=(16, 0, 24, 8), sample=sample, part="vision")[0] for sample in range(2)]
    for sample, row in enumerate(first):
        held = boxed.samples("vision.blocks.1.hook_resid_post")[sample]
        assert torch.equal(held[0], cache["vision.blocks.1.hook_resid_post"][sample, int(row)])
    with pytest.raises(
        InputError, match=r"rows at blocks\.1.hook_resid_post have no place in it: a dual encoder's text"
    ):
        model.run_with_cache(batch, names="blocks.1.hook_resid_post", positions=boxes)
    with pytest.raises(InputError, match=r"positions='last' has no meaning at vision\.blocks\.1.hook_resid_post"):
        model.run_with_cache(batch, names="vision.blocks.1.hook_resid_post", positions="last")
    other = model.prepare(three, images=OTHERS)
    sweep = mm.patch(
        model, batch, other, at="vision.blocks.1.hook_resid_post", metric=mm.metrics.image_text_score(2), progress=False
    )
    _, states = model.run_with_cache(batch, names="vision.blocks.1.hook_resid_post")
    expected = looped(
        model,
        other,
        states["vision.blocks.1.hook_resid_post"],
        "vision.blocks.1.hook_resid_post",
        [slice(None)] * 2,
        lambda s: s[:, 2],
    )
    assert sweep.values[0, 0].tolist() == pytest.approx(expected, abs=2e-5)


def test_what_has_no_meaning_is_refused_by_name_before_anything_runs(monkeypatch: pytest.MonkeyPatch) -> None:
    model = clip()
    batch = model.prepare(TEXTS, images=PICTURES)
    three = model.prepare([*TEXTS, "a"], images=PICTURES)
    monkeypatch.setattr(model.hf_model, "forward", lambda *args, **kwargs: pytest.fail("a forward pass began"))
    neurons = [mm.Neuron(0, 0)]
    writing: dict[str, Callable[[], Any]] = {
        "generate": lambda: model.generate(batch),
        "trace_generation": lambda: model.trace_generation(batch),
        "caption": lambda: model.caption(PICTURES[0]),
        "answer": lambda: model.answer(PICTURES[0], "who"),
        "logit_lens": lambda: mm.logit_lens(model, batch),
        "find_caption_neurons": lambda: mm.neurons.find_caption_neurons(model, batch),
        "replace_token": lambda: mm.edits.replace_token(model, batch, source="red", target="blue", neurons=neurons),
        "find_circuit": lambda: mm.find_circuit(model, (batch, batch), metric=OWN),
        "neuron_words": lambda: mm.neurons.neuron_words(model, neurons),
        "The unembedding": lambda: model.W_U,
    }
    for name, call in writing.items():
        with pytest.raises(
            UnsupportedModelError, match=rf"^{name}.* needs a model that writes words, and clip is a dual"
        ):
            call()
    refused: list[tuple[Callable[[], Any], str]] = [
        (lambda: mm.find_neurons(model, batch, token="red"), "which writes no words; leave token out"),
        (
            lambda: mm.patch(model, batch, batch, at="hook_embed", metric=mm.metrics.log_probability("red")),
            "no vocabulary",
        ),
        (
            lambda: mm.patch(model, three, three, at="hook_embed", metric=mm.metrics.image_text_score(0)),
            "3 texts for 2 pic",
        ),
        (lambda: mm.patch(model, three, three, at="vision.hook_embed", metric=OWN), "there are 2 pictures and 3 texts"),
        (lambda: mm.find_neurons(model, three), "3 texts for 2 pictures; prepare as many"),
        (
            lambda: mm.attribute(model, batch, batch, at="hook_embed", metric=mm.metrics.logit_difference(0, 1)),
            "a gradient at hook_embed would mix samples",
        ),
        (lambda: model.prepare(TEXTS), "one picture a sample"),
        (lambda: model.prepare(TEXTS, images=[PICTURES, PICTURES]), "one picture a sample"),
        (
            lambda: model.prepare(TEXTS, images=PICTURES, padding_side="left"),
            "'left' was asked for, but the text tower",
        ),
        (lambda: model.prepare([{"role": "user", "content": "a"}], images=PICTURES), "It has no chat template"),
        (lambda: model(batch["input_ids"]), "no picture came with the text"),
        (lambda: model.extend(batch, torch.zeros(2, 1).long()), "it writes no tokens"),
        (lambda: model.run_with_cache(batch, names="hook_projected", positions="image"), "names nothing"),
    ]
    for call, message in refused:
        with pytest.raises(InputError, match=message):
            call()


def test_the_score_is_refused_by_models_that_write(llava: Any) -> None:
    batch = llava.batches["left"]
    with pytest.raises(
        InputError, match=r"image-text score is of dual encoders \(CLIP, SigLIP\), and llava writes words"
    ):
        mm.patch(llava.model, batch, batch, at="hook_embed", metric=OWN)
    with pytest.raises(InputError, match="llava writes words: name one"):
        mm.find_neurons(llava.model, batch)
