"""What the exercises look at: a scene with a red moon, its blue twin, and bare tensors that no verb of the library has made."""

from collections.abc import Callable, Sequence

import torch
from jaxtyping import Float, Int

from mmlens.analysis.metrics import Metric, logit_difference
from mmlens.core.errors import InputError
from mmlens.inputs.batch import MultimodalBatch
from mmlens.interventions.corruptions.pixels import twin as twin_batch
from mmlens.lab.composing import scene as scene_of
from mmlens.lab.scenery import Scene
from mmlens.lab.world import SceneObject
from mmlens.models.hooked import HookedMultimodal

QUESTION = "what color is the moon"
RED_NOT_BLUE: Metric = logit_difference("red", "blue")


def moon_scene() -> Scene:
    """A red moon, a blue star and a yellow house on sand."""
    return scene_of(seed=30)


def moon() -> SceneObject:
    """The moon of the scene."""
    return next(thing for thing in moon_scene().objects if thing.shape == "moon")


def blue_scene() -> Scene:
    """The same scene with a blue moon."""
    return moon_scene().twin(object=[thing.shape for thing in moon_scene().objects].index("moon"), color="blue")


def clean(model: HookedMultimodal) -> MultimodalBatch:
    """The question about the red moon."""
    return model.prepare(QUESTION, images=moon_scene().image)


def corrupted(model: HookedMultimodal) -> MultimodalBatch:
    """The same about the blue one."""
    return twin_batch(model, clean(model), [blue_scene().image])


def gap(logits: Float[torch.Tensor, "batch pos vocab"], model: HookedMultimodal) -> float:
    """How far "red" is ahead of "blue" at the last position, in logits."""
    return float(RED_NOT_BLUE.on(model)(logits[:, -1]))


def picture_rows(model: HookedMultimodal, batch: MultimodalBatch) -> Int[torch.Tensor, " row"]:
    """The rows of the first sample that hold image tokens, told by their ids alone."""
    return (batch["input_ids"][0] == model.config.image_token_id).nonzero()[:, 0]


def moon_patches(model: HookedMultimodal, *, touching: bool = True) -> list[int]:
    """The patches of the picture, counted row by row, that the moon's box touches; or those that lie inside of it."""
    vision = model.config.vision_config
    size, across = vision.patch_size, vision.image_size // vision.patch_size
    left, top, right, bottom = moon().box

    def lies(first: int, start: int, stop: int) -> bool:
        return first < stop and first + size > start if touching else start <= first and first + size <= stop

    return [
        row * across + column
        for row in range(across)
        for column in range(across)
        if lies(column * size, left, right) and lies(row * size, top, bottom)
    ]


def moon_rows(model: HookedMultimodal) -> list[int]:
    """The rows of the language model that hold the moon's patches in `clean`."""
    return picture_rows(model, clean(model))[moon_patches(model)].tolist()


def output_rows(model: HookedMultimodal, layer: int) -> Float[torch.Tensor, "neuron d_model"]:
    """The rows that the neurons of a language block write; raises InputError where no module holds them."""
    mlp = model.blocks[layer].mlp
    if mlp is None:
        raise InputError(f"Block {layer} of {model.family.name} has no neurons, so the course has no truth about them.")
    return mlp.W_out.detach().float()


def patched(
    model: HookedMultimodal,
    source: MultimodalBatch,
    target: MultimodalBatch,
    values: dict[str, Sequence[int] | slice],
    change: Callable[[torch.Tensor, torch.Tensor], torch.Tensor] | None = None,
) -> float:
    """`gap` of the target run with rows of the source's states in it, by bare hooks.

    Args:
        model: the model.
        source: what the states come from.
        target: what they go into.
        values: the rows by the point.
        change: from the target's and the source's states at these rows to what stands there; by default the source's.
    """
    _, cache = model.run_with_cache(source, names=list(values))
    hooks = [(name, _put(cache[name], rows, change)) for name, rows in values.items()]
    return gap(model.run_with_hooks(target, fwd_hooks=hooks), model)


def _put(
    states: torch.Tensor,
    rows: Sequence[int] | slice,
    change: Callable[[torch.Tensor, torch.Tensor], torch.Tensor] | None,
) -> Callable[..., torch.Tensor]:
    def hook(activation: torch.Tensor, hook: object) -> torch.Tensor:
        new = activation.clone()
        new[:, rows] = states[:, rows] if change is None else change(new[:, rows], states[:, rows])
        return new

    return hook
