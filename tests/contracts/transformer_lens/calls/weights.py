"""Calls that read weights and labels."""

from tests.contracts.transformer_lens.call import Call

_STACKED = ("W_K", "W_V", "W_O", "W_in", "W_out", "W_gate")
_ATTENTION = ("W_K", "W_V", "W_O")
_ZEROS = "zeros where the family has no bias, as HookedTransformer had them; the bridge refuses"
_GAIN = {
    "differs": "the final norm's gain is part of the direction, so that attributions sum to the logit; the bridge leaves it out",
}

CALLS = [
    Call("model.W_E", "M"),
    Call("model.W_U", "ME"),
    Call("model.b_U"),
    Call("model.W_pos", both_refuse=True),
    Call("model.W_E_pos", both_refuse=True),
    Call("model.W_Q", "M"),
    *(Call(f"model.{name}", "T" if name == "W_O" else "M" if name == "W_V" else "") for name in _STACKED),
    *(
        Call(f"model.{name}", differs=_ZEROS, truth=f"bias({name!r})")
        for name in ("b_Q", "b_K", "b_V", "b_O", "b_in", "b_out")
    ),
    Call("model.embed.W_E", "M"),
    Call("model.unembed.W_U", "M"),
    Call("model.unembed.b_U"),
    Call("model.blocks[0].attn.W_Q", "M"),
    *(Call(f"model.blocks[1].attn.{name}") for name in _ATTENTION),
    *(
        Call(f"model.blocks[1].attn.{name}", differs=_ZEROS, truth=f"bias({name!r})[1]")
        for name in ("b_Q", "b_K", "b_V", "b_O")
    ),
    *(Call(f"model.blocks[1].mlp.{name}", "M" if name == "W_in" else "") for name in ("W_in", "W_out", "W_gate")),
    *(Call(f"model.blocks[1].mlp.{name}", differs=_ZEROS, truth=f"bias({name!r})[1]") for name in ("b_in", "b_out")),
    Call("model.blocks[1].ln1.w"),
    Call("model.blocks[1].ln2.w"),
    Call("model.ln_final.w"),
    Call("model.ln_final(cache['resid_post', -1])"),
    Call("model.unembed(model.ln_final(cache['resid_post', -1]))", "E"),
    Call("model.blocks[1].attn.hook_z.layer()", "T"),
    Call("model.blocks[1].hook_resid_pre.layer()"),
    Call("model.blocks[1].mlp.hook_post.layer()"),
    Call("len(model.blocks)"),
    Call("model.OV.A", "M"),
    Call("model.OV[1, 2].AB", "M"),
    Call("model.QK.AB", "M"),
    Call("model.QK_for_attn_layers()[0]"),
    Call("model.OV_for_attn_layers()[1].AB"),
    Call("[index for index, block in model.blocks_with('attn')]"),
    Call("model.stack_params_for('mlp', 'mlp.W_out')"),
    Call("model.accumulated_bias(2)"),
    Call("model.accumulated_bias(1, mlp_input=True)"),
    Call("model.accumulated_bias(3, include_mlp_biases=False)"),
    Call("model.all_head_labels", "ET"),
    Call("model.attn_head_labels"),
    Call("model.all_composition_scores('Q').scores"),
    Call("model.all_composition_scores('K').scores", "M"),
    Call("model.all_composition_scores('V').scores"),
    Call("model.all_composition_scores('V').head_labels"),
    Call("model.composition_layer_indices()"),
    Call("model.layer_types()", differs="the bridge lists a hook point among the branches", truth="['attn+mlp'] * 3"),
    Call("[name for name in model.block_submodules(0) if name in ('ln1', 'ln2', 'attn', 'mlp')] != []"),
    Call("set(model.block_hooks(0)) >= {'hook_resid_pre', 'attn.hook_z'}"),
    Call("model.tokens_to_residual_directions(20)", "E", **_GAIN, truth="gain * bridge.W_U[:, 20]", gap=0.45),
    Call(
        "model.tokens_to_residual_directions('red')",
        **_GAIN,
        truth="gain * bridge.W_U[:, bridge.to_single_token('red')]",
        gap=0.96,
    ),
    Call(
        "model.tokens_to_residual_directions(torch.tensor([20, 21]))",
        "ED",
        **_GAIN,
        truth="(gain[:, None] * bridge.W_U[:, 20:22]).T",
        gap=0.45,
    ),
    Call(
        "model.tokens_to_residual_directions(torch.tensor(20)) - model.tokens_to_residual_directions(torch.tensor(21))",
        "D",
        **_GAIN,
        truth="gain * (bridge.W_U[:, 20] - bridge.W_U[:, 21])",
        gap=0.5,
    ),
    Call("dict(model.tl_named_parameters())"),
    Call("model.tl_parameters()"),
    Call("model.get_params()['blocks.1.attn.W_Q']"),
    Call("sum(p.numel() for p in model.parameters())", "M"),
    Call("len(list(model.named_parameters())) > 0", "M"),
    Call("len(model.state_dict()) > 0"),
    Call("model.n_params_total"),
    Call("type(model.original_model).__name__"),
    Call("model.eval().training"),
    Call("model.to('cpu') is model"),
    Call("model.cpu() is model"),
    Call("model.requires_grad_(False)\nmodel.requires_grad_(True) is model"),
]
