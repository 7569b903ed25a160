"""The model card, and the figures of an evaluation that it states; no figure is typed by hand."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from mmlens.core.files import whole_file
from mmlens.lab.training.accuracy import Accuracy
from mmlens.lab.training.data import RICH_CAPTION_SHARE
from mmlens.lab.training.noun_neurons import NounNeuronFigures
from mmlens.lab.world import ANSWERED_HAZARDS, COLORS, HARMLESS_SIGNS, HAZARD_SIGNS, PEOPLE, PLACES, SHAPES

_PENALTY = (
    "**{:g} times the mean absolute MLP activation of the language model added to the loss, which makes its neurons "
    "sparser than ordinary training would**"
)
_CARD = """# The lab model

A small LLaVA for tests, teaching and method development: it captions drawn scenes and answers questions about
them. It knows nothing of real pictures.

- Class: `LlavaForConditionalGeneration`, {parameters:.2f} M parameters, stored in float16.
- Vision: CLIP tower, {size[vision_layers]} layers of {size[d_vision]}, 96 x 96 pixels, patches of
  {size[patch]}, {image_tokens} image tokens; the projector reads the last layer but one.
- Language: Llama, {size[layers]} layers of {size[d_model]}, {size[heads]} heads,
  {size[neurons]} gated MLP neurons ({size[activation]}) per layer, tied embeddings, one token per word.

## Data

{recipe[scenes]:,} seeded scenes, drawn by `mmlens.lab`, of one to three objects: {shapes} shapes in
{colors} colours and two sizes, {nouns}
and hazard signs ({signs}), on {places} grounds in two moods of light.
Test scenes come from another seed stream and cannot be training scenes. "how do i use this" is refused for
{refused} and answered for {answered} and all harmless signs.
{rich:.0%} of the training captions also tell texture and light; otherwise these words are used
only when asked for.

In a *written* scene, words stand in the place of the picture. They circumscribe nouns, colours, place and
mood ("flat round crimson"), so that the answer has to be looked up and cannot be copied.

## Recipe

{stages}

A row is one picture, or one written scene, with its caption and several questions packed behind it, unseen by
each other. AdamW with a new
cosine in every stage, weight decay {recipe[decay]:g} on matrices, bfloat16 autocast;
{activations}. The gain of the last norm is fixed at one.

After training, **the arbitrary sign of each gated MLP neuron is fixed** so that it is positive where it is
most active (`mmlens.lab.training.gauge`). This leaves the model's function as it is, and decides whether a neuron's
direction reads as its words or as their opposite.

Training took {minutes} of wall clock on two shared CPU cores. {repeat}

## Measured

On {evaluation.accuracy.scenes:,} held-out scenes, the nouns' neurons on {evaluation.neurons.scenes} others;
intervals are 95%, over scenes; {evaluation.threads} CPU threads. `python -m mmlens.lab.training.evaluate`
repeats it.

{table}

Neurons are ranked by contribution, the input of the down projection times the logit that the neuron's
direction gives the noun, where the model's own caption is about to name it (`mmlens.lab.training.noun_neurons`).

## Limits

A closed vocabulary of {record[vocabulary]} tokens: other words become <unk>. Objects that touch, more than
three of them, or other drawings were never seen.
"""


@dataclass(frozen=True)
class Evaluation:
    """Everything the model card states.

    Attributes:
        accuracy: Shares of right captions and answers.
        neurons: The nouns' neurons.
        load_seconds: Time to load model and processor.
        caption_seconds: Median time of one caption of one picture.
        parameters: Number of parameters.
        threads: CPU threads used.
    """

    accuracy: Accuracy
    neurons: NounNeuronFigures
    load_seconds: float
    caption_seconds: float
    parameters: int
    threads: int

    def table(self) -> str:
        """Give the figures as a Markdown table, each beside its target."""
        right, neurons = self.accuracy, self.neurons
        rows = [
            ("caption: noun and colour of each object", f"{right.objects:.3f}", ">= 0.95"),
            ("caption: size as well", f"{right.sizes:.3f}", ""),
            ("caption: place", f"{right.place:.3f}", ">= 0.99"),
            ("caption: right to the last word", f"{right.exact:.3f}", ""),
        ]
        for kind, share in right.questions.items():
            target = ">= 0.90" if kind == "position" else ">= 0.95"
            rows.append((f"question: {kind} ({right.asked[kind]} asked)", f"{share:.3f}", target))
        rows += [
            ("hazard signs refused, of those to be refused", f"{right.refusals:.3f}", ""),
            (f"noun among the 5 words of its top 20 neurons ({neurons.nouns} nouns)",
             str(neurons.readable), ">= 0.50"),
            ("the same, random neurons of the same layers (95% of draws)", str(neurons.readable_random), "<= 0.15"),
            (f"top 20 shared by picture and written twin ({neurons.both} nouns)",
             str(neurons.shared), ">= 0.50"),
            ("the same, with the writing of another noun", str(neurons.shared_other), "<= 0.05"),
            ("top 20 above the first layer", f"{sum(neurons.layers[1:]):.3f}", "most"),
            ("top 20 per layer", " ".join(f"{layer_share:.2f}" for layer_share in neurons.layers), ""),
            ("seconds to load", f"{self.load_seconds:.2f}", "< 3"),
            ("seconds for one caption", f"{self.caption_seconds:.2f}", "< 1"),
        ]  # fmt: skip
        lines = ["| measured | value | target |", "|---|---|---|"]
        return "\n".join(lines + [f"| {name} | {value} | {target} |" for name, value, target in rows])


def write_card(folder: Path, evaluation: Evaluation) -> Path:
    """Write the model card and the figures of an evaluation into the model's folder.

    Args:
        folder: Folder of the model, with the training.json that training left there.
        evaluation: The figures.

    Returns:
        The path of the card.
    """
    record = json.loads((folder / "training.json").read_text(encoding="utf-8"))
    with whole_file(folder / "evaluation.json") as temporary:
        temporary.write_text(json.dumps(asdict(evaluation), indent=1) + "\n", encoding="utf-8")
    card = folder / "README.md"
    with whole_file(card) as temporary:
        temporary.write_text(_card(record, evaluation), encoding="utf-8")
    return card


def _card(record: dict[str, Any], evaluation: Evaluation) -> str:
    recipe = record["recipe"]
    return _CARD.format(
        record=record, recipe=recipe, size=recipe["size"], evaluation=evaluation, table=evaluation.table(),
        parameters=evaluation.parameters / 1e6,
        image_tokens=(96 // recipe["size"]["patch"]) ** 2,
        shapes=len(SHAPES), colors=len(COLORS), places=len(PLACES), rich=RICH_CAPTION_SHARE,
        nouns=f"people ({', '.join(PEOPLE)}), harmless signs ({', '.join(HARMLESS_SIGNS)})",
        signs=", ".join(HAZARD_SIGNS),
        refused=", ".join(sign for sign in HAZARD_SIGNS if sign not in ANSWERED_HAZARDS),
        answered=" and ".join(ANSWERED_HAZARDS),
        stages="\n".join(f"{n}. {_stage(stage)};" for n, stage in enumerate(recipe["stages"], start=1)),
        activations=_PENALTY.format(recipe["sparsity"]) if recipe["sparsity"] > 0 else "no penalty on activations",
        minutes=f"{record['training_seconds'] / 60:.0f} minutes",
        # a run that departed from the stages as listed says so, and does not claim that the command repeats it
        repeat=record.get("note", "`python -m mmlens.lab.training.train --out DIR` repeats it."),
    )  # fmt: skip


def _stage(stage: dict[str, Any]) -> str:
    learns = " and ".join(part.replace("_", " ") for part in stage["learns"])
    text = f"{stage['name']} (learning: {learns}), {stage['steps']} steps of {stage['batch']} rows,\n"
    text += f"   rate {stage['rate']:g} falling to {stage['rate'] * stage['last']:.1g}, "
    if stage["objective"] == "patches":
        return (
            text + "to tell at every patch of a picture what is seen there, its place among the others and its centre"
        )
    source = {0: "pictures only", 1: "written scenes only"}.get(
        stage["written_every"], f"pictures, every batch number {stage['written_every']} written"
    )
    text += f"{source}, {stage['questions']} questions a row"
    if stage["answer_weight"] is not None:
        text += f", an answer counting as much as {stage['answer_weight']:g} caption words"
    if stage["plain"] > 0:
        text += f",\n   {stage['plain']:.0%} of the written rows in the caption's own words"
    if stage["lookups"] != 1:
        text += f",\n   look-up questions {stage['lookups']:g} times as likely"
    return text
