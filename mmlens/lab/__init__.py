"""The lab: a drawn world with its whole truth, and a small vision-language model that lives in it.

    scene = mmlens.lab.scene(seed=7)
    scene.image, scene.caption, scene.objects[0].mask
    model = mmlens.lab.load()                                 # the captioner, or load("narrator")

Two models live there. The *captioner* says what is drawn, nearly without a fault, one token a word, all of it learnt from
pictures: right for trying a method's plumbing and for planted effects. The *narrator* learnt a language from texts first and got
its eyes afterwards, as LLaVA did: sub-words, facts, priors that make it see what is usual, patches that read as words. What it
is asked about is in `mmlens.lab.tales`; how it behaves, and what was trained in, its model card says (`path("narrator")`).

Importing this package needs neither torch nor transformers; `load` and `planted` fetch them when called.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from mmlens.core.contract import checked
from mmlens.core.errors import InputError
from mmlens.core.kinds import Seed, Several, Text
from mmlens.lab import tales as tales
from mmlens.lab.checkpoints import ADAPTERS, DICTIONARIES, NARRATOR, WEIGHTS, DictionaryName, LabName, LabStage
from mmlens.lab.composing import scene as scene
from mmlens.lab.composing import scenes as scenes
from mmlens.lab.language import CAPTION_PROMPT as CAPTION_PROMPT
from mmlens.lab.language import REFUSAL as REFUSAL
from mmlens.lab.scenery import Scene as Scene
from mmlens.lab.world import ANSWERED_HAZARDS as ANSWERED_HAZARDS
from mmlens.lab.world import CANVAS as CANVAS
from mmlens.lab.world import COLORS as COLORS
from mmlens.lab.world import DIRECTIONS as DIRECTIONS
from mmlens.lab.world import HARMLESS_SIGNS as HARMLESS_SIGNS
from mmlens.lab.world import HAZARD_SIGNS as HAZARD_SIGNS
from mmlens.lab.world import MOODS as MOODS
from mmlens.lab.world import NOUNS as NOUNS
from mmlens.lab.world import PEOPLE as PEOPLE
from mmlens.lab.world import PLACES as PLACES
from mmlens.lab.world import QUESTION_KINDS as QUESTION_KINDS
from mmlens.lab.world import SHAPES as SHAPES
from mmlens.lab.world import SIGNS as SIGNS
from mmlens.lab.world import SIZES as SIZES
from mmlens.lab.world import TEXTURES as TEXTURES
from mmlens.lab.world import Placed as Placed
from mmlens.lab.world import PlantedKind
from mmlens.lab.world import Question as Question
from mmlens.lab.world import SceneObject as SceneObject

__all__ = [
    "ANSWERED_HAZARDS",
    "CANVAS",
    "CAPTION_PROMPT",
    "COLORS",
    "DIRECTIONS",
    "HARMLESS_SIGNS",
    "HAZARD_SIGNS",
    "MOODS",
    "NOUNS",
    "PEOPLE",
    "PLACES",
    "QUESTION_KINDS",
    "REFUSAL",
    "SHAPES",
    "SIGNS",
    "SIZES",
    "TEXTURES",
    "Placed",
    "Question",
    "Scene",
    "SceneObject",
    "check",
    "dictionaries",
    "edit_questions",
    "load",
    "load_tuned",
    "path",
    "planted",
    "scene",
    "scenes",
    "tales",
    "unknown",
]


def __dir__() -> list[str]:
    return __all__


if TYPE_CHECKING:
    from mmlens.analysis.features.dictionary import SparseDictionary
    from mmlens.lab.course.exercise import Grade
    from mmlens.lab.course.unknown import UnknownModel
    from mmlens.lab.edit_prompts import EditQuestions
    from mmlens.lab.weight_built import Planted
    from mmlens.models.hooked import HookedMultimodal


@checked
def path(name: LabName = "captioner") -> Path:
    """Give the folder of a trained lab model: config.json, model.safetensors, processor, model card.

    Args:
        name: "captioner" or "narrator".

    Returns:
        A folder that plain `AutoModelForImageTextToText.from_pretrained` loads; the narrator's holds its frozen stage.

    Raises:
        InputError: There is no such model.
    """
    return WEIGHTS if name == "captioner" else NARRATOR


@checked
def load(name: LabName = "captioner", *, stage: LabStage = "frozen") -> HookedMultimodal:
    """Load a trained lab model, in float32 on the CPU, wrapped and ready for hooks.

    Args:
        name: "captioner", which says what is drawn, or "narrator", which knows a language and a world beside it.
        stage: Of the narrator. "frozen" is what the folder holds and plain transformers opens, hence the default: a language
            model of texts alone, before which only the projector learnt from pictures. "tuned" adds the low-rank change that
            pictures made to both: less sure of its answers, seldom deceived by what is usual, as published models are. "lens" is
            another such change, in which image tokens were trained to read as words: for methods that look for what is there.

    Returns:
        The hooked model; under a second, no network.

    Raises:
        InputError: There is no such model, or a stage was asked for of the captioner, which has only one.

    Example:
        >>> import mmlens
        >>> model, tale = mmlens.lab.load("narrator"), mmlens.lab.tales.scene(seed=3)
        >>> model.caption(tale.image, prompt="Describe the picture.")  # its own words: it has never read "describe the image"
        'A green tree on grass.'
    """
    from mmlens.architectures.loading import without_bars
    from mmlens.models.hooked import HookedMultimodal

    if stage != "frozen":
        if name != "narrator":
            raise InputError(
                f"stage={stage!r} is of the narrator; the {name} has only one stage. "
                f'Pass load("narrator", stage="{stage}"), or load_tuned() for the captioner\'s fine-tunes.'
            )
        from mmlens.lab.narrating import merged_model

        with without_bars():
            return merged_model(NARRATOR, NARRATOR / stage)
    with without_bars():
        return HookedMultimodal.from_pretrained(path(name), dtype="float32")


def load_tuned() -> HookedMultimodal:
    """Load the lab model with its three LoRA fine-tunes, "place", "color" and "mood", on one copy of the weights.

    Each was trained to caption the same scenes in its own style (`mmlens.lab.training.finetune`). None acts until asked for:
    `with model.adapter("place"): ...`.

    Returns:
        The hooked model, so far the same as `load()`.

    Example:
        >>> import mmlens
        >>> mmlens.lab.load_tuned().adapters
        ('place', 'color', 'mood')
    """
    from mmlens.architectures.loading import without_bars
    from mmlens.lab.tuned import tuned_model as load_with_adapters

    with without_bars():
        return load_with_adapters(WEIGHTS, ADAPTERS)


@checked
def dictionaries(name: DictionaryName) -> tuple[SparseDictionary, ...]:
    """Load sparse dictionaries of the captioner that come with the package: `model.attach(*mm.lab.dictionaries("transcoders"))`.

    Args:
        name: "language", "vision" or "projector" is one autoencoder: of the language model's stream behind its fourth block, of
            what the tower hands on, of what the projector writes. "transcoders" and "vision_transcoders" are one a layer, of what
            its MLP receives and writes.

    Returns:
        One, or one a layer in their order; docs/features.md says how good each is.

    Raises:
        InputError: There is no such dictionary.

    Example:
        >>> import mmlens
        >>> (sae,) = mmlens.lab.dictionaries("language")
        >>> sae.at, len(sae), len(mmlens.lab.dictionaries("transcoders"))
        ('blocks.3.hook_resid_post', 1536, 6)
    """
    from mmlens.analysis.features.loading import load_sae

    folder = DICTIONARIES / name
    layers = sorted((path for path in folder.iterdir() if path.is_dir()), key=lambda path: int(path.name))
    return tuple(load_sae(path) for path in layers or [folder])


@checked
def edit_questions(scenes: Several[Scene], *, source: str, target: str, seed: Seed = 0) -> EditQuestions:
    """The prompts that judge an edit of one colour to another, or of one shape's noun to another, for `mm.edits.edit_report`.

    Args:
        scenes: With and without things of the source's name.
        source: A colour or a shape.
        target: What it should be called.
        seed: Decides which questions of a scene are asked, at most two of each set.

    Returns:
        `.targets` (said now, to be replaced), `.consistency` (with the answers that agree with the edit: presence of the old and
        of the new, reverse look-ups, entailments) and `.controls` (that should stay, of every kind of question).

    Raises:
        InputError: The words are not two colours or two shapes, or no scene has a thing of the source's name.

    Example:
        >>> import mmlens as mm
        >>> questions = mm.lab.edit_questions(mm.lab.scenes(60, seed=5), source="red", target="blue")
        >>> old, new = (questions.consistency[f"presence of the {age}"][0] for age in ("old", "new"))
        >>> (old.prompt, old.answer), (new.prompt, new.answer)
        (('is there a red square', 'no'), ('is there a blue square', 'yes'))
    """
    from mmlens.lab.edit_prompts import questions_for

    return questions_for(scenes, source=source, target=target, seed=seed)


@checked
def planted(kind: PlantedKind, *, seed: Seed = 0) -> Planted:
    """Build a tiny model whose answer is known by construction, with its unplanted twin.

    Args:
        kind: "neuron", "direction", "patch"; or a route of the answer, "direct_flow" (picture to last position) or
            "question_flow" (picture to question to last position); or "prior", a usual colour against the picture's; see
            `mmlens.lab.weight_built`.
        seed: Decides the small random weights around what is planted.

    Returns:
        The model, its processor, its twin, and the truth about what was planted.

    Raises:
        InputError: There is no such kind.
    """
    from mmlens.lab.weight_built import build_pair

    return build_pair(kind, seed=seed)


@checked
def check(exercise: Text, answer: Any = ..., *, model: HookedMultimodal | None = None) -> Grade:
    """Hold an answer to an exercise of the course against the truth.

    The truth is asked of the scene, its twin or a planted model when the answer comes; no answer is stored anywhere.

    Args:
        exercise: Its name, e.g. "patching.3".
        answer: What the exercise asks for; `...` stands for none yet.
        model: The model that was looked at; by default `load()`.

    Returns:
        Whether it is right; if not, what is right and what is off about it, and a hint.

    Raises:
        InputError: There is no such exercise.

    Example:
        >>> import mmlens
        >>> mmlens.lab.check("lens.4", "words").passed
        False
    """
    from mmlens.lab.course.check import checked_answer

    return checked_answer(exercise, answer, model)


@checked
def unknown(seed: Seed = 0) -> UnknownModel:
    """Give a planted model of a kind that is not said: the course's capstone.

    Args:
        seed: Another seed, another model; the course asks about 0.

    Example:
        >>> import mmlens
        >>> mystery = mmlens.lab.unknown()
        >>> len({mystery.model.answer(mystery.image(seed=seed), mystery.prompt) for seed in (0, 1)})
        2
    """
    from mmlens.lab.course.unknown import unknown_model

    return unknown_model(seed)
