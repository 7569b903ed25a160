"""CHAIR: objects in captions that are not in the picture.

Source: Rohrbach et al., "Object Hallucination in Image Captioning", EMNLP 2018 (https://arxiv.org/abs/1809.02156), and
https://github.com/LisaAnne/Hallucination: what is there are the annotated objects and those that people's captions mention.
*Departs:* plurals are looked up as singulars that the list has, in place of a library's singulars; phrases of any length count,
where the published code parts texts into single and double words.
"""

from collections.abc import Sequence

from mmlens.analysis.samples.sample import Dataset, Sample
from mmlens.analysis.scores.objects import COCO_WORDS, ObjectWords
from mmlens.analysis.scores.score import Run, ScoreTable
from mmlens.core.contract import checked


@checked
def chair(dataset: Dataset, captions: Sequence[str], *, words: ObjectWords = COCO_WORDS) -> ScoreTable:
    """CHAIR-i, CHAIR-s, and how much captions say: what says nothing hallucinates nothing.

    `CHAIR-i` is the share of mentions of objects that are not there, `CHAIR-s` the share of captions with one or more, `recall`
    the share of the objects there that the captions mention, `words` the length of captions.

    Args:
        dataset: the pictures, with `boxes` or `regions` by category, `references`, or both: `mm.data.coco_instances(...,
            captions=...)`.
        captions: the model's, one per picture.
        words: for objects; `ObjectWords.read("synonyms.txt")` for CHAIR's own.

    Raises:
        InputError: for another number of captions, or pictures of which nothing is known.

    Example:
        >>> from mmlens.analysis.samples.sample import Sample
        >>> pictures = [Sample((), "describe", references=("a dog",)), Sample((), "describe", references=("a cat",))]
        >>> table = chair(pictures, ["a dog and a frisbee and a dog", "a cat"])
        >>> table["CHAIR-i"].value, table["CHAIR-s"].value
        (0.25, 0.5)
    """
    run = Run(dataset, captions, "captions")
    run.require(
        lambda sample: bool(sample.references or sample.boxes or len(sample.regions)),
        "objects: boxes, regions or references",
    )
    there = [_objects(sample, words) for sample in run.samples]
    mentions = [words.mentions(text) for text in run.texts]
    wrong = [sum(name not in known for name in names) for names, known in zip(mentions, there, strict=True)]
    hits = [len(known & set(names)) for names, known in zip(mentions, there, strict=True)]
    return ScoreTable(
        "CHAIR",
        (
            run.score("CHAIR-i", "share of mentions", wrong, list(map(len, mentions))),
            run.score("CHAIR-s", "share of captions", [count > 0 for count in wrong]),
            run.score("recall", "share of objects", hits, list(map(len, there))),
            run.score("words", "words per caption", [len(text.split()) for text in run.texts]),
        ),
    )


def _objects(sample: Sample, words: ObjectWords) -> set[str]:
    """What is in the picture: annotated, or said by people."""
    nouns = sample.boxes or sample.regions
    names = {words.name(noun) or noun for noun in nouns}
    return names | {name for text in sample.references for name in words.mentions(text)}
