"""What is collected is what a loop over bare Hugging Face models finds, one sample at a time."""

import re
from functools import partial
from typing import Any

import pytest
import torch

import mmlens as mm
from mmlens import lab
from mmlens.analysis.store.collect import collect, size_estimate
from mmlens.core.errors import InputError, MMLensError
from mmlens.models.hooked import HookedMultimodal
from tests.conftest import Subject
from tests.tiny import picture

POINT, LAYER = "blocks.1.hook_resid_post", 2  # the stream after block 1 is the third entry of `hidden_states`
STEPS = 5
DATASET = [(picture(seed), "describe the image" if seed % 2 else "what color is the circle") for seed in range(5)]


def spoken(subject: Subject) -> list[tuple[list[str], torch.Tensor]]:
    """By a loop over the bare model: each sample's new tokens as text, and the states that predicted them."""
    found = []
    model = subject.model
    for image, prompt in DATASET:
        out = subject.bare.generate(
            **model.prepare(prompt, images=image),
            do_sample=False,
            max_new_tokens=STEPS,
            return_dict_in_generate=True,
            output_hidden_states=True,
        )
        tokens = out.sequences[0, -len(out.hidden_states) :].tolist()
        ends = [token in model.stop_tokens for token in tokens]
        length = ends.index(True) if True in ends else len(tokens)
        states = torch.stack([layers[LAYER][0, -1] for layers in out.hidden_states])
        found.append(([model.tokenizer.decode([token]) for token in tokens[:length]], states[:length]))
    return found


def gather(subject: Subject, **options: Any) -> Any:
    return collect(subject.model, DATASET, at=POINT, batch_size=2, progress=False, dtype="float32", **options)


def test_the_state_of_a_word(subject: Subject) -> None:
    expected = spoken(subject)
    word = next(text for tokens, _ in expected for text in tokens if re.fullmatch(r"[a-z]+", text))
    have = [number for number, (tokens, _) in enumerate(expected) if word in tokens]
    store = gather(subject, token=word, max_new_tokens=STEPS)
    states = store.at()
    wanted = torch.stack([expected[n][1][expected[n][0].index(word)] for n in have])
    torch.testing.assert_close(states.values, wanted, atol=1e-5, rtol=1e-5)
    assert states.steps == tuple(expected[n][0].index(word) for n in have)
    assert set(states.tokens) == {word}
    assert [record.rows for record in store.records] == [int(n in have) for n in range(len(DATASET))]
    assert store.n_samples == len(have)


def test_the_states_of_every_generated_token_and_their_mean(subject: Subject) -> None:
    expected = spoken(subject)
    every = gather(subject, positions="generated", max_new_tokens=STEPS)
    torch.testing.assert_close(every.at().values, torch.cat([s for _, s in expected]), atol=1e-5, rtol=1e-5)
    assert [record.rows for record in every.records] == [len(tokens) for tokens, _ in expected]
    assert list(every.at().tokens) == [text for tokens, _ in expected for text in tokens]
    mean = gather(subject, positions="generated_mean", max_new_tokens=STEPS).at()
    wanted = torch.stack([states.mean(0) for _, states in expected if len(states)])
    torch.testing.assert_close(mean.values, wanted, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("positions", ["last", "text", "image", "all", [-2, 1], slice(-3, None)], ids=str)
def test_the_states_of_the_prompt(subject: Subject, positions: Any) -> None:
    model, wanted, tokens = subject.model, [], []
    for image, prompt in DATASET:
        batch = model.prepare(prompt, images=image)
        hidden = subject.bare(**batch, output_hidden_states=True, use_cache=False)
        streams = (
            hidden.hidden_states if hasattr(hidden, "hidden_states") else hidden.language_model_outputs.hidden_states
        )
        stream = (streams or hidden.language_model_outputs.hidden_states)[LAYER][0]
        is_image = batch.layout.is_image[0]
        everything = torch.arange(len(stream))
        rows = {
            "last": everything[-1:],
            "text": everything[~is_image],
            "image": everything[is_image],
            "all": everything,
        }
        chosen = rows[positions] if isinstance(positions, str) else everything[positions]
        wanted.append(stream[chosen])
        tokens += [model.tokenizer.decode([token]) for token in batch["input_ids"][0][chosen].tolist()]
    states = gather(subject, positions=positions).at()
    torch.testing.assert_close(states.values, torch.cat(wanted).detach(), atol=1e-5, rtol=1e-5)
    assert list(states.tokens) == tokens


def test_rows_of_the_towers_belong_to_their_own_sample(subject: Subject) -> None:
    """Alone, in a batch, or in a packed tower: the same rows, for pictures of different sizes where the model takes them."""
    model: HookedMultimodal = subject.model
    several = subject.name == "qwen2_vl"
    dataset = [picture(0), picture(1, 48, 80) if several else picture(1), picture(2)]
    points = ["vision.blocks.0.hook_resid_post", "vision.blocks.1.attn.hook_z"]
    options: dict[str, Any] = {"at": points, "positions": "image", "dtype": "float32"}
    together = collect(model, dataset, batch_size=3, progress=False, **options)
    alone = [collect(model, [one], progress=False, **options) for one in dataset]
    for point in points:
        wanted = torch.cat([store.at(point).values for store in alone])
        torch.testing.assert_close(together.at(point).values, wanted, atol=1e-5, rtol=1e-5)
    key = alone[1].records[0].key
    torch.testing.assert_close(
        together.at(points[0], keys=key).values, alone[1].at(points[0]).values, atol=1e-5, rtol=1e-5
    )


def test_a_store_of_the_lab_reads_back_by_word_and_sample() -> None:
    model, scenes = lab.load(), lab.scenes(12)
    store = collect(model, scenes, at="blocks.[3-4].hook_resid_post", token=list(lab.NOUNS), progress=False)
    captions = [model.caption(scene.image) for scene in scenes]
    assert list(store.at(store.points[0]).captions) == [
        c for c, r in zip(captions, store.records, strict=True) if r.rows
    ]
    states = store.at("blocks.3.hook_resid_post")
    word = states.tokens[0]
    assert set(store.at("blocks.3.hook_resid_post", token=word).tokens) == {word}
    with pytest.raises(InputError, match="There is no state of 'zebra'; the words are "):
        store.at("blocks.3.hook_resid_post", token="zebra")
    with pytest.raises(InputError, match=r"The store holds 2 points; name one: blocks\.3"):
        store.at()
    nothing = collect(model, scenes[:2], at="blocks.3.hook_resid_post", token="zebra", progress=False)
    with pytest.raises(InputError, match=r"None of the 2 samples gave a state .*most frequent words: .*on"):
        nothing.at()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({}, "by one of token= and positions=; found neither"),
        ({"token": "red", "positions": "last"}, "found both"),
        ({"positions": "middle"}, "'middle' does not stand in the text of samples"),
        ({"positions": torch.zeros(2, 2)}, "positions must be whole numbers"),
        ({"positions": torch.zeros(2, 2).long()}, "are of the samples of one batch; for a dataset give a rule"),
        ({"positions": "last", "in_truth": True}, "say which word: token="),
        ({"token": "red", "dtype": "int8"}, "dtype='int8' must be 'float16', 'bfloat16' or 'float32'"),
        ({"token": "red", "batch_size": 0}, "batch_size=0 must be at least 1"),
        ({"token": "red", "max_new_tokens": 0}, "max_new_tokens=0 must be at least 1"),
        ({"token": "red", "at": "blocks.0.attn.hook_pattern"}, "hold one number per pair of positions"),
        ({"positions": [400]}, r"name \[400\], outside the \d+ tokens of sample 0"),
    ],
)
def test_what_cannot_be_is_refused_before_any_run(llava: Subject, options: dict[str, Any], message: str) -> None:
    def never(*_: Any) -> None:
        pytest.fail("the model ran")

    with llava.model.hooks([("vision.hook_embed", never)]), pytest.raises(InputError, match=message):
        collect(llava.model, DATASET, **{"at": POINT, "progress": False, **options})


def test_a_state_that_float16_cannot_hold_is_an_error(llava: Subject) -> None:
    huge = [(POINT, lambda activation, hook: activation * 1e6)]
    message = r"A state at blocks.1.hook_resid_post is as large as .* dtype='bfloat16'"
    with llava.model.hooks(huge), pytest.raises(MMLensError, match=message):
        collect(llava.model, DATASET[:1], at=POINT, positions="last", progress=False)


@pytest.mark.parametrize("options", [{"positions": "all"}, {"positions": "generated", "max_new_tokens": 3}], ids=str)
def test_the_estimate_bounds_the_size_and_is_exact_where_rows_are_sure(llava: Subject, options: dict[str, Any]) -> None:
    dataset = [image for image, _ in DATASET]
    points = ["blocks.1.hook_resid_post", "blocks.0.attn.hook_z", "blocks.2.mlp.hook_post"]
    told = size_estimate(llava.model, dataset, at=points, dtype="bfloat16", **options)
    store = collect(llava.model, dataset, at=points, dtype="bfloat16", progress=False, **options)
    stored = sum(shard.values(p, slice(None)).nbytes for shard in store.shards for p in store.points)
    assert stored <= (told.bytes or 0)
    if options["positions"] == "all":
        assert stored == told.bytes
    with pytest.raises(InputError, match="A size can be estimated for a dataset with a length"):
        size_estimate(llava.model, iter(dataset), at=points, positions="generated")


def test_contrastive_decoding_is_part_of_the_question(subject: Subject, tmp_path: Any) -> None:
    contrast = mm.decoding.PAI(alpha=2.0, beta=0.0)
    store = gather(subject, positions="generated", max_new_tokens=STEPS, contrast=contrast, into=tmp_path / "s")
    rows = iter(store.at().values)
    for image, prompt in DATASET:
        one = subject.model.prepare(prompt, images=image)
        trace = subject.model.trace_generation(one, names=POINT, max_new_tokens=STEPS, contrast=contrast)
        length = int(trace.lengths[0]) - (int(trace.tokens[0, trace.lengths[0] - 1]) in subject.model.stop_tokens)
        for step in range(length):
            torch.testing.assert_close(next(rows), trace[POINT][0, step], atol=1e-5, rtol=1e-5)
    assert next(rows, None) is None
    for other in (None, "pai", mm.decoding.Contrast(partial(mm.corrupt.blur, radius=3.0))):
        with pytest.raises(MMLensError, match="contrast"):
            gather(subject, positions="generated", max_new_tokens=STEPS, contrast=other, into=tmp_path / "s")
    with pytest.raises(
        InputError, match=r"contrast= changes what is written, and positions='image' are read in a forward"
    ):
        gather(subject, positions="image", contrast="pai")
