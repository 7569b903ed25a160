"""Measures the lab's sparse dictionaries: `python -m mmlens.lab.training.dictionary_card --out card.json`.

What they give back and what the model loses by it; how alike the pictures of a feature are; and which features are a colour, a
shape, a place, beside neurons, principal components and clusters of the same states, chosen on some scenes and judged on others.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from sklearn.cluster import MiniBatchKMeans
from torch import Tensor

from mmlens.analysis.features.card import sae_card
from mmlens.analysis.features.dictionary import SparseDictionary
from mmlens.analysis.features.loading import load_sae
from mmlens.analysis.features.monosemanticity import monosemanticity
from mmlens.analysis.store.collect import collect
from mmlens.core.files import whole_file
from mmlens.inputs.batch import MultimodalBatch
from mmlens.lab.checkpoints import DICTIONARIES, WEIGHTS
from mmlens.lab.composing import scenes
from mmlens.lab.language import CAPTION_PROMPT
from mmlens.lab.scenery import Scene
from mmlens.lab.training.dictionary_truth import TRUTHS, choose, truth_of
from mmlens.lab.world import COLORS, MOODS, PLACES, SHAPES
from mmlens.models.hooked import HookedMultimodal

#: Neurons beside each autoencoder: those of the MLP whose output its states hold last.
_NEURONS = {
    "language": "blocks.3.mlp.hook_post",
    "vision": "vision.blocks.3.mlp.hook_post",
    "projector": "projector.mlp.hook_post",
}
_CLUSTERS = 256
_ANSWER = 5  # words of a caption that every scene has


@dataclass(frozen=True)
class Sets:
    """The scenes of a card.

    Attributes:
        fitted: those that components and clusters come from.
        chosen: those that features and thresholds are chosen on.
        judged: those that figures are of.
    """

    fitted: list[Scene]
    chosen: list[Scene]
    judged: list[Scene]

    @classmethod
    def of(cls, n: int, seed: int) -> Sets:
        """So many of each; none is among those that dictionaries were trained on."""
        return cls(scenes(n, seed, split="train"), scenes(n, seed + 1), scenes(n, seed + 2))


@torch.no_grad()
def dictionary_card(folder: Path, *, n_scenes: int, seed: int) -> dict[str, Any]:
    """All figures, as plain data.

    Args:
        folder: of the dictionaries.
        n_scenes: scenes of each set.
        seed: of the first set.
    """
    model, sets = HookedMultimodal.from_pretrained(WEIGHTS, dtype="float32"), Sets.of(n_scenes, seed)
    batch = _answered(model, sets.judged[:60])
    content: dict[str, Any] = {"scenes": n_scenes, "seed": seed, "dictionaries": {}}
    saes = {name: load_sae(folder / name) for name in _NEURONS}
    for name, sae in saes.items():
        content["dictionaries"][name] = quality(model, sae, batch)
    for group in ("transcoders", "vision_transcoders"):
        layers = [load_sae(path) for path in sorted((folder / group).iterdir(), key=lambda path: int(path.name))]
        for layer, sae in enumerate(layers):
            content["dictionaries"][f"{group}/{layer}"] = quality(model, sae, batch)
        content[f"{group}, all replaced"] = replaced_together(model, layers, batch)
    for name, values in truths(model, saes, sets).items():
        content["dictionaries"][name] |= values
    return content


def _answered(model: HookedMultimodal, drawn: Sequence[Scene]) -> MultimodalBatch:
    """Scenes with the first words of their captions."""
    batch = model.prepare([CAPTION_PROMPT] * len(drawn), images=[[scene.image] for scene in drawn])
    words = [model.to_tokens(scene.caption, prepend_bos=False)[0, :_ANSWER] for scene in drawn]
    return model.extend(batch, torch.stack(words))


def quality(model: HookedMultimodal, sae: SparseDictionary, batch: MultimodalBatch) -> dict[str, Any]:
    """What a dictionary gives back, and what the model loses by it."""
    content = sae_card(model, sae, batch, last=_ANSWER)
    kinds = {kind: asdict(values) for kind, values in content.kinds.items()}
    losses = {"ce": content.ce, "ce_replaced": content.ce_replaced, "ce_zero": content.ce_zero}
    return {
        "at": content.at,
        "n_features": len(sae),
        "kinds": kinds,
        **losses,
        "ce_recovered": content.ce_recovered,
        "dead": content.dead,
    }


def replaced_together(
    model: HookedMultimodal, layers: Sequence[SparseDictionary], batch: MultimodalBatch
) -> dict[str, float]:
    """The cross-entropy of the answer where every MLP of a part is replaced by what its transcoder gives, and by zeros."""

    def loss(points: list[str]) -> float:
        with model.attach(*layers):
            hooks = [(point, lambda activation, hook: torch.zeros_like(activation)) for point in points]
            logits = model.run_with_hooks(batch, fwd_hooks=hooks)
        ids = batch["input_ids"][:, -_ANSWER:]
        return float(torch.nn.functional.cross_entropy(logits[:, -_ANSWER - 1 : -1].flatten(0, 1), ids.flatten()))

    ce, ce_replaced, zero = (
        loss([f"{sae.at}.hook_sae_{kind}" for sae in layers] if kind else []) for kind in ("", "error", "output")
    )
    return {"ce": ce, "ce_replaced": ce_replaced, "ce_zero": zero, "ce_recovered": (zero - ce_replaced) / (zero - ce)}


def truths(model: HookedMultimodal, saes: Mapping[str, SparseDictionary], sets: Sets) -> dict[str, dict[str, Any]]:
    """Which candidates are a colour, a shape, a place, and how alike the pictures of features and neurons are."""
    points = [*(sae.at for sae in saes.values()), *_NEURONS.values()]
    fitted, chosen, judged = (
        collect(model, group, at=points, positions="image", dtype="float32", progress=False)
        for group in (sets.fitted, sets.chosen, sets.judged)
    )
    known, asked = truth_of(sets.chosen), truth_of(sets.judged)
    shuffled, asked_shuffled = _shuffled(known, sets.chosen), _shuffled(asked, sets.judged)
    embeddings = _contents(sets.judged)
    found: dict[str, dict[str, Any]] = {}
    for name, sae in saes.items():
        states, neurons = sae.at, _NEURONS[name]
        first, second, third = (store.at(states).values for store in (fitted, chosen, judged))
        hidden, hidden_judged = (store.at(neurons).values for store in (chosen, judged))
        mean, axes = first.mean(0), torch.linalg.svd(first - first.mean(0), full_matrices=False).Vh.T
        clusters = MiniBatchKMeans(_CLUSTERS, random_state=0, n_init=1, batch_size=2048).fit(first.numpy())
        centers = torch.from_numpy(clusters.cluster_centers_)
        codes, codes_judged = sae.encode(second), sae.encode(third)
        candidates: dict[str, tuple[Tensor, Tensor, Tensor, Tensor]] = {
            "feature": (codes, codes_judged, known, asked),
            "neuron": (_signed(hidden), _signed(hidden_judged), known, asked),
            "component": (_signed((second - mean) @ axes), _signed((third - mean) @ axes), known, asked),
            "cluster": (-torch.cdist(second, centers), -torch.cdist(third, centers), known, asked),
            "feature, truth of other scenes": (codes, codes_judged, shuffled, asked_shuffled),
        }
        table: dict[str, Any] = {}
        for method, (scores, scores_judged, truth, truth_judged) in candidates.items():
            best = choose(scores, truth)
            f1 = best.judged(scores_judged, truth_judged).tolist()
            table[method] = {
                truth_name: {"index": index, "threshold": threshold, "f1": value}
                for truth_name, index, threshold, value in zip(
                    TRUTHS, best.index.tolist(), best.threshold.tolist(), f1, strict=True
                )
            }
        scores_of = {
            kind: monosemanticity(_by_scene(values, len(sets.judged)), embeddings)
            for kind, values in (("feature", codes_judged), ("neuron", hidden_judged))
        }
        alike = {kind: float(values[~values.isnan()].mean()) for kind, values in scores_of.items()}
        found[name] = {"truth": table, "monosemanticity": alike}
    return found


def _signed(values: Tensor) -> Tensor:
    """Candidates that may speak by either sign."""
    return torch.cat([values, -values], 1)


def _by_scene(values: Tensor, count: int) -> Tensor:
    """The largest of each scene's rows."""
    return values.unflatten(0, (count, -1)).amax(1)


def _shuffled(truth: Tensor, drawn: Sequence[Scene]) -> Tensor:
    """The truth of other scenes: each scene's patches together."""
    order = torch.randperm(len(drawn), generator=torch.Generator().manual_seed(0))
    return truth.unflatten(0, (len(drawn), -1))[order].flatten(0, 1)


def _contents(drawn: Sequence[Scene]) -> Tensor:
    """What is in each scene, as numbers around their mean: an embedding that no model made."""
    rows = []
    for scene in drawn:
        there = {thing.color for thing in scene.objects} | {thing.shape for thing in scene.objects}
        there |= {scene.place, scene.mood}
        rows.append([float(name in there) for name in (*COLORS, *SHAPES, *PLACES, *MOODS)])
    values = torch.tensor(rows)
    return values - values.mean(0)


def table(found: Mapping[str, Any]) -> str:
    """The tables of docs/features.md."""
    lines = [
        "| dictionary | features | EV, L0 on image rows | EV, L0 on text rows | CE; replaced; zero | CE recovered | dead |",
        "|---|---|---|---|---|---|---|",
    ]
    for name, values in found["dictionaries"].items():
        cells = []
        for kind in ("image", "text"):
            rows = values["kinds"].get(kind)
            cells.append(f"{rows['explained_variance']:.3f}, {rows['l0']:.1f}" if rows else "")
        lines.append(
            f"| {name} | {values['n_features']} | {cells[0]} | {cells[1]} | {_losses(values)} | {values['dead']:.1%} |"
        )
    for group in ("transcoders", "vision_transcoders"):
        lines.append(f"| {group}, all at once | | | | {_losses(found[f'{group}, all replaced'])} | |")
    lines += [
        "",
        "| dictionary | by the best | color: mean F1 (words at 0.8 or more) | shape | place |",
        "|---|---|---|---|---|",
    ]
    for name, values in found["dictionaries"].items():
        for method, truth in values.get("truth", {}).items():
            means = []
            for kind in ("color", "shape", "place"):
                f1 = [truth[label]["f1"] for label, of in TRUTHS.items() if of == kind]
                means.append(f"{sum(f1) / len(f1):.2f} ({sum(value >= 0.8 for value in f1)} of {len(f1)})")
            lines.append(f"| {name} | {method} | {' | '.join(means)} |")
    lines += ["", "| dictionary | monosemanticity of features | of neurons |", "|---|---|---|"]
    for name, values in found["dictionaries"].items():
        if alike := values.get("monosemanticity"):
            lines.append(f"| {name} | {alike['feature']:.2f} | {alike['neuron']:.2f} |")
    return "\n".join(lines)


def _losses(values: Mapping[str, Any]) -> str:
    """Cross-entropies, and the share that is recovered."""
    losses = "; ".join(f"{values[name]:.3f}" for name in ("ce", "ce_replaced", "ce_zero"))
    return f"{losses} | {values['ce_recovered']:.3f}"


def main(arguments: list[str] | None = None) -> None:
    """Run the command line.

    Args:
        arguments: The words after the command; by default those of the process.
    """
    parser = argparse.ArgumentParser(prog="python -m mmlens.lab.training.dictionary_card", description=__doc__)
    parser.add_argument("--folder", type=Path, default=DICTIONARIES, help="of the dictionaries (those of the package)")
    parser.add_argument("--scenes", type=int, default=120, help="scenes of each of three sets (%(default)s)")
    parser.add_argument("--seed", type=int, default=181, help="of the first set (%(default)s)")
    parser.add_argument("--out", type=Path, required=True, help="a JSON file; its tables go beside it, as .md")
    options = parser.parse_args(arguments)
    content = dictionary_card(options.folder, n_scenes=options.scenes, seed=options.seed)
    for path, text in ((options.out, json.dumps(content, indent=1)), (options.out.with_suffix(".md"), table(content))):
        with whole_file(path) as temporary:
            temporary.write_text(text + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
