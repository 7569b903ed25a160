"""Values that are wrong for a parameter, by what the parameter means; written without a look at the annotations."""

import re
from typing import Any

import numpy as np
import torch

NAN, INF = float("nan"), float("inf")


class Stranger:
    """An object that no function can use."""


def wrong_everywhere() -> list[Any]:
    """Values that are wrong whatever a parameter means."""
    return [Stranger(), 1j, np.datetime64("2020-01-01"), Stranger, {"stranger": Stranger()}, [Stranger()], b"bytes"]


#: By kind of parameter.
BAD: dict[str, list[Any]] = {
    "count": [0, -1, 1.5, "3", "", NAN, INF, True, [2], np.float64(2.5), torch.tensor([1, 2]), np.array([3]), 2.0],
    "index": [-(10**6), 10**9, 1.5, "0", NAN, True, [[0]], np.float64(0.5), torch.tensor([[1, 2]]), 0.0],
    "seed": [-1, 1.5, "0", NAN, True, [0], 2**70, np.float64(0.5)],
    "number": [
        "1.0",
        "",
        NAN,
        INF,
        -INF,
        True,
        [1.0, 2.0],
        np.float32("nan"),
        torch.tensor(NAN),
        torch.ones(2, 2),
        1e300,
    ],
    "positive": ["1.0", NAN, INF, -INF, True, [], -1.0, np.float32("inf"), -1e-9, 1e300],
    "fraction": ["0.5", NAN, INF, True, [0.5], -0.1, 1.1, 100, np.float64("nan")],
    "percentile": ["50", NAN, INF, True, [50.0], -1.0, 101.0],
    "numbers": [NAN, [NAN], ["a"], "1", 1.0, [[1.0]], [1j], [True], [INF, 1.0], [None]],
    "counts": [[0], [-1], [1.5], ["a"], "1", [NAN], [True], [None], []],
    "flag": ["yes", 1, 0, NAN, [], "False", np.float64(1.0), 2],
    "choice": [3, ["x"], NAN, "", True, "no such word", "Magnitude "],
    "text": [3, [3], NAN, True, 1.5],
    "point": [
        "blocks.99.hook_resid_post",
        "block.0.hook_resid_pre",
        "",
        3,
        [3],
        [],
        NAN,
        True,
        "vision.blocks.*.nothing",
        [None],
    ],
    "model": ["model", 3, torch.nn.Linear(2, 2), NAN, [], True],
    "batch": ["text", 3, ["a", "b"], NAN, {}, {"input_ids": "x"}, [], np.zeros((2, 2)), torch.randn(1, 4), True],
    "dataset": ["text", 3, {}, NAN, [3], [None], True, [["x", 3]], {"image": 3}],
    "units": [
        3,
        "L99.u0",
        "nonsense",
        "L0.u99999999",
        [3],
        [None],
        NAN,
        [],
        "",
        True,
        [(1, 2, 3, 4, 5, 6)],
        ["L0.u-1"],
    ],
    "positions": ["imgae", 10**6, NAN, 1.5, [], [1.5], True, "", [10**6], ["a"], [None], torch.tensor([0.5]), [[[0]]]],
    "metric": ["logit", 3, [], {}, True, NAN],
    "function": ["f", 3, [], NAN, True],
    "path": [3, NAN, [], True, "", "\0"],
    "tensor": ["x", 3, [], NAN, torch.tensor([[[[1.0]]]]), torch.ones(3, dtype=torch.complex64), True, np.array(["a"])],
    "picture": [3, NAN, [], "no/such/picture.png", True, np.zeros((2, 2, 7)), np.full((4, 4, 3), NAN), ""],
    "token": [10**9, -5, 1.5, NAN, "", [], True, [1.5], "a phrase of words"],
    "instance": ["x", 3, [], {}, NAN, True],
    "mapping": ["x", 3, NAN, True, [1]],
    "list": [3, NAN, True, "x"],
    "device": [3.5, "gpux", NAN, [], ""],
    "stranger": [],
}

#: What a parameter means, under `"callable.parameter"` or `"parameter"`; else the type of its example tells.
KINDS: dict[str, str] = {
    "SparseDictionary.feature": "index",
    "model": "model", "batch": "batch", "clean": "batch", "corrupted": "batch", "dataset": "dataset", "data": "batch",
    "targets": "dataset", "metric": "metric", "at": "point", "names": "point", "point": "point", "to": "point",
    "units": "units", "neurons": "units", "like": "units", "positions": "positions", "queries": "positions",
    "keys": "positions", "noised": "positions", "to_positions": "positions",
    "seed": "seed", "alpha": "number", "alphas": "numbers", "sigma": "positive", "factor": "number", "level": "fraction",
    "percentile": "percentile", "part": "choice", "method": "choice", "nodes": "choice", "towers": "choice",
    "freeze": "choice", "average": "choice", "match": "choice", "pairs": "choice", "by": "choice", "over": "choice",
    "shown": "choice", "path": "path", "folder": "path", "into": "path", "checkpoint": "path",
    "token": "token", "answer": "token", "other": "token", "source": "token", "target": "token",
    "image": "picture", "picture": "picture", "images": "picture", "sample": "index", "layer": "index",
    "index": "index", "concept": "index", "device": "device", "budget": "positive", "penalty": "positive",
    "seeds": "seeds", "kappas": "numbers", "numbers": "counts", "radius": "positive", "beyond": "number",
    "low": "number", "high": "number", "least": "number", "at_least": "number", "drop": "fraction", "fps": "positive",
    "direction": "choice", "mode": "choice", "kind": "choice", "split": "choice", "quantity": "choice", "role": "choice",
    "ways": "choice", "methods": "choice", "attention": "choice", "padding_side": "choice", "stack": "choice",
    "activation": "choice", "word_token": "choice", "correction": "choice", "max_new_tokens": "count", "regions": "mapping",
    "noise_at": "point", "target_at": "point", "layers": "indices", "heads": "indices", "concepts": "indices",
    "sources": "indices", "rows": "indices", "box": "box", "region": "box", "color": "box", "value": "number",
    "Add.direction": "tensor", "SteeringVector.direction": "tensor", "steering_vector.source": "tensor",
    "steering_vector.target": "tensor", "DoseCurve.alpha": "number", "contrast": "choice", "passes": "choice",
    "answer_layer": "index", "caption_layer": "index", "request_layer": "index", "GroupMeanAblation.groups": "positions",
    "guidance_scale": "number", "Contrast.against": "batch", "Boosted.contrast": "positive", "objects": "positions",
    "question": "text", "information_flow.question": "positions", "verb": "stranger",
    "positions.box.image": "index", "positions.mask.image": "index", "positions.object.image": "index",
}  # fmt: skip

BAD["seeds"] = [[-1], [1.5], ["a"], "1", [NAN], [True], []]
BAD["indices"] = [[-(10**6)], [10**9], [1.5], ["a"], "1", [NAN], [True], [None], 1.5, NAN]
BAD["box"] = ["x", 3, [1], (1, 2), NAN, (NAN, 0, 1, 1), ("a", 0, 1, 1), True, (0, 0, 0)]


#: What an annotation says of a parameter whose example is None, by the first of its words.
HINTS = {
    "Sequence": "list", "tuple": "list", "list": "list", "Iterable": "list", "Mapping": "mapping", "dict": "mapping",
    "Callable": "function", "Literal": "choice", "bool": "flag", "float": "number", "int": "count", "str": "text",
    "Tensor": "tensor", "ndarray": "tensor",
}  # fmt: skip


def kind_of(callable_name: str, parameter: str, example: Any, annotation: str = "") -> str:
    """What a parameter means."""
    owner = callable_name.split(".")[0] if callable_name[:1].isupper() else callable_name
    for key in (f"{callable_name}.{parameter}", f"{owner}.{parameter}", parameter):
        if key in KINDS:
            return KINDS[key]
    if isinstance(example, bool):
        return "flag"
    if isinstance(example, int):
        return "count"
    if isinstance(example, float):
        return "number"
    if isinstance(example, str):
        return "text"
    if isinstance(example, torch.Tensor | np.ndarray):
        return "tensor"
    if isinstance(example, dict):
        return "mapping"
    if isinstance(example, list | tuple):
        return "list"
    if callable(example) and not isinstance(example, torch.nn.Module):
        return "function"
    if example is None:
        words = re.findall(r"\w+", annotation)
        return next((HINTS[word] for word in words if word in HINTS), "stranger")
    return "instance"


def near_misses(word: str) -> list[str]:
    """Words that are almost one of the right ones."""
    return [word + "x", word[:-1], word.upper(), " " + word]


def bad_values(kind: str, example: Any, *, optional: bool) -> list[Any]:
    """Values that are wrong for a parameter.

    Args:
        kind: what it means.
        example: a right value.
        optional: whether None is right.
    """
    found = [*BAD[kind], *wrong_everywhere()]
    if isinstance(example, list | tuple):
        found += [[], (), [Stranger(), Stranger()], [None], [[]], "x", 3, NAN]
        found += [[*example, Stranger()], [*example, None], [*example, NAN]] if len(example) else []
    if isinstance(example, dict):
        found += [{}, {3: Stranger()}, {name: Stranger() for name in example}, dict.fromkeys(example)]
    if kind == "choice" and isinstance(example, str):
        found += near_misses(example)
    return found if optional else [*found, None]
