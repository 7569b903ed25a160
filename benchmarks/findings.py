"""What the neurons of the lab model do, on held-out scenes: `python -m benchmarks.findings`.

For the first noun of each scene's caption: is the noun's log-probability lowered more by ablating its top 20 neurons
than by ablating 20 random neurons of the same layers? And does the mask of their mean heat map fall on the named
object, beside the random neurons' mask, a centred blob, and the scene's other object? Intervals are 95% bootstrap
intervals of the mean over scenes; differences are paired by scene.
"""

import argparse
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from scipy.stats import bootstrap
from tqdm.auto import tqdm

import mmlens as mm
from mmlens.analysis.heatmap import centred_blob, iou
from mmlens.analysis.neurons.maps import activation_map
from mmlens.core.places import Neuron
from mmlens.lab import Scene, SceneObject

_PERCENTILE = 95.0


@dataclass(frozen=True)
class Interval:
    """A mean and its 95% bootstrap interval.

    Attributes:
        mean, low, high: in the unit of the values.
        count: number of values.
    """

    mean: float
    low: float
    high: float
    count: int

    def __str__(self) -> str:
        return f"{self.mean:+.3f} [{self.low:+.3f}, {self.high:+.3f}]"


def interval(values: Sequence[float], *, seed: int = 0) -> Interval:
    """Mean and 95% percentile-bootstrap interval of the mean, 5,000 resamples."""
    data = np.asarray(values, dtype=float)
    if np.ptp(data) == 0:
        return Interval(float(data[0]), float(data[0]), float(data[0]), len(data))
    result = bootstrap((data,), np.mean, n_resamples=5000, method="percentile", rng=np.random.default_rng(seed))
    low, high = result.confidence_interval
    return Interval(float(data.mean()), float(low), float(high), len(data))


def scene_values(model: mm.HookedMultimodal, scene: Scene, *, k: int, seed: int) -> dict[str, float] | None:
    """All figures of one scene, by name; None if its caption names none of the scene's objects."""
    batch = model.prepare("describe the image", images=scene.image)
    trace = model.trace_generation(batch, names="hook_logits")
    there = {thing.shape: thing for thing in scene.objects}
    words = [word for word in mm.caption_nouns(model, trace, nouns=mm.lab.NOUNS) if word.text in there]
    if not words:
        return None
    noun = words[0]
    thing = there[noun.text]
    others = [other for other in scene.objects if other is not thing]
    at_noun = model.extend(batch, trace.tokens[:, : noun.step])
    scores = mm.find_neurons(model, at_noun, token=noun.tokens[0])
    top = scores.top(k)
    control = mm.random_neurons(model, like=top, seed=seed)
    values = _ablations(model, at_noun, noun.tokens[0], top, control)
    values |= _maps(model, batch, top, control, thing, others, "")
    for layer in range(model.cfg.n_layers):
        best = [Neuron(layer, int(i)) for i in scores.scores[layer].topk(k).indices]
        random = mm.random_neurons(model, like=best, seed=seed)
        values |= _maps(model, batch, best, random, thing, others, f"layer {layer}: ")
    return values


def _ablations(
    model: mm.HookedMultimodal, at_noun: mm.MultimodalBatch, token: int, top: list[Neuron], control: list[Neuron]
) -> dict[str, float]:
    measure = mm.metrics.log_probability(token).on(model)
    before = float(measure(model(at_noun)[:, -1]))
    change = {}
    for name, units in (("top", top), ("random", control)):
        with model.intervene(mm.Ablate(units)):
            change[f"log p, {name} ablated (nats)"] = float(measure(model(at_noun)[:, -1])) - before
    top_change, random_change = change.values()
    return {**change, "log p, top minus random (nats)": top_change - random_change}


def _maps(
    model: mm.HookedMultimodal,
    batch: mm.MultimodalBatch,
    top: list[Neuron],
    control: list[Neuron],
    thing: SceneObject,
    others: list[SceneObject],
    where: str,
) -> dict[str, float]:
    truth = torch.as_tensor(thing.mask)
    found = activation_map(model, batch, top).mask(_PERCENTILE)
    drawn = activation_map(model, batch, control).mask(_PERCENTILE)
    on_object = iou(found, truth)
    values = {
        f"{where}IoU, top": on_object,
        f"{where}IoU, top minus random": on_object - iou(drawn, truth),
    }
    if not where:
        blob = centred_blob(found.shape, float(found.float().mean()))  # type: ignore[arg-type]
        values["IoU, top minus centred blob"] = on_object - iou(blob, truth)
    if others:
        rest = np.mean([iou(found, torch.as_tensor(other.mask)) for other in others])
        values[f"{where}IoU, top on the object minus on the others"] = on_object - float(rest)
    return values


@torch.no_grad()
def findings(
    model: mm.HookedMultimodal, *, scenes: int = 150, k: int = 20, seed: int = 0, progress: bool = True
) -> dict[str, Interval]:
    """Intervals of every figure over held-out scenes with at least two objects."""
    gathered: dict[str, list[float]] = defaultdict(list)
    several = [scene for scene in mm.lab.scenes(4 * scenes, seed=seed) if len(scene.objects) > 1][:scenes]
    for number, scene in enumerate(tqdm(several, desc="scenes", disable=not progress)):
        for name, value in (scene_values(model, scene, k=k, seed=seed + number) or {}).items():
            gathered[name].append(value)
    return {name: interval(values) for name, values in gathered.items()}


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--scenes", type=int, default=150)
    parser.add_argument("--neurons", type=int, default=20)
    parser.add_argument("--seed", type=int, default=0)
    chosen = parser.parse_args()
    print("| figure | mean [95% interval] | scenes |\n| --- | --- | --- |")
    for name, found in findings(mm.lab.load(), scenes=chosen.scenes, k=chosen.neurons, seed=chosen.seed).items():
        print(f"| {name} | {found} | {found.count} |")


if __name__ == "__main__":
    main()
