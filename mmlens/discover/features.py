"""Features that a method returns: for models in which no module returns them all at once."""

import functools
from collections.abc import Mapping
from typing import Any

import torch
from torch import nn

from mmlens.declarations.projector import FeatureMethod
from mmlens.discover.attention_calls import recording_attention
from mmlens.discover.runs import ExampleRuns, matched
from mmlens.discover.trace import noisy

#: The method by which transformers' models make a picture's features; a public name, and no family's own.
METHOD = "get_image_features"


def feature_method(runs: ExampleRuns, rows: torch.Tensor) -> FeatureMethod | None:
    """The method whose result holds the rows of the language model's image positions, if one does.

    Args:
        runs: of the model.
        rows: how the stream changes at the image positions when the pixels do.
    """
    other = {k: noisy(v) for k, v in runs.inputs.items() if isinstance(v, torch.Tensor) and v.is_floating_point()}
    for path, module in runs.model.named_modules():
        if not path or not hasattr(module, METHOD):
            continue
        before, after = (_result(runs.model, module, inputs) for inputs in (runs.inputs, {**runs.inputs, **other}))
        for field in vars(before) if before is not None else ():
            pair = [_rows(getattr(result, field, None)) for result in (before, after)]
            if any(tensor is None or tensor.shape[-1] != rows.shape[-1] for tensor in pair):
                continue
            first, second = (tensor for tensor in pair if tensor is not None)
            if first.shape == second.shape and matched(rows, second - first) >= 0.5:
                return FeatureMethod(path, METHOD, field)
    return None


@torch.no_grad()
def _result(model: nn.Module, module: nn.Module, inputs: Mapping[str, Any]) -> Any:
    """What the method returned in one run of the model; None if it was not called just once."""
    original, results = getattr(module, METHOD), []

    @functools.wraps(original)
    def watched(*args: Any, **kwargs: Any) -> Any:
        results.append(original(*args, **kwargs))
        return results[-1]

    vars(module)[METHOD] = watched
    try:
        with recording_attention(model):
            model(**{"use_cache": False, **inputs})
    finally:
        del vars(module)[METHOD]
    return results[0] if len(results) == 1 else None


def _rows(value: Any) -> torch.Tensor | None:
    """Features in one tensor, or in one per picture, as `[row width]`."""
    pieces = [value] if isinstance(value, torch.Tensor) else list(value) if isinstance(value, list | tuple) else []
    if not pieces or not all(isinstance(piece, torch.Tensor) and piece.ndim > 1 for piece in pieces):
        return None
    return torch.cat([piece.float().flatten(0, -2) for piece in pieces])
