"""A scene: a picture with everything that is true of it, its twins and its files."""

from __future__ import annotations

import json
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

from PIL import Image, PngImagePlugin

import mmlens.lab.language as language
from mmlens.core.contract import checked
from mmlens.core.errors import InputError
from mmlens.core.files import whole_file
from mmlens.core.kinds import PathLike, Seed
from mmlens.lab.drawing.canvas import bounding_box, draw, ink_mask
from mmlens.lab.scene_changes import at_position, in_color, of_shape
from mmlens.lab.world import (
    MOODS,
    PEOPLE,
    PLACES,
    Placed,
    Question,
    SceneObject,
    require,
)

Split = Literal["test", "train"]


@checked
@dataclass(frozen=True)
class Scene:
    """A picture with everything that is true of it.

    Attributes:
        seed: Draws the same scene again: `scene(seed=...)`. A twin keeps its original's seed.
        place: The ground, one of `PLACES`.
        mood: The light, one of `MOODS`.
        placed: The objects as drawn, the source of all other truth.
        split: "test" for everything the public functions draw, "train" for training.
    """

    seed: Seed
    place: str
    mood: str
    placed: tuple[Placed, ...]
    split: Split = "test"

    @cached_property
    def image(self) -> Image.Image:
        """The picture, RGB, 96 x 96 pixels."""
        return self.render()

    @checked
    def render(self, scale: int = 1) -> Image.Image:
        """Draw the picture anew at a larger size.

        Args:
            scale: Whole number of pixels per picture pixel; 4 gives 384 x 384.

        Returns:
            An RGB picture; with `scale=1` the same as `image`.
        """
        if scale < 1:
            raise InputError(f"A picture cannot be drawn at scale {scale}. Pass a whole number from 1 up.")
        return Image.fromarray(draw(self.placed, self.place, self.mood, self._ground_seed, scale))

    @cached_property
    def objects(self) -> tuple[SceneObject, ...]:
        """The objects with their boxes and masks, in the order in which they were placed."""
        views = []
        for thing in self.placed:
            visible = ink_mask(thing)
            box = bounding_box(visible)
            views.append(SceneObject(thing.shape, thing.color, thing.size, thing.kind, box, visible, thing.center))
        return tuple(views)

    @cached_property
    def caption(self) -> str:
        """The true caption: objects from left to right, then the place."""
        return language.caption(self.placed, self.place)

    @cached_property
    def questions(self) -> tuple[Question, ...]:
        """Every question that the scene answers without doubt, with the true answers."""
        return language.questions(self.placed, self.place, self.mood, self.seed)

    def written(self) -> str:
        """Put the scene into words that can stand in the place of the picture.

        Returns:
            The written twin; use it as `scene.written() + " " + prompt`, without a picture.
        """
        return language.written_scene(self.placed, self.place, self.mood)

    @checked
    def twin(
        self,
        *,
        object: int | None = None,
        color: str | None = None,
        shape: str | None = None,
        place: str | None = None,
        mood: str | None = None,
        position: str | tuple[float, float] | None = None,
        gender: str | None = None,
    ) -> Scene:
        """Give the same scene with one thing changed.

        Args:
            object: Which object changes, counted as in `objects`; by default the first that can.
            color: New colour of a shape or of a person's clothes.
            shape: New noun of the same kind (a shape for a shape, a sign for a sign).
            place: New ground.
            mood: New light.
            position: Where the object moves: a new centre (x, y) in pixels, or "left", "right", "above" or
                "below", the side of the scene's first other object.
            gender: "man", "woman" or "person", for the scene's person.

        Returns:
            The twin; every pixel that the change does not touch is the same.

        Raises:
            InputError: Not exactly one change is asked for, or it cannot be made in this scene.

        Example:
            >>> import mmlens
            >>> mmlens.lab.scene(seed=3).twin(color="red", object=0).caption
            'a small red tree and an orange house on water'
        """
        changes = {"color": color, "shape": shape, "place": place, "mood": mood, "position": position, "gender": gender}
        names = [name for name, value in changes.items() if value is not None]
        if len(names) != 1:
            raise InputError(
                f"A twin differs in exactly one thing, but {len(names)} were asked for"
                f"{' (' + ', '.join(names) + ')' if names else ''}. Pass one of {', '.join(changes)}; "
                "chain twins to change more."
            )
        if place is not None:
            require(place, PLACES, "place")
            return replace(self, place=place)
        if mood is not None:
            require(mood, MOODS, "mood")
            return replace(self, mood=mood)
        index = self._index(object, names[0])
        thing = self.placed[index]
        others = self.placed[:index] + self.placed[index + 1 :]
        if color is not None:
            twin_thing = in_color(thing, color)
        elif shape is not None:
            twin_thing = of_shape(thing, shape)
        elif gender is not None:
            require(gender, PEOPLE, "person")
            twin_thing = replace(thing, shape=gender)
        elif position is not None:
            twin_thing = at_position(thing, others, position)
        objects = (*self.placed[:index], twin_thing, *self.placed[index + 1 :])
        return replace(self, placed=objects)

    def truth(self) -> dict[str, Any]:
        """Give everything that is true of the scene as plain data, without the pixel masks."""
        return {
            "seed": self.seed,
            "split": self.split,
            "caption": self.caption,
            "written": self.written(),
            "place": self.place,
            "mood": self.mood,
            "objects": [
                {"shape": o.shape, "color": o.color, "size": o.size, "kind": o.kind, "box": list(o.box)}
                for o in self.objects
            ],
            "questions": [{"text": q.text, "answer": q.answer, "kind": q.kind} for q in self.questions],
        }

    @checked
    def save(self, path: PathLike) -> tuple[Path, Path]:
        """Write the picture and its truth beside each other, each whole or not at all.

        Args:
            path: Where the PNG goes; the truth goes to the same name with the ending .json.

        Returns:
            The paths of the PNG and of the JSON.

        Raises:
            InputError: The folder does not exist, or the ending is another than .png.
        """
        picture = Path(path)
        picture = picture if picture.suffix else picture.with_suffix(".png")
        if picture.suffix.lower() != ".png":
            raise InputError(f"A scene is saved as PNG, not as {picture.suffix!r}. Pass a path ending in .png.")
        truth = picture.with_suffix(".json")
        note = PngImagePlugin.PngInfo()
        note.add_text("Description", self.caption)
        with whole_file(picture) as temporary:
            self.image.save(temporary, format="PNG", pnginfo=note)
        with whole_file(truth) as temporary:
            temporary.write_text(json.dumps(self.truth(), indent=1) + "\n", encoding="utf-8")
        return picture, truth

    @property
    def _ground_seed(self) -> int:
        return self.seed * 2 + (self.split == "train")

    def _index(self, object: int | None, change: str) -> int:
        if object is not None:
            if not 0 <= object < len(self.placed):
                raise InputError(
                    f"The scene has no object {object}: it has {len(self.placed)}, counted from 0. "
                    f"Pass a number from 0 to {len(self.placed) - 1}."
                )
            if change == "gender" and self.placed[object].kind != "person":
                raise InputError(
                    f"Object {object} is a {self.placed[object].shape}, which has no gender. "
                    f"People: {', '.join(PEOPLE)}."
                )
            return object
        able = {"color": ("shape", "person"), "shape": ("shape", "sign"), "gender": ("person",)}
        for index, thing in enumerate(self.placed):
            if thing.kind in able.get(change, (thing.kind,)):
                return index
        nouns = ", ".join(thing.shape for thing in self.placed)
        raise InputError(f"Nothing in this scene ({nouns}) can change its {change}. Take another scene.")
