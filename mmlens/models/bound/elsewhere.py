"""Attributes of TransformerLens's models that a bound model has not, and why: what its error says."""

_FOLDED = (
    "weights are never folded here, the model stays itself. What folding is for holds as it is: tokens_to_residual_directions "
    "has the final norm's gain in it, so that attributions sum to the logit"
)
_OTHER_KIND = "it is of another kind of model than one that reads a picture and writes text"
_POSITIONS = (
    "positions are rotary in nearly all language models behind pictures; where there is a table, model.hf_model has it"
)

NOT_HERE = {
    "enable_compatibility_mode": _FOLDED,
    "process_weights": _FOLDED,
    "W_pos": _POSITIONS,
    "W_E_pos": _POSITIONS,
    "pos_embed": _POSITIONS,
    "encoder_output": _OTHER_KIND,
    "predict_next_sentence": _OTHER_KIND,
    "to_sentence_pair_tokens": _OTHER_KIND,
    "diffusion_generate": _OTHER_KIND,
    "init_weights": "the weights are a checkpoint's; draw new ones in the Hugging Face model before it is wrapped",
    "generate_stream": "generation is Hugging Face's: model.generate(batch, streamer=...) hands on tokens as they are written",
    "boot_transformers": "HookedMultimodal.from_pretrained(name) opens a checkpoint",
    "boot_native": "HookedMultimodal.from_hf(hf_model, processor) wraps a model that is at hand",
    "boot_tl_legacy": "HookedMultimodal.from_hf(hf_model, processor) wraps a model that is at hand",
    "check_model_support": "mmlens families lists what is covered; other classes are discovered when they are opened",
    "list_supported_models": "mmlens families lists what is covered; other classes are discovered when they are opened",
}
