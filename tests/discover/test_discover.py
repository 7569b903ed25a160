"""Models whose declaration is hidden are discovered: the same points, holding the same values; and what cannot be says why."""

from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import nn

from mmlens.core.errors import NoPlaceError, UnsupportedModelError
from mmlens.declarations import registry as declarations
from mmlens.declarations.family import Family
from mmlens.discover import discover
from mmlens.models.hooked import HookedMultimodal
from mmlens.models.trial import Trial
from tests.families import FAMILIES
from tests.models.own_models import IMAGE_TOKEN, VOCAB, MolmoLike
from tests.tiny import TINY, Tiny, picture, redraw

#: Families whose points are found again, and what is particular about them.
WHOLE = {
    "llava_clip": "a class row, read at the last but one block",
    "llava_siglip": "",
    "qwen2_vl": "packed rows, fused projections, merged patches",
    "qwen2_5_vl": "windows, gated MLP in the tower",
    "paligemma": "norms whose weight is the gain's distance from 1",
    "paligemma2": "sandwich norms and soft caps",
    "gemma3": "pooling between tower and projector",
    "internvl": "layer scales, patches side by side",
    "idefics3": "",
    "llava_next": "tiles, and tokens that no pixel moves",
    "vipllava": "several vision blocks side by side",
    "cohere2_vision": "parallel branches",
    "mistral3": "one sequence for all pictures",
    "glm4v": "a convolution behind the tower",
    "qwen3_vl": "mergers that add to the stream between language blocks",
    "qwen3_5_moe": "linear attention, gated attention, a mixture with a shared expert",
    "lfm3_vl": "what the heads hand on passes through a gate of its own linear",
    "kimi_k2_5": "latent attention, a tower that attends picture by picture",
    "lfm2_vl": "convolutions, features that a method returns",
    "ovis2": "a projector that runs several times, features that a method returns",
    "llava_onevision_interpolated": "features that a method returns; a norm behind the tower that nothing reads",
    "llama4": "sums in place, a mixture with a shared expert",
}
CASES = [tiny for tiny in [*TINY, *FAMILIES] if tiny.name in WHOLE]
#: Points that the declared families have and discovery does not claim.
LEFT_OUT = {
    "llama4": {"projector.mlp.hook_post"},
    "llava_onevision_interpolated": {f"projector.mlp.hook_{point}" for point in ("pre", "act", "post")},
}
#: Points that both have at different tensors: where the tower's features change their rows in front of the projector,
#: discovery takes what the tower's last norm returns; rows of several tiles stay in the axis in which they are returned; an axis
#: of length one stays too; where rows change behind the projector's last module, discovery takes what a method returns.
ELSEWHERE = {
    "glm4v": {"projector.hook_in"},
    "kimi_k2_5": {
        f"projector.{point}" for point in ("hook_in", "mlp.hook_pre", "mlp.hook_act", "mlp.hook_post", "hook_out")
    },
    "llama4": {"projector.hook_in", "projector.hook_out"},
    "llava_onevision_interpolated": {"projector.hook_out"},
}


def discovered(model: nn.Module, example: dict[str, torch.Tensor]) -> Family:
    """The family that discovery finds, as if none were declared."""
    return discover(model, example, trial=Trial(HookedMultimodal, model, example, progress=False))


@pytest.fixture
def hidden() -> Iterator[dict[str, Family]]:
    """The registry emptied, and put back afterwards."""
    registry = declarations._REGISTRY.families
    before = dict(registry)
    registry.clear()
    yield before
    registry.clear()
    registry.update(before)


@torch.no_grad()
@pytest.mark.parametrize("tiny", CASES, ids=lambda tiny: tiny.name)
def test_a_hidden_family_is_found_again(tiny: Tiny) -> None:
    declared = tiny.make()
    batch = declared.prepare("describe the image", images=picture(0, *tiny.sizes[0]))
    found = HookedMultimodal(declared.hf_model, family=discovered(declared.hf_model, batch.inputs))
    assert found.discovered
    assert found.family.name == f"discovered:{type(declared.hf_model).__name__}"
    assert set(declared.graph.names) - set(found.graph.names) == LEFT_OUT.get(tiny.name, set())
    assert set(found.graph.names) <= set(declared.graph.names)
    names = found.graph.names
    assert {n: declared.graph[n].dead is None for n in names} == {n: found.graph[n].dead is None for n in names}
    ours = found.run_with_cache(batch.inputs, names=names)[1]
    theirs = declared.run_with_cache(batch.inputs, names=names)[1]
    for name in names:
        assert found.graph[name].width == declared.graph[name].width, name
        if name not in ELSEWHERE.get(tiny.name, ()):
            assert ours[name].shape == theirs[name].shape, name
            assert torch.equal(ours[name], theirs[name]), name
    for layer, block in enumerate(found.blocks):
        if block.attn is not None and block.attn.declared.q is not None and declared.blocks[layer].attn is not None:
            assert torch.equal(block.attn.W_Q, declared.blocks[layer].attn.W_Q)
            assert torch.equal(block.attn.W_V, declared.blocks[layer].attn.W_V)
            assert torch.equal(block.attn.W_O, declared.blocks[layer].attn.W_O)
        if block.mlp is not None and declared.blocks[layer].mlp is not None:
            assert torch.equal(block.mlp.W_in, declared.blocks[layer].mlp.W_in)


def test_from_hf_discovers_what_no_family_covers(hidden: dict[str, Family]) -> None:
    declarations._REGISTRY.families.update(hidden)
    declared = next(tiny for tiny in TINY if tiny.name == "llava_clip").make()
    declarations._REGISTRY.families.clear()
    with pytest.raises(UnsupportedModelError, match=r"pass a processor or example=tensors to from_hf"):
        HookedMultimodal.from_hf(declared.hf_model)
    model = HookedMultimodal.from_hf(declared.hf_model, declared.processor)
    assert model.discovered
    assert not declared.discovered
    assert "discovered:LlavaForConditionalGeneration (not declared: its parts were discovered and verified)" in repr(
        model
    )
    batch = model.prepare("describe the image", images=picture())
    assert torch.equal(batch["input_ids"], declared.prepare("describe the image", images=picture())["input_ids"])
    assert torch.equal(batch.layout.is_image, batch["input_ids"] == declared.config.image_token_id)
    # painting has shown where rows are: as the declaration says
    expected = declared.prepare("describe the image", images=picture()).layout
    assert torch.equal(batch.layout.boxes(batch.layout.image[0]), expected.boxes(expected.image[0]))
    assert batch.layout.patches((0, 0, 8, 8))[0].tolist() == expected.patches((0, 0, 8, 8))[0].tolist()
    with pytest.raises(NoPlaceError, match=r"only rows of the language model were painted"):
        batch.layout.patches((0, 0, 8, 8), part="vision")
    longer = model.extend(batch, torch.tensor([[10]]))
    assert longer["input_ids"].shape[1] == batch["input_ids"].shape[1] + 1


def test_from_pretrained_discovers_too(hidden: dict[str, Family], tmp_path: Any) -> None:
    declarations._REGISTRY.families.update(hidden)
    declared = next(tiny for tiny in TINY if tiny.name == "llava_siglip").make()
    declared.save_pretrained(tmp_path)
    declarations._REGISTRY.families.clear()
    model = HookedMultimodal.from_pretrained(tmp_path, verify=True)
    assert model.discovered
    assert model.graph.names == declared.graph.names


def test_half_precision_is_no_hindrance_and_nothing_is_left_behind() -> None:
    declared = next(tiny for tiny in CASES if tiny.name == "internvl").make()
    model = declared.hf_model.to(torch.bfloat16)
    inputs = dict(declared.prepare("describe the image", images=picture(0, 64, 64)).inputs)
    pixels = inputs["pixel_values"].to(torch.bfloat16)
    own = model.config.text_config._attn_implementation
    family = discovered(model, {**inputs, "pixel_values": pixels})
    assert HookedMultimodal(model, family=family).graph.names == declared.graph.names
    with pytest.raises(UnsupportedModelError, match="could not be discovered"):
        discovered(model, {**inputs, "pixel_values": pixels[..., :3]})
    # transformers leaves hooks of its own
    left = [
        hook
        for module in model.modules()
        for hook in [*module._forward_hooks.values(), *module._forward_pre_hooks.values()]
    ]
    assert not [hook for hook in left if getattr(hook, "__module__", "").startswith("mmlens")]
    assert model.config.text_config._attn_implementation == own
    assert not model.training


def own_example() -> dict[str, torch.Tensor]:
    ids = torch.tensor([[5, *[IMAGE_TOKEN] * 4, 7, 8], [6, 9, *[IMAGE_TOKEN] * 4, 10]])
    return {"input_ids": ids, "pixel_values": torch.randn(2, 3, 32, 32, generator=torch.Generator().manual_seed(0))}


def test_a_model_that_is_not_of_transformers_is_discovered() -> None:
    model = HookedMultimodal.from_hf(redraw(MolmoLike()), example=own_example())
    assert model.discovered
    assert model.family.vision.read(model.config) == [1, 0]
    assert {"blocks.2.attn.hook_z", "blocks.2.mlp.hook_post", "vision.blocks.0.hook_resid_mid"} <= set(
        model.graph.names
    )
    assert "blocks.2.attn.hook_pattern" not in model.graph
    # four image tokens a picture, which pool two by two patches each
    layout = model.batch(own_example()).layout
    boxes = [[0, 0, 16, 16], [16, 0, 32, 16], [0, 16, 16, 32], [16, 16, 32, 32]]
    assert layout.boxes(layout.image[0]).tolist() == boxes
    assert layout.boxes(layout.image[1], sample=1).tolist() == boxes


class Blind(nn.Module):
    """A language model whose picture is one number, added to the embeddings of its tokens: nothing connects, no tower."""

    def __init__(self) -> None:
        super().__init__()
        self.config = SimpleNamespace(image_token_id=IMAGE_TOKEN, get_text_config=lambda: self.config)
        other = MolmoLike()
        self.embed, self.layers, self.norm, self.head = other.embed, other.blocks, other.norm, other.head

    def forward(self, input_ids: torch.Tensor, pixel_values: torch.Tensor, **options: Any) -> Any:
        x = self.embed(input_ids) + pixel_values.mean() * (input_ids == IMAGE_TOKEN)[..., None]
        for layer in self.layers:
            x = layer(x, input_ids == IMAGE_TOKEN)
        return SimpleNamespace(logits=self.head(self.norm(x)))


def test_what_cannot_be_discovered_gets_the_lines_to_write() -> None:
    with pytest.raises(UnsupportedModelError) as caught:
        HookedMultimodal.from_hf(redraw(Blind()), example=own_example())
    text = str(caught.value)
    assert text.startswith(
        "No family covers Blind, and it could not be discovered: no stack of blocks sees the pixels before the language model "
        "does.\nFound:\n  stack layers: 3 x MolmoBlock, width 24 (the language model)\n"
        "  attention in layers: MolmoBlock, in code of its own, 4 heads\n"
    )
    assert "    classes=('Blind',),\n    vision=Vision(Stack('path.to.the.blocks'" in text
    assert "attn=Attention(kernel=None, branch='attn_out', o='attn_out'" in text
    assert "embed='embed', norm=Norm(path='norm'), head='head', looks_ahead=True),\n    places=..." in text
    assert VOCAB == 20


def test_a_model_that_does_not_run_on_the_example_says_why() -> None:
    example = own_example()
    with pytest.raises(UnsupportedModelError, match="could not be discovered: it does not run on the example"):
        HookedMultimodal.from_hf(
            redraw(MolmoLike()), example={**example, "pixel_values": example["pixel_values"][:, :1]}
        )
    with pytest.raises(
        UnsupportedModelError, match=r"could not be discovered: the example holds no input_ids \[batch pos\]"
    ):
        HookedMultimodal.from_hf(redraw(MolmoLike()), example={"pixel_values": example["pixel_values"]})
