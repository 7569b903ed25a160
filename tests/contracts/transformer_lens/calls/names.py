"""Shorthands of `get_act_name` and what they read from a cache of everything."""

from typing import Any

from tests.contracts.transformer_lens.call import Call


def _read(shorthand: str, notebooks: str = "", **more: Any) -> Call:
    return Call(f"cache[{shorthand}]", notebooks, **more)


_EMBED = {
    "differs": "the bridge's hook_embed is the embedding of the placeholders, before the picture takes their place",
    "truth": "bridge.run_with_cache(tokens)[1]['resid_pre', 0]",
    "gap": 11.0,
}
_NO_LINEAR = {
    "refused": "the linear path of a gated MLP has no point of its own",
    "instead": "cache['post', 1] / cache['act', 1]",
}
_ROTARY = {"only": ("llava", "gemma3")}  # in Qwen2.5-VL the bridge has no such point, or the scores before the mask


CALLS = [
    _read("'embed'", "R", **_EMBED),
    _read("'hook_embed'", **_EMBED),
    _read("'resid_pre', 1", "ME"),
    _read("'resid_mid', 1", "E"),
    _read("'resid_post', 1", "ME"),
    _read("'resid_post', -1", "E"),
    _read("'attn_out', 1", "E"),
    _read("'mlp_out', 1", "E"),
    _read("'pattern', 1", "M"),
    _read("'pattern', 0, 'attn'", "M"),
    _read("'attn', 1", "ME"),
    _read("'attn_scores', 1].clamp(min=-1e4)[:, :", **_ROTARY),
    _read("'attn_logits', 1].clamp(min=-1e4)[:, :", **_ROTARY),
    _read("'q', 1", "M"),
    _read("'k', 1", "M"),
    _read("'v', 1", "ME"),
    _read("'key', 1"),
    _read("'query', 1"),
    _read("'value', 1"),
    _read("'z', 1", "ET"),
    _read("'rot_q', 1", **_ROTARY),
    _read("'rot_k', 1", **_ROTARY),
    _read("'pre', 1", "M"),
    _read("'post', 1", "M"),
    _read("'mlp_pre', 1"),
    _read("'mlp_post', 1"),
    _read("'pre_linear', 1", **_NO_LINEAR),
    _read("'k1'"),
    _read("'pre1'"),
    _read("'scale1ln1'"),
    _read("'scale', 1, 'ln1'"),
    _read("'normalized', 1, 'ln1'"),
    _read("'scale', 1, 'ln2'"),
    _read("'normalized', 1, 'ln2'"),
    _read("'ln_final.hook_scale'"),
    _read("'ln_final.hook_normalized'"),
    _read("'scale'"),
    _read("'normalized'"),
    _read("'blocks.1.attn.hook_z'"),
    _read("'hook_unembed'", refused="the logits are called hook_logits", instead="cache['hook_logits']"),
]
