"""Trains the lab's sparse dictionaries: `python -m mmlens.lab.training.dictionaries --out DIR`, run again to resume.

Rows are those of 600 training scenes: of their pictures, of what is asked about them (to describe them, and two questions each),
and of what the model answers. Everything follows from the seed.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from tqdm.auto import tqdm

from mmlens.analysis.features.training.mlp_inputs import mlp_inputs
from mmlens.analysis.features.training.train import train_sae
from mmlens.analysis.samples.sample import Sample
from mmlens.analysis.store.collect import collect
from mmlens.analysis.store.store import ActivationStore
from mmlens.lab.checkpoints import WEIGHTS
from mmlens.lab.composing import scenes
from mmlens.lab.language import CAPTION_PROMPT
from mmlens.models.hooked import HookedMultimodal

_LAYERS, _VISION_LAYERS = 6, 4  # the tower's fifth layer is not read
_QUESTIONS = 2


@dataclass(frozen=True)
class DictionaryPlan:
    """What is trained, and on what.

    Attributes:
        folder: where it is written, below the folder of all.
        at: its point.
        n_features, k: its size, and features of a row on average.
        transcodes: whether it reads what the MLP receives.
        rows: the stores that it is trained on.
    """

    folder: str
    at: str
    n_features: int
    k: int
    transcodes: bool = False
    rows: tuple[str, ...] = ("pictures", "questions", "answers")

    @property
    def settings(self) -> dict[str, Any]:
        """What `train_sae` is told of it."""
        if not self.transcodes:
            return {"selection": "jumprelu"}
        return {"source": f"{self.at.removesuffix('hook_mlp_out')}mlp.hook_in", "skip": True}


#: Transcoders first: attribution graphs wait for them.
PLANS = (
    *(DictionaryPlan(f"transcoders/{i}", f"blocks.{i}.hook_mlp_out", 768, 16, True) for i in range(_LAYERS)),
    *(
        DictionaryPlan(f"vision_transcoders/{i}", f"vision.blocks.{i}.hook_mlp_out", 512, 16, True, ("tower",))
        for i in range(_VISION_LAYERS)
    ),
    DictionaryPlan("language", "blocks.3.hook_resid_post", 1536, 24),
    DictionaryPlan("vision", f"vision.blocks.{_VISION_LAYERS - 1}.hook_resid_post", 1024, 24, rows=("tower",)),
    DictionaryPlan("projector", "projector.hook_out", 512, 24, rows=("pictures",)),
)


def stores(model: HookedMultimodal, folder: Path, *, n_scenes: int, seed: int) -> dict[str, ActivationStore]:
    """The rows: of pictures in the language model and behind the projector, of the tower, of questions, of answers.

    Args:
        model: the lab model.
        folder: where they are kept; what is there is gone on with.
        n_scenes: scenes of the training split.
        seed: of the scenes, and of which questions are asked.
    """
    scene_list = scenes(n_scenes, seed, split="train")
    rng = np.random.default_rng(seed)

    def samples(questions: int) -> Iterator[Sample]:
        for scene in scene_list:
            texts = [question.text for question in scene.questions]
            numbers = rng.permutation(len(texts))[:questions]
            for prompt in (CAPTION_PROMPT, *(texts[i] for i in numbers)):
                yield Sample((scene.image,), prompt, name=f"scene {scene.seed}")

    pictures, with_questions = list(samples(0)), list(samples(_QUESTIONS))
    language = [plan.at for plan in PLANS if plan.at.startswith("blocks.")]
    tower = [plan.at for plan in PLANS if plan.at.startswith("vision.")]
    with mlp_inputs(model, [at for at in (*language, *tower) if at.endswith(".hook_mlp_out")]) as inputs:
        points = {
            "tower": [*tower, *(inputs[at] for at in tower if at in inputs)],
            "questions": (said := [*language, *(inputs[at] for at in language if at in inputs)]),
            "answers": said,
            "pictures": [*said, "projector.hook_out"],
        }
        kinds = (
            ("pictures", pictures, "image"),
            ("tower", pictures, "all"),
            ("questions", with_questions, "text"),
            ("answers", with_questions, "generated"),
        )
        return {
            name: collect(model, data, at=points[name], positions=rule, into=folder / name, batch_size=16)
            for name, data, rule in kinds
        }


def train(out: Path, *, n_scenes: int, epochs: int, seed: int, device: str = "cpu") -> None:
    """Train every dictionary of `PLANS` and write them, in half precision, below `out / "dictionaries"`.

    Args:
        out: folder of the run.
        n_scenes: scenes that rows are of.
        epochs: passes over the rows.
        seed: of everything.
        device: where to train.
    """
    model = HookedMultimodal.from_pretrained(WEIGHTS, dtype="float32")
    data = stores(model, out / "states", n_scenes=n_scenes, seed=seed)
    (out / "checkpoints").mkdir(parents=True, exist_ok=True)
    for plan in PLANS:
        result = train_sae(
            [data[name] for name in plan.rows],
            at=plan.at,
            n_features=plan.n_features,
            k=plan.k,
            epochs=epochs,
            lr=2e-3,
            seed=seed,
            checkpoint=out / "checkpoints" / f"{plan.folder.replace('/', '.')}.safetensors",
            device=device,
            **plan.settings,
        )
        result.save(out / "dictionaries" / plan.folder, dtype="float16")
        tqdm.write(f"{plan.folder}: {result!r}")


def main(arguments: list[str] | None = None) -> None:
    """Run the command line.

    Args:
        arguments: The words after the command; by default those of the process.
    """
    parser = argparse.ArgumentParser(prog="python -m mmlens.lab.training.dictionaries", description=__doc__)
    parser.add_argument("--out", type=Path, required=True, help="folder of the run; run again to resume")
    parser.add_argument("--scenes", type=int, default=600, help="scenes that rows are of (%(default)s)")
    parser.add_argument("--epochs", type=int, default=8, help="passes over the rows (%(default)s)")
    parser.add_argument("--seed", type=int, default=171, help="of scenes, weights and order (%(default)s)")
    parser.add_argument("--device", default="cpu", help="where to train (%(default)s)")
    options = parser.parse_args(arguments)
    train(options.out, n_scenes=options.scenes, epochs=options.epochs, seed=options.seed, device=options.device)


if __name__ == "__main__":
    main()
