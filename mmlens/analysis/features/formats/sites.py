"""Hook points by the names that other tools give to places in language models."""

import re

#: Modules of transformers that hold a language model; a tower's layers are not meant.
_LAYER = re.compile(r"(?:(?:model|language_model|text_model)\.)*layers\.(\d+)(?:\.(.+))?")
#: What stands where in a block, by the module's path in it and its side.
_PLACES = {
    "output": "hook_resid_post",
    "self_attn.o_proj.input": "attn.hook_z",
    "pre_feedforward_layernorm.output": "mlp.hook_in",
    "post_feedforward_layernorm.output": "hook_mlp_out",
    "mlp.input": "mlp.hook_in",
    "mlp.output": "mlp.hook_out",
}


def point_of(path: str) -> str:
    """The hook point of a place that is named by a module and a side; empty where none is known.

    Example:
        >>> point_of("model.layers.12.self_attn.o_proj.input"), point_of("vision_tower.layers.3.output")
        ('blocks.12.attn.hook_z', '')
    """
    match = _LAYER.fullmatch(path)
    place = match and _PLACES.get(match[2] or "output")
    return f"blocks.{match[1]}.{place}" if match and place else ""
