"""TransformerLens's activation patching, direct paths among it."""

from tests.contracts.transformer_lens.call import Call

_BY_POSITION = ("resid_pre", "resid_mid", "attn_out", "mlp_out")
_ALL_POSITIONS = ("out", "q", "k", "v", "pattern")
_MARKS = {"resid_pre": "EAT", "attn_out": "EA", "mlp_out": "EA", "resid_mid": "A"}
_ARGUMENTS = "(model, other_tokens, cache, metric)"
_TEN = "index_df=rows({axes}), index_axis_names=None"

CALLS = [
    *(Call(f"patching.get_act_patch_{kind}{_ARGUMENTS}", _MARKS[kind]) for kind in _BY_POSITION),
    *(
        Call(f"patching.get_act_patch_attn_head_{kind}_all_pos{_ARGUMENTS}", "A" if kind != "out" else "EAT")
        for kind in _ALL_POSITIONS
    ),
    *(
        Call(f"patching.get_act_patch_attn_head_{kind}_by_pos{_ARGUMENTS}", "A" if kind == "out" else "")
        for kind in _ALL_POSITIONS
    ),
    Call(
        "patching.get_act_patch_attn_head_pattern_dest_src_pos(model, other_tokens, cache, metric, index_axis_names=None, index_df=cells)"
    ),
    Call(f"patching.get_act_patch_block_every{_ARGUMENTS}", "A"),
    Call(f"patching.get_act_patch_attn_head_all_pos_every{_ARGUMENTS}", "A"),
    Call(f"patching.get_act_patch_attn_head_by_pos_every{_ARGUMENTS}", "A"),
    Call(
        "patching.generic_activation_patch(model, other_tokens, cache, metric, patching.layer_pos_patch_setter, 'resid_post', ['layer', 'pos'])",
        "A",
    ),
    Call(
        "patching.generic_activation_patch(model, other_tokens, cache, metric, patching.layer_head_vector_patch_setter, 'z', ['layer', 'head'], return_index_df=True)[0]"
    ),
    Call(
        "patching.get_act_patch_resid_pre(model, other_tokens, cache, batch_metric, reduce='none', baseline=True).values"
    ),
    Call("patching.get_act_patch_direct_path(model, other_tokens, cache, other_cache, metric, 0, 1, verbose=False)"),
    Call(
        "patching.get_act_patch_direct_path(model, other_tokens, cache, other_cache, metric, 0, 1, component='k', verbose=False)"
    ),
    Call(
        "patching.get_act_patch_direct_path(model, other_tokens, cache, other_cache, metric, 1, 1, component='v', verbose=False)"
    ),
    Call(
        "patching.get_act_patch_direct_path_all_sources(model, other_tokens, cache, other_cache, metric, verbose=False)"
    ),
]
