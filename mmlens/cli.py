"""The command line: `mmlens tour`, `mmlens verify`, `mmlens families`, `mmlens methods`.

Imports of the heavy libraries wait until a command needs them.
"""

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from mmlens.core.errors import MMLensError

if TYPE_CHECKING:
    from PIL import Image

    from mmlens.analysis.tour import Tour
    from mmlens.lab import Scene
    from mmlens.models.hooked import HookedMultimodal


app = typer.Typer(
    add_completion=False,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    help="See inside models that see.",
    rich_markup_mode=None,
)


@app.callback()
def _commands() -> None:
    """Keep subcommands even if there is one."""


@app.command("tour")
def tour_command(
    image: Annotated[Path | None, typer.Argument(help="A PNG or JPEG; without one a lab scene is drawn.")] = None,
    model: Annotated[
        str | None, typer.Option(help="Checkpoint folder or name; the embedded lab model by default.")
    ] = None,
    prompt: Annotated[str, typer.Option(help="What to ask.")] = "describe the image",
    out: Annotated[Path, typer.Option(help="Folder for the report.")] = Path("tour"),
    nouns: Annotated[str | None, typer.Option(help="Nouns to look for in the caption, separated by commas.")] = None,
    neurons: Annotated[int, typer.Option(min=1, help="Neurons per noun.")] = 20,
    activation: Annotated[
        Literal["down_in", "act"], typer.Option(help="Multiplier: exact, or as published.")
    ] = "down_in",
    seed: Annotated[int, typer.Option(help="Of the drawn scene and the random control.")] = 30,
) -> None:
    """Caption a picture, find the neurons behind its nouns, test them causally, and write one HTML report."""
    from mmlens import lab
    from mmlens.analysis.tour import tour as run
    from mmlens.inputs.images import load_image

    scene = lab.scene(seed=seed) if image is None else None
    picture = load_image(image) if scene is None else scene.image
    hooked = _load(model)
    out.mkdir(parents=True, exist_ok=True)
    if scene is not None:
        scene.save(out / "scene.png")
    words = nouns.split(",") if nouns else list(lab.NOUNS) if model is None else None
    result = run(
        hooked,
        picture,
        prompt=prompt,
        twins=_twins(scene) if scene is not None else None,
        nouns=words,
        k=neurons,
        activation=activation,
        seed=seed,
    )
    _report(hooked, result, out / "tour.html", model or "the embedded lab model", scene)


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


def _twins(scene: "Scene") -> "dict[str, tuple[Image.Image, str]]":
    """For each noun of a scene, the scene with another noun of the same kind in its place."""
    from mmlens import lab

    twins = {}
    for index, thing in enumerate(scene.objects):
        if thing.shape in lab.PEOPLE:
            other = next(person for person in lab.PEOPLE if person != thing.shape)
            twins[thing.shape] = (scene.twin(gender=other).image, other)
            continue
        kind = lab.SHAPES if thing.shape in lab.SHAPES else lab.SIGNS
        present = {item.shape for item in scene.objects}
        other = next(shape for shape in kind if shape not in present)
        twins[thing.shape] = (scene.twin(shape=other, object=index).image, other)
    return twins


def _report(model: "HookedMultimodal", result: "Tour", path: Path, name: str, scene: "Scene | None") -> None:
    from mmlens.viz.tour_report import write_tour

    sweep = result.nouns[0].patched
    effects = {point: float(effect[0].mean()) for point, effect in zip(sweep.points, sweep.effect, strict=True)}
    svg = model.graph.draw(effects).svg
    write_tour(result, path, model_name=name, graph_svg=svg, truth=scene.caption if scene else "")
    print(f"caption: {result.caption}")
    print(f"{'noun':<14}{'log p':>9}{'ablated':>10}  {'random [95% of draws]':<25}words of its strongest neurons")
    for noun in result.nouns:
        words = "; ".join(" ".join(read[:3]) for read in noun.scores.words(neurons=noun.top[:3]))
        numbers = f"{noun.log_probability:>9.3f}{noun.change:>+10.3f}  {noun.control_change!s:<25}"
        print(f"{noun.word.text:<14}{numbers}{words}")
    print(f"report: {path.resolve()}")


def main() -> None:
    """Run the command line; a mistake of the caller gets one line and exit code 2."""
    try:
        app()
    except MMLensError as error:
        print(f"mmlens: {' '.join(str(error).split())}", file=sys.stderr)
        sys.exit(2)
