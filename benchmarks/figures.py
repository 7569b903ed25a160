"""The figures of README and docs: `python -m benchmarks.figures`.

Drawn from the tables of the pages that they stand in, so that figure and table cannot disagree; those of patching, shift,
graphs and the tour are run, the last in Chromium. Every title is the finding, every caption the method; grey is the control.
"""

import re
import shutil
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.transforms import ScaledTranslation

import mmlens as mm
from benchmarks.claims.documents import ROOT, Document
from mmlens.core.palette import GREY, NOTE, SERIES
from mmlens.viz.figures import LABEL, TICK, TITLE, Plot, dress
from mmlens.viz.words import wrapped

#: The methods of the tables, with what a reader is told.
METHODS = {"contribution": "contribution", "gradient_x_activation": "gradient x activation", "activation": "activation"}
_PROPERTIES = "## Properties, Measurements(47 quantities of 7 choices of neurons, 200 samples, 24 nouns)"
_CELL = re.compile(r"(-?[\d.]+) \[(-?[\d.]+), (-?[\d.]+)\]")


def titled(figure: Figure, title: str, caption: str) -> None:
    """The finding above, the method below, both from the left."""
    width = figure.get_figwidth() * 72
    figure.suptitle(wrapped(title, int(width / (0.62 * TITLE))), x=0.01, ha="left", fontsize=TITLE, weight="bold")
    figure.supxlabel(wrapped(caption, int(width / (0.6 * TICK))), x=0.01, ha="left", fontsize=TICK, color=NOTE)


def read(
    rows: Sequence[dict[str, str]], quantity: str, method: str, column: str = "mean [95%]"
) -> tuple[float, float, float] | None:
    """A cell of a table: mean and bounds; None where it is empty."""
    for row in rows:
        if row["quantity"].startswith(f"{quantity} (") and row["neurons"] == method:
            found = _CELL.search(row[column].replace("**", ""))
            return tuple(map(float, found.groups())) if found else None
    raise LookupError(f"There is no row {quantity!r}, {method!r}.")


def point(
    axes: Axes, x: float, cell: tuple[float, float, float], color: str, marker: str = "o", hollow: bool = False
) -> None:
    """A mean with its interval."""
    mean, low, high = cell
    face = "white" if hollow else color
    axes.errorbar(
        [x], [mean], [[mean - low], [high - mean]], color=color, marker=marker, markersize=6, mfc=face, linewidth=1.6
    )


def quantities(
    path: Path,
    title: str,
    caption: str,
    unit: str,
    panels: dict[str, tuple[str, str | None]],
    span: tuple[float, float],
) -> None:
    """A figure of the table of properties: a group for each quantity, a mark for each method, controls in grey, one scale.

    Args:
        panels: by what a reader is told: the quantity, and the one that is its control (None: random neurons of the same layers).
        span: of the y axis.
    """
    rows = Document("docs/findings.md").table(_PROPERTIES, first="quantity")
    figure = Plot(figsize=(6.6, 3.5), layout="constrained")
    axes = figure.subplots()
    for place, (quantity, control) in enumerate(panels.values()):
        for number, method in enumerate(METHODS):
            x = place + 0.24 * (number - 1)
            cell = read(rows, quantity, method)
            minus = read(rows, quantity, method, "minus random, same layers")
            if cell is None:
                continue
            other = read(rows, control, method) if control else None
            if other is not None:
                point(axes, x + 0.09, other, GREY, "s")
            if minus is not None:
                axes.plot([x + 0.09], [cell[0] - minus[0]], color=GREY, marker="_", markersize=12, markeredgewidth=2)
            point(axes, x, cell, SERIES[number], "o^D"[number])
    marks = [(SERIES[n], "o^D"[n], name) for n, name in enumerate(METHODS.values())]
    controls = [(GREY, "_", "random neurons of the same layers")] + [(GREY, "s", "other nouns, other objects")] * any(
        c for _, c in panels.values()
    )
    for color, marker, name in marks + controls:
        axes.plot([], [], color=color, marker=marker, linestyle="", label=name)
    axes.set_xticks(range(len(panels)), list(panels))
    dress(axes, y=unit, grid=True)
    axes.tick_params(axis="x", labelsize=LABEL)
    axes.axhline(0, color="black", linewidth=0.6)
    axes.set(ylim=span, xlim=(-0.5, len(panels) - 0.5))
    figure.legend(fontsize=TICK, frameon=False, loc="outside right center")
    titled(figure, title, caption)
    figure.savefig(path, dpi=130)


def findings(folder: Path) -> None:
    """Four figures: readable, shared, localised, causal."""
    method = "Top 20 neurons by three scores, the first noun of 200 captions of held-out scenes; bars: 95% over scenes."
    readable(folder / "findings_readable.png")
    quantities(
        folder / "findings_shared.png",
        "A noun's neurons are the same in other pictures and in writing, not those of other nouns",
        method,
        "share of neurons",
        {
            "two pictures\nof the noun": ("shared by two pictures", "shared by pictures of two nouns"),
            "picture and\nits writing": ("shared with the writing", "shared with the writing of another noun"),
            "picture, tokens\npermuted": (
                "shared with permuted image tokens",
                "shared with permuted image tokens, another noun",
            ),
        },
        (-0.03, 1.05),
    )
    quantities(
        folder / "findings_localised.png",
        "Their maps lie on the object a little more than random neurons' maps; those of magnitudes lie there more",
        f"Overlap (IoU) of the mean map's brightest part with the named object. {method}",
        "IoU",
        {
            "activations": ("IoU", "IoU with other objects"),
            "magnitudes": ("IoU, magnitudes", "IoU with other objects, magnitudes"),
        },
        (-0.01, 0.35),
    )
    quantities(
        folder / "findings_causal.png",
        "The noun leans on them: its log-odds fall by two nats without them, and not without random ones",
        method,
        "change of the noun's log-odds, nats",
        {
            "zeroed": ("log odds of the noun, zeroed", None),
            "set to their mean": ("log odds of the noun, set to their mean", None),
            "rows noised": ("log odds of the noun, rows noised, sigma 1", None),
        },
        (-3.2, 0.2),
    )


def readable(path: Path) -> None:
    """Words of neurons beside both kinds of random neurons, and beside those that weights alone choose."""
    page = Document("docs/findings.md")
    rows = _table_of(page.raw)
    figure = Plot(figsize=(6.6, 3.3), layout="constrained")
    axes = figure.subplots()
    names = {
        "noun among its words": "the noun is among\nits five words",
        "words that are true of the picture": "its words are true\nof the picture",
    }
    kinds = (
        ("contribution", "mean [95%]", SERIES[0], "o", "found by contribution"),
        ("weights alone", "mean [95%]", SERIES[1], "D", "chosen by weights alone, without a picture"),
        ("contribution", "random, as active [95%]", GREY, "s", "random, as active"),
        ("contribution", "random, same layers [95%]", GREY, "_", "random, same layers"),
    )
    for place, quantity in enumerate(names):
        for number, (method, column, color, marker, _) in enumerate(kinds):
            cell = read(rows, quantity, method, column)
            if cell is not None:
                point(axes, place + 0.15 * (number - 1.5), cell, color, marker)
    for _, _, color, marker, name in kinds:
        axes.plot([], [], color=color, marker=marker, linestyle="", label=name)
    axes.set_xticks(range(len(names)), list(names.values()))
    dress(axes, y="share", grid=True)
    axes.tick_params(axis="x", labelsize=LABEL)
    axes.set(ylim=(0, 1), xlim=(-0.5, len(names) - 0.5))
    figure.legend(fontsize=TICK, frameon=False, loc="outside right center")
    titled(
        figure,
        "Neurons write the noun, but those that weights alone choose do so more often",
        "Top 20 neurons of the first noun of captions, on scenes that nothing was chosen on; 20 draws; bars: 95%.",
    )
    figure.savefig(path, dpi=130)


def _table_of(raw: str) -> list[dict[str, str]]:
    """The first table of findings, with both kinds of random neurons."""
    lines = raw.split("\n")
    begin = next(
        i
        for i, line in enumerate(lines)
        if line.startswith("| quantity | neurons | k | mean [95%] | random, same layers")
    )
    head = [cell.strip() for cell in lines[begin].strip("|").split("|")]
    rows = []
    for line in lines[begin + 2 :]:
        if not line.startswith("|"):
            break
        rows.append(dict(zip(head, (cell.strip() for cell in line.strip("|").split("|")), strict=False)))
    return rows


def steering(path: Path) -> None:
    """The dose of the coarse vector: one panel, a line for each layer with its name at its end."""
    text = Document("docs/steering.md").raw
    lines = [
        line.split() for line in re.findall(r"^blocks\.\d\.hook_resid_post +[\d. -]+$", text, flags=re.MULTILINE)[:16]
    ]
    figure = Plot(figsize=(5.6, 3.3), layout="constrained")
    axes = figure.subplots()
    points = list(dict.fromkeys(line[0] for line in lines))
    for number, name in enumerate(points):
        rows = np.array([[float(cell) for cell in line[1:]] for line in lines if line[0] == name])
        axes.fill_between(rows[:, 0], rows[:, 3], rows[:, 4], color=SERIES[number], alpha=0.15, linewidth=0)
        axes.plot(rows[:, 0], rows[:, 2], color=SERIES[number], marker="osD^"[number], markersize=4)
        apart = {"4": -0.03, "5": 0.02}.get(name.split(".")[1], 0.0)
        shift = ScaledTranslation(6 / 72, 0, figure.dpi_scale_trans)
        axes.text(
            rows[-1, 0], rows[-1, 2] + apart, f"layer {name.split('.')[1]}", color=SERIES[number], fontsize=LABEL, va="center",
            transform=axes.transData + shift,
        )  # fmt: skip
        axes.plot(rows[:, 0], rows[:, 5], color=GREY, linewidth=2, zorder=1)
    axes.text(1.2, -0.06, "random vectors, all layers", color=NOTE, fontsize=TICK)
    axes.set(xlim=(0.2, 2.3), ylim=(-0.09, 1.06))
    dress(axes, x="strength (alpha)", y='share of answers that are "no"', grid=True)
    titled(
        figure,
        'The later it acts, the less of the vector turns "yes" into "no"',
        "Coarse vector without a gate, 96 validation prompts answered yes; bands: 95%; grey: random vectors of equal norm.",
    )
    figure.savefig(path, dpi=130)


def patching(path: Path) -> None:
    """The clean moon put back into the blue run, block by block of the picture, with the moon outlined."""
    model, scene = mm.lab.load(), mm.lab.scene(seed=30)
    clean = model.prepare("what color is the moon", images=scene.image)
    corrupted = mm.corrupt.twin(model, clean, [scene.twin(object=0, color="blue").image])
    metric = mm.metrics.logit_difference("red", "blue")
    grid = mm.positions.grid(2)
    sweep = mm.patch(
        model, clean, corrupted, at="blocks.*.hook_resid_pre", positions=grid, metric=metric, progress=False
    )
    effect = sweep.effect.mean(-1).clamp(min=0)
    mask, grey = scene.objects[0].mask.astype(float), np.asarray(scene.image.convert("L")) / 255 * 0.5 + 0.5
    side = grey.shape[0] // 4
    figure = Plot(figsize=(9.6, 2.1), layout="constrained")
    figure.get_layout_engine().set(h_pad=0.02, w_pad=0.02)  # type: ignore[union-attr]
    first, *others = figure.subplots(1, 6)
    first.imshow(scene.image)
    first.set_title("the clean picture", fontsize=LABEL)
    limit = float(effect.max())
    for layer, axes in enumerate(others):
        axes.imshow(grey, cmap="gray", vmin=0, vmax=1)
        cells = np.kron(effect[layer].numpy().reshape(4, 4), np.ones((side, side)))
        shown = axes.imshow(cells, cmap="Reds", vmin=0, vmax=limit, alpha=np.where(cells > 0.02 * limit, 0.85, 0))
        axes.contour(mask, levels=[0.5], colors="black", linewidths=1.2, linestyles="dashed")
        axes.set_title(f"before layer {layer}", fontsize=LABEL)
    for axes in (first, *others):
        axes.set_axis_off()
    bar = figure.colorbar(shown, ax=others, shrink=0.75, pad=0.01)
    bar.set_label("red - blue, logits", fontsize=TICK)
    bar.ax.tick_params(labelsize=TICK)
    titled(
        figure,
        'Only blocks of the moon bring "red" back, and only into layers 0 to 2: layer 2 reads it off the picture',
        "Change when clean states are put into the run with a blue moon, one of 16 blocks at a time; dashed: the moon.",
    )
    figure.savefig(path, dpi=130)


def shift(path: Path) -> None:
    """Concepts before, shifted and after a fine-tune on places: what is new in their words."""
    model, scenes = mm.lab.load_tuned(), mm.lab.scenes(200, seed=1)
    site = {"at": "blocks.5.hook_resid_post", "token": mm.lab.NOUNS, "progress": False}
    base = mm.collect(model, scenes, **site).at()
    with model.adapter("place"):
        tuned = mm.collect(model, scenes, **site).at()
    moved = mm.concept_shift(base, tuned, mm.extract_concepts(base, n_concepts=12, method="kmeans"), pairs="common")
    board = mm.concepts.ground_shift(model, moved, scenes)
    board.plot().savefig(path, dpi=110)


def graph(path: Path) -> None:
    """An attribution graph of a colour over its picture."""
    model, scene = mm.lab.load(), mm.lab.scene(seed=30)
    question = model.prepare("what color is the moon", images=scene.image)
    found = mm.attribution_graph(model, question, mm.lab.dictionaries("transcoders"), max_nodes=200, progress=False)
    figure = found.plot(n=30)
    words = 'What the model says of the moon, "red", comes from patches of the moon and from the word "color"'
    titled(figure, words, "")  # the page says the method; below is the legend
    figure.savefig(path, dpi=110)


def tour(path: Path) -> None:
    """The head of the tour's page and its first card, as a browser shows them."""
    from playwright.sync_api import sync_playwright

    with TemporaryDirectory() as folder, sync_playwright() as running:
        command = [sys.executable, "-m", "mmlens", "tour", "--nouns", "moon", "--out", folder]
        subprocess.run(command, check=True, capture_output=True, cwd=ROOT)
        browser = running.chromium.launch(executable_path=shutil.which("chromium"), args=["--no-sandbox"])
        page = browser.new_page(viewport={"width": 960, "height": 900}, device_scale_factor=1.5)
        page.goto((Path(folder) / "tour.html").as_uri())
        end = page.locator(".card").first.bounding_box() or {}
        page.screenshot(
            path=path, clip={"x": 0, "y": 12, "width": 960, "height": end["y"] + end["height"]}, full_page=True
        )
        browser.close()


def main() -> None:
    """Draw them all, or those that are named."""
    docs = ROOT / "docs"
    figures = {
        "findings": lambda: findings(docs),
        "shift": lambda: shift(docs / "shift.png"),
        "steering": lambda: steering(docs / "steering.png"),
        "patching": lambda: patching(docs / "patching.png"),
        "graph": lambda: graph(docs / "attribution_graph.png"),
        "tour": lambda: tour(docs / "tour.png"),
    }
    for name in sys.argv[1:] or figures:
        figures[name]()


if __name__ == "__main__":
    main()
