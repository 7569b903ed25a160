"""Calls between text and tokens."""

from tests.contracts.transformer_lens.call import Call

_PICTURE = "a text is a prompt about the picture, and has its tokens; prepend_bos=False means a piece of text"

CALLS = [
    Call("model.to_tokens('red circle')", "MER", differs=_PICTURE, truth="with_picture('red circle')"),
    Call("model.to_tokens('red circle', prepend_bos=False)", "M"),
    Call(
        "model.to_tokens(['red circle', 'blue'], prepend_bos=True)",
        "EA",
        differs=_PICTURE,
        truth="with_picture(['red circle', 'blue'])",
    ),
    Call(
        "model.to_tokens(['red circle', 'blue'], padding_side='right')",
        differs=_PICTURE,
        truth="with_picture(['red circle', 'blue'], 'right')",
    ),
    Call("model.to_tokens('red circle', move_to_device=False)", differs=_PICTURE, truth="with_picture('red circle')"),
    Call("model.to_tokens('red circle', truncate=False)", differs=_PICTURE, truth="with_picture('red circle')"),
    Call("model.to_string(tokens[0])", "M"),
    Call("model.to_string(tokens)"),
    Call("model.to_string([20, 21])", "M"),
    Call("model.to_string(20)", "D"),
    Call("model.to_string(np.array([20, 21]))"),
    Call(
        "model.to_str_tokens('red circle')",
        "MER",
        differs=_PICTURE,
        truth="bridge.to_str_tokens(with_picture('red circle'))",
    ),
    Call("model.to_str_tokens(' red')", "R", differs=_PICTURE, truth="bridge.to_str_tokens(with_picture('red'))"),
    Call("model.to_str_tokens('red circle', prepend_bos=False)", "M"),
    Call("model.to_str_tokens(['red circle', 'blue'], prepend_bos=False)"),
    Call("model.to_str_tokens(tokens)", "M"),
    Call("model.to_str_tokens(tokens[0])", "A"),
    Call("model.to_str_tokens(np.array([20]))"),
    Call("model.to_single_token('red')", "MEAD"),
    Call("model.to_single_token(' blue')", "D"),
    Call("model.to_single_token('red circle')", both_refuse=True),
    Call("model.to_single_str_token(20)", "M"),
    Call(
        "model.get_token_position('circle', 'what is the circle')",
        "M",
        differs=_PICTURE,
        truth="bridge.get_token_position('circle', with_picture('what is the circle'))",
    ),
    Call(
        "model.get_token_position('circle', 'circle of circle', mode='last')",
        "M",
        differs=_PICTURE,
        truth="bridge.get_token_position('circle', with_picture('circle of circle'), mode='last')",
    ),
    Call("model.get_token_position('circle', 'what is the circle', prepend_bos=False)", "M"),
    Call("model.get_token_position('circle', tokens)"),
    Call("model.get_token_position(20, tokens[0]) if 20 in tokens else None"),
    Call("model.get_token_position('sand', 'red circle')", both_refuse=True),
    Call("model.tokenizer.decode([20])", "M"),
    Call("sorted(model.tokenizer.vocab.items(), key=lambda pair: pair[1])[0]", "R"),
    Call("model.tokenizer.batch_decode([[20], [21]])", "R"),
    Call("model.tokenizer.padding_side", "M"),
]
