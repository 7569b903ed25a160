"""Shorthands of `get_act_name` and what they read from a cache of everything."""

from tests.contracts.transformer_lens.call import Call


def _read(shorthand: str, notebooks: str = "", flag: str = "", **more: object) -> Call:
    flags = f"model.{flag}(True)\n" if flag else ""
    return Call(f"{flags}model.run_with_cache(tokens)[1][{shorthand}]", notebooks, **more)  # type: ignore[arg-type]


CALLS = [
    _read("'embed'", "R"),
    _read("'hook_embed'"),
    _read("'resid_pre', 1", "ME"),
    _read("'resid_mid', 1", "E"),
    _read("'resid_post', 1", "ME"),
    _read("'resid_post', -1", "E"),
    _read("'attn_out', 1", "E"),
    _read("'mlp_out', 1", "E"),
    _read("'pattern', 1", "M"),
    _read("'pattern', 0, 'attn'", "M"),
    _read("'attn', 1", "ME"),
    _read("'attn_scores', 1"),
    _read("'attn_logits', 1"),
    _read("'q', 1", "M"),
    _read("'k', 1", "M"),
    _read("'v', 1", "ME"),
    _read("'key', 1"),
    _read("'query', 1"),
    _read("'value', 1"),
    _read("'z', 1", "ET"),
    _read("'rot_q', 1"),
    _read("'rot_k', 1"),
    _read("'pre', 1", "M"),
    _read("'post', 1", "M"),
    _read("'mlp_pre', 1"),
    _read("'mlp_post', 1"),
    _read("'pre_linear', 1"),
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
    _read("'result', 1", "E", flag="set_use_attn_result"),
    _read("'hook_unembed'"),
]
