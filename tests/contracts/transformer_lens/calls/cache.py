"""Calls of an activation cache."""

from tests.contracts.transformer_lens.call import Call

_EMBED = "the first term is the embedding with the picture in it; the bridge's has placeholders there, so that its terms do not sum to the stream"
_GAIN = "directions have the final norm's gain in them, and sum to the logit"


def _summed(code: str, notebooks: str = "", gap: float | None = None) -> Call:
    """A sum of terms of which the embedding is one."""
    return Call(code, notebooks, differs=_EMBED, truth=code.replace("cache.", "pictured."), gap=gap)


CALLS = [
    Call("cache.accumulated_resid(layer=-1, incl_mid=True, pos_slice=-1, return_labels=True)", "E"),
    Call("cache.accumulated_resid(-1, incl_mid=True, return_labels=True)[0]", "T"),
    Call("cache.accumulated_resid(2, mlp_input=True, apply_ln=True)"),
    Call("cache.decompose_resid(layer=-1, pos_slice=-1, return_labels=True)", "E"),
    _summed("cache.decompose_resid(-1, return_labels=True)[0]", "T", gap=10.8),
    _summed("cache.decompose_resid(2, mode='attn')"),
    Call("cache.decompose_resid(2, mode='mlp', incl_embeds=False)"),
    _summed("cache.decompose_resid(2, mlp_input=True)"),
    Call("cache.decompose_resid(apply_ln=True, pos_slice=-1)"),
    Call("cache.stack_head_results(layer=-1, pos_slice=-1, return_labels=True)", "E"),
    Call("cache.stack_head_results(2, incl_remainder=True)"),
    Call("cache.stack_head_results(layer=-1, apply_ln=True, pos_slice=-1)"),
    Call("cache.compute_head_results()\ncache['result', 1]"),
    Call("cache.stack_activation('pattern')", "T"),
    Call("cache.stack_activation('z')", "T"),
    Call("cache.stack_activation('resid_pre', layer=2)"),
    Call("cache.stack_activation('scale', sublayer_type='ln1')"),
    Call("cache.stack_neuron_results(2, pos_slice=-1, return_labels=True)"),
    Call("cache.stack_neuron_results(1, pos_slice=-1, neuron_slice=(0, 5), incl_remainder=True)"),
    Call("cache.stack_neuron_results(1, project_output_onto=direction)"),
    Call("cache.get_neuron_results(1, pos_slice=-1)", "D"),
    Call("cache.get_neuron_results(1, neuron_slice=(0, 5))"),
    Call("cache.get_neuron_results(1, pos_slice=-1, project_output_onto=direction)", "D"),
    Call("cache.get_full_resid_decomposition(layer=-1, pos_slice=-1, apply_ln=True)", "D"),
    _summed("cache.get_full_resid_decomposition(layer=-1, apply_ln=True) @ direction", "D"),
    Call(
        "cache.get_full_resid_decomposition(layer=-1, pos_slice=-1, apply_ln=True, project_output_onto=direction, return_labels=True)",
        "D",
    ),
    Call(
        "cache.get_full_resid_decomposition(layer=-1, pos_slice=-1, apply_ln=True, project_output_onto=torch.stack([direction, -2 * direction], 1))",
        "D",
    ),
    Call("cache.get_full_resid_decomposition(expand_neurons=False, pos_slice=-1)", "D"),
    Call("cache.apply_ln_to_stack(cache['resid_post', -1][None], layer=-1)", "E"),
    Call("cache.apply_ln_to_stack(cache['resid_post', -1][:, -1][None], layer=-1, pos_slice=-1)", "E"),
    Call("cache.apply_ln_to_stack(cache['resid_pre', 1][None], layer=1)"),
    Call("cache.apply_ln_to_stack(cache['resid_mid', 1][None], layer=1, mlp_input=True)"),
    Call(
        "cache.logit_attrs(cache.decompose_resid(), tokens=20)",
        differs=_GAIN,
        truth="pictured.apply_ln_to_stack(pictured.decompose_resid()) @ (gain * bridge.W_U[:, 20])",
    ),
    Call(
        "cache.logit_attrs(cache.decompose_resid(), tokens='red')",
        differs=_GAIN,
        truth="pictured.apply_ln_to_stack(pictured.decompose_resid()) @ (gain * bridge.W_U[:, bridge.to_single_token('red')])",
    ),
    Call(
        "cache.logit_attrs(cache.decompose_resid(), tokens='red', incorrect_tokens='blue')",
        differs=_GAIN,
        truth="pictured.apply_ln_to_stack(pictured.decompose_resid()) @ (gain * (bridge.W_U[:, bridge.to_single_token('red')] - bridge.W_U[:, bridge.to_single_token('blue')]))",
    ),
    Call(
        "cache.logit_attrs(cache.stack_head_results(pos_slice=-1), tokens=tokens[:, -1], pos_slice=-1)",
        differs=_GAIN,
        truth="pictured.apply_ln_to_stack(pictured.stack_head_results(pos_slice=-1), pos_slice=-1) @ (gain * bridge.W_U[:, int(tokens[0, -1])])",
    ),
    Call("cache.logit_lens().values"),
    Call("cache.to('cpu')['resid_pre', 0]"),
    Call("cache.toggle_autodiff(False)\nNone"),
    Call("cache.remove_batch_dim()['resid_pre', 1].shape", "M"),
    Call("cache.apply_slice_to_batch_dim(0)['resid_pre', 1]"),
    Call("[name for name in cache.keys() if name == 'blocks.0.hook_resid_pre']", "M"),
    Call("[tuple(value.shape) for name, value in cache.items() if name.startswith('blocks.0.hook_resid')]", "R"),
    Call("len(list(cache.values())) == len(cache)"),
    Call("'blocks.0.hook_resid_pre' in cache.cache_dict"),
    Call("cache['pattern', 1][:, 2].mean(0)", "E"),
    Call("(cache['post', 1] > 0).float().mean()", "M"),
    Call("(model.W_O[1, 2].T @ cache['z', 1][0, -1, 2, :, None])[:, 0]", "T"),
    Call("ActivationCache(cache.cache_dict, model)['resid_pre', 1]", "T"),
    Call(
        "einops.einsum(cache['resid_post', -1][:, -1] / cache['ln_final.hook_scale'][:, -1], direction, 'b d, d -> b')",
        "E",
    ),
    Call("cache.compute_ssm_state(0)", both_refuse=True),
    Call("cache.ssm_layers()"),
]
