"""Words for objects: lists of synonyms, and the objects that a text mentions.

The official list of CHAIR is `data/synonyms.txt` of https://github.com/LisaAnne/Hallucination, one object a line, its name first;
`ObjectWords.read` takes it. `COCO_WORDS` is a shorter one, written for mmlens: COCO's 80 categories with everyday words for them.
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property

from mmlens.core.answer_text import normalised, words_of
from mmlens.core.contract import checked
from mmlens.core.errors import InputError
from mmlens.core.files import require_file
from mmlens.core.kinds import Named, PathLike
from mmlens.core.wording import short

#: Qualifiers that name no person before these animals, and no passenger before these vehicles.
_YOUNG = ("baby", "adult")
_ANIMALS = (*("bird", "cat", "dog", "horse", "sheep", "cow", "elephant", "bear", "zebra", "giraffe", "animal", "cub"),)
_VEHICLES = ("jet", "train")
#: Phrases in which a word names another thing, and which name none themselves.
_OTHER = ("home plate", "train track")
#: Words and phrases of letters and figures.
_PHRASE = re.compile(r"[^\W_]+(?:[ '.-]+[^\W_]+)*\.?")
_IRREGULAR = {
    "men": "man",
    "women": "woman",
    "children": "child",
    "people": "person",
    "mice": "mouse",
    "geese": "goose",
    "feet": "foot",
    "teeth": "tooth",
    "knives": "knife",
    "wives": "wife",
    "loaves": "loaf",
    "calves": "calf",
}


@checked
@dataclass(frozen=True)
class ObjectWords:
    """The words by which texts name objects.

    Args:
        synonyms: from the name of an object to further words for it, each a word or several.

    Example:
        >>> words = ObjectWords({"person": ["man", "baby"], "dog": ["puppy"], "hot dog": []})
        >>> words.mentions("Two men with a puppy, a baby dog and hot dogs")
        ('person', 'dog', 'dog', 'hot dog')
    """

    synonyms: Named[str, Sequence[str]] = field(repr=False)

    @classmethod
    @checked
    def read(cls, path: PathLike) -> "ObjectWords":
        """The words of a file with one object a line: its name and further words, parted by commas.

        Args:
            path: the file: CHAIR's `synonyms.txt`.

        Raises:
            InputError: if there is none, it is no text, has no objects, or a line of another form.

        Example:
            >>> import pathlib, tempfile
            >>> path = pathlib.Path(tempfile.mkdtemp(), "synonyms.txt")
            >>> _ = path.write_text("person, man, woman\\ntree\\nhouse, cabin, hut\\n")
            >>> ObjectWords.read(path).mentions("A woman by two huts")
            ('person', 'house')
        """
        try:
            text = require_file(path, "list of synonyms").read_text(encoding="utf-8-sig")
        except UnicodeDecodeError as error:
            raise InputError(f"{path} is not text in UTF-8 ({error.reason}).") from error
        synonyms: dict[str, tuple[str, ...]] = {}
        for number, line in enumerate(text.split("\n"), 1):
            name, *words = [word.strip() for word in line.split(",") if word.strip()] or [""]
            if wrong := [word for word in (name, *words) if not _PHRASE.fullmatch(word)] if name else []:
                raise InputError(
                    f"Line {number} of {path} has {short(wrong[0])}; it must be an object and further words for it, parted by "
                    "commas: person, man, woman."
                )
            if name:  # as in the published program, an object may have several lines
                synonyms[name] = tuple(dict.fromkeys((*synonyms.get(name, ()), *words)))
        if not synonyms:
            raise InputError(f"{path} has no objects; it must have one a line: person, man, woman.")
        return cls(synonyms)

    @cached_property
    def _phrases(self) -> Mapping[str, str | None]:
        """What each word or phrase names; None where it keeps its words from naming something."""
        names: dict[str, str | None] = {}
        for name, words in self.synonyms.items():
            for word in (name, *words):
                names[normalised(word)] = name
        rules: dict[str, str | None] = dict.fromkeys(_OTHER)
        rules |= {f"{young} {animal}": names.get(animal) for young in _YOUNG for animal in _ANIMALS}
        rules |= {f"passenger {vehicle}": names.get(vehicle) for vehicle in _VEHICLES}
        rules |= {"toilet seat": names.get("toilet"), "bow tie": names.get("tie")}
        return {**rules, **names}

    @cached_property
    def _longest(self) -> int:
        return max(len(phrase.split()) for phrase in self._phrases)

    @checked
    def name(self, word: str) -> str | None:
        """The object that a word or phrase names, in the singular or plural; None if it names none."""
        return next((self._phrases[form] for form in _forms(normalised(word)) if form in self._phrases), None)

    @checked
    def mentions(self, text: str) -> tuple[str, ...]:
        """The objects that a text mentions, in its order, each as often as it is mentioned; the longest phrase counts."""
        words, at = words_of(text), 0
        names: list[str] = []
        if {"toilet", "seat"} <= set(words):
            words = [word for word in words if word != "seat"]
        while at < len(words):
            for length in range(min(self._longest, len(words) - at), 0, -1):
                phrase = " ".join(words[at : at + length])
                form = next((form for form in _forms(phrase) if form in self._phrases), None)
                if form is not None:
                    name = self._phrases[form]
                    names += [] if name is None else [name]
                    break
            else:
                length = 1
            at += length
        return tuple(names)


def _forms(phrase: str) -> list[str]:
    """A phrase, and the singulars that it may be the plural of."""
    *front, last = phrase.split() or [""]
    forms = [last, *([_IRREGULAR[last]] if last in _IRREGULAR else [])]
    for suffix, singular in (("ies", "y"), ("ves", "f"), ("es", ""), ("s", "")):
        if last.endswith(suffix) and len(last) > len(suffix) + 1:
            forms.append(last[: -len(suffix)] + singular)
    return [" ".join((*front, form)) for form in forms]


_COCO = """
    person, man, woman, boy, girl, child, kid, baby, guy, lady, adult, player, rider, skier, surfer, skateboarder
    bicycle, bike
    car, taxi, cab, van, suv, jeep
    motorcycle, motorbike, scooter, moped
    airplane, plane, aeroplane, aircraft, jet
    bus
    train, locomotive
    truck, lorry, pickup
    boat, ship, sailboat, canoe, kayak, ferry
    traffic light, stoplight, traffic signal
    fire hydrant, hydrant
    stop sign
    parking meter
    bench
    bird, duck, pigeon, seagull, parrot, owl, goose
    cat, kitten
    dog, puppy
    horse, pony
    sheep, lamb
    cow, bull, calf, ox
    elephant
    bear
    zebra
    giraffe
    backpack, rucksack
    umbrella, parasol
    handbag, purse
    tie, necktie
    suitcase, luggage
    frisbee
    skis, ski
    snowboard
    sports ball, ball
    kite
    baseball bat
    baseball glove, mitt
    skateboard
    surfboard
    tennis racket, racket, racquet
    bottle
    wine glass
    cup, mug
    fork
    knife
    spoon
    bowl
    banana
    apple
    sandwich, burger, hamburger
    orange
    broccoli
    carrot
    hot dog
    pizza
    donut, doughnut
    cake, cupcake
    chair, armchair, stool
    couch, sofa
    potted plant, houseplant
    bed
    dining table, table, desk
    toilet
    tv, television, monitor
    laptop, laptop computer
    mouse
    remote, remote control
    keyboard
    cell phone, phone, cellphone, smartphone, mobile phone
    microwave
    oven, stove
    toaster
    sink
    refrigerator, fridge
    book
    clock
    vase
    scissors
    teddy bear
    hair drier, hair dryer
    toothbrush
"""

#: COCO's 80 categories with everyday words for them; shorter than CHAIR's list, whose figures it does not reproduce.
COCO_WORDS = ObjectWords(
    {line.split(",")[0].strip(): tuple(w.strip() for w in line.split(",")[1:]) for line in _COCO.strip().splitlines()}
)
