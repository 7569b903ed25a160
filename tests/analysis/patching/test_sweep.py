"""Patching: against a plain loop, and against a model whose patch and head are known."""

from pathlib import Path
from typing import Any

import pytest
import torch

from mmlens.analysis.metrics import kl_divergence, log_probability, logit_difference
from mmlens.analysis.patching.sweep import patch
from mmlens.core.errors import InputError
from mmlens.core.positions import grid
from mmlens.core.unit_sets import Units
from mmlens.core.units import Head, Neuron
from mmlens.execution import CleanRun
from mmlens.interventions.corruptions import swap
from tests.analysis.conftest import Wrapped
from tests.analysis.patching.plain import answers, copying, rows_named
from tests.conftest import Subject
from tests.tiny import picture

METRIC = logit_difference("red", "blue")


#: One point of each kind; those of the language model with the word `last` or `image`, the others with `image`.
POINTS = [
    ("hook_embed", "image"),
    ("blocks.0.hook_resid_pre", "image"),
    ("blocks.1.hook_resid_mid", "image"),
    ("blocks.1.hook_resid_post", "last"),
    ("blocks.1.hook_attn_out", "last"),
    ("blocks.2.hook_mlp_out", "last"),
    ("blocks.1.mlp.hook_post", "last"),
    ("blocks.2.attn.hook_q", "last"),
    ("blocks.1.attn.hook_k", "image"),
    ("blocks.1.attn.hook_v", "image"),
    ("blocks.1.attn.hook_attn_scores", "last"),
    ("blocks.1.attn.hook_pattern", "image"),
    ("blocks.0.attn.hook_z", "image"),
    ("projector.hook_out", "image"),
    ("vision.blocks.0.hook_resid_post", "image"),
    ("vision.blocks.0.attn.hook_z", "image"),
    ("vision.blocks.1.mlp.hook_post", "image"),
]


def pair(subject: Subject, side: str = "left") -> tuple[Any, Any]:
    clean = subject.batches[side]
    return clean, swap(subject.model, clean, [[picture(8, p[0].height, p[0].width)] for p in clean.images])


def difference(model: Any, logits: torch.Tensor) -> torch.Tensor:
    return logits[:, model.to_single_token("red")] - logits[:, model.to_single_token("blue")]


@pytest.mark.parametrize("side", ["left", "right"])
def test_every_kind_of_point_equals_the_plain_loop(subject: Subject, side: str) -> None:
    model = subject.model
    clean, corrupted = pair(subject, side)
    _, cache = model.run_with_cache(clean, names="*")
    before = difference(model, answers(model, corrupted))
    largest, shifted = 0.0, 0.0
    for name, word in POINTS if side == "left" else POINTS[:6]:
        sweep = patch(model, clean, corrupted, at=name, positions=[word], metric=METRIC, progress=False)
        rows = rows_named(clean, model, name, word)
        hook = copying(model, name, cache[name], rows)
        expected = difference(model, answers(model, corrupted, [hook]))
        torch.testing.assert_close(sweep.values[0, 0], expected, rtol=0, atol=1e-5, msg=lambda m, n=name: f"{n}: {m}")
        torch.testing.assert_close(sweep.corrupted, before, rtol=0, atol=1e-5)
        largest = max(largest, float((expected - before).abs().max()))
        if word == "image" and name.startswith("blocks.0"):
            wrong = copying(model, name, cache[name], [each - 1 for each in rows])
            off = difference(model, answers(model, corrupted, [wrong]))
            shifted = max(shifted, float((off - sweep.values[0, 0]).abs().max()))
    assert largest > 0.01, f"the comparison could not fail: no patch moved the metric by more than {largest}"
    assert shifted > 1e-4, "a shifted row should have been caught"


UNITS = [
    ("blocks.1.attn.hook_z", "last", "head", 4),
    ("blocks.1.attn.hook_q", "last", "head", 4),
    ("blocks.1.attn.hook_k", "image", "head", 2),
    ("blocks.2.attn.hook_pattern", "last", "head", 4),
    ("vision.blocks.0.attn.hook_z", "image", "head", 2),
]


def test_every_head_equals_the_plain_loop(subject: Subject) -> None:
    """Grouped heads: `hook_k` has two where `hook_q` has four."""
    model = subject.model
    clean, corrupted = pair(subject)
    for name, word, units, count in UNITS:
        sweep = patch(model, clean, corrupted, at=name, units=units, positions=[word], metric=METRIC, progress=False)  # type: ignore[arg-type]
        assert sweep.points == [f"{name}[h{head}]" for head in range(count)]
        _, cache = model.run_with_cache(clean, names=name)
        for head in range(count):
            hook = copying(model, name, cache[name], rows_named(clean, model, name, word), head)
            expected = difference(model, answers(model, corrupted, [hook]))
            torch.testing.assert_close(sweep.values[head, 0], expected, rtol=0, atol=1e-5)


def test_listed_units_lie_at_their_own_points(subject: Subject) -> None:
    model = subject.model
    clean, corrupted = pair(subject)
    units = [Neuron(1, 5), Head(0, 3), Neuron(0, 2, "vision")]
    sweep = patch(model, clean, corrupted, units=units, positions={"all": "all"}, metric=METRIC, progress=False)
    names = ["vision.blocks.0.mlp.hook_post[u2]", "blocks.0.attn.hook_z[h3]", "blocks.1.mlp.hook_post[u5]"]
    assert sweep.points == names
    for i, name in enumerate(names):
        point, unit = name.rstrip("]").split("[")
        _, cache = model.run_with_cache(clean, names=point)
        everything = [torch.arange(cache[point].shape[model.graph[point].position_axis])] * 2
        hook = copying(model, point, cache[point], everything, int(unit[1:]))
        torch.testing.assert_close(
            sweep.values[i, 0], difference(model, answers(model, corrupted, [hook])), rtol=0, atol=1e-5
        )


def test_a_window_patches_neighbouring_layers_together(llava: Subject) -> None:
    model = llava.model
    clean, corrupted = pair(llava)
    sweep = patch(
        *(model, clean, corrupted),
        at="blocks.*.hook_mlp_out",
        window=2,
        positions=["last"],
        metric=METRIC,
        progress=False,
    )
    assert sweep.points == [f"blocks.{n}.hook_mlp_out{w}" for n, w in enumerate(("", "[layers 0-1]", "[layers 1-2]"))]
    _, cache = model.run_with_cache(clean)
    hooks = [
        copying(model, f"blocks.{n}.hook_mlp_out", cache["mlp_out", n], rows_named(clean, model, "hook_embed", "last"))
        for n in (1, 2)
    ]
    torch.testing.assert_close(
        sweep.values[2, 0], difference(model, answers(model, corrupted, hooks)), rtol=0, atol=1e-5
    )


def test_whole_streams_patched_at_the_first_block_bring_the_clean_run_back(subject: Subject) -> None:
    clean, corrupted = pair(subject)
    kwargs = {"at": "hook_embed", "metric": METRIC, "positions": ["all"], "progress": False}
    sweep = patch(subject.model, clean, corrupted, **kwargs)  # type: ignore[arg-type]
    torch.testing.assert_close(sweep.recovered[0, 0], torch.ones(2), rtol=0, atol=1e-4)
    back = patch(subject.model, clean, corrupted, direction="noise", **kwargs)  # type: ignore[arg-type]
    torch.testing.assert_close(back.values[0, 0], sweep.corrupted, rtol=0, atol=1e-5)
    torch.testing.assert_close(back.clean, sweep.clean)
    torch.testing.assert_close(back.effect[0, 0], sweep.corrupted - sweep.clean, rtol=0, atol=1e-5)


def test_blocks_boxes_and_masks_are_the_rows_under_them(llava: Subject, qwen: Subject) -> None:
    """Blocks cover the picture once; a box and a mask of one block's pixels name the block's rows."""
    for subject in (llava, qwen):
        model = subject.model
        clean = model.prepare(["the image", "what is the image"], images=[[picture(0)], [picture(1)]])
        corrupted = swap(model, clean, [picture(8), picture(9)])
        for at in ("blocks.1.hook_resid_pre", "vision.blocks.1.hook_resid_post"):
            sweep = patch(model, clean, corrupted, at=at, positions=grid(1), metric=METRIC, progress=False)
            assert len(sweep.groups) == {"blocks": 16 if subject is llava else 4, "vision": 16}[at.split(".")[0]]
            areas = torch.zeros(32, 32)
            for boxes in sweep.boxes:
                for left, top, right, bottom in boxes.round().int().tolist():  # type: ignore[union-attr]
                    areas[top:bottom, left:right] += 1
            assert (areas == 1).all()
            box = tuple(sweep.boxes[1][0].tolist())  # type: ignore[index]
            mask = torch.zeros(32, 32, dtype=torch.bool)
            mask[round(box[1]) : round(box[3]), round(box[0]) : round(box[2])] = True
            part: Any = "vision" if at.startswith("vision") else "language"
            named = {
                "box": [clean.layout.patches(box, part=part, sample=s) for s in range(2)],
                "mask": [clean.layout.patches_of_mask(mask, part=part, sample=s) for s in range(2)],
            }
            again = patch(model, clean, corrupted, at=at, positions=named, metric=METRIC, progress=False)
            for j in range(2):
                torch.testing.assert_close(again.values[0, j], sweep.values[0, 1], rtol=0, atol=1e-5)


def test_samples_with_several_pictures(llava: Subject, qwen: Subject) -> None:
    """Two pictures and one: all pictures of a sample are patched together, in the tower and behind it."""
    for subject in (llava, qwen):
        model = subject.model
        clean = subject.batches["several"]
        pictures = [
            [picture(20 + 2 * i + j, p.height, p.width) for j, p in enumerate(s)] for i, s in enumerate(clean.images)
        ]
        corrupted = swap(model, clean, pictures)
        for name in ("vision.blocks.1.hook_resid_pre", "projector.hook_out", "hook_embed"):
            sweep = patch(model, clean, corrupted, at=name, positions=["all"], metric=METRIC, progress=False)
            _, cache = model.run_with_cache(clean, names=name)
            whole = [(name, lambda activation, hook, cache=cache, name=name: cache[name])]
            expected = difference(model, answers(model, corrupted, whole))
            torch.testing.assert_close(sweep.values[0, 0], expected, rtol=0, atol=1e-4)
            assert (expected - sweep.corrupted).abs().max() > 0.01


def test_each_position_of_the_shorter_sample_skips_its_padding(llava: Subject) -> None:
    model = llava.model
    clean, corrupted = pair(llava)
    sweep = patch(
        model, clean, corrupted, at="blocks.1.hook_resid_pre", positions="each", metric=METRIC, progress=False
    )
    own = [row.nonzero().flatten() for row in clean.layout.is_token]
    counts = [len(rows) for rows in own]
    assert counts[0] < counts[1]
    assert (sweep.effect[0, counts[0] :, 0] == 0).all()
    assert sweep.groups == [str(i) for i in range(counts[1])]
    _, cache = model.run_with_cache(clean, names="blocks.1.hook_resid_pre")
    for number in (4, 17):  # of each sample's own tokens
        hook = copying(model, "blocks.1.hook_resid_pre", cache["resid_pre", 1], [rows[[number]] for rows in own])
        expected = difference(model, answers(model, corrupted, [hook]))
        torch.testing.assert_close(sweep.values[0, number], expected, rtol=0, atol=1e-5)
    assert sweep.effect[0, 17].abs().min() > 1e-4


def test_cells_that_do_not_fit_at_once_are_run_in_goes(llava: Subject, monkeypatch: pytest.MonkeyPatch) -> None:
    model = llava.model
    clean, corrupted = pair(llava)
    common: Any = {"at": "blocks.*.hook_resid_mid", "positions": ["image", "text", "last"], "progress": False}
    whole = patch(model, clean, corrupted, metric=log_probability("red"), **common)
    goes: list[int] = []
    own = CleanRun.logits

    def counted(self: CleanRun, cells: Any, **options: Any) -> torch.Tensor:
        goes.append(len(cells))
        return own(self, cells, **options)

    monkeypatch.setattr(CleanRun, "logits", counted)
    monkeypatch.setattr("mmlens.analysis.patching.filling._HELD", 4 * 2 * 32)  # four patches of two samples' 32 logits
    parts = patch(model, clean, corrupted, metric=log_probability("red"), **common)
    assert goes == [8, 8, 2]
    torch.testing.assert_close(parts.values, whole.values, rtol=0, atol=1e-5)


def test_every_neuron_of_a_layer(llava: Subject) -> None:
    model = llava.model
    clean, corrupted = pair(llava)
    name = "blocks.2.mlp.hook_post"
    sweep = patch(model, clean, corrupted, at=name, units="neuron", positions=["last"], metric=METRIC, progress=False)
    assert sweep.points == [f"{name}[u{i}]" for i in range(48)]
    _, cache = model.run_with_cache(clean, names=name)
    for unit in (0, 7, 47):
        hook = copying(model, name, cache[name], rows_named(clean, model, name, "last"), unit)
        expected = difference(model, answers(model, corrupted, [hook]))
        torch.testing.assert_close(sweep.values[unit, 0], expected, rtol=0, atol=1e-5)


def test_any_metric_of_logits_and_targets_of_each_sample(llava: Subject) -> None:
    model = llava.model
    clean, corrupted = pair(llava)
    common = {"at": ["blocks.0.hook_resid_pre", "blocks.2.hook_resid_pre"], "positions": ["image"], "progress": False}
    targets = [model.to_single_token("red"), model.to_single_token("grass")]

    def own(logits: torch.Tensor) -> torch.Tensor:
        return logits.log_softmax(-1)[torch.arange(2), targets]

    one = patch(model, clean, corrupted, metric=log_probability(["red", "grass"]), **common)  # type: ignore[arg-type]
    two = patch(model, clean, corrupted, metric=own, **common)  # type: ignore[arg-type]
    torch.testing.assert_close(one.values, two.values)
    torch.testing.assert_close(one.clean, own(answers(model, clean)))
    assert two.metric == "own"
    far = patch(model, clean, corrupted, metric=kl_divergence(), **common)  # type: ignore[arg-type]
    assert far.clean.abs().max() < 1e-6 < far.corrupted.min()
    name = "blocks.2.hook_resid_pre"
    _, cache = model.run_with_cache(clean, names=name)
    patched = answers(model, corrupted, [copying(model, name, cache[name], clean.layout.image)])
    p = answers(model, clean).log_softmax(-1)
    expected = (p.exp() * (p - patched.log_softmax(-1))).sum(-1)
    torch.testing.assert_close(far.values[1, 0], expected, rtol=1e-4, atol=1e-5)


def test_the_planted_patch_layer_and_head_are_found_and_nothing_in_the_twin(planted_patch: Wrapped) -> None:
    """Sixteen pairs of pictures: what passes p < 0.01 after correction is what was planted, and in the twin nothing is.

    The twin's small random weights move its answer by up to 0.02 logits, always in the same direction; what was planted by
    37. What counts is therefore an effect beyond half a logit.
    """
    truth = planted_patch.truth
    metric = logit_difference(truth.token, truth.default_token)
    seeds = range(16)  # so that the least p of a cell is 1e-4, of which 60 can still be corrected for
    prompts = [planted_patch.planted.prompt] * len(seeds)
    for model in (planted_patch.model, planted_patch.twin):
        clean, corrupted = (
            model.prepare(prompts, images=[[planted_patch.planted.image(present, seed=seed)] for seed in seeds])
            for present in (True, False)
        )
        common = {"metric": metric, "progress": False}
        streams = patch(model, clean, corrupted, at="blocks.*.hook_resid_pre", positions="each", **common)  # type: ignore[arg-type]
        heads = patch(model, clean, corrupted, at="blocks.*.attn.hook_z", units="head", positions=["last"], **common)  # type: ignore[arg-type]
        found = [(sweep.p_values(beyond=0.5) < 0.01).nonzero().tolist() for sweep in (streams, heads)]
        if model is planted_patch.twin:
            assert found == [[], []]
            continue
        row, last = int(clean.layout.patches(truth.box)[0]), int(clean.layout.last[0])
        carries = [row if layer <= truth.head_layer else last for layer in range(len(streams.points))]
        assert found[0] == [[layer, position] for layer, position in enumerate(carries)]
        assert streams.mean_recovered[range(len(carries)), carries].sub(1).abs().max() < 0.05
        (best,) = found[1]
        assert (
            heads.points[best[0]] == heads.cells(1)[0].point == f"blocks.{truth.head_layer}.attn.hook_z[h{truth.head}]"
        )
        assert heads.cells(1)[0].share == pytest.approx(1.0, abs=0.05)
        assert list(heads.top(1)) == [Head(truth.head_layer, truth.head)]


@pytest.fixture
def nothing_runs(llava: Subject, qwen: Subject, blip: Subject, monkeypatch: pytest.MonkeyPatch) -> None:
    """The models of these families fail the test if they run."""

    def fail(*args: object, **kwargs: object) -> None:
        raise AssertionError("the model ran before the input was refused")

    for subject in (llava, qwen, blip):
        monkeypatch.setattr(type(subject.model.hf_model), "forward", fail)


@pytest.mark.usefixtures("nothing_runs")
def test_pairs_that_do_not_match_are_refused(llava: Subject, qwen: Subject) -> None:
    clean = llava.batches["left"]
    common: Any = {"metric": METRIC, "at": "hook_embed", "progress": False}
    longer = llava.model.prepare(["describe the image now please", "red"], images=clean.images)
    with pytest.raises(InputError, match=r"use texts of equal token length"):
        patch(llava.model, clean, longer, **common)
    with pytest.raises(InputError, match=r"differ in where image tokens are, first at position 0 of sample 0"):
        patch(llava.model, clean, llava.batches["right"], **common)
    wide, tall = (qwen.model.prepare("the image", images=picture(0, *size)) for size in ((32, 64), (64, 32)))
    large = qwen.model.batch({**wide, "pixel_values": wide["pixel_values"].repeat(2, 1)})
    with pytest.raises(
        InputError, match=r"differ in pixel_values: \[32, 384\] and \[64, 384\]; use pictures of one size"
    ):
        patch(qwen.model, wide, large, **common)
    both = qwen.model.prepare(["the image"] * 2, images=[[picture(0, 32, 64)], [picture(0, 64, 32)]])
    with pytest.raises(InputError, match=r"pictures have \[\(4, 8\), \(8, 4\)\] \(rows, columns\) of patches; sweep"):
        patch(qwen.model, both, both, metric=METRIC, at="vision.hook_embed", positions=grid(2), progress=False)
    assert torch.equal(wide["input_ids"], tall["input_ids"])
    with pytest.raises(
        InputError, match=r"differ in picture 0: its rows in the part 'vision' are \(4, 8\).*and \(8, 4\)"
    ):
        patch(qwen.model, wide, tall, **common)
    with pytest.raises(InputError, match=r"The text holds 32 image tokens.*but no picture came with it"):
        llava.model.batch({name: tensor for name, tensor in clean.items() if name != "pixel_values"})


@pytest.mark.usefixtures("nothing_runs")
def test_questions_that_cannot_be_asked_are_refused(llava: Subject, qwen: Subject, blip: Subject) -> None:
    z, embed, tower = "blocks.*.attn.hook_z", "hook_embed", "vision.blocks.0.hook_resid_post"
    cases: list[tuple[Subject, dict[str, Any], str]] = [
        (llava, {"at": "blocks.0.hook_resid"}, r"no hook point 'blocks.0.hook_resid'.*Nearest: blocks.0.hook_resid_"),
        (
            llava,
            {"at": embed, "positions": {"far": 99}},
            r"positions.index\(99\) name \[99\], outside the 19 tokens of sample 0",
        ),
        (llava, {"at": embed, "positions": {}}, "positions are empty: name at least one group"),
        (llava, {"at": embed, "positions": {"none": []}}, r"positions=\[\] are none: give a rule"),
        (llava, {"at": embed, "positions": {"few": [torch.tensor([1])]}}, "given for 1 samples, and the batch has 2"),
        (llava, {"at": embed, "direction": "sideways"}, "direction='sideways' must be 'denoise' or 'noise'"),
        (llava, {"at": embed, "window": 0}, "window=0 must be at least 1"),
        (llava, {}, r"Say what to patch: at=... \(hook names\), or units="),
        (llava, {"at": embed, "units": "head"}, "hook_embed have no axis of heads"),
        (llava, {"at": z, "units": "cell"}, "'cell' names no unit"),
        (llava, {"units": []}, "A sweep over units was given no units"),
        (llava, {"units": [Neuron(0, 48), Head(9, 0)]}, r"The model has no L0.u48, L9.h0; it has"),
        (llava, {"at": z, "units": [Head(0, 1)]}, r"None of the units lies at blocks.1.attn.hook_z"),
        (llava, {"at": "blocks.0.attn.hook_z", "units": [Head(0, 1), Head(1, 1)]}, "L1.h1 lie at none of the points"),
        (
            llava,
            {"at": [embed, tower], "positions": "each"},
            "lie on the sequences vision, language, whose positions",
        ),
        (
            llava,
            {"at": embed, "metric": lambda logits: logits.mean()},
            r"one value per sample, \[batch=2\].*found \[\]",
        ),
        (
            llava,
            {"at": embed, "metric": log_probability(["red"] * 3)},
            "tokens for 3 samples, and there are logits of 2",
        ),
        (llava, {"at": embed, "positions": "picture"}, "'picture' does not stand in the text of samples"),
        (blip, {"at": "projector.hook_out", "positions": grid(1)}, "'queries' have no place in the picture"),
        (
            blip,
            {"at": "projector.hook_out", "positions": "each"},
            "rows projector.hook_out has on the queries sequence is known once it runs",
        ),
        (blip, {"at": embed, "positions": grid(1)}, "queries of the Q-Former mix all patches"),
    ]
    for subject, options, message in cases:
        clean = subject.batches["left"]
        with pytest.raises(InputError, match=message):
            patch(subject.model, clean, clean, **{"metric": METRIC, "progress": False, **options})
    with pytest.raises(InputError, match="side=0 must be at least 1"):
        grid(0)


def test_a_head_that_shared_keys_lack_is_refused(llava: Subject) -> None:
    clean = llava.batches["left"]
    with pytest.raises(InputError, match=r"blocks.1.attn.hook_k has 2 heads \(grouped heads share keys and values\)"):
        patch(llava.model, clean, clean, at="blocks.1.attn.hook_k", units=[Head(1, 3)], metric=METRIC, progress=False)


@torch.no_grad()
@pytest.mark.parametrize("side", ["left", "right"])
def test_units_are_patched_together_as_one_row(subject: Subject, side: str) -> None:
    model = subject.model
    clean, corrupted = pair(subject, side)
    units = Units(["L0.h1", "L1.u3", "L1.u40", "L2.h0", "L2.h2"])
    sweep = patch(model, clean, corrupted, units=units, joint=True, positions="last", metric=METRIC, progress=False)
    assert sweep.points == ["L0.h1 + L1.u3 + L1.u40 + L2.h0 + ... (5 units)"]
    assert list(sweep.units) == list(units) == list(sweep.top(1)) == list(sweep.cells(1)[0].units)
    _, cache = model.run_with_cache(clean, names=list(units.by_point()))
    samples = torch.arange(clean.size)

    def put(activation: torch.Tensor, hook: Any) -> torch.Tensor:
        for unit in units.by_point()[hook.name]:
            activation[samples, clean.layout.last, unit.index] = cache[hook.name][
                samples, clean.layout.last, unit.index
            ]
        return activation

    logits = model.run_with_hooks(corrupted, fwd_hooks=[(list(units.by_point()), put)])
    expected = difference(model, logits[samples, corrupted.layout.last])
    torch.testing.assert_close(sweep.values[0, 0], expected, atol=1e-5, rtol=1e-4)
    apart = patch(model, clean, corrupted, units=list(map(str, units)), positions="last", metric=METRIC, progress=False)
    assert apart.points == [
        *("blocks.0.attn.hook_z[h1]", "blocks.1.mlp.hook_post[u3]", "blocks.1.mlp.hook_post[u40]"),
        *("blocks.2.attn.hook_z[h0]", "blocks.2.attn.hook_z[h2]"),
    ]
    assert list(apart.units) == list(units)
    order = apart.effect[:, 0].mean(-1).abs().argsort(descending=True).tolist()
    assert list(apart.top(3)) == [units[row] for row in order[:3]]


@torch.no_grad()
def test_all_heads_of_a_point_together_are_the_point(subject: Subject) -> None:
    model = subject.model
    clean, corrupted = pair(subject)
    common: Any = {"at": "blocks.1.attn.hook_z", "positions": ["image", "last"], "metric": METRIC, "progress": False}
    whole = patch(model, clean, corrupted, **common)
    together = patch(model, clean, corrupted, units="head", joint=True, **common)
    torch.testing.assert_close(together.values, whole.values, atol=1e-5, rtol=1e-4)
    assert together.units == {Head(1, index) for index in range(model.cfg.n_heads)}
    assert whole.units == Units()
    with pytest.raises(InputError, match=r"This sweep patched points, not units; \.cells\(k\)"):
        whole.top(1)


def test_units_of_a_sweep_are_those_that_it_patches_whole(llava: Subject, tmp_path: Path) -> None:
    model = llava.model
    clean, corrupted = pair(llava)
    common: Any = {"positions": "last", "metric": METRIC, "progress": False}
    queries = patch(model, clean, corrupted, at="blocks.1.attn.hook_q", units="head", **common)
    keys = patch(model, clean, corrupted, at="blocks.1.attn.hook_k", units="head", **common)
    assert queries.units == {Head(1, index) for index in range(4)}
    assert len(keys.points) == 2  # grouped heads share them
    assert keys.units == Units()
    queries.save(tmp_path / "sweep.safetensors")
    loaded = type(queries).load(tmp_path / "sweep.safetensors")
    assert loaded.row_units == queries.row_units
    assert loaded.top(2) == queries.top(2)
    for wrong, message in (
        ({"joint": True, "at": "hook_embed"}, "joint=True patches units together: name them"),
        ({"joint": True, "units": "L1.u1", "window": 2}, "leave window=1"),
        ({"units": "L9.u1"}, "The model has no L9.u1"),
        ({"units": "L1.u1, L1.u2"}, "names no unit"),
    ):
        with pytest.raises(InputError, match=message):
            patch(model, clean, corrupted, **common, **wrong)
