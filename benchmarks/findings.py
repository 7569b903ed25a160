"""What the neurons of the lab model do, on held-out scenes: `python -m benchmarks.findings`.

Four tables. Words and causal effect beside every control (random neurons of the same layers, those of them that are as active,
the weights alone), on scenes that nothing was chosen on: `--part controls`. All properties of the top neurons of each
caption's first noun, by method. How the effect of ablation grows with the number of neurons, and of noise with its size. And
where the mean heat map lies on the object: by layer, of activations and of their magnitudes. Intervals are 95%, over scenes;
differences are paired by scene and noun. `--checkpoint` names a file to go on from after an interruption.
"""

import argparse
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch

import mmlens as mm
from benchmarks.splits import fresh_scenes
from mmlens.analysis.heatmap import iou
from mmlens.analysis.neurons.maps import Shown, activation_maps
from mmlens.analysis.properties.cases import Case, NeuronChoice
from mmlens.analysis.properties.causal import Causal
from mmlens.analysis.properties.noun_occurrences import CaptionSettings
from mmlens.analysis.properties.quantities import Quantity, Value, control_name, is_control
from mmlens.analysis.properties.run import run
from mmlens.analysis.properties.sensitivity import Sensitivity
from mmlens.analysis.statistics.intervals import Interval

METHODS = ("contribution", "gradient_x_activation", "activation", "random")
KS = (5, 20, 50, 100, 200)
SIGMAS = (1.0, 3.0, 10.0)
_SHOWN: Sequence[Shown] = ("activation", "magnitude")


def properties(
    model: mm.HookedMultimodal, *, scenes: int, k: int, seed: int = 0, checkpoint: Path | None = None
) -> mm.properties.Measurements:
    """Every property of each caption's first noun."""
    return mm.properties.neuron_report(
        model,
        mm.lab.scenes(scenes, seed=seed),
        methods=METHODS,
        k=k,
        nouns=mm.lab.NOUNS,
        per_sample=1,
        checkpoint=checkpoint,
    )


def curves(
    model: mm.HookedMultimodal, *, scenes: int, seed: int = 0
) -> tuple[mm.properties.Measurements, mm.properties.Measurements]:
    """Ablation over the number of neurons, and noise over its size."""
    shown = mm.lab.scenes(scenes, seed=seed + 1)
    over_k = mm.properties.causal_effect(
        model, shown, methods=("contribution", "random"), k=KS, ways=("zero",), nouns=mm.lab.NOUNS
    )
    over_sigma = mm.properties.causal_effect(
        model, shown, methods=("contribution", "random"), ways=("noise",), sigma=SIGMAS, nouns=mm.lab.NOUNS
    )
    return over_k, over_sigma


def controls(model: mm.HookedMultimodal, *, scenes: int, k: int, seed: int | None) -> mm.properties.Measurements:
    """What the words and the effect of a noun's neurons are beside each control, on scenes that nothing was chosen on."""
    measures = [Sensitivity(), Causal(("zero",), (k,))]
    choice = NeuronChoice.of(("contribution", "random"), k)
    settings = CaptionSettings(mm.lab.NOUNS, per_sample=1)
    return run(model, fresh_scenes(scenes, seed), measures, choice, settings=settings)


@dataclass(frozen=True)
class LayerMaps:
    """The mean map of the best contribution neurons of single layers, of all, and of all but the last."""

    layers: int
    k: int

    @property
    def label(self) -> str:
        """Its name."""
        return "maps by layer"

    @property
    def quantities(self) -> Sequence[Quantity]:
        """The IoU of both kinds of map."""
        return [Quantity(f"IoU of {shown}s", "IoU") for shown in _SHOWN]

    def measure(self, cases: Sequence[Case]) -> Iterator[Value]:
        """Draw them, beside random neurons of the same layers."""
        for case in cases:
            truth = case.occurrence.sample.regions.get(case.occurrence.noun)
            if truth is None:
                continue
            scores = case.scores["contribution"].scores
            chosen = {f"layer {layer}": _best(scores, self.k, [layer]) for layer in range(self.layers)}
            chosen["all layers"] = _best(scores, self.k, range(self.layers))
            chosen["all but the last"] = _best(scores, self.k, range(self.layers - 1))
            seed = 1_000 * case.occurrence.number + case.occurrence.step
            for name, neurons in list(chosen.items()):
                for kind, match in (("random", "layer"), ("matched", mm.controls.Activation(positions="last"))):
                    controls = mm.random_units(
                        case.occurrence.model, neurons, match=match, draws=20, seed=seed, batch=case.occurrence.at
                    )
                    chosen |= {control_name(name, draw, kind): units for draw, units in enumerate(controls)}
            for shown in _SHOWN:
                maps = activation_maps(case.occurrence.model, case.occurrence.prompt, chosen, shown=shown)
                for name, heat in maps.items():
                    yield case.value(f"IoU of {shown}s", name, iou(heat.mask(), torch.as_tensor(truth)))


def _best(scores: torch.Tensor, k: int, layers: Sequence[int]) -> mm.Units:
    """The k highest scores of some layers."""
    some = scores[list(layers)]
    found = [divmod(i, scores.shape[1]) for i in some.flatten().topk(k).indices.tolist()]
    return mm.Units(mm.Neuron(list(layers)[row], index) for row, index in found)


def maps(model: mm.HookedMultimodal, *, scenes: int, k: int, seed: int = 0) -> mm.properties.Measurements:
    """Where the mean heat map lies on the object, by layer."""
    measures = [LayerMaps(model.cfg.n_layers, k)]
    shown = mm.lab.scenes(scenes, seed=seed + 2)
    return run(model, shown, measures, NeuronChoice.of("contribution", k), settings=CaptionSettings(mm.lab.NOUNS))


def table(found: mm.properties.Measurements) -> str:
    """A Markdown table: each mean with its interval, and the paired differences."""
    lines = [
        "| quantity | neurons | k | mean [95%] | random, same layers [95%] | random, as active [95%] | of these as high "
        "| minus as active | minus control | minus baseline |",
        "|---|---|---|---|---|---|---|---|---|---|",
    ]
    for row in found.to_frame().to_dict("records"):
        if is_control(row["method"]):
            continue
        cells = [
            _cell(row, name) for name in ("", "random", "matched", "minus_matched", "minus_control", "minus_baseline")
        ]
        draws = row.get("matched_draws")
        cells.insert(3, "" if draws is None or draws != draws else f"{row['matched_as_high']:.0f} of {draws:.0f}")
        if cells[-1]:
            cells[-1] += f" ({row['baseline']})"
        lines.append(f"| {row['quantity']} ({row['unit']}) | {row['method']} | {row['k']} | {' | '.join(cells)} |")
    return "\n".join(lines)


def versus(found: mm.properties.Measurements, *, method: str = METHODS[0], others: Sequence[str] = METHODS[1:3]) -> str:
    """A Markdown table: one method minus each other, paired; in bold where the interval excludes zero."""
    heads = [f"{method} minus {other}" for other in others]
    lines = [f"| quantity | better | {' | '.join(heads)} |", "|---|---|" + "---|" * len(others)]
    controls = {quantity.control for quantity in found.quantities}
    for quantity in found.quantities:
        measured = set(found.values[found.values["quantity"] == quantity.name]["method"])
        if quantity.name not in controls and {method, *others} <= measured:
            cells = [found.difference(quantity.name, method, minus=other) for other in others]
            shown = [f"**{cell}**" if cell.excludes_zero else str(cell) for cell in cells]
            lines.append(f"| {quantity.name} | {quantity.better} | {' | '.join(shown)} |")
    return "\n".join(lines)


def _cell(row: dict[str, float], name: str) -> str:
    mean, low, high = (row.get(key) for key in ((name or "mean"), f"{name}_low".strip("_"), f"{name}_high".strip("_")))
    if mean is None or low is None or high is None or mean != mean:
        return ""
    return str(Interval(mean, low, high, 0))


def main() -> None:
    """Print the tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--scenes", type=int, default=200)
    parser.add_argument("--neurons", type=int, default=20)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--test-seed", type=int, help="of the scenes of the table of controls (the commit's)")
    parser.add_argument("--part", choices=["controls"], default=None, help="the table of controls alone")
    parser.add_argument("--checkpoint", type=Path, default=None, help="file that keeps the first table's numbers")
    parser.add_argument("--figure", type=Path, default=None, help="where to write the first table as a figure")
    chosen = parser.parse_args()
    model = mm.lab.load()
    if chosen.part in (None, "controls"):
        found = controls(model, scenes=chosen.scenes, k=chosen.neurons, seed=chosen.test_seed)
        print(f"## Controls, {found}\n\n{table(found)}\n", flush=True)
    if chosen.part == "controls":
        return
    found = properties(model, scenes=chosen.scenes, k=chosen.neurons, seed=chosen.seed, checkpoint=chosen.checkpoint)
    print(f"## Properties, {found}\n\n{table(found)}\n")
    print(f"## {METHODS[0]} against the others\n\n{versus(found)}\n")
    if chosen.figure is not None:
        found.plot().savefig(chosen.figure, dpi=110)
    few = max(1, chosen.scenes // 4)
    over_k, over_sigma = curves(model, scenes=few, seed=chosen.seed)
    print(f"## Ablation over k, {few} scenes\n\n{table(over_k)}\n\n## Noise over sigma\n\n{table(over_sigma)}\n")
    by_layer = maps(model, scenes=chosen.scenes // 2 or 1, k=chosen.neurons, seed=chosen.seed)
    print(f"## Maps by layer, {by_layer}\n\n{table(by_layer)}")


if __name__ == "__main__":
    main()
