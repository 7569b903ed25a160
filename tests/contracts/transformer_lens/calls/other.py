"""Calls of another library's life of a model: loading, weight processing, other kinds of model."""

from tests.contracts.transformer_lens.call import Call

_FOLDED = {
    "refused": "weights are never folded: the model stays itself, and directions have the final norm's gain in them",
    "instead": "model.tokens_to_residual_directions(token)",
    "truth": "None",  # the bridge's own weights stay as they are for the other calls
}
_PROMPT = "it goes on from the prompt with its picture; the bridge generates from text alone"

CALLS = [
    Call("model.enable_compatibility_mode(disable_warnings=True)", "DR", **_FOLDED),
    Call("model.process_weights()", **_FOLDED),
    Call("model.encoder_output(torch.zeros(1, 2, 4))", both_refuse=True),
    Call("model.predict_next_sentence('a', 'the')", both_refuse=True),
    Call("model.to_sentence_pair_tokens('a', 'the')", both_refuse=True),
    Call("model.diffusion_generate('a')", both_refuse=True),
    Call(
        "model.prepare_multimodal_inputs(text, images=image)['input_ids']",
        differs="template and placeholders are put in",
        truth="with_picture(text)",
    ),
    Call("model.hf_generate(tokens, max_new_tokens=4, do_sample=False)", differs=_PROMPT, truth="greedy(4)"),
    Call(
        "list(model.generate_stream(tokens, max_new_tokens=4, do_sample=False, verbose=False))[-1][:, -4:]",
        refused="generation is Hugging Face's, which hands on tokens to a streamer",
        instead="model.generate(batch, streamer=streamer)",
        truth="None",
    ),
]
