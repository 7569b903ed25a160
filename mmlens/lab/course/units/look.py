"""Unit 1, look inside: points, runs and caches."""

import torch

from mmlens.lab.course.answers import Choice, Number, Numbers
from mmlens.lab.course.exercise import Exercise, Slip
from mmlens.lab.course.setting import clean, picture_rows
from mmlens.models.hooked import HookedMultimodal


def _n_points(model: HookedMultimodal, part: str) -> int:
    return sum(node.part == part for node in model.graph)


def _norms(model: HookedMultimodal, *, of_image: bool) -> list[float]:
    """Mean norms by transformers' own hidden states, which are those in front of each block."""
    batch = clean(model)
    states = model.hf_model(**batch, output_hidden_states=True).hidden_states
    rows = picture_rows(model, batch)
    rows = rows if of_image else torch.tensor(sorted({*range(states[0].shape[1])} - {*rows.tolist()}))
    return [float(state[0, rows].norm(dim=-1).mean()) for state in states[:-1]]


def _norms_behind(model: HookedMultimodal) -> list[float]:
    batch = clean(model)
    _, cache = model.run_with_cache(batch, names="blocks.*.hook_resid_post")
    rows = picture_rows(model, batch)
    return [float(cache["resid_post", layer][0, rows].norm(dim=-1).mean()) for layer in range(model.cfg.n_layers)]


def _first_word(model: HookedMultimodal, *, blind: bool) -> str:
    hooks = [("projector.hook_out", lambda features, hook: torch.zeros_like(features))] if blind else []
    logits = model.run_with_hooks(clean(model), fwd_hooks=hooks)
    return model.to_string(logits[0, -1].argmax())


EXERCISES = (
    Exercise(
        "look.1",
        "how many hook points the vision tower has",
        Number("points", relative=0, absolute=0),
        lambda model: _n_points(model, "vision"),
        "model.graph is a list of nodes, and each says its part.",
        (
            Slip(lambda model: _n_points(model, "language"), "those are the language model's."),
            Slip(lambda model: len(list(model.graph)), "those are the points of all towers together."),
        ),
        lambda model: 7,
    ),
    Exercise(
        "look.2",
        "the name of the point that holds the residual stream behind the language model's last block",
        Choice(),
        lambda model: f"blocks.{model.cfg.n_layers - 1}.hook_resid_post",
        "points are named blocks.{layer}.hook_{what}, and layers are counted from 0.",
        (
            Slip(lambda model: f"blocks.{model.cfg.n_layers}.hook_resid_post", "the first block is block 0."),
            Slip(
                lambda model: f"blocks.{model.cfg.n_layers - 1}.hook_resid_pre",
                "resid_pre is what enters a block, resid_post what leaves it.",
            ),
            Slip(
                lambda model: (
                    f"vision.{model.graph.select('vision.blocks.*.hook_resid_post')[-1].name.split('.', 1)[1]}"
                ),
                "that is the vision tower's.",
            ),
        ),
        lambda model: "hook_embed",
    ),
    Exercise(
        "look.3",
        "the first word of the answer when the projector hands on zeros",
        Choice(),
        lambda model: _first_word(model, blind=True),
        'a hook on "projector.hook_out" that returns torch.zeros_like(activation); then the word with the highest last logit.',
        (
            Slip(
                lambda model: _first_word(model, blind=False),
                "that is the answer with the picture.",
            ),
        ),
        lambda model: "green",
    ),
    Exercise(
        "look.4",
        "the mean length of the residual stream in front of each block (resid_pre), over the image's rows",
        Numbers("one for each layer"),
        lambda model: _norms(model, of_image=True),
        'cache["resid_pre", layer][0, rows].norm(dim=-1).mean(), with batch.layout.image[0] as rows.',
        (
            Slip(lambda model: _norms(model, of_image=False), "those are the rows of the text."),
            Slip(_norms_behind, "those are lengths behind the blocks (resid_post)."),
        ),
        lambda model: [1.0] * model.cfg.n_layers,
    ),
)
