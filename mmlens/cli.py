"""The command line: `mmlens tour`, `mmlens reproduce`, `mmlens verify`, `mmlens families`, `mmlens methods`.

Imports of the heavy libraries wait until a command needs them.
"""

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from mmlens.core.errors import InputError, MMLensError
from mmlens.core.files import made_folder
from mmlens.core.progress import Line

if TYPE_CHECKING:
    from mmlens.analysis.tour.noun_card import CounterfactualTwin
    from mmlens.analysis.tour.tour import Tour
    from mmlens.lab import Scene
    from mmlens.models.hooked import HookedMultimodal


app = typer.Typer(
    add_completion=False,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    help="See inside models that see.",
    rich_markup_mode=None,
)


def _version(wanted: bool) -> None:
    if wanted:
        from mmlens import __version__

        print(__version__)
        raise typer.Exit


@app.callback()
def _commands(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version.")
    ] = False,
) -> None:
    """Options of all commands."""


@app.command("tour")
def tour_command(
    image: Annotated[Path | None, typer.Argument(help="A PNG or JPEG; without one a lab scene is drawn.")] = None,
    model: Annotated[
        str | None, typer.Option(help="Checkpoint folder or name; the embedded lab model by default.")
    ] = None,
    prompt: Annotated[str, typer.Option(help="What to ask.")] = "describe the image",
    out: Annotated[Path, typer.Option(help="Folder for the report.")] = Path("tour"),
    nouns: Annotated[str | None, typer.Option(help="Nouns to look for in the caption, separated by commas.")] = None,
    doses: Annotated[
        str, typer.Option(help="How many neurons of a noun are ablated, separated by commas.")
    ] = "20,50,100,200",
    activation: Annotated[
        Literal["down_in", "act"], typer.Option(help="Multiplier: exact, or as published.")
    ] = "down_in",
    seed: Annotated[int, typer.Option(help="Of the drawn scene and the random control.")] = 30,
) -> None:
    """Caption a picture, find the neurons behind its nouns, test them causally, and write one HTML report."""
    import time

    from mmlens import lab
    from mmlens.analysis.tour.tour import tour as run
    from mmlens.inputs.images import load_image

    start = time.monotonic()
    counts = _counts(doses)
    scene = lab.scene(seed=seed) if image is None else None
    picture = load_image(image) if scene is None else scene.image
    hooked = _load(model)
    made_folder(out)
    if scene is not None:
        scene.save(out / "scene.png")
    words = nouns.split(",") if nouns else list(lab.NOUNS) if model is None else None
    with Line():
        result = run(
            hooked,
            picture,
            prompt=prompt,
            twins=_twins(scene) if scene is not None else None,
            nouns=words,
            doses=counts,
            activation=activation,
            seed=seed,
        )
    _report(hooked, result, out / "tour.html", model, scene, time.monotonic() - start)


def _counts(text: str) -> tuple[int, ...]:
    """Whole numbers in a row of words."""
    parts = [part.strip() for part in text.split(",")]
    if not all(part.isdecimal() and int(part) > 0 for part in parts):
        raise InputError(f"--doses {text!r} must be whole numbers from 1 up, separated by commas: 20,50,100.")
    return tuple(sorted(map(int, parts)))


@app.command("reproduce")
def reproduce_command(
    paper: Annotated[Literal["pan", "parekh", "khayatan"], typer.Argument(help="The study, by its first author.")],
    out: Annotated[Path, typer.Option(help="Folder for the study's files.")],
    model: Annotated[str | None, typer.Option(help="Checkpoint folder or name; the lab model by default.")] = None,
    data: Annotated[
        Path | None, typer.Option(help="Folder with the files of published data sets; the lab's scenes by default.")
    ] = None,
    only: Annotated[str | None, typer.Option(help="Names of stages, separated by commas.")] = None,
    limit: Annotated[int | None, typer.Option(help="Of the samples of every set.", min=1)] = None,
    published: Annotated[bool, typer.Option("--published", help="With the paper's own settings.")] = False,
    clip: Annotated[Path | None, typer.Option(help="A CLIP checkpoint, for CLIPScore.")] = None,
    bert: Annotated[Path | None, typer.Option(help="A RoBERTa or BERT checkpoint, for BERTScore.")] = None,
    seed: Annotated[int, typer.Option(help="Of samples and random controls.")] = 0,
) -> None:
    """Run a published study, stage by stage, and print its tables; a stopped run goes on where it was."""
    from mmlens.analysis.properties.scorers import BertScore, ClipScore
    from mmlens.recipes.reproduce import reproduce

    scorers = [kind(path) for kind, path in ((ClipScore, clip), (BertScore, bert)) if path is not None]
    made_folder(out)
    study = reproduce(
        paper,
        into=out,
        model=None if model is None else _load(model),
        data=data,
        only=None if only is None else [name.strip() for name in only.split(",")],
        limit=limit,
        published=published,
        scorers=scorers,
        seed=seed,
    )
    for table in study.tables:
        print(table, end="\n\n")
    print(f"report: {(study.folder / 'report.md').resolve()}")


@app.command("verify")
def verify_command(
    model: Annotated[str | None, typer.Argument(help="Checkpoint folder or name; the lab model by default.")] = None,
) -> None:
    """Fire and edit every hook point of a model and compare it with bare Hugging Face."""
    from mmlens.models.verify import verify as check

    report = check(_load(model))
    print(report)
    if not report.ok:
        raise typer.Exit(1)


@app.command("families")
def families_command() -> None:
    """List the families of models that are covered, with what was measured on each."""
    from mmlens.models.survey import as_text, read_survey

    survey = read_survey()
    print(as_text(survey.records))
    print(
        "classes of transformers for pictures and text: "
        + ", ".join(f"{n} {state}" for state, n in survey.counts().items())
    )
    print(
        "measured on tiny random models of the real classes; other classes are discovered from how they run, or declared "
        "with mmlens.register_family"
    )


@app.command()
def methods() -> None:
    """Print the tables of all methods, as markdown: what verbs take as `method=`."""
    from mmlens.analysis.method_table import method_tables

    print(method_tables(), end="")


def _load(path: str | None) -> "HookedMultimodal":
    from mmlens import lab
    from mmlens.architectures.loading import quieten
    from mmlens.models.hooked import HookedMultimodal

    quieten()
    return lab.load() if path is None else HookedMultimodal.from_pretrained(path)


def _twins(scene: "Scene") -> "dict[str, CounterfactualTwin]":
    """For each noun of a scene, the scene with another noun of the same kind in its place."""
    import torch

    from mmlens import lab
    from mmlens.analysis.tour.noun_card import CounterfactualTwin

    twins = {}
    for index, thing in enumerate(scene.objects):
        region = torch.from_numpy(thing.mask.copy())
        if thing.shape in lab.PEOPLE:
            other = next(person for person in lab.PEOPLE if person != thing.shape)
            twins[thing.shape] = CounterfactualTwin(scene.twin(gender=other).image, other, region)
            continue
        kind = lab.SHAPES if thing.shape in lab.SHAPES else lab.SIGNS
        present = {item.shape for item in scene.objects}
        other = next(shape for shape in kind if shape not in present)
        twins[thing.shape] = CounterfactualTwin(scene.twin(shape=other, object=index).image, other, region)
    return twins


def _report(
    model: "HookedMultimodal", result: "Tour", path: Path, name: str | None, scene: "Scene | None", seconds: float
) -> None:
    from importlib.metadata import version

    from mmlens import __version__
    from mmlens.viz.tour_report import write_tour

    sweep = result.nouns[0].patched
    effects = {point: float(effect.mean(-1).sum()) for point, effect in zip(sweep.points, sweep.effect, strict=True)}
    about = {
        "command": " ".join(["mmlens", *sys.argv[1:]]),
        "mmlens": __version__,
        **{name: version(name) for name in ("torch", "transformers")},
        "seconds": round(seconds, 1),
    }
    drawings_only = name is None and scene is None
    write_tour(
        result,
        path,
        model_name=name or "the embedded lab model",
        graph_svg=model.graph.draw(effects).svg,
        truth=scene.caption if scene else "",
        warning=_DRAWINGS_ONLY if drawings_only else "",
        about=about,
    )
    if drawings_only:
        print(_DRAWINGS_ONLY)
    print(f"caption: {result.caption}")
    for card in result.nouns:
        print(
            f"{card.word.text}: written by its neurons: {card.written}; localised: {card.localised}; carried: {card.carried}"
        )
        print(f"  {card.sentence}")
    print(f"report: {path.resolve()}")


_DRAWINGS_ONLY = (
    "The embedded lab model knows its drawn scenes only: what it says of another picture, and what is found about it, means "
    "nothing. Pass --model with a checkpoint for photographs."
)


def main() -> None:
    """Run the command line; a mistake of the caller gets one line and exit code 2."""
    try:
        app()
    except MMLensError as error:
        print(f"mmlens: {' '.join(str(error).split())}", file=sys.stderr)
        sys.exit(2)
