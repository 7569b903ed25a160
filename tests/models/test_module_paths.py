"""The hook point that a module path means holds what that module takes or returns, in every family at hand."""

import re

import pytest
import torch

from mmlens.core.errors import UnknownNameError
from tests.conftest import Subject

PATHS = {
    "llava_clip": {
        "model.language_model.layers[1].mlp": "blocks.1.hook_mlp_out",
        "model.language_model.layers.1.self_attn.o_proj.input": "blocks.1.attn.hook_z",
        "model.language_model.layers.1.output[0]": "blocks.1.hook_resid_post",
        "model.language_model.layers.1.mlp.down_proj.input": "blocks.1.mlp.hook_post",
        "model.vision_tower.encoder.layers.0.self_attn": "vision.blocks.0.hook_attn_out",
        "model.multi_modal_projector": "projector.hook_out",
        "lm_head": "hook_logits",
        "model.model.language_model.layers.0.self_attn.q_proj.output": "blocks.0.attn.hook_q",
    },
    "qwen2_vl": {"model.language_model.layers.2.mlp": "blocks.2.hook_mlp_out"},
    "instructblip": {"language_model.model.layers.0.self_attn": "blocks.0.hook_attn_out"},
}


def test_the_point_holds_what_the_module_has(subject: Subject) -> None:
    for path, name in PATHS.get(subject.name, {}).items():
        assert subject.model.hook_name_of(path) == name
        plain = re.sub(r"\[(\d+)\]", r".\1", path)
        side = "input" if plain.endswith(".input") else "output"
        plain = re.sub(r"\.(output|input)(\.0)?$", "", plain).removeprefix("model.model.")
        plain = f"model.{plain}" if plain.startswith("language_model.layers") else plain
        seen: list[torch.Tensor] = []

        def keep(module: object, args: tuple, output: object = None, side: str = side, seen: list = seen) -> None:
            value = args[0] if side == "input" else output
            seen.append(value[0] if isinstance(value, tuple) else value)

        module = subject.model.hf_model.get_submodule(plain)
        handle = module.register_forward_pre_hook(keep) if side == "input" else module.register_forward_hook(keep)
        _, cache = subject.model.run_with_cache(subject.batches["left"], names=name)
        handle.remove()
        assert torch.equal(cache[name].flatten(), seen[0].flatten()), path


@pytest.mark.parametrize(
    ("name", "point"),
    [
        ("blocks.0.attn.o.hook_in", "blocks.0.attn.hook_z"),
        ("blocks.2.hook_out", "blocks.2.hook_resid_post"),
        ("vision_encoder.encoder_layers.1.mlp.out.hook_in", "vision.blocks.1.mlp.hook_post"),
        ("blocks.1.hook_resid_mid", "blocks.1.hook_resid_mid"),
        ("unembed.hook_out", "hook_logits"),
    ],
)
def test_names_of_the_bridge(llava: Subject, name: str, point: str) -> None:
    assert llava.model.hook_name_of(name) == point


def test_what_no_point_holds_names_the_nearest(llava: Subject) -> None:
    with pytest.raises(
        UnknownNameError, match=r"is no module of LlavaFor.*Nearest: model\.language_model\.layers\.1\.mlp"
    ):
        llava.model.hook_name_of("model.language_model.layer.1.mlp")
    with pytest.raises(UnknownNameError, match=r"No hook point holds what .*up_proj \(Linear\) returns\. Nearest: "):
        llava.model.hook_name_of("model.language_model.layers.1.mlp.up_proj")
