"""TransformerLens's tools that take a model."""

from tests.contracts.transformer_lens.call import Call

_DLA = "runs on the model as it is: directions have the final norm's gain in them; the bridge asks for folded weights first"
_TOLD = "a text is a prompt about the picture (whose tokens are duplicates of each other to detectors); the bridge runs it without one"
_LOSS = "the loss is that of the text; the bridge scores the places of the picture too"
_EDGES = ("llava",)  # the tool refuses grouped heads and norms behind attention


def _told(code: str, notebooks: str = "", only: tuple[str, ...] = ()) -> Call:
    """A call whose texts mean prompts about the picture: right is what the bridge gives for those."""
    return Call(
        code, notebooks, differs=_TOLD, truth=code.replace("(model,", "(told,").replace(", model", ", told"), only=only
    )


CALLS = [
    Call("logit_lens(model, tokens, positions=None).values"),
    Call("logit_lens(model, tokens).labels"),
    Call("logit_lens(model, tokens, targets=['red']).values"),
    Call(
        "direct_logit_attribution(model, tokens, 'red').attribution",
        differs=_DLA,
        truth="attributed(pictured.decompose_resid(pos_slice=-1), 'red')",
    ),
    Call(
        "direct_logit_attribution(model, tokens, 'red', 'blue', unit='head').attribution",
        differs=_DLA,
        truth="attributed(pictured.stack_head_results(incl_remainder=True, pos_slice=-1), 'red', 'blue')",
    ),
    Call(
        "direct_logit_attribution(model, tokens, 'red', unit='layer').attribution",
        differs=_DLA,
        truth="attributed(pictured.accumulated_resid(incl_mid=True, pos_slice=-1), 'red')",
    ),
    Call("list(attribution_patch(model, tokens, other_tokens, metric).node_scores.values())", "T"),
    Call(
        "list(attribution_patch(model, tokens, other_tokens, metric, EdgeAttributionConfig('edge')).edge_scores.values())",
        "T",
        only=_EDGES,
    ),
    Call(
        "faithfulness(model, tokens, other_tokens, metric, attribution_patch(model, tokens, other_tokens, metric, EdgeAttributionConfig('edge')).top_edges(20)).recovered",
        only=_EDGES,
    ),
    Call("cache_activation_and_gradient(model, tokens, metric).gradients['blocks.1.hook_mlp_out']", "T"),
    Call("SVDInterpreter(model).get_singular_vectors('OV', layer_index=1, num_vectors=3, head_index=2).abs()"),
    Call("SVDInterpreter(model).get_singular_vectors('w_in', layer_index=1, num_vectors=3).abs()"),
    Call("SVDInterpreter(model).get_singular_vectors('w_out', layer_index=1, num_vectors=3).abs()"),
    _told("detect_head(model, text, 'previous_token_head')"),
    _told("detect_head(model, text, 'duplicate_token_head', exclude_bos=True)"),
    _told(
        "detect_head(model, text, 'induction_head', exclude_current_token=True, error_measure='abs')",
        only=("llava", "qwen2_5_vl"),
    ),  # the pictures of Gemma 3 see themselves whole
    _told("detect_head(model, [text, other_text], 'previous_token_head')"),
    _told("detect_head(model, text, 'previous_token_head', heads=[(0, 1), (1, 2)])"),
    _told("detect_head(model, text, 'previous_token_head', heads={0: [1]})"),
    _told("detect_head(model, text, diagonal)"),
    Call("evals.sanity_check(model)", differs=_TOLD, truth="prompt_loss(sanity_text)"),
    Call(
        "evals.evaluate_on_dataset(model, [{'tokens': tokens}], device='cpu')",
        differs=_LOSS,
        truth="text_loss(text).item()",
        gap=0.97,
    ),
    Call(
        "evals.induction_loss(model, batch_size=2, subseq_len=6, device='cpu')",
        refused="random tokens have no place for the picture",
        instead="evals.induction_loss(model.bind(model.prepare('text')))",
        truth="None",
    ),
    Call("evals.ioi_eval(model, dataset=ioi, batch_size=1)"),
    _told("printed(lambda: utils.test_prompt('what color is the', 'circle', model))", "ME"),
    _told(
        "printed(lambda: utils.test_prompt('what color is the', ['red', 'blue'], model, prepend_bos=True, prepend_space_to_answer=False))",
        "E",
    ),
    Call("collect_activations(model, 'blocks.1.hook_resid_post', tokens, model, positions=torch.tensor([-1]))"),
    Call(
        "intervened_logits(model, 'blocks.1.hook_resid_post', SubspaceInterchange(random_basis(model.cfg.d_model, 2, 0)), tokens, other_cache['resid_post', 1][:, -1], lambda ids: model(ids)[:, -1, 20:22], positions=torch.tensor([-1]))"
    ),
    Call(
        "fit_das(model, 'blocks.1.hook_resid_post', tokens, other_tokens, torch.tensor([1]), lambda ids: model(ids)[:, -1, 20:22], rank=1, base_positions=torch.tensor([-1]), source_positions=torch.tensor([-1]), epochs=2).losses"
    ),
    Call("attention_head_subspace_affinity(model, target_role='Q').scores"),
    Call("utils.lm_cross_entropy_loss(model(tokens), tokens, per_token=True)[:, -3:]", "M"),
    Call("utils.lm_accuracy(model(tokens), tokens)"),
    Call("utils.logits_to_df(model(tokens)[0, -1], model.tokenizer, top_k=3).iloc[:, 0].tolist()"),
    Call("utils.get_attention_mask(model.tokenizer, tokens, prepend_bos=True)"),
    Call("utils.to_numpy(model.W_E[:2])", "ME"),
    Call("utils.remove_batch_dim(cache['resid_pre', 1])"),
    Call("utils.sample_logits(model(tokens)[:, -1], top_k=1)"),
    Call("cv_tokens(model.to_str_tokens(tokens), cache['pattern', 0][0])", "ME"),
]
