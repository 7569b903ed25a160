"""Groups of the prompt's positions: whose embeddings are one node."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Bool

from mmlens.core.errors import InputError
from mmlens.core.rules import Rule
from mmlens.inputs.batch import MultimodalBatch, forced_on
from mmlens.inputs.point_rows import prompt_point
from mmlens.inputs.positions import resolve
from mmlens.models.hooked import HookedMultimodal

#: The group of positions that no other names.
REST = "rest"
Masks = Mapping[str, Bool[torch.Tensor, "batch pos"]]


def group_masks(
    model: HookedMultimodal, batch: MultimodalBatch, groups: Mapping[str, Rule], *, required: bool = False
) -> dict[str, torch.Tensor]:
    """Which positions of the prompt belong to each group, `[batch pos]`; those that none names are the group `rest`.

    A position belongs to the last group that names it. Padding, which answers nothing, goes to a group of the text.

    Args:
        model: the hooked model.
        batch: the batch.
        groups: rules by name.
        required: whether each rule must mean something in this batch.
    """
    layout = batch.layout
    number = torch.full(layout.is_token.shape, -1)
    for index, rule in enumerate(groups.values()):
        number[resolve(rule, batch, prompt_point(model.graph), required=required).mask] = index
    of_text = number[layout.is_token & ~layout.is_image].unique()
    number[~layout.is_token] = of_text.max() if len(of_text) else -1
    forced = forced_on(batch, "language")
    if forced:  # a word's tokens are the same in both runs; they need a writer, and no edge of it differs there
        number[:, -forced:] = number[:, -forced - 1, None]
    return {**{name: number == index for index, name in enumerate(groups)}, REST: number < 0}


@dataclass(frozen=True)
class GroupNames:
    """The groups of a dataset's embeddings, and what their nodes are called.

    Attributes:
        masks: of each batch.
        batches: the batches.
    """

    masks: Sequence[Masks]
    batches: Sequence[MultimodalBatch]

    @classmethod
    def of(
        cls, model: HookedMultimodal, batches: Sequence[MultimodalBatch], groups: Mapping[str, Rule]
    ) -> "GroupNames":
        """Read the groups in every batch.

        Raises:
            InputError: for a group that holds no position in any of them.
        """
        masks = [group_masks(model, batch, groups, required=len(batches) == 1) for batch in batches]
        empty = [name for name in groups if not any(of_batch[name].any() for of_batch in masks)]
        if empty:
            raise InputError(
                f"The groups {', '.join(empty)} hold no position: there are none of the kind, or later groups name them all; a "
                "position belongs to the last group that names it."
            )
        return cls(masks, batches)

    def writers(self, *, has_pictures: bool) -> dict[str, str]:
        """The writers' names by group; those of picture positions are the projector's where it writes them.

        Args:
            has_pictures: whether the projector writes the picture's rows of the embedding.

        Raises:
            InputError: if a group mixes positions of picture and text.
        """
        names = {}
        for group in self.masks[0]:
            picture_writers = [
                batch.layout.is_image[masks[group]] & has_pictures
                for batch, masks in zip(self.batches, self.masks, strict=True)
            ]
            is_picture = torch.cat(picture_writers)
            if not len(is_picture):
                continue
            if is_picture.any() and not is_picture.all():
                raise InputError(
                    f"The group {group!r} mixes positions of picture and text, which are written by different nodes; make two "
                    "groups of it."
                )
            writer_name = "projector" if group == "image" else f"projector[{group}]"
            names[group] = writer_name if is_picture.any() else f"embed[{group}]"
        return names
