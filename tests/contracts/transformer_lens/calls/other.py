"""Calls that another library's life of a model has: loading, weight processing, other kinds of model."""

from tests.contracts.transformer_lens.call import Call

CALLS = [
    Call("model.enable_compatibility_mode(disable_warnings=True)"),
    Call("model.process_weights()"),
    Call("model.encoder_output(torch.zeros(1, 2, 4))", both_refuse=True),
    Call("model.predict_next_sentence('a', 'the')", both_refuse=True),
    Call("model.to_sentence_pair_tokens('a', 'the')", both_refuse=True),
    Call("model.diffusion_generate('a')", both_refuse=True),
    Call("model.prepare_multimodal_inputs(text, images=image)['input_ids']"),
    Call("model.hf_generate(tokens, max_new_tokens=4, do_sample=False)", truth="greedy(4)"),
    Call(
        "list(model.generate_stream(tokens, max_new_tokens=4, do_sample=False, verbose=False))[-1][:, -4:]",
        truth="greedy(4)[:, -4:]",
    ),
]
