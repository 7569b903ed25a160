"""Positions are those of whatever batch runs: against slow loops over rows that are written out here by hand."""

from collections.abc import Callable
from typing import Any

import pytest
import torch

from mmlens import lab
from mmlens.analysis.metrics import logit_difference
from mmlens.analysis.patching.sweep import patch
from mmlens.core import positions
from mmlens.core.errors import InputError
from mmlens.core.units import Head, Neuron
from mmlens.inputs.batch import MultimodalBatch
from mmlens.interventions.ablation import Ablate
from mmlens.interventions.activations import Add, Clamp, Noise, Replace, Scale
from mmlens.interventions.knockout import KnockOut
from mmlens.interventions.steering import Steer
from mmlens.interventions.steering_vector import SteeringVector
from mmlens.models.hooked import HookedMultimodal
from tests.conftest import Subject, bare_copy, subject_of
from tests.families.encoder_decoder import florence2
from tests.interventions.passes import never_entered
from tests.tiny import TINY, Tiny, picture

AT = "blocks.1.hook_resid_post"
Rows = list[list[int]]


def _lab() -> Subject:
    model = lab.load()
    scenes = [lab.scene(seed=n) for n in (1, 2)]
    texts = ["what color is the circle", "where is this"]
    batches = {
        side: model.prepare(texts, images=[[scene.image] for scene in scenes], padding_side=side)  # type: ignore[arg-type]
        for side in ("left", "right")
    }
    return Subject(Tiny("lab", lab.load), model, bare_copy(model), batches)


_LAB: list[Subject] = []


@pytest.fixture(params=["lab", "llava", "qwen", "blip"])
def kind(request: pytest.FixtureRequest) -> Subject:
    """The lab model and three tiny families."""
    if request.param == "lab":
        if not _LAB:
            _LAB.append(_lab())
        return _LAB[0]
    return subject_of(TINY[{"llava": 0, "qwen": 2, "blip": 3}[request.param]])


def rows_of(batch: MultimodalBatch, rule: str) -> Rows:
    """Each sample's rows, by looking at each position of its prompt."""
    found: Rows = []
    for sample in range(batch.size):
        length = batch["input_ids"].shape[1]
        tokens = [at for at in range(length) if batch["attention_mask"][sample, at]]
        image = [at for at in tokens if batch.layout.is_image[sample, at]]
        found.append(
            {
                "image": image,
                "text": [at for at in tokens if at not in image],
                "last": tokens[-1:],
                "index": tokens[-2:-1],
                "slice": tokens[-4:-1],
                "indices": [tokens[1], tokens[-1]],
                "tensor": [tokens[sample], tokens[min(3, len(tokens) - 1)]],
                "listed": tokens[2 : 4 + sample],
                "raw": [tokens[2], length - 1 if batch["attention_mask"][sample, -1] else tokens[0]],
                "words": [at for at in tokens if at not in image or at == tokens[-1]],
            }[rule]
        )
    return found


def rule_of(rule: str, batch: MultimodalBatch) -> Any:
    """The rule as a user gives it."""
    given: dict[str, Any] = {
        "index": -2,
        "slice": slice(-4, -1),
        "indices": [1, -1],
        "tensor": torch.tensor([[0, 3], [1, 3]]),
        "listed": [torch.tensor([2, 3]), torch.tensor([2, 3, 4])],
        "raw": positions.row(torch.tensor(rows_of(batch, "raw"))),
        "words": (~positions.image | "last") & positions.prompt,
    }
    return given.get(rule, rule)


RULES = ["image", "text", "last", "index", "slice", "indices", "tensor", "listed", "raw", "words"]


def slowly(rows: Rows, change: Callable[[torch.Tensor], torch.Tensor]) -> Callable[..., torch.Tensor]:
    """A hook that changes row after row."""

    def hook(x: torch.Tensor, hook: Any) -> torch.Tensor:
        out = x.clone()
        for sample, own in enumerate(rows):
            for row in own:
                out[sample, row] = change(x[sample, row])
        return out

    return hook


def direction_of(model: HookedMultimodal, at: str = AT) -> torch.Tensor:
    """A direction about as long as a state."""
    return torch.randn(model.graph[at].width or 0, generator=torch.Generator().manual_seed(5))


@pytest.mark.parametrize("side", ["left", "right"])
@torch.no_grad()
def test_every_rule_means_its_rows(kind: Subject, side: str) -> None:
    model, batch = kind.model, kind.batches[side]
    vector = direction_of(model)
    plain = model(batch)
    for rule in RULES:
        rows = rows_of(batch, rule)
        expected = model.run_with_hooks(batch, fwd_hooks=[(AT, slowly(rows, lambda x: x + 2 * vector))])
        with model.intervene(Add(AT, vector, alpha=2.0, positions=rule_of(rule, batch))):
            found = model(batch)
        assert torch.equal(found, expected), rule
        assert (found - plain).abs().max() > 1e-2, f"{rule} changes nothing, so nothing is compared"


@torch.no_grad()
def test_every_intervention_keeps_to_the_rows(kind: Subject) -> None:
    model, batch = kind.model, kind.batches["left"]
    before = model.run_with_cache(batch, names=[AT, "blocks.1.mlp.hook_post", "blocks.1.attn.hook_z"])[1]
    noise = Noise(AT, sigma=0.5, seed=2)
    with model.intervene(noise):
        noisy = model.run_with_cache(batch, names=AT)[1][AT]
    rows = rows_of(batch, "image")
    marks = torch.zeros(before[AT].shape[:2], dtype=torch.bool)
    for sample, own in enumerate(rows):
        marks[sample, own] = True
    put = torch.randn(before[AT].shape, generator=torch.Generator().manual_seed(1))
    unit, head = Neuron(1, 3), Head(1, 1)
    neuron, heads = before[unit.hook].clone(), before[head.hook].clone()
    neuron[..., 3], heads[:, :, 1] = 0.25, 0
    for what, at, there in (
        (Scale(AT, -1.5, positions="image"), AT, -1.5 * before[AT]),
        (Clamp(AT, low=-0.1, positions="image"), AT, before[AT].clamp(min=-0.1)),
        (Noise(AT, sigma=0.5, seed=2, positions="image"), AT, noisy),
        (Replace(AT, put, positions="image"), AT, put),
        (Ablate([unit], 0.25, positions="image"), unit.hook, neuron),
        (Ablate([head], positions="image"), head.hook, heads),
    ):
        with model.intervene(what):
            found = model.run_with_cache(batch, names=at)[1][at]
        meant = marks.reshape(*marks.shape, *[1] * (found.ndim - 2))
        assert torch.equal(found, torch.where(meant, there, before[at])), what
        assert not torch.equal(found, before[at])


@pytest.mark.parametrize("use_cache", [True, False])
@torch.no_grad()
def test_steps_of_a_generation_hold_no_position_of_the_prompt(kind: Subject, use_cache: bool) -> None:
    """A generation is a forward over its tokens in which the prompt's rows are changed and the new ones are not."""
    model, batch = kind.model, kind.batches["left"]
    vector = direction_of(model)
    other = model.run_with_cache(batch, names=AT)[1][AT] + vector
    for rule in ("last", "slice", "image", "listed"):
        rows = rows_of(batch, rule)
        given = rule_of(rule, batch)
        # what is put there are the states of the prompt with the vector on them, so that both mean the same
        what = (Add(AT, vector, positions=given), Replace(AT, other, positions=given))[rule in ("image", "listed")]
        with model.intervene(what):
            trace = model.trace_generation(batch, names="hook_logits", max_new_tokens=3, use_cache=use_cache)
        steps = trace.tokens.shape[1]
        whole = model.extend(batch, trace.tokens[:, :-1])
        hooks = [(AT, slowly(rows, lambda x: x + vector))]
        expected = model.run_with_hooks(whole, fwd_hooks=hooks)[:, -steps:]
        torch.testing.assert_close(trace.logits, expected, atol=2e-4, rtol=1e-4)
        assert (expected - model(whole)[:, -steps:]).abs().max() > 1e-2


@torch.no_grad()
def test_one_intervention_serves_batches_of_any_length(llava: Subject) -> None:
    model = llava.model
    vector = direction_of(model)
    short = model.prepare("the image", images=picture(3))
    text = model.prepare("describe the circle")
    add = Add(AT, vector, positions="last")
    with model.intervene(add):
        for batch in (*llava.batches.values(), short, text, llava.batches["left"]):
            found = model(batch)
            raw = model(**dict(batch))
            _, cache = model.run_with_cache(dict(batch), names=AT, positions="last")
            assert torch.equal(found, raw)
            plain = llava.bare(**batch, output_hidden_states=True).hidden_states[2]
            ends = [rows[-1] for rows in rows_of(batch, "last")]
            for sample, end in enumerate(ends):
                torch.testing.assert_close(cache[AT][sample, 0], plain[sample, end] + vector, atol=1e-5, rtol=1e-5)


@torch.no_grad()
def test_an_overridden_tensor_moves_the_positions(llava: Subject) -> None:
    """A batch with another mask is another batch: its last position is elsewhere."""
    model, batch = llava.model, llava.model.prepare("describe the image", images=picture())
    mask = batch["attention_mask"].clone()
    mask[0, -1] = 0
    with model.intervene(Add(AT, direction_of(model), positions="last")):
        _, cache = model.run_with_cache(batch, names=AT, attention_mask=mask)
    _, plain = model.run_with_cache(batch, names=AT, attention_mask=mask)
    changed = (cache[AT] != plain[AT]).any(-1)[0].nonzero().flatten().tolist()
    assert changed == [mask.shape[1] - 2]


@torch.no_grad()
def test_towers_and_projectors(llava: Subject, qwen: Subject, blip: Subject) -> None:
    """Rows of their own sequences: a class row counts, packed pictures lie in one, queries are as many as there are."""
    cases: list[tuple[Subject, str, str, Any, Any]] = [
        (llava, "left", "vision.blocks.0.hook_resid_post", "image", [list(range(1, 17))] * 2),
        (llava, "left", "vision.blocks.0.hook_resid_post", slice(-3, None), [[14, 15, 16]] * 2),
        (llava, "left", "projector.hook_out", torch.tensor([[0, 2], [5, 6]]), [[0, 2], [5, 6]]),
        (llava, "several", "projector.hook_out", torch.tensor([[0, 20], [5, 6]]), [[0], [4], [5, 6]]),
        (llava, "several", "projector.hook_out", positions.image[1] - positions.row(1), [[], [0, *range(2, 16)], []]),
        (llava, "several", "vision.hook_embed", [0, -1], [[0], [16], [0, 16]]),
        (llava, "several", "vision.hook_embed", positions.row(0, -1), [[0, 16]] * 3),
        (qwen, "left", "vision.blocks.0.hook_resid_post", [2, -1], [2, 15, 18, -1]),
        (qwen, "left", "projector.hook_out", slice(0, 5), range(9)),
        (blip, "left", "projector.hook_out", [-1], [[3]] * 2),
        (blip, "left", "projector.blocks.0.hook_mlp_out", "image", [[0, 1, 2, 3]] * 2),
    ]
    for subject, kind_of_batch, at, where, expected in cases:
        model, batch = subject.model, subject.batches[kind_of_batch]
        vector = direction_of(model, at)
        plain = model.run_with_cache(batch, names=at)[1][at]
        wanted = plain.clone()
        if plain.ndim == 2:
            wanted[expected] += vector
        else:
            for entry, own in enumerate(expected):
                wanted[entry, own] += vector
        with model.intervene(Add(at, vector, positions=where)):
            assert torch.equal(model.run_with_cache(batch, names=at)[1][at], wanted), (at, where)
            logits = model(batch)
        assert (logits - model(batch)).abs().max() > 1e-4
    # how many queries there are is known once they run
    with (
        pytest.raises(InputError, match=r"index\(4\) name \[4\], outside the 4 rows of projector.hook_out of sample 0"),
        blip.model.intervene(Scale("projector.hook_out", 2.0, positions=4)),
    ):
        blip.model(blip.batches["left"])


@torch.no_grad()
def test_an_encoder_and_a_decoder() -> None:
    model = florence2()
    batch = model.prepare(["describe the image", "what color is the circle"], images=[[picture()], [picture(1)]])
    inside = next(node.name for node in model.graph if node.sequence == "language" and node.kind == "resid_post")
    vector, written = direction_of(model, inside), "blocks.0.hook_resid_post"
    assert model.graph[written].sequence == "decoder"
    for rule in ("image", "text", "last", "slice"):
        rows = rows_of(batch, rule)
        assert all(rows)
        with model.intervene(Add(inside, vector, positions=rule_of(rule, batch))):
            found = model(batch)
            trace = model.trace_generation(batch, names="hook_logits", max_new_tokens=3)
        hooks = [(inside, slowly(rows, lambda x: x + vector))]
        assert torch.equal(found, model.run_with_hooks(batch, fwd_hooks=hooks))
        with model.hooks(hooks):  # the encoder reads once
            expected = model.trace_generation(batch, names="hook_logits", max_new_tokens=3)
        assert torch.equal(trace.logits, expected.logits)
        assert (found - model(batch)).abs().max() > 1e-3
    # a decoder starts from one position, which is its last: the new ones are left alone, whatever the cache
    for use_cache in (True, False):
        with model.intervene(Add(written, 10 * vector, positions="last")):
            once = model.trace_generation(batch, names=written, max_new_tokens=3, use_cache=use_cache).states[written]
        plain = model.trace_generation(batch, names=written, max_new_tokens=3, use_cache=use_cache).states[written]
        torch.testing.assert_close(once[:, 0], plain[:, 0] + 10 * vector)
        assert (once[:, 1:] - plain[:, 1:]).norm(dim=-1).max() < 5 * vector.norm()
    given = model.batch({**batch, "decoder_input_ids": torch.tensor([[2, 5, 6], [2, 7, 8]])})
    with model.intervene(Add(written, vector, positions=-2)):
        found = model.run_with_cache(given, names=written)[1][written]
    plain = model.run_with_cache(given, names=written)[1][written]
    assert torch.equal((found != plain).any(-1), torch.tensor([[False, True, False]] * 2))
    with (
        pytest.raises(
            InputError, match=r"positions.image names nothing in samples \[0, 1\] at blocks.0.hook_resid_post"
        ),
        model.intervene(Steer(SteeringVector(vector, written), positions="image")),
        never_entered(model),
    ):
        model(batch)


def test_sweeps_run_under_an_intervention(kind: Subject) -> None:
    model, clean = kind.model, kind.batches["left"]
    corrupted = model.batch({**clean, "pixel_values": clean["pixel_values"].flip(0)})
    words = ("red", "blue")
    ids = [model.to_single_token(word) for word in words]
    first = "blocks.0.hook_resid_post"
    vector = direction_of(model, first)
    rows = rows_of(clean, "image")
    add = Add(first, vector, positions="image")
    with torch.no_grad(), model.intervene(add):
        sweep = patch(
            model, clean, corrupted, at=AT, positions=["text"], metric=logit_difference(*words), progress=False
        )
    added = (first, slowly(rows, lambda x: x + vector))
    with torch.no_grad():
        with model.hooks([added]):
            states = model.run_with_cache(clean, names=AT)[1][AT]

        def copy(x: torch.Tensor, hook: Any) -> torch.Tensor:
            out = x.clone()
            for sample, own in enumerate(rows_of(clean, "text")):
                out[sample, own] = states[sample, own]
            return out

        with model.hooks([added, (AT, copy)]):
            logits = model(corrupted)
        with model.hooks([added]):
            base = model(corrupted)
    ends = torch.arange(2), clean.layout.last
    expected, before = (each[ends][:, ids[0]] - each[ends][:, ids[1]] for each in (logits, base))
    torch.testing.assert_close(sweep.values[0, 0], expected, rtol=0, atol=2e-4)
    torch.testing.assert_close(sweep.corrupted, before, rtol=0, atol=2e-4)
    assert (expected - before).abs().max() > 1e-3


@torch.no_grad()
def test_a_run_inside_another_and_the_same_object_twice(llava: Subject) -> None:
    """Each run has its own positions: what a hook runs in passing does not move those of the run around it."""
    model, outer = llava.model, llava.batches["left"]
    inner = model.prepare("the image", images=picture(2))
    vector = direction_of(model)
    steer = Steer(SteeringVector(vector, AT), positions=positions.last | positions.generated)
    for what in (Add(AT, vector, positions="last"), steer, KnockOut("last", "image", layers=[1])):
        with model.intervene(what):
            expected = [
                model.trace_generation(batch, names="hook_logits", max_new_tokens=3) for batch in (outer, inner)
            ]
            found = []

            def look(x: torch.Tensor, hook: Any, found: list[Any] = found) -> None:
                if not found:
                    found.append(None)
                    found[0] = model.trace_generation(inner, names="hook_logits", max_new_tokens=3)

            for name in ("blocks.0.hook_resid_pre", "ln_final.hook_out"):
                found.clear()
                with model.hooks([(name, look)]):
                    around = model.trace_generation(outer, names="hook_logits", max_new_tokens=3)
                assert torch.equal(around.logits, expected[0].logits)
                assert torch.equal(found[0].logits, expected[1].logits)
    assert model.current_run is None
    twice, once = (
        Steer(steer.vector, 1.0, positions=positions.last | positions.generated),
        Steer(steer.vector, 2.0, positions=positions.last | positions.generated),
    )
    add = Add(AT, vector, positions="last")
    for several, single in (((twice, twice), once), ((add, add), Add(AT, vector, alpha=2.0, positions="last"))):
        with model.intervene(single):
            expected_logits = model.trace_generation(
                outer, names="hook_logits", max_new_tokens=3, use_cache=False
            ).logits
        with model.intervene(several[0]), model.intervene(several[1]):
            logits = model.trace_generation(outer, names="hook_logits", max_new_tokens=3, use_cache=False).logits
        torch.testing.assert_close(logits, expected_logits, atol=1e-4, rtol=1e-4)


@torch.no_grad()
def test_without_a_run_positions_mean_nothing(llava: Subject) -> None:
    model, batch = llava.model, llava.batches["left"]
    vector = direction_of(model)
    message = "are those of the batch that a hooked model runs, and here the Hugging Face model was called by itself"
    steer = Steer(SteeringVector(vector, AT))
    for what in (Add(AT, vector, positions=[1]), steer, KnockOut("last", "image")):
        with pytest.raises(InputError, match=message), model.intervene(what):
            model.hf_model(**batch)
    # attached as plain hooks, it finds the run; every row needs none
    hooks = Add(AT, vector, positions="image").hooks(model)
    with model.intervene(Add(AT, vector, positions="image")):
        expected = model(batch)
    assert torch.equal(model.run_with_hooks(batch, fwd_hooks=hooks), expected)
    with model.intervene(Add(AT, vector)):
        everywhere = model(batch)
        torch.testing.assert_close(model.hf_model(**batch).logits, everywhere)
    # a run that fails is over
    with pytest.raises(RuntimeError, match="stop"), model.hooks([(AT, _stop)]):
        model(batch)
    assert model.current_run is None


def _stop(activation: torch.Tensor, hook: Any) -> None:
    raise RuntimeError("stop")


@torch.no_grad()
def test_beams_hold_each_prompt_several_times(llava: Subject) -> None:
    model, batch = llava.model, llava.batches["left"]
    vector, beams = direction_of(model), 2
    rows = rows_of(batch, "image")
    rows = [own for own in rows for _ in range(beams)]
    options: dict[str, Any] = {"num_beams": beams, "max_new_tokens": 3, "min_new_tokens": 3}
    options |= {"output_scores": True, "return_dict_in_generate": True}

    def in_prompt(x: torch.Tensor, hook: Any) -> torch.Tensor | None:
        return slowly(rows, lambda state: state + vector)(x, hook) if x.shape[1] > 1 else None

    with model.hooks([(AT, in_prompt)]):
        expected = model.generate(batch, **options)
    with model.intervene(Add(AT, vector, positions="image")):
        found = model.generate(batch, **options)
    assert torch.equal(found.sequences, expected.sequences)
    torch.testing.assert_close(found.sequences_scores, expected.sequences_scores)
    plain = model.generate(batch, **options)
    assert not torch.allclose(plain.sequences_scores, expected.sequences_scores)


@pytest.mark.parametrize("use_cache", [True, False])
@torch.no_grad()
def test_logits_of_the_prompts_end_decide_the_first_token(kind: Subject, use_cache: bool) -> None:
    """A generation works out the logits that it needs, and these are positions of the prompt as well."""
    model, batch = kind.model, kind.batches["left"]
    token = model.to_single_token("red")
    push = torch.zeros(model.graph["hook_logits"].width or 0)
    push[token] = 1e4
    options: dict[str, Any] = {"names": "hook_logits", "max_new_tokens": 3, "use_cache": use_cache}
    with model.intervene(Add("hook_logits", push, positions="last")):
        trace = model.trace_generation(batch, **options)
    assert (trace.tokens[:, 0] == token).all()
    assert trace.logits[:, 0, token].min() > 5e3
    assert trace.logits[:, 1:, token].max() < 5e3
    # its first logits are not worked out at all
    plain = model.trace_generation(batch, **options)
    with model.intervene(Add("hook_logits", push, positions=0)):
        assert torch.equal(model.trace_generation(batch, **options).logits, plain.logits)
        first = batch["attention_mask"].argmax(1)  # of each sample's own tokens
        assert model(batch)[torch.arange(2), first, token].min() > 5e3


@torch.no_grad()
def test_rules_that_name_nothing_are_refused_before_the_run(llava: Subject) -> None:
    model, batch = llava.model, llava.batches["left"]
    vector = SteeringVector(direction_of(model), AT)
    text = model.prepare("describe the circle")
    mixed = model.prepare(["describe the image", "the circle"], images=[[picture()], []])
    nothing = r"positions.image names nothing in samples \[0\] at blocks.1"
    with pytest.raises(InputError, match="must go forward"):
        Steer(vector, positions=slice(9, 3, -2))
    cases: list[tuple[Any, MultimodalBatch, dict[str, Any], str]] = [
        (Add(AT, vector.direction, positions="image"), text, {}, nothing),
        (Steer(vector, positions="image"), text, {}, nothing),
        (
            Steer(vector, positions=slice(40, None)),
            batch,
            {},
            r"positions.index\(40:\) names nothing in samples \[0, 1\] at .* New tokens are read in model.generate",
        ),
        (Steer(vector, positions=slice(40, 50)), batch, {"max_new_tokens": 5}, "names nothing"),
        (
            Steer(vector, positions="generated"),
            batch,
            {"max_new_tokens": 1},
            "the first is predicted by positions.last",
        ),
        (KnockOut("last", "image"), text, {}, "positions.image names nothing"),
        (Add(AT, vector.direction, positions=[20]), batch, {}, r"name \[20\], outside the 19 tokens of sample 0"),
        (
            Add(AT, vector.direction, positions="moon"),
            batch,
            {},
            r"'moon' does not stand in the text of samples \[0, 1\]",
        ),
        (
            Add(AT, vector.direction, positions=positions.box((0, 0, 4, 4))),
            mixed,
            {},
            r"names a part of picture 0, which samples \[1\] do not have",
        ),
    ]
    for what, runs, options, message in cases:
        with pytest.raises(InputError, match=message), model.intervene(what), never_entered(model):
            (model.generate if options else model)(runs, **options)
    # of each sample's own: 19 and 23 tokens, so that the new ones are numbers 19, 20, ... and 23, 24, ...
    counts = batch["attention_mask"].sum(1).tolist()
    steer = Steer(vector, positions=slice(max(counts), max(counts) + 2))
    with model.intervene(steer):
        model.generate(batch, max_new_tokens=9, min_new_tokens=9)
    assert (steer.touched.tokens, steer.touched.steps) == (4, 4)
    # a sample without what is meant is left alone
    with model.intervene(Add(AT, vector.direction, positions="image")):
        found = model(mixed)
    plain = model(mixed)
    assert torch.equal(found[1], plain[1])
    assert (found[0] - plain[0]).abs().max() > 1e-2


@torch.no_grad()
def test_a_run_that_goes_on_from_another_is_refused(llava: Subject) -> None:
    model, batch = llava.model, llava.batches["left"]
    known = model.generate(batch, max_new_tokens=2, return_dict_in_generate=True).past_key_values
    for what in (Scale(AT, 2.0, positions="image"), KnockOut("last", "image")):
        with (
            pytest.raises(InputError, match="goes on from past_key_values of an earlier one"),
            model.intervene(what),
            never_entered(model),
        ):
            model.generate(batch, past_key_values=known, max_new_tokens=2)


@torch.no_grad()
def test_a_prompt_may_be_read_in_pieces(llava: Subject) -> None:
    model = llava.model
    batch = model.prepare(["describe the image", "what color is the big red circle"])
    options: dict[str, Any] = {"max_new_tokens": 3, "min_new_tokens": 3, "output_logits": True}
    options["return_dict_in_generate"] = True
    plain = torch.stack(model.generate(batch, **options).logits)
    steer = Steer(SteeringVector(direction_of(model), AT), positions="prompt")
    for what in (Add(AT, direction_of(model), positions=[1, -2]), KnockOut("last", [-3]), steer):
        with model.intervene(what):
            whole, pieces = (
                torch.stack(model.generate(batch, **options, **more).logits) for more in ({}, {"prefill_chunk_size": 3})
            )
        torch.testing.assert_close(pieces, whole, atol=1e-5, rtol=1e-5)
        assert (whole - plain).abs().max() > 1e-3


@torch.no_grad()
@pytest.mark.parametrize(
    "intervention",
    [Scale("vision.blocks.0.hook_resid_post", 2.0), Ablate("vision.L0.u3"), Scale("projector.hook_out", 2.0)],
    ids=["scale", "ablate", "projector"],
)
def test_without_a_picture_what_acts_on_the_tower_alone_is_refused(intervention: Any) -> None:
    model = TINY[0].make()
    text, shown = model.prepare("what is this"), model.prepare("what is this", images=picture(0))
    with model.intervene(intervention):
        with pytest.raises(InputError, match=r"does not run: the batch holds no picture"):
            model(text)
        with pytest.raises(InputError, match=r"does not run: the batch holds no picture"):
            model.generate(text, max_new_tokens=2)
        assert not torch.equal(model(shown), bare_copy(model)(**shown).logits)
    # of a pattern, what runs is meant
    with model.intervene(Scale("**.hook_resid_post", 2.0)) as touched:
        model(text)
    assert touched is not None
