"""TransformerLens's activation patching, direct paths among it."""

from tests.contracts.transformer_lens.call import Call

_BY_POSITION = {"resid_pre": "EAT", "attn_out": "EA", "mlp_out": "EA"}
_HEADS = {"out": "EAT", "q": "A", "k": "A", "v": "A"}
_ARGUMENTS = "model, other_tokens, cache, metric"
#: A few cells of the grids that are large.
_CELLS = "index_axis_names=None, index_df="
_ONE = ("qwen2_5_vl",)
#: Where the tool finds its points, and heads write to the stream by themselves.
_DIRECT = ("llava",)
_PATTERN = {"differs": "in Qwen2.5-VL an edit of the bridge's patterns reaches nothing"}

CALLS = [
    Call(
        f"patching.get_act_patch_resid_mid({_ARGUMENTS})",
        "A",
        differs="the stream is patched, its way past the MLP too; the bridge patches what the MLP reads alone",
        truth="patched_middles()",
        gap=1.02,
    ),
    *(
        Call(
            f"patching.get_act_patch_{kind}({_ARGUMENTS})",
            marks,
            only=() if kind == "resid_pre" else ("llava", "gemma3"),
        )
        for kind, marks in _BY_POSITION.items()
    ),
    *(Call(f"patching.get_act_patch_attn_head_{kind}_all_pos({_ARGUMENTS})", marks) for kind, marks in _HEADS.items()),
    *(
        Call(
            f"patching.get_act_patch_attn_head_{kind}_by_pos({_ARGUMENTS}, {_CELLS}cells)", "A" if kind == "out" else ""
        )
        for kind in _HEADS
    ),
    Call(
        f"patching.get_act_patch_attn_head_pattern_all_pos({_ARGUMENTS})",
        "A",
        **_PATTERN,
        truth="patched_patterns()",
        gap=0.65,
    ),
    Call(
        f"patching.get_act_patch_attn_head_pattern_by_pos({_ARGUMENTS}, {_CELLS}pattern_cells.iloc[:, :3])",
        **_PATTERN,
        truth="patched_patterns(pattern_cells.iloc[:, :3])",
    ),
    Call(
        f"patching.get_act_patch_attn_head_pattern_dest_src_pos({_ARGUMENTS}, {_CELLS}pattern_cells)",
        **_PATTERN,
        truth="patched_patterns(pattern_cells)",
    ),
    Call(f"patching.get_act_patch_block_every({_ARGUMENTS})", "A", only=_ONE),
    Call(f"patching.get_act_patch_attn_head_all_pos_every({_ARGUMENTS})", "A", only=("llava",)),
    Call(f"patching.get_act_patch_attn_head_by_pos_every({_ARGUMENTS})", "A", only=("llava",)),
    Call(
        "patching.generic_activation_patch(model, other_tokens, cache, metric, patching.layer_pos_patch_setter, 'resid_post', ['layer', 'pos'])",
        "A",
        only=_DIRECT,
    ),
    Call(
        "patching.generic_activation_patch(model, other_tokens, cache, metric, patching.layer_head_vector_patch_setter, 'z', ['layer', 'head'], return_index_df=True)[0]"
    ),
    Call(
        "patching.get_act_patch_resid_pre(model, other_tokens, cache, batch_metric, reduce='none', baseline=True).values",
        only=_DIRECT,
    ),
    Call(
        "patching.get_act_patch_direct_path(model, other_tokens, cache, other_cache, metric, 0, 1, verbose=False)",
        only=_DIRECT,
    ),
    Call(
        "patching.get_act_patch_direct_path(model, other_tokens, cache, other_cache, metric, 1, 1, component='k', verbose=False)",
        only=_DIRECT,
    ),
    Call(
        "patching.get_act_patch_direct_path(model, other_tokens, cache, other_cache, metric, 1, 1, component='v', verbose=False)",
        only=_DIRECT,
    ),
    Call(
        "patching.get_act_patch_direct_path_all_sources(model, other_tokens, cache, other_cache, metric, verbose=False).shape",
        only=_DIRECT,
    ),
]
