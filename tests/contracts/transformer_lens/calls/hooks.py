"""Calls that attach hooks and name hook points."""

from tests.contracts.transformer_lens.call import Call

#: The bridge has no such points in Qwen2.5-VL, whose attention it cannot take apart.
_FORKS = ("llava", "gemma3")

CALLS = [
    Call("model.add_hook('blocks.1.hook_mlp_out', double)\nmodel(tokens)", "MT"),
    Call("model.add_hook('blocks.1.hook_mlp_out', double)\nmodel.reset_hooks()\nmodel(tokens)", "MT"),
    Call("model.add_hook(lambda name: name.endswith('mlp_out'), double, 'fwd')\nmodel(tokens)", "T"),
    Call(
        "seen = []\nmodel.add_hook('blocks.1.hook_resid_pre', keep(seen), 'bwd')\nmodel(tokens)[0, -1, 20].backward()\nseen[:1]",
        "T",
    ),
    Call(
        "seen = {}\nmodel.add_hook(lambda name: 'resid_pre' in name, store(seen), 'fwd')\nmodel.add_hook(lambda name: 'resid_pre' in name, store(seen), 'bwd')\nmetric(model(tokens)).backward()\nlen(seen) >= model.cfg.n_layers",
        "T",
    ),
    Call("with model.hooks(fwd_hooks=[('blocks.0.hook_mlp_out', double)]):\n    out = model(tokens)\nout"),
    Call(
        "with model.hooks(fwd_hooks=[('blocks.0.hook_mlp_out', double)], reset_hooks_end=True):\n    out = model(tokens)\n[out, model(tokens)]"
    ),
    Call("model.add_perma_hook('blocks.0.hook_mlp_out', double)\nmodel.reset_hooks()\nmodel(tokens)"),
    Call(
        "model.add_perma_hook('blocks.0.hook_mlp_out', double)\nmodel.reset_hooks(including_permanent=True)\nmodel(tokens)"
    ),
    Call("model.remove_all_hook_fns()\nmodel(tokens)"),
    Call("model.clear_contexts()\nmodel(tokens)"),
    Call("'blocks.1.attn.hook_z' in model.hook_dict", "M"),
    Call("model.hook_dict['blocks.1.attn.hook_z'].layer()", "M"),
    Call(
        "[name for name in ('hook_embed', 'blocks.0.hook_resid_pre', 'blocks.0.ln1.hook_scale') if name in model.hook_dict]",
        "M",
    ),
    Call("len([point for point in model.hook_points() if point is not None]) > 50"),
    Call("'blocks.1.attn.hook_z' in model.mod_dict"),
    Call("sorted(model.list_hooks())"),
    Call(
        "cache = {}\nmodel.cache_some(cache, lambda name: name == 'blocks.1.hook_resid_pre')\nmodel(tokens)\ncache['blocks.1.hook_resid_pre']",
        "M",
    ),
    Call("cache = {}\nmodel.cache_all(cache)\nmodel(tokens)\nlen(cache) > 90"),
    Call("cache = model.add_caching_hooks('blocks.1.hook_resid_pre')\nmodel(tokens)\ncache['blocks.1.hook_resid_pre']"),
    Call(
        "cache, fwd, bwd = model.get_caching_hooks('blocks.1.hook_resid_pre', incl_bwd=True)\nwith model.hooks(fwd_hooks=fwd, bwd_hooks=bwd):\n    metric(model(tokens)).backward()\n[cache['blocks.1.hook_resid_pre'], cache['blocks.1.hook_resid_pre_grad']]",
        "T",
    ),
    Call("model.get_hook_point('blocks.1.attn.hook_z').layer()", "T"),
    Call("model.check_hooks_to_add(model.hook_dict['blocks.0.hook_mlp_out'], 'blocks.0.hook_mlp_out', double)"),
    Call("model.set_use_attn_result(True)\nmodel.run_with_cache(tokens)[1]['result', 1]", "ETD", only=_FORKS),
    Call("model.set_use_split_qkv_input(True)\nmodel.run_with_cache(tokens)[1]['q_input', 1]", "T", only=_FORKS),
    Call("model.set_use_split_qkv_input(True)\nmodel.run_with_cache(tokens)[1]['k_input', 1]", "T", only=_FORKS),
    Call("model.set_use_split_qkv_input(True)\nmodel.run_with_cache(tokens)[1]['v_input', 1]", "T", only=_FORKS),
    Call("model.set_use_attn_in(True)\nmodel.run_with_cache(tokens)[1]['attn_in', 1]", "A", only=_FORKS),
    Call("model.set_use_hook_mlp_in(True)\nmodel.run_with_cache(tokens)[1]['mlp_in', 1]", "T"),
    Call(
        "model.set_use_split_qkv_input(True)\nmodel.run_with_hooks(tokens, fwd_hooks=[('blocks.1.attn.hook_q_input', partial(zero_one, head=1))])",
        only=_FORKS,
    ),
    Call("model.set_use_hook_mlp_in(True)\nmodel.run_with_hooks(tokens, fwd_hooks=[('blocks.1.hook_mlp_in', double)])"),
    Call(
        "model.set_use_attn_in(True)\nmodel.run_with_hooks(tokens, fwd_hooks=[('blocks.1.hook_attn_in', partial(zero_one, head=1))])",
        only=_FORKS,
    ),
    Call(
        "model.set_use_attn_result(True)\nmodel.run_with_hooks(tokens, fwd_hooks=[('blocks.1.attn.hook_result', partial(zero_one, head=1))])",
        "E",
        only=_FORKS,
    ),
    Call("model.run_with_hooks(tokens, fwd_hooks=[('blocks.1.attn.hook_result', double)])", both_refuse=True),
]
