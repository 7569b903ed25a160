"""Fields of `model.cfg` that TransformerLens's tools and notebooks read."""

from tests.contracts.transformer_lens.call import Call

_FIELDS = {
    "n_layers": "MEAT",
    "n_heads": "MEAT",
    "d_model": "MD",
    "d_head": "M",
    "d_mlp": "MD",
    "d_vocab": "M",
    "d_vocab_out": "",
    "n_ctx": "M",
    "n_key_value_heads": "",
    "device": "ME",
    "dtype": "",
    "act_fn": "M",
    "eps": "",
    "attn_only": "",
    "gated_mlp": "",
    "uses_rms_norm": "",
    "final_rms": "",
    "normalization_type": "",
    "positional_embedding_type": "",
    "default_prepend_bos": "",
    "tokenizer_prepends_bos": "",
    "use_attn_result": "",
    "use_split_qkv_input": "T",
    "use_attn_in": "",
    "use_hook_mlp_in": "",
    "parallel_attn_mlp": "",
    "model_name": "M",
    "architecture": "",
    "rmsnorm_uses_offset": "",
    "output_logits_soft_cap": "",
    "attn_scores_soft_cap": "",
    "tie_word_embeddings": "",
    "is_multimodal": "",
    "n_params": "",
    "attention_dir": "",
    "rotary_base": "",
    "use_qk_norm": "",
}
_TRUE = {
    "n_key_value_heads": {
        "differs": "the number, always; the bridge says None where it is that of the heads",
        "truth": "4 if bridge.cfg.n_key_value_heads is None else 2",
    },
    "final_rms": {"differs": "whether the final norm is an RMS norm; the bridge says no of Gemma 3's", "truth": "True"},
}
CALLS = [Call(f"model.cfg.{field}", notebooks, **_TRUE.get(field, {})) for field, notebooks in _FIELDS.items()]
