"""Vectors of each sample, of each row, and predicted ones: where they act, what they are, and what a predictor can learn."""

from pathlib import Path
from typing import Any

import pytest
import torch

import mmlens as mm
from mmlens.core.errors import InputError
from mmlens.models.hooked import HookedMultimodal
from tests.conftest import LONG, SHORT, Subject
from tests.tiny import picture

AT = "blocks.1.hook_resid_post"


def table_of(model: HookedMultimodal, at: str = AT, entries: int = 2, by: Any = "sample") -> mm.steering.SteeringTable:
    drawn = torch.randn(entries, model.graph[at].width or 0, generator=torch.Generator().manual_seed(5))
    return mm.steering.SteeringTable(drawn, at, by)


def test_each_sample_gets_its_own_vector(subject: Subject) -> None:
    """As if each ran alone with its vector; beams of a generation too."""
    model, batch = subject.model, subject.batches["left"]
    table = table_of(model)
    steer = mm.Steer(table, 0.5, positions="prompt")
    with model.intervene(steer):
        found = model(batch)
        beams = model.generate(batch, num_beams=2, max_new_tokens=2, do_sample=False)
    added = 0.5 * table.vectors[:, None] * batch.layout.is_token[..., None]
    expected = model.run_with_hooks(batch, fwd_hooks=[(AT, lambda x, hook: x + added)])
    real = batch.layout.is_token
    torch.testing.assert_close(found[real], expected[real], atol=1e-5, rtol=1e-5)
    assert (found - model(batch))[real].abs().max() > 1e-2
    for sample, vector in enumerate(table.vectors):
        alone = model.prepare([(SHORT, LONG)[sample]], images=[[batch.images[sample][0]]])
        with model.intervene(mm.Steer(mm.steering.SteeringVector(vector, AT), 0.5, positions="prompt")):
            torch.testing.assert_close(model(alone)[0, -1], found[sample, -1], atol=1e-4, rtol=1e-4)
            tokens = model.generate(alone, num_beams=2, max_new_tokens=2, do_sample=False)
        ends = beams[sample][-1], tokens[0][-1]
        assert int(ends[0]) == int(ends[1]) or model.tokenizer.pad_token_id in map(int, ends)


@pytest.mark.parametrize("name", ["llava", "qwen"])
def test_each_row_of_a_tower_gets_its_own_vector(name: str, request: pytest.FixtureRequest) -> None:
    """In towers with a batch axis, and in packed ones; pictures of another size are refused."""
    model = request.getfixturevalue(name).model
    at = "vision.blocks.1.hook_resid_post"
    batch = model.prepare([SHORT, LONG], images=[[picture(0)], [picture(1)]])
    _, cache = model.run_with_cache(batch, names=at)
    rows = cache[at].shape[-2] // (1 if cache[at].ndim == 3 else 2)
    table = table_of(model, at, rows, "row")
    added = table.vectors if cache[at].ndim == 3 else table.vectors.repeat(2, 1)
    with model.intervene(mm.Steer(table)):
        found = model(batch)
    expected = model.run_with_hooks(batch, fwd_hooks=[(at, lambda x, hook: x + added)])
    torch.testing.assert_close(found, expected)
    assert (found - model(batch)).abs().max() > 1e-3
    with model.intervene(mm.Steer(table_of(model, at, rows - 1, "row"))), pytest.raises(InputError, match="rows at"):
        model(batch)


def test_a_vector_per_sample_acts_in_towers_too(subject: Subject) -> None:
    model, batch, at = subject.model, subject.batches["left"], "vision.blocks.0.hook_resid_post"
    table = table_of(model, at)
    only_first = mm.steering.SteeringTable(table.vectors * torch.tensor([[1.0], [0.0]]), at)
    with model.intervene(mm.Steer(only_first)):
        steered = model(batch)
    plain = model(batch)
    assert (steered[0, -1] - plain[0, -1]).abs().max() > 1e-3
    torch.testing.assert_close(steered[1, -1], plain[1, -1])


def test_what_does_not_fit_is_refused_before_a_run(llava: Subject) -> None:
    model, batch = llava.model, llava.batches["left"]
    with (
        model.intervene(mm.Steer(table_of(model, entries=3))),
        pytest.raises(InputError, match=r"3 samples.*batch has 2"),
    ):
        model(batch)
    with pytest.raises(InputError, match="holds tokens"), model.intervene(mm.Steer(table_of(model, by="row"))):
        pass
    keyed = mm.steering.SteeringTable(torch.eye(4), AT, keys=("a", "b", "c", "d"))
    with pytest.raises(InputError, match="no vector for 1 of the samples"):
        keyed.of(["a", "e"])
    with pytest.raises(InputError, match="not all zero"):
        mm.steering.SteeringTable(torch.zeros(2, 4), AT)


@pytest.mark.parametrize("scale", ["relative", "adaptive"])
def test_relative_strength_by_hand(subject: Subject, scale: Any) -> None:
    """|x| unit(unit x + a unit v), with a raised where the state points away; alpha 0 is bit-equal."""
    model, batch = subject.model, subject.batches["left"]
    vector = mm.steering.SteeringVector(7.0 * table_of(model).vectors[0], AT)
    _, cache = model.run_with_cache(batch, names=AT)
    x, v = cache[AT].double(), (vector.direction / vector.norm).double()
    unit = x / x.norm(dim=-1, keepdim=True)
    strength = 0.3 * (1 + (-(unit @ v)).clamp(min=0))[..., None] if scale == "adaptive" else 0.3
    moved = unit + strength * v
    expected = x.norm(dim=-1, keepdim=True) * moved / moved.norm(dim=-1, keepdim=True)
    with model.intervene(mm.Steer(vector, 0.3, scale=scale)):
        _, after = model.run_with_cache(batch, names=AT)
    real = batch.layout.is_token
    torch.testing.assert_close(after[AT][real].double(), expected[real], atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(after[AT].norm(dim=-1)[real], cache[AT].norm(dim=-1)[real])
    with model.intervene(mm.Steer(mm.steering.SteeringTable(vector.direction.repeat(2, 1), AT), 0.3, scale=scale)):
        _, by_table = model.run_with_cache(batch, names=AT)
    torch.testing.assert_close(by_table[AT], after[AT])
    with model.intervene(mm.Steer(vector, 0.0, scale=scale)):
        assert torch.equal(model(batch), model(batch))
        assert torch.equal(model.run_with_cache(batch, names=AT)[1][AT][real], cache[AT][real])


def test_contrastive_vectors_are_those_of_each_sample_alone(subject: Subject) -> None:
    model = subject.model
    samples = [mm.Sample((picture(0),), SHORT), mm.Sample((picture(1),), LONG)]
    positive, negative = ["red circle", "blue"], ["red", "big red circle"]
    found = mm.steering.contrastive_vectors(
        model, samples, positive=positive, negative=lambda sample: negative[sample.prompt == LONG], at=AT, progress=False
    )[AT]  # fmt: skip
    for number, sample in enumerate(samples):
        batch, ends = model.prepare([sample.prompt], images=[list(sample.pictures)]), []
        for text in (positive[number], negative[number]):
            ids = torch.tensor([model.tokenizer.encode(text, add_special_tokens=False)])
            _, cache = model.run_with_cache(model.extend(batch, ids), names=AT)
            ends.append(cache[AT][0, -ids.shape[1] :].mean(0))
        torch.testing.assert_close(found.vectors[number], ends[0] - ends[1], atol=1e-4, rtol=1e-4)
    assert found.keys == tuple(sample.key for sample in samples)
    torch.testing.assert_close(found.of(found.keys[::-1]).vectors, found.vectors.flip(0))
    with pytest.raises(InputError, match="are both 'red'"):
        mm.steering.contrastive_vectors(model, samples, positive="red", negative="red", at=AT, progress=False)
    with pytest.raises(InputError, match="one text per sample"):
        mm.steering.contrastive_vectors(model, samples, positive=["red"], negative="blue", at=AT, progress=False)


def test_visual_vectors_are_what_the_picture_brings(llava: Subject) -> None:
    model = llava.model
    samples = [mm.Sample((picture(0),), SHORT), mm.Sample((picture(1),), LONG)]
    found = mm.steering.visual_vectors(model, samples, at=AT, progress=False)[AT]
    for number, sample in enumerate(samples):
        shown = model.prepare([sample.prompt], images=[list(sample.pictures)])
        ids = shown["input_ids"][:, ~shown.layout.is_image[0]]
        blind = model.batch({"input_ids": ids, "attention_mask": torch.ones_like(ids)})
        ends = [model.run_with_cache(b, names=AT)[1][AT][0, -1] for b in (shown, blind)]
        torch.testing.assert_close(found.vectors[number], ends[0] - ends[1], atol=1e-4, rtol=1e-4)


def planted(seed: int = 0) -> tuple[mm.store.States, mm.steering.SteeringTable]:
    """Vectors that a map of rank 3 makes of the states, in opposite groups, so that their mean is next to nothing."""
    generator = torch.Generator().manual_seed(seed)
    states = torch.randn(400, 24, generator=generator)
    rank3 = torch.randn(24, 3, generator=generator) @ torch.randn(3, 16, generator=generator) / 24**0.5
    states = torch.cat([states, -states])
    return mm.store.States(states, "blocks.0.hook_resid_post"), mm.steering.SteeringTable(states @ rank3, AT)


def test_a_predictor_learns_a_planted_map_and_no_shuffled_one() -> None:
    states, table = planted()
    train, test = slice(50, 750), [*range(50), *range(750, 800)]
    part = mm.steering.SteeringTable(table.vectors[train], AT)
    predictor = mm.steering.learn_predictor(states[train], part, hidden=64, seed=1)
    cosine = torch.cosine_similarity(predictor.predict(states.values[test]), table.vectors[test]).mean()
    assert cosine > 0.95
    mean = part.mean.direction.expand(len(test), -1)  # what one vector for all can do
    assert torch.cosine_similarity(mean, table.vectors[test]).mean() < 0.2
    shuffled = part.vectors[torch.randperm(700, generator=torch.Generator().manual_seed(2))]
    wrong = mm.steering.learn_predictor(states[train], mm.steering.SteeringTable(shuffled, AT), hidden=64, seed=1)
    assert torch.cosine_similarity(wrong.predict(states.values[test]), table.vectors[test]).mean() < 0.2
    assert wrong.provenance["cosine"] < 0.3


def test_a_training_that_was_killed_goes_on_to_the_bit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    states, table = planted()
    options: dict[str, Any] = {"hidden": 16, "epochs": 6, "seed": 3, "batch_size": 50}
    whole = mm.steering.learn_predictor(states, table, **options)
    monkeypatch.setattr("mmlens.core.checkpoint._SECONDS", -1.0)
    steps: list[int] = []
    plain = torch.optim.Adam.step

    def killed(self: Any, *args: Any) -> Any:
        steps.append(1)
        if len(steps) == 50:  # in the fourth epoch of fifteen steps each
            raise KeyboardInterrupt
        return plain(self, *args)

    monkeypatch.setattr(torch.optim.Adam, "step", killed)
    with pytest.raises(KeyboardInterrupt):
        mm.steering.learn_predictor(states, table, **options, checkpoint=tmp_path / "l2s")
    steps.clear()
    steps += [1] * 60
    again = mm.steering.learn_predictor(states, table, **options, checkpoint=tmp_path / "l2s")
    assert len(steps) - 60 < 6 * 15  # the first epochs were there
    for name in ("w_in", "bias", "w_out"):
        assert torch.equal(getattr(again, name), getattr(whole, name))
    assert again.provenance == whole.provenance
    done = len(steps)
    mm.steering.learn_predictor(states, table, **options, checkpoint=tmp_path / "l2s")
    assert len(steps) == done
    with pytest.raises(InputError, match="another training of a predictor: it differs in settings"):
        mm.steering.learn_predictor(states, table, **{**options, "hidden": 17}, checkpoint=tmp_path / "l2s")
    turned = mm.steering.SteeringTable(-table.vectors, AT)
    with pytest.raises(InputError, match="it differs in vectors"):
        mm.steering.learn_predictor(states, turned, **options, checkpoint=tmp_path / "l2s")


def test_states_that_are_not_finite_are_refused() -> None:
    states, table = planted()
    values = states.values.clone()
    values[3, 1] = torch.inf
    with pytest.raises(InputError, match="not finite"):
        mm.steering.learn_predictor(mm.store.States(values, states.at), table)


def test_an_entry_that_hardly_varied_in_training_does_not_drown_the_others() -> None:
    states, table = planted()
    values = torch.cat([states.values, torch.full((len(states), 1), 0.3)], 1)
    predictor = mm.steering.learn_predictor(mm.store.States(values, states.at), table, hidden=16, epochs=5)
    moved = values.clone()
    moved[:, -1] += 0.01
    before, after = predictor.predict(values), predictor.predict(moved)
    assert (after - before).norm() < 0.05 * before.norm()


def test_the_context_is_the_prompts_last_token_and_no_answer_leaks_into_it(subject: Subject) -> None:
    """Whatever answer is known or forced: of the training states, and of what acts in a run."""
    model, point = subject.model, "blocks.1.hook_resid_post"
    asked = [mm.Sample((picture(0),), SHORT, answer=answer) for answer in ("yes", "no")]
    states = mm.collect(model, asked[:1], at=point, positions="last", dtype="float32", progress=False).at(point)
    other = mm.collect(model, asked[1:], at=point, positions="last", dtype="float32", progress=False).at(point)
    batch = model.prepare([SHORT], images=[[picture(0)]])
    _, cache = model.run_with_cache(batch, names=point)
    for found in (states, other):
        torch.testing.assert_close(found.values[0], cache[point][0, -1], atol=1e-5, rtol=1e-5)
    width = model.cfg.d_model
    seen: list[torch.Tensor] = []

    class Listening(mm.steering.LearnedPredictor):
        def predict(self, states: torch.Tensor) -> torch.Tensor:
            seen.append(states.clone())
            return super().predict(states)

    drawn = [torch.randn(size, generator=torch.Generator().manual_seed(1)) for size in ((4, width), (4,), (width, 4))]
    for read_at in (point, "blocks.2.hook_resid_post"):
        seen.clear()
        with model.intervene(mm.Steer(Listening(*drawn, "blocks.1.hook_resid_post", read_at), 0.0)):
            model.generate(batch, max_new_tokens=3, eos_token_id=None)
            forced = model.extend(batch, torch.tensor([[12, 13]]), as_new=True)
            model(forced)
        _, cache = model.run_with_cache(batch, names=read_at)
        assert len(seen) == 2
        for state in seen:
            torch.testing.assert_close(state[0], cache[read_at][0, -1], atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("read_at", ["blocks.0.hook_resid_post", AT, "blocks.2.hook_resid_post"])
def test_a_predictor_acts_as_the_vectors_that_it_predicts(subject: Subject, read_at: str, tmp_path: Path) -> None:
    """Read in the same pass, or in one before it where the state lies behind what is steered; written tokens keep the vector."""
    model, batch = subject.model, subject.batches["left"]
    width, generator = model.cfg.d_model, torch.Generator().manual_seed(0)
    drawn = [torch.randn(size, generator=generator) for size in ((6, width), (6,), (width, 6))]
    mm.steering.LearnedPredictor(*drawn, AT, read_at).save(tmp_path / "predictor")
    predictor = mm.steering.LearnedPredictor.load(tmp_path / "predictor")
    _, cache = model.run_with_cache(batch, names=read_at, positions="last")
    table = mm.steering.SteeringTable(predictor.predict(cache[read_at][:, 0]), AT)
    table.save(tmp_path / "table")
    table = mm.steering.SteeringTable.load(tmp_path / "table")
    traces = []
    for vector in (predictor, table):
        with model.intervene(mm.Steer(vector, 0.5)):
            traces.append(model.trace_generation(batch, names="hook_logits", max_new_tokens=3).logits)
    torch.testing.assert_close(traces[0], traces[1], atol=1e-4, rtol=1e-4)
    plain = model.trace_generation(batch, names="hook_logits", max_new_tokens=3).logits
    assert (traces[0][:, 0] - plain[:, 0]).abs().max() > 1e-2


def test_joint_vectors_are_one_direction_through_the_layers() -> None:
    generator = torch.Generator().manual_seed(0)
    truth = torch.randn(12, generator=generator)
    differences = torch.randn(40, 12, generator=generator) * 0.1 + truth
    tables = {
        name: mm.steering.SteeringTable(part, name)
        for name, part in zip(("a", "b"), differences.split([8, 4], 1), strict=True)
    }
    mean, component = (mm.steering.joint_vectors(tables, method=method) for method in ("mean", "pca_center"))
    torch.testing.assert_close(torch.cat([v.direction for v in mean]), differences.mean(0))
    found = torch.cat([v.direction for v in component])
    assert torch.cosine_similarity(found, truth, dim=0) > 0.99
    torch.testing.assert_close(found.norm(), torch.tensor(1.0))
    with pytest.raises(InputError, match="same samples"):
        mm.steering.joint_vectors({"a": tables["a"], "b": mm.steering.SteeringTable(torch.eye(3), "b")})


@pytest.mark.parametrize("name", ["llava", "qwen"])
def test_blank_patches_by_hand(name: str, request: pytest.FixtureRequest) -> None:
    """All patches blank: the state of the plain picture minus that of the picture, row by row."""
    model = request.getfixturevalue(name).model
    at, image = "vision.blocks.1.hook_resid_post", picture(0)
    found = mm.steering.blank_patch_vectors(
        model, [mm.Sample((image,), SHORT)], at=at, blank=1.0, draws=2, progress=False
    )
    plain = image.float().mean((0, 1)).round().to(torch.uint8).expand(32, 32, 3)
    states = [
        model.run_with_cache(model.prepare([SHORT], images=[[p]]), names=at)[1][at].flatten(0, -2)
        for p in (plain, image)
    ]
    torch.testing.assert_close(found[at].vectors, states[0] - states[1], atol=2e-2, rtol=2e-2)
    assert found[at].by == "row"
    with pytest.raises(InputError, match="holds tokens"):
        mm.steering.blank_patch_vectors(model, [mm.Sample((image,), SHORT)], at=AT, progress=False)


def test_a_model_that_reads_no_text_alone_says_what_it_needs(blip: Subject) -> None:
    model, ids = blip.model, torch.tensor([[9, 10, 11]])
    for run in (model, model.run_with_cache, model.generate):
        with pytest.raises(InputError, match=r"needs pixel_values.*model.prepare\(text, images=picture\)"):
            run({"input_ids": ids})
    sample = mm.Sample(images=(picture(0),), prompt="what color is the circle")
    with pytest.raises(InputError, match="needs pixel_values"):
        mm.steering.visual_vectors(model, [sample], at=AT, progress=False)
