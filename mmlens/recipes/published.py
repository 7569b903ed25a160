"""Numbers of the papers that are known, by paper, stage, case and quantity; all others stay blank.

Those of Pan et al. and of Parekh et al. are in tables that no source at hand gives. Those of Khayatan et al. are of LLaVA-1.5-7B
(safety: Qwen2-VL-7B), from a published summary of the paper, and from the notebook beside its code.
"""

from collections.abc import Mapping
from typing import TypeAlias

#: By case and quantity.
Numbers: TypeAlias = Mapping[tuple[str, str], float]


def _answers() -> dict[tuple[str, str], float]:
    lines = {
        "none": (90.82, 58.47, 71.10),
        "yes -> no": (69.03, 56.82, 68.99),
        "1 -> 3": (90.71, 54.52, 71.12),
        "white -> black": (90.40, 58.42, 58.36),
    }
    kinds = ("yes/no", "number", "other")
    numbers = {
        (case, f"accuracy, {kind}"): value / 100
        for case, values in lines.items()
        for kind, value in zip(kinds, values, strict=True)
    }
    counts = {"yes -> no": (-828, 828), "1 -> 3": (-215, 144), "white -> black": (-98, 441)}
    for case, (source, target) in counts.items():
        numbers[case, "answers that are the source word, change"] = source
        numbers[case, "answers that are the target word, change"] = target
    return numbers


def _types() -> dict[tuple[str, str], float]:
    """Counts of 5,000 answers, as shares."""
    lines = {
        "none": (1861, 687, 2349, 103),
        "yes -> no": (1885, 694, 2294, 127),
        "1 -> 3": (1859, 670, 2349, 122),
        "white -> black": (1862, 671, 2311, 156),
    }
    kinds = ("yes/no", "number", "other", "unrecognised")
    return {
        (case, f"answers, {kind}"): count / sum(counts)
        for case, counts in lines.items()
        for kind, count in zip(kinds, counts, strict=True)
    }


PUBLISHED: Mapping[str, Mapping[str, Numbers]] = {
    "khayatan": {
        "answers": {**_answers(), **_types()},
        "gender": {
            ("coarse", "gendered captions before"): 794,
            ("coarse", "captions made neutral"): 232,
            ("fine", "gendered captions before"): 794,
            ("fine", "captions made neutral"): 632,
        },
        "safety": {("none", "attack success"): 0.45, ("steered", "attack success"): 0.05},
        "shift": {("place", "least magnitude"): 34.7, ("place", "largest magnitude"): 70.0},
    }
}
