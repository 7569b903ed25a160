"""Unit 2, rows and pixels: which row of which tower shows which part of the picture."""

import torch

from mmlens.lab.course.answers import Items, Number, Numbers
from mmlens.lab.course.exercise import Exercise, Slip
from mmlens.lab.course.setting import QUESTION, clean, moon, moon_patches, moon_rows, moon_scene, picture_rows
from mmlens.models.hooked import HookedMultimodal

_OTHER_QUESTION = "is there a red moon and a yellow house"


def _patch_box(model: HookedMultimodal, patch: int) -> list[int]:
    vision = model.config.vision_config
    size, across = vision.patch_size, vision.image_size // vision.patch_size
    row, column = divmod(patch, across)
    return [column * size, row * size, (column + 1) * size, (row + 1) * size]


def _fullest(model: HookedMultimodal) -> int:
    """The patch with the most of the moon's pixels."""
    mask = torch.as_tensor(moon().mask)

    def pixels(patch: int) -> int:
        left, top, right, bottom = _patch_box(model, patch)
        return int(mask[top:bottom, left:right].sum())

    return max(moon_patches(model), key=pixels)


def _first_rows(model: HookedMultimodal) -> list[int]:
    """Where each sample of two begins, by the mask."""
    mask = model.prepare([QUESTION, _OTHER_QUESTION], images=[moon_scene().image] * 2)["attention_mask"]
    return [int(row.nonzero()[0, 0]) for row in mask]


EXERCISES = (
    Exercise(
        "rows.1",
        "the rows of the language model whose patches touch the moon of scene 30",
        Items("row"),
        moon_rows,
        "batch.layout.patches(box=moon.box) goes from pixels to rows of the language model, counted from its first token.",
        (
            Slip(
                moon_patches, "those are numbers of patches: in the language model the picture begins behind some text."
            ),
            Slip(
                lambda model: picture_rows(model, clean(model))[moon_patches(model, touching=False)].tolist(),
                "patches that the moon covers in part count too.",
            ),
            Slip(lambda model: picture_rows(model, clean(model)).tolist(), "those are the rows of the whole picture."),
        ),
        lambda model: picture_rows(model, clean(model))[:12].tolist(),
    ),
    Exercise(
        "rows.2",
        "the pixels (left, top, right, bottom) that the 20th image token shows, counted from 0",
        Numbers("pixels"),
        lambda model: _patch_box(model, 20),
        "batch.layout.boxes(rows) goes back from rows to pixels; the 20th image token is layout.image[0][20].",
        (
            Slip(
                lambda model: _patch_box(model, 20 - int(picture_rows(model, clean(model))[0])),
                "that is row 20 of the language model, not the 20th token of the picture.",
            ),
            Slip(
                lambda model: [_patch_box(model, 20)[i] for i in (1, 0, 3, 2)],
                "x and y are the other way round: left, top, right, bottom.",
            ),
        ),
        lambda model: [0, 0, 12, 12],
    ),
    Exercise(
        "rows.3",
        "the image row of the language model (in the batch with the moon's question) with the most pixels of the moon",
        Number("row", relative=0, absolute=0),
        lambda model: int(picture_rows(model, clean(model))[_fullest(model)]),
        "moon.mask is True where the moon is drawn; count it inside of each row's box.",
        (Slip(_fullest, "that is the number of the patch; the language model's rows begin with text."),),
        lambda model: int(picture_rows(model, clean(model))[0]),
    ),
    Exercise(
        "rows.4",
        f"the row at which each sample begins in the batch of {QUESTION!r} and {_OTHER_QUESTION!r}, both about scene 30",
        Numbers("rows", relative=1e-6),
        _first_rows,
        'the attention mask is 0 in the padding: batch["attention_mask"].',
        (
            Slip(lambda model: [0, 0], "one of them is padded on the left, so it begins later."),
            Slip(
                lambda model: list(reversed(_first_rows(model))),
                "the shorter of the two is the one with padding in front.",
            ),
        ),
        lambda model: [2, 2],
    ),
)
