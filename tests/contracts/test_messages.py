"""Contract: an error says what was asked, what was found, what would be right. Its text is pinned."""

import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from mmlens.core import positions
from mmlens.core.errors import InputError, NoPlaceError, UnknownNameError, UnsupportedModelError
from mmlens.declarations.registry import families
from mmlens.models.hooked import HookedMultimodal
from tests.conftest import LONG, SHORT, Subject
from tests.tiny import TINY, picture


@pytest.fixture(autouse=True)
def _without_run_time_types(request: pytest.FixtureRequest) -> None:
    if request.config.getoption("--jaxtyping-packages", default=None):
        pytest.skip("the run-time type checker refuses what is of the wrong type before mmlens can say why")


def says(text: str) -> str:
    """A pattern for the whole message, `...` standing for anything."""
    return re.escape(text).replace(r"\.\.\.", ".*") + "$"


def look(activation: torch.Tensor, hook: Any) -> None:
    """A hook that only looks."""


# -- names -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("asked", "text"),
    [
        (
            "blocks.0.hook_resid_pst",
            "There is no hook point 'blocks.0.hook_resid_pst' among 112 names. Nearest: blocks.0.hook_resid_post, ...",
        ),
        (
            "vision.blocks.3.hook_resid_post",
            "There is no hook point 'vision.blocks.3.hook_resid_post' among 112 names. Nearest: ...",
        ),
        (
            "*.hook_resid_post",
            "The glob '*.hook_resid_post' matches no hook point among 112 names. "
            "Nearest: ... (`*` stays within one dotted "
            "segment, `**` crosses dots.)",
        ),
        ([], "No hook point was named: the list of names is empty."),
        (lambda name: False, "The predicate given as hook point names matched none of the 112 names."),
    ],
)
def test_unknown_names_in_every_run_method(llava: Subject, asked: Any, text: str) -> None:
    model, batch = llava.model, llava.batches["left"]
    runs = [
        lambda: model.run_with_hooks(batch, fwd_hooks=[(asked, look)]),
        lambda: model.run_with_cache(batch, names=asked),
        lambda: model.add_hook(asked, look),
        lambda: model.trace_generation(batch, names=asked),
        lambda: model.graph.select(asked),
    ]
    for run in runs:
        with pytest.raises(UnknownNameError, match=says(text)):
            run()
    # a bound model has what its norms make before the gain besides
    with pytest.raises(UnknownNameError, match=says(text.replace("112", "119"))):
        model.bind(batch).run_with_hooks(batch["input_ids"], fwd_hooks=[(asked, look)])


def test_hooks_that_are_no_pairs(llava: Subject) -> None:
    with pytest.raises(InputError, match=says("fwd_hooks[0]='hook_embed' must be (..., a function).")):
        llava.model.run_with_hooks(llava.batches["left"], fwd_hooks=["hook_embed"])  # type: ignore[list-item]
    with pytest.raises(InputError, match=says("fwd_hooks[0][1]=None must be a function.")):
        llava.model.run_with_hooks(llava.batches["left"], fwd_hooks=[("hook_embed", None)])  # type: ignore[list-item]
    with pytest.raises(InputError, match=says("fwd_hooks[0][0][0]=3 must be a string.")):
        llava.model.run_with_hooks(llava.batches["left"], fwd_hooks=[([3], look)])  # type: ignore[list-item]


def test_the_cache(llava: Subject) -> None:
    _, cache = llava.model.run_with_cache(llava.batches["left"], names=["blocks.1.hook_resid_post"])
    text = (
        "The cache holds nothing under ('pattern', 0) (hook name 'blocks.0.attn.hook_pattern'); "
        "it holds 1 activations.... "
        "Scores and patterns are cached only when named: run_with_cache(..., names=...)."
    )
    with pytest.raises(UnknownNameError, match=says(text)):
        cache["pattern", 0]
    with pytest.raises(UnknownNameError, match=r"Nearest: blocks.1.hook_resid_post"):
        cache["resid_post", 0]
    with pytest.raises(
        InputError, match=says("The cache holds no activations of the part 'vision'; name some when you run the model.")
    ):
        cache.part("vision")
    parts = says("part='visual' must be 'vision', 'projector' or 'language'.")
    with pytest.raises(InputError, match=parts):
        cache.part("visual")  # type: ignore[arg-type]
    with pytest.raises(InputError, match=parts):
        llava.model.part("visual")  # type: ignore[arg-type]


# -- text and pictures -------------------------------------------------------------------------------------------------


def test_placeholders_without_pixels_and_the_reverse(subject: Subject) -> None:
    model, batch = subject.model, subject.batches["left"]
    tokens = int(batch.layout.is_image.sum())
    without = {name: tensor for name, tensor in batch.items() if name != "pixel_values"}
    text = (
        f"The text holds {tokens} image tokens (id {model.config.image_token_id}), "
        f"but no picture came with it: pass pixel_values, "
        "or prepare(text, images=...). Running would answer without looking. (Tools that pass tokens and nothing else get the "
        "picture through model.bind(batch).)"
    )
    for run in (model, model.run_with_cache, model.generate, model.batch, model.trace_generation):
        with pytest.raises(InputError, match=says(text)):
            run(without)
        with pytest.raises(InputError, match=says(text)):
            run(batch["input_ids"])
    blind = {**batch, "input_ids": torch.where(batch.layout.is_image, 12, batch["input_ids"])}
    text = (
        f"pixel_values came with text that has no image token (id {model.config.image_token_id}), "
        f"so no picture would be read: put a "
        "placeholder into the text, or use prepare(text, images=...)."
    )
    for run in (model, model.run_with_cache, model.generate):
        with pytest.raises(InputError, match=says(text)):
            run(blind)


def test_numbers_of_texts_and_pictures(llava: Subject) -> None:
    prepare = llava.model.prepare
    text = (
        "2 texts came with 1 pictures (or lists of pictures); give as many. For one "
        "picture and several texts repeat the picture; "
        "for a text without a picture give an empty list."
    )
    with pytest.raises(InputError, match=says(text)):
        prepare([SHORT, LONG], images=picture())
    with pytest.raises(
        InputError,
        match=says("images mixes pictures and lists of pictures; give one list per sample, or one picture per sample."),
    ):
        prepare([SHORT, LONG], images=[picture(), [picture()]])
    text = (
        "Sample 0 has 1 placeholders '<image>' for 2 pictures; give one picture per "
        "placeholder, or leave the placeholders out and "
        "they are put in."
    )
    with pytest.raises(InputError, match=says(text)):
        prepare("<image> what is the color", images=[picture(), picture()])
    with pytest.raises(InputError, match="Sample 0 has 1 placeholders '<image>' for 0 pictures"):
        prepare("<image> what is the color")
    with pytest.raises(
        InputError,
        match=says("text must be a string, a list of strings, chat messages (...), or a list of chats; found int: 3."),
    ):
        prepare(3)  # type: ignore[arg-type]
    with pytest.raises(InputError, match=r"or a list of chats; found list: \[\]\.$"):
        prepare([])
    with pytest.raises(
        InputError,
        match=says(
            "Chat messages need a chat template, and this processor has none; pass the prompt as a string instead."
        ),
    ):
        prepare([{"role": "user", "content": SHORT}], images=picture())
    with pytest.raises(InputError, match=says("padding_side='middle' must be 'left' or 'right' or None.")):
        prepare(SHORT, images=picture(), padding_side="middle")  # type: ignore[arg-type]


def test_a_family_that_needs_a_picture(blip: Subject) -> None:
    with pytest.raises(
        InputError, match=says("The family instructblip needs a picture with every text; samples [1] have none.")
    ):
        blip.model.prepare([SHORT, LONG], images=[[picture()], []])


def test_files(llava: Subject, tmp_path: Path) -> None:
    prepare = llava.model.prepare
    whole = tmp_path / "whole.png"
    Image.fromarray(picture(0).numpy()).save(whole)
    assert torch.equal(prepare(SHORT, images=whole)["pixel_values"], prepare(SHORT, images=picture(0))["pixel_values"])
    with pytest.raises(InputError, match=says(f"There is no picture at {tmp_path / 'none.png'}.")):
        prepare(SHORT, images=tmp_path / "none.png")
    with pytest.raises(InputError, match=says(f"{tmp_path} is a folder, not a picture.")):
        prepare(SHORT, images=tmp_path)
    (tmp_path / "notes.png").write_text("no picture")
    with pytest.raises(InputError, match=says(f"{tmp_path / 'notes.png'} is not a picture that PIL can read.")):
        prepare(SHORT, images=str(tmp_path / "notes.png"))
    (tmp_path / "empty.jpg").touch()
    with pytest.raises(InputError, match="is not a picture that PIL can read"):
        prepare(SHORT, images=tmp_path / "empty.jpg")
    for suffix in ("png", "jpg", "bmp"):
        Image.fromarray(picture(0).numpy()).save(tmp_path / f"cut.{suffix}")
        content = (tmp_path / f"cut.{suffix}").read_bytes()
        (tmp_path / f"cut.{suffix}").write_bytes(content[: len(content) // 2])
        with pytest.raises(InputError, match=rf"cut.{suffix} cannot be read as a picture: .+\."):
            prepare(SHORT, images=tmp_path / f"cut.{suffix}")
    text = "https://example.org/a.png is a URL; mmlens downloads nothing. Save the picture to a file and pass its path."
    with pytest.raises(InputError, match=says(text)):
        prepare(SHORT, images="https://example.org/a.png")


@pytest.mark.parametrize(
    ("array", "text"),
    [
        (
            np.zeros((8, 8, 2), np.uint8),
            "A picture array must be [height width channels] or [channels height width] with 1 (grey), 3 (RGB) or 4 (RGBA) "
            "channels, or [height width], found shape [8, 8, 2]. ...",
        ),
        (np.zeros((1, 8, 8, 3), np.uint8), "... found shape [1, 8, 8, 3]. Pass the pictures of a batch one by one."),
        (np.zeros(8, np.uint8), "... found shape [8]. ..."),
        (np.zeros((0, 8, 3), np.uint8), "A picture array must hold pixels, found shape [0, 8, 3]."),
        (
            np.full((8, 8, 3), 255.0),
            "A floating picture array must lie in 0..1, found 255..255. Pass pictures before normalisation.",
        ),
        (np.full((8, 8, 3), -0.5), "A floating picture array must lie in 0..1, found -0.5..-0.5. ..."),
        (np.full((8, 8, 3), np.nan), "A floating picture array must lie in 0..1, found nan..nan. ..."),
        (
            np.zeros((8, 8, 3), np.int64),
            "A picture array must be uint8 (0..255), uint16 or floating (0..1), found int64.",
        ),
        (3, "A picture must be a PIL image, a path, a file's bytes, an open file or an array, found int: 3."),
    ],
)
def test_arrays(llava: Subject, array: Any, text: str) -> None:
    with pytest.raises(InputError, match=says(text)):
        llava.model.prepare(SHORT, images=[array])
    if isinstance(array, np.ndarray):
        with pytest.raises(InputError, match=says(text)):
            llava.model.prepare(SHORT, images=[torch.from_numpy(array)])


def test_raw_tensors(llava: Subject, qwen: Subject) -> None:
    model, batch = llava.model, llava.batches["left"]
    with pytest.raises(
        InputError, match=says("Nothing to run on: pass a batch, or keyword tensors (input_ids=..., pixel_values=...).")
    ):
        model()
    text = (
        "batch='what is this' must be a batch; make one with model.prepare(text, images=...), or of its tensors with "
        "model.batch(inputs)."
    )
    with pytest.raises(InputError, match=says(text)):
        model("what is this")  # type: ignore[arg-type]
    with pytest.raises(
        InputError, match=re.escape("A batch needs input_ids [batch pos], found nothing. (Of embeddings, model.batch(")
    ):
        model.batch(pixel_values=batch["pixel_values"])
    with pytest.raises(InputError, match=says("A batch needs input_ids [batch pos], found Tensor [11].")):
        model.batch(input_ids=torch.zeros(11, dtype=torch.long))
    with pytest.raises(InputError, match=r"attention_mask is \[2, 3\], but input_ids is \[2, \d+\] \[batch pos\]\.$"):
        model.batch({**batch, "attention_mask": torch.ones(2, 3)})
    mask = batch["attention_mask"].clone()
    mask[1] = 0
    with pytest.raises(InputError, match=says("Samples [1] consist of padding only; drop them.")):
        model.batch({**batch, "attention_mask": mask})
    with pytest.raises(
        InputError, match=says("3 pictures were given for 2 placeholders. Put one placeholder per picture ...")
    ):
        model.batch({**batch, "pixel_values": batch["pixel_values"][[0, 1, 1]]})
    with pytest.raises(
        InputError,
        match=r"Sample 1 has 16 image tokens left over after 0 pictures; the pictures given need \[16\] tokens",
    ):
        model.batch({**batch, "pixel_values": batch["pixel_values"][:1]})
    video = {**qwen.batches["left"]}
    video["image_grid_thw"] = video["image_grid_thw"] * torch.tensor([2, 1, 1])
    with pytest.raises(InputError, match=r"image_grid_thw holds videos \(t > 1\)"):
        qwen.model.batch(video)


# -- positions and places ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("given", "text"),
    [
        (
            99,
            "positions.index(99) name [99], outside the 19 tokens of sample 0 (samples [0, 1] have [19, 23] on the language "
            "sequence, padding not counted).",
        ),
        (
            [0, 20],
            "positions.index(0, 20) name [20], outside the 19 tokens of sample 0 (samples [0] have [19] on the language "
            "sequence, padding not counted).",
        ),
        (
            slice(30, 40),
            "positions.index(30:40) names nothing in samples [0, 1] at blocks.0.hook_resid_pre, on the language sequence "
            "(TokenLayout: ...). New tokens are read in model.generate(...) from its second step on; a forward pass has none, "
            "and the first is predicted by positions.last.",
        ),
        (
            [],
            "positions=[] are none: give a rule of mm.positions, one of 'all', 'image', 'text', 'last', 'prompt', 'generated', "
            "a word of the prompt, whole numbers, a slice or a tensor.",
        ),
        (
            "lst",
            "'lst' does not stand in the text of samples [0, 1] (...). A word that is no rule is looked for in the text; the "
            "rules that are words: 'all', 'image', 'text', 'last', 'prompt', 'generated' (did you mean 'last'?).",
        ),
        (
            positions.word(["image", "moon"]),
            "'moon' does not stand in the text of samples [1] (...). A word that is no rule is looked for in the text; ...",
        ),
        (
            positions.word("the", which=1),
            "positions.word('the', which=1): 'the' stands [1, 1] times in the text of samples [0, 1].",
        ),
        (
            ("image", [1, 2]),
            "positions=('image', [1, 2]) are several rules where one is taken; join them: positions.image | positions.last.",
        ),
        (torch.tensor([True]), "positions must be whole numbers, found torch.bool; use .nonzero() on a mask."),
        ([0.5], "positions must be whole numbers, found 0.5."),
        (
            torch.zeros(3, 1, dtype=torch.long),
            "positions were given for 3 samples, and the batch has 2; give one list each.",
        ),
        (positions.row(0), "positions.row(0) name rows [0] of sample 0, which are padding at blocks.0.hook_resid_pre."),
        (positions.row(23), "positions.row(23) name [23], outside the 23 rows of the language sequence."),
        (
            positions.box((0, 0, 8, 8), image=1),
            "positions.box((0, 0, 8, 8), image=1) names a part of picture 1, which samples [0, 1] do not have; ...",
        ),
        (positions.image[1], "positions.image[1] names nothing: the samples have [1, 1] pictures."),
        (positions.image(frame=0), "frame=0 was asked for, and what sample 0 shows is a picture and no video."),
        ("each", "positions='each' names groups of a sweep; here one rule is taken, e.g. 'all'."),
    ],
)
def test_positions_before_any_forward_pass(
    llava: Subject, given: Any, text: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    batch = llava.batches["left"]
    assert batch["input_ids"].shape[1] == 23
    monkeypatch.setattr(HookedMultimodal, "forward", lambda *args, **kwargs: pytest.fail("a forward pass was made"))
    with pytest.raises(InputError, match=says(text)):
        llava.model.run_with_cache(batch, names="blocks.0.hook_resid_pre", positions=given)


def test_positions_on_other_sequences(llava: Subject, qwen: Subject, blip: Subject) -> None:
    text = (
        "positions='last' has no meaning at vision.hook_embed, whose vision sequence holds rows of pictures and no tokens; "
        "there use 'all', 'image', mm.positions.box(...) or indices, or choose points of the language model."
    )
    with pytest.raises(InputError, match=says(text)):
        llava.model.run_with_cache(llava.batches["left"], names="vision.hook_embed", positions="last")
    with pytest.raises(
        InputError, match=says("positions.image names nothing in samples [0] at hook_embed, on the ...")
    ):
        llava.model.run_with_cache(llava.model.prepare(SHORT), names="hook_embed", positions="image")
    rows = llava.batches["left"].layout.patches((0, 0, 8, 8))
    text = (
        "positions hold rows of the language sequence, and vision.hook_embed lies on the vision sequence, where the same numbers "
        'are other rows. batch.layout.patches(..., part="vision") has those of this point, and the rule mm.positions.box(...) '
        "holds at every point."
    )
    with pytest.raises(InputError, match=says(text)):
        llava.model.run_with_cache(llava.batches["left"], names="vision.hook_embed", positions=rows)
    text = (
        "positions hold rows of sample 0 alone, and the batch has 2 samples; give one entry per sample, or a rule ..."
    )
    with pytest.raises(InputError, match=says(text)):
        llava.model.run_with_cache(llava.batches["left"], names="hook_embed", positions=rows)
    with pytest.raises(
        InputError,
        match=r"has no meaning at projector.blocks.0.hook_resid_pre, whose sequence mixes queries and text; use 'all'",
    ):
        blip.model.run_with_cache(blip.batches["left"], names="projector.blocks.0.hook_resid_pre", positions="image")


def test_places(llava: Subject) -> None:
    layout = llava.batches["several"].layout
    for box in ((0, 0, 0, 8), (8, 8, 4, 12), (32, 0, 40, 8), (-8, 0, 0, 8)):
        text = (
            f"box={box} covers no pixel of the picture (32 wide, 32 high); a box is (left, "
            f"top, right, bottom) with right and bottom "
            "outside."
        )
        with pytest.raises(InputError, match=says(text)):
            layout.patches(box)
    with pytest.raises(InputError, match=says("There is no picture 1 in sample 1; the samples have [2, 1] pictures.")):
        layout.patches((0, 0, 8, 8), sample=1, image=1)
    rows = layout.grid().rows
    last = int(layout.last[0])
    text = (
        f"Rows [{last}] of the part 'language' stand for no part of picture 0 of sample "
        f"0; its rows lie in {rows.min()}..{rows.max()}."
    )
    with pytest.raises(NoPlaceError, match=says(text)):
        layout.boxes([last])
    with pytest.raises(NoPlaceError, match=r"stand for no part of picture 0 of sample 0; its rows lie in 1..16"):
        layout.boxes([0], part="vision")  # the class row
    with pytest.raises(
        InputError,
        match=says("values must be [pos] with a value for each of the language part's positions (more than ..."),
    ):
        layout.raster(torch.zeros(3))
    with pytest.raises(InputError, match=says("mask is [8, 8], but the picture is [height=32 width=32].")):
        layout.patches_of_mask(torch.ones(8, 8, dtype=torch.bool))
    with pytest.raises(InputError, match=says("The mask is empty: no pixel is True.")):
        layout.patches_of_mask(torch.zeros(32, 32, dtype=torch.bool))


# -- models ------------------------------------------------------------------------------------------------------------


def test_classes_that_no_family_covers(tmp_path: Path) -> None:
    class LlavaForConditionalGenerations(torch.nn.Module):
        """Some other class."""

    covered = f"covered are {', '.join(sorted(families()))}. Nearest: "
    advice = (
        " Declare it with mmlens.register_family, or pass a processor or example=tensors to from_hf, and its parts are "
        "discovered."
    )
    text = f"No family covers LlavaForConditionalGenerations; {covered}LlavaForConditionalGeneration.{advice}"
    with pytest.raises(UnsupportedModelError, match=says(text)):
        HookedMultimodal.from_hf(LlavaForConditionalGenerations())
    (tmp_path / "config.json").write_text('{"model_type": "bert", "architectures": ["BertForMaskedLM"]}')
    with pytest.raises(UnsupportedModelError, match=r"that sees no pictures \(BertForMaskedLM, model_type 'bert'\)"):
        HookedMultimodal.from_pretrained(tmp_path)
    (tmp_path / "config.json").write_text('{"model_type": "llava"}')
    message = f"config.json of {tmp_path} does not name the model's class: architectures is empty. Put it there, e.g."
    with pytest.raises(InputError, match=re.escape(message)):
        HookedMultimodal.from_pretrained(tmp_path)


def test_checkpoints(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=rf"^There is no checkpoint at {tmp_path}: "):
        HookedMultimodal.from_pretrained(tmp_path)
    with pytest.raises(InputError, match=r"^There is no checkpoint at no/where: "):
        HookedMultimodal.from_pretrained("no/where")
    with pytest.raises(InputError, match=says("device='cpu' and device_map='auto' exclude each other; give one.")):
        HookedMultimodal.from_pretrained(tmp_path, device="cpu", device_map="auto")
    with pytest.raises(InputError, match=says("dtype='float32' and torch_dtype='float16' differ; give dtype alone.")):
        HookedMultimodal.from_pretrained(tmp_path, dtype="float32", torch_dtype="float16")


def test_modules_that_the_family_expects_and_the_model_lacks() -> None:
    hf_model = TINY[0].make().hf_model
    del hf_model.model.vision_tower.encoder.layers[0].mlp.fc2
    text = (
        "CLIPEncoderLayer is none of the kinds of block that were declared: it lacks mlp.fc2; it has self_attn, "
        "layer_norm1, mlp, layer_norm2."
    )
    with pytest.raises(UnsupportedModelError, match=says(text)):
        HookedMultimodal.from_hf(hf_model)
    hf_model = TINY[0].make().hf_model
    del hf_model.model.multi_modal_projector.act
    text = (
        "expects a module 'model.multi_modal_projector.act' in LlavaForConditionalGeneration, but "
        "LlavaMultiModalProjector has no 'act'; it has linear_1, linear_2."
    )
    with pytest.raises(UnsupportedModelError, match=re.escape(text)):
        HookedMultimodal.from_hf(hf_model)


def test_without_a_processor(llava: Subject) -> None:
    model = HookedMultimodal.from_hf(llava.model.hf_model)
    text = "needs a processor; pass one: HookedMultimodal.from_hf(hf_model, processor)."
    with pytest.raises(InputError, match=says(f"prepare {text}")):
        model.prepare(SHORT)
    with pytest.raises(InputError, match=says(f"A tokenizer {text}")):
        model.to_tokens(SHORT)


def test_words_of_several_tokens(llava: Subject) -> None:
    text = (
        "'red circle' is not a single token: the tokenizer makes ['red', 'circle'] "
        "of it. Name a word that is one token."
    )
    with pytest.raises(InputError, match=says(text)):
        llava.model.to_single_token("red circle")
    with pytest.raises(
        InputError, match=says("'zebra' is not a single token: the tokenizer makes ['<unk>'] of it. ...")
    ):
        llava.model.to_single_token("zebra")


def test_graph(llava: Subject) -> None:
    graph = llava.model.graph
    with pytest.raises(
        UnknownNameError, match=r"There is no kind of point 'resid_pots' among .* names. Nearest: resid_post"
    ):
        graph.select(kind="resid_pots")
    with pytest.raises(
        InputError,
        match=says("No hook point fits part='vision', layer=7; the graph has HookGraph: 112 hook points ..."),
    ):
        graph.select(part="vision", layer=7)
    text = "No path leads from hook_logits to hook_embed; one leads back, from hook_embed to hook_logits."
    with pytest.raises(InputError, match=says(text)):
        graph.between("hook_logits", "hook_embed")
    with pytest.raises(InputError, match=says("No path leads from blocks.0.attn.hook_q to blocks.0.attn.hook_k.")):
        graph.between("blocks.0.attn.hook_q", "blocks.0.attn.hook_k")
