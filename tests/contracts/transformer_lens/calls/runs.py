"""Calls that run the model."""

from tests.contracts.transformer_lens.call import Call

_TEXT = "a text is a prompt about the picture; on the bridge it runs without one"
_MID = "the stream is moved, its way past the MLP too; the bridge moves what the MLP reads alone"
_EMBED = "the embedding with the picture in it is doubled; the bridge doubles placeholders, and the text's rows alone"
_LOSS = "the loss is that of the text; the bridge scores the places of the picture too"
_PROMPT = "it goes on from the prompt with its picture; the bridge generates from text alone"

CALLS = [
    Call("model(tokens)", "M"),
    Call("model.forward(tokens)"),
    Call("model(tokens, return_type='logits')", "E"),
    Call("model(tokens, return_type=None)", "M"),
    Call("model(text)", differs=_TEXT, truth="bridge(picture_tokens(text))"),
    Call("model(text, return_type='loss')", "M", differs=_LOSS, truth="text_loss(text)"),
    Call("model(other_text)", differs=_TEXT, truth="bridge(picture_tokens(other_text))"),
    Call("model(long_text)", differs=_TEXT, truth="bridge(picture_tokens(long_text))"),
    Call(
        "model([text, other_text])",
        differs=_TEXT,
        truth="torch.cat([bridge(picture_tokens(t)) for t in (text, other_text)])",
    ),
    Call("model(tokens, return_type='loss')", "MT", differs=_LOSS, truth="text_loss(text)"),
    Call("model(tokens, return_type='both')[0]"),
    Call("model(tokens, return_type='both')[1]", differs=_LOSS, truth="text_loss(text)"),
    Call("model(tokens, return_type='loss', loss_per_token=True)[:, -3:]", "M"),
    Call("model(tokens[0])"),
    Call("model(tokens, stop_at_layer=1)"),
    Call("model(tokens, stop_at_layer=-1)"),
    Call("model(tokens, stop_at_layer=0)"),
    Call(
        "model(model(tokens, stop_at_layer=1), start_at_layer=1)",
        differs="the bridge goes on from a stream without the prompt's masks and positions",
        truth="bridge(tokens)",
        gap=3.6,
    ),
    Call("model(tokens, prepend_bos=False)"),
    Call("model(tokens, padding_side='left')"),
    Call("model(tokens, attention_mask=mask)"),
    Call("model.loss_fn(model(tokens), tokens, per_token=True)[:, -3:]"),
    Call("model.input_to_embed(tokens)[0]"),
    Call("model.run_with_hooks(tokens)"),
    Call("model.run_with_hooks(tokens, return_type='logits', fwd_hooks=[])", "E"),
    Call(
        "model.run_with_hooks(tokens, return_type='loss', fwd_hooks=[(utils.get_act_name('v', 1), zero_head)])",
        "M",
        differs=_LOSS,
        truth="last_loss(bridge.run_with_hooks(tokens, fwd_hooks=[(utils.get_act_name('v', 1), zero_head)]), text)",
    ),
    Call("model.run_with_hooks(tokens, fwd_hooks=[('blocks.1.hook_resid_post', double)])", "MEA"),
    Call("model.run_with_hooks(tokens, fwd_hooks=[(lambda name: name.endswith('hook_mlp_out'), double)])", "M"),
    Call(
        "model.run_with_hooks(tokens, fwd_hooks=[('hook_embed', double)])",
        differs=_EMBED,
        truth="bridge.run_with_hooks(tokens, fwd_hooks=[('blocks.0.hook_resid_pre', double)])",
        gap=3.66,
    ),
    Call(
        "model.run_with_hooks(tokens, fwd_hooks=[('blocks.1.hook_resid_mid', double)])",
        "E",
        differs=_MID,
        truth="bridge.run_with_hooks(tokens, fwd_hooks=[('blocks.1.hook_attn_out', lambda out, hook: 2 * out + cache['resid_pre', 1])])",
        gap=3.34,
    ),
    Call("model.run_with_hooks(tokens, fwd_hooks=[('blocks.1.attn.hook_z', partial(zero_one, head=2))])", "E"),
    Call(
        "seen = []\nmodel.run_with_hooks(tokens, return_type=None, fwd_hooks=[(lambda name: name.startswith('blocks') and name.endswith('pattern'), keep(seen))])\ntorch.stack(seen)",
        "ME",
    ),
    Call(
        "seen = []\nmodel.run_with_hooks(tokens, fwd_hooks=[('blocks.1.hook_mlp_out', keep(seen))], stop_at_layer=2)\nseen[0]"
    ),
    Call(
        "model.run_with_hooks(tokens, fwd_hooks=[('blocks.1.hook_mlp_out', double)], reset_hooks_end=False)\nmodel(tokens)"
    ),
    Call(
        "seen = []\nmodel.run_with_hooks(tokens, bwd_hooks=[('blocks.1.hook_resid_pre', keep(seen))])[0, -1, 20].backward()\nseen[:1]"
    ),
    Call("model.run_with_cache(tokens)[0]", "MEATR"),
    Call("model.run_with_cache(tokens, return_type='logits')[0]", "E"),
    Call("model.run_with_cache(tokens, return_type=None)[0]", "M"),
    Call("model.run_with_cache(tokens, return_type='loss')[0]", differs=_LOSS, truth="text_loss(text)"),
    Call("model.run_with_cache(tokens, device='cpu')[1]['resid_post', 0]", "R"),
    Call("model.run_with_cache(tokens, remove_batch_dim=True)[1]['resid_post', 0]", "M"),
    Call("model.run_with_cache(text, remove_batch_dim=True)[1]['embed'].ndim", "R", differs=_TEXT, truth="2"),
    Call(
        "model.run_with_cache(other_text)[1]['resid_post', -1]",
        "E",
        differs=_TEXT,
        truth="bridge.run_with_cache(picture_tokens(other_text))[1]['resid_post', -1]",
    ),
    Call(
        "model.run_with_cache(long_text)[1]['resid_post', -1].shape",
        "M",
        differs=_TEXT,
        truth="bridge.run_with_cache(picture_tokens(long_text))[1]['resid_post', -1].shape",
    ),
    Call("model.run_with_cache(tokens, names_filter='blocks.0.hook_mlp_out')[1]['mlp_out', 0]"),
    Call(
        "model.run_with_cache(tokens, names_filter=['blocks.0.hook_mlp_out', 'blocks.1.hook_mlp_out'])[1]['mlp_out', 1]"
    ),
    Call("model.run_with_cache(tokens, names_filter=lambda name: name.endswith('pattern'))[1]['pattern', 1]", "M"),
    Call("model.run_with_cache(tokens, stop_at_layer=1)[1]['resid_post', 0]"),
    Call("model.run_with_cache(tokens, pos_slice=-1)[1]['resid_post', 0]"),
    Call("model.run_with_cache(tokens, return_cache_object=False)[1]['blocks.0.hook_resid_post']"),
    Call(
        "model.run_with_cache(tokens, return_type='loss', incl_bwd=True, names_filter='blocks.1.hook_resid_pre')[1]['blocks.1.hook_resid_pre_grad']",
        differs=_LOSS,
        truth="grad_of_text_loss('blocks.1.hook_resid_pre')",
    ),
    Call(
        "model.generate(tokens, max_new_tokens=4, do_sample=False, verbose=False)",
        "M",
        differs=_PROMPT,
        truth="greedy(4)",
    ),
    Call(
        "model.generate(text, max_new_tokens=4, do_sample=False, verbose=False, prepend_bos=True)",
        "M",
        differs=_PROMPT,
        truth="text + ' ' + written(4)",
    ),
    Call(
        "torch.manual_seed(0)\nmodel.generate(text, max_new_tokens=2, temperature=0.7, verbose=False).startswith(text)",
        "M",
        differs=_TEXT,
        truth="True",
    ),
]
