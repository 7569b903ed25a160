"""Claims about what is covered: families, hook points, accuracy of the lab model."""

from benchmarks.claims import measures
from benchmarks.claims.claim import Claim, Printed, Setting
from benchmarks.claims.documents import Document
from benchmarks.claims.quotes import numbers

_README, _PAGE, _COMMAND = "README.md", "docs/families.md", "python -m benchmarks.families"


def _families(setting: Setting) -> dict[str, float]:
    """Counts of the page of families."""
    rows = Document(_PAGE).table("# Families", first="model")
    declared = [row for row in rows if row["how"] == "declared"]
    points = [sum(numbers(row["points: vision, projector, language"])) for row in declared]
    return {
        "classes": len({row["class"] for row in declared}),
        "models": len(declared),
        "points": sum(points),
        "failed": sum(numbers(row["failed"])[0] for row in declared),
        "dead": sum(numbers(row["dead"])[0] for row in declared),
    }


def _hooked(setting: Setting) -> dict[str, float]:
    """The largest differences with every point hooked."""
    rows = Document(_PAGE).table("# Families", first="model")
    videos = sorted((numbers(row["videos"])[0] for row in rows if row["videos"] != "-"), reverse=True)
    return {"pictures": max(numbers(row["all hooked"])[0] for row in rows), "video": videos[0], "others": videos[1]}


def _classes(setting: Setting) -> dict[str, float]:
    """What became of each class that transformers lists."""
    said = [line for line in Document(_PAGE).raw.split("\n") if line.startswith("| ") and line.count("|") == 3]
    ends = [line.strip("| ").split(" | ")[1] for line in said if "|---" not in line and "| --- |" not in line]

    def count(*begins: str) -> int:
        return sum(end.startswith(begins) for end in ends)

    unbuilt = count("no tiny model")
    return {
        "all": count("declared", "out of scope", "discovered", "not discovered", "no example") + unbuilt,
        "aside": count("out of scope"),
        "declared": count("declared"),
        "discovered": count("discovered"),
        "uncovered": count("not discovered", "no example"),
        "unbuilt": unbuilt,
    }


CLAIMS = (
    Claim(
        "families",
        _README,
        "{classes:d} classes, {models:d} models, {points:,d} points; {failed:d} failed, {dead:d} cannot reach the logits",
        _COMMAND,
        "quoted",
        _families,
        control="an edit of every point has to move the logits",
        model="tiny, random",
    ),
    Claim(
        "classes of transformers",
        _README,
        "of the {all:d} classes that transformers lists for pictures and text, {aside:d} out of scope | "
        "{declared:d} declared "
        "(3 of them where timm and torchvision are installed), {discovered:d} discovered; {uncovered:d} built "
        "but not covered, "
        "{unbuilt:d} could not be built here",
        _COMMAND,
        "quoted",
        _classes,
        model="tiny, random",
    ),
    Claim(
        "every point hooked",
        _README,
        "within {pictures:.1e} in every family (the bound follows from the model's own rounding); on frames of videos "
        "{video:.1e} in one, below {others:.1e} in the others",
        _COMMAND,
        "quoted",
        _hooked,
        control="bare Hugging Face",
        model="tiny, random",
    ),
    Claim(
        "contrast, formula",
        _README,
        "tokens equal, scores within {equal:.0e}; within {alone:.0e} in {families:d} tiny families",
        "python -m pytest tests/models/test_contrast.py tests/checkpoints/test_second_prompts.py",
        "slow",
        control="the formula by two uncached passes a token",
        model="tiny, random; lab",
    ),
    Claim(
        "lab model, accuracy",
        _README,
        "1,000 held-out scenes: questions of colour, shape, count, presence {color:.3f}, {shape:.3f}, {count:.3f}, "
        "{presence:.3f}; of place, mood, position, who, use {place:.3f}, {mood:.3f}, {position:.3f}, {who:.3f}, {use:.3f}; "
        "captions right to the last word {whole:.3f}",
        "python -m mmlens.lab.training.evaluate",
        "cheap",
        measures.accuracy,
        chosen="size of the model and steps of training, on scenes of the training stream",
        judged="1,000 scenes of the test stream, three in ten of whose captions training had; again: 48 scenes of the fresh "
        "seed without such captions",
    ),
    Claim(
        "lab model, new captions",
        _README,
        "on 48 that have none presence falls to {presence:.3f} [{low:.3f}, {high:.3f}], and the rest stays",
        "python -m benchmarks.claims --only 'lab model, new captions'",
        "cheap",
        measures.presence,
        judged="48 scenes of the fresh seed, without captions of training",
        control="1,000 plain scenes of the test stream",
    ),
    Claim(
        "lab model, loading",
        _README,
        "Loads in {seconds:.1f} s of CPU after imports",
        "python -m benchmarks --only lab",
        "cheap",
        measures.loading,
    ),
)
PRINTED = (
    Printed("families, page", _PAGE, None, _COMMAND, control="bare Hugging Face", model="tiny, random", whole=True),
)
