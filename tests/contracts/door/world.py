"""Valid arguments: an example for each parameter of the public functions, made with the lab model.

An example is found under `"callable.parameter"`, then under `"parameter"`. A method is called on the example of its class.
"""

import tempfile
from collections.abc import Callable
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from matplotlib.figure import Figure

import mmlens as mm
from mmlens.analysis.statistics.intervals import mean_interval
from mmlens.core.saved import Saved
from tests.analysis.readers import published
from tests.results import RESULTS, all_of
from tests.viz import made

POINT = "blocks.4.hook_resid_post"


class World:
    """A model, its batches, and a result of every kind."""

    @cached_property
    def model(self) -> Any:
        """The lab model, on its own."""
        return mm.lab.load()

    @cached_property
    def folder(self) -> Path:
        """Where results are kept."""
        return Path(tempfile.mkdtemp())

    @cached_property
    def scenes(self) -> Any:
        """A small dataset."""
        return mm.lab.scenes(24, seed=1)

    @cached_property
    def batch(self) -> Any:
        """Three samples."""
        return self.model.prepare(["describe the image"] * 3, images=[scene.image for scene in self.scenes[:3]])

    @cached_property
    def corrupted(self) -> Any:
        """The same layout, another picture."""
        return mm.corrupt.blur(self.model, self.batch)

    @cached_property
    def metric(self) -> Any:
        """A metric of the lab's words."""
        return mm.metrics.logit_difference("red", "blue")

    @cached_property
    def store(self) -> Any:
        """States in memory."""
        return mm.collect(self.model, self.scenes, at=POINT, positions="last", progress=False)

    @cached_property
    def states(self) -> Any:
        """States of one point."""
        return self.store.at(POINT)

    @cached_property
    def bank(self) -> Any:
        """Concepts of them."""
        return mm.extract_concepts(self.states, 3, method="kmeans")

    @cached_property
    def sae(self) -> Any:
        """A sparse dictionary of the lab's stream."""
        make = torch.Generator().manual_seed(0)
        W = torch.randn(192, 256, generator=make) / 14
        return mm.features.SparseDictionary(W, torch.zeros(256), W.T.contiguous(), torch.zeros(192), POINT)

    @cached_property
    def feature_scores(self) -> Any:
        """Scores of its features."""
        with self.model.attach(self.sae):
            return mm.find_features(self.model, self.batch, word="red")

    @cached_property
    def one(self) -> Any:
        """One sample."""
        return self.model.prepare("describe the image", images=self.scenes[0].image)

    @cached_property
    def attribution_graph(self) -> Any:
        """A graph of its features."""
        return mm.attribution_graph(self.model, self.one, self.sae, target="red", max_nodes=40, progress=False)

    @cached_property
    def graph_check(self) -> Any:
        """What the model does without some of them."""
        return self.attribution_graph.check(self.model, self.one, self.sae, nodes=2)

    @cached_property
    def card(self) -> Any:
        """How good it is."""
        return mm.features.sae_card(self.model, self.sae, self.batch)

    @cached_property
    def sae_folder(self) -> Path:
        """Its files."""
        mm.features.save_sae(self.sae, self.folder / "sae")
        return self.folder / "sae"

    @cached_property
    def shift(self) -> Any:
        """A shift of concepts."""
        return mm.concept_shift(self.states, self.shifted_states, self.bank)

    @cached_property
    def shifted_states(self) -> Any:
        """States of a tuned model."""
        return replace(self.states, values=self.states.values + torch.randn(192, generator=torch.manual_seed(0)))

    @cached_property
    def vector(self) -> Any:
        """A steering vector."""
        return mm.steering_vector(self.states.values[:12], self.states.values[12:], at=POINT)

    @cached_property
    def table(self) -> Any:
        """Steering vectors by sample."""
        return mm.steering.SteeringTable(self.states.values[:3], POINT, keys=self.states.keys[:3])

    @cached_property
    def predictor(self) -> Any:
        """What predicts them."""
        return mm.steering.LearnedPredictor(torch.ones(4, 192), torch.ones(4), torch.ones(192, 4), POINT, POINT)

    @cached_property
    def head_ranking(self) -> Any:
        """Heads by how they look."""
        return mm.rank_heads(self.model, self.batch, method="visual")

    @cached_property
    def mitigation(self) -> Any:
        """A report on a method against hallucination."""
        methods = {"boosted": "boosted"}
        return mm.mitigation_report(self.model, {"pope": self.answered}, methods=methods, seeds=[0], progress=False)

    @cached_property
    def word_index(self) -> Any:
        """States of words in texts."""
        return mm.lenses.contextual_index(self.model, ["a red circle and a moon"], at=POINT)

    @cached_property
    def scores(self) -> Any:
        """Scores of neurons."""
        return mm.find_neurons(self.model, self.batch, token="red")

    @cached_property
    def caption_neurons(self) -> Any:
        """Neurons behind the nouns of a caption."""
        return mm.neurons.find_caption_neurons(self.model, self.one, progress=False)[0]

    @cached_property
    def neurons(self) -> Any:
        """The top neurons."""
        return self.scores.top(4)

    @cached_property
    def sweep(self) -> Any:
        """A sweep of patches."""
        return mm.patch(
            self.model,
            self.batch,
            self.corrupted,
            metric=self.metric,
            at="blocks.[01].attn.hook_z",
            units="head",
            progress=False,
        )

    @cached_property
    def path_sweep(self) -> Any:
        """A sweep of paths."""
        return mm.patching.path_patch(
            self.model,
            self.batch,
            self.corrupted,
            metric=self.metric,
            at="blocks.0.hook_mlp_out",
            to="blocks.2.hook_mlp_in" if "blocks.2.hook_mlp_in" in self.model.hook_dict else "hook_logits",
            progress=False,
        )

    @cached_property
    def agreement(self) -> Any:
        """A comparison of an estimate with its exact sweep."""
        return mm.patching.compare_attribution(
            self.model, self.batch, self.corrupted, metric=self.metric, at="blocks.[01].hook_resid_pre", progress=False
        )

    @cached_property
    def circuit(self) -> Any:
        """A circuit."""
        return mm.find_circuit(
            self.model, (self.batch, self.corrupted), metric=self.metric, method="eap", progress=False
        ).strongest(60)

    @cached_property
    def evaluation(self) -> Any:
        """What a circuit is worth."""
        return mm.circuits.evaluate_circuit(
            self.model,
            self.circuit,
            (self.batch, self.corrupted),
            metric=self.metric,
            n_random=2,
            n_edges=2,
            progress=False,
        )

    @cached_property
    def curve(self) -> Any:
        """How faithful circuits of growing size are."""
        asked = {"metric": self.metric, "sizes": [0.1, 1.0], "n_random": 1, "progress": False}
        return mm.circuits.curve(self.model, self.branch_circuit, (self.batch, self.corrupted), **asked)

    @cached_property
    def branch_circuit(self) -> Any:
        """A circuit of whole branches of the language model, whose runs are short."""
        asked = {"metric": self.metric, "method": "eap", "nodes": "attention", "towers": "language", "progress": False}
        return mm.find_circuit(self.model, (self.batch, self.corrupted), **asked)

    @cached_property
    def language_circuit(self) -> Any:
        """A circuit of the language model alone."""
        asked = {"metric": self.metric, "method": "eap", "towers": "language", "progress": False}
        return mm.find_circuit(self.model, (self.batch, self.corrupted), **asked)

    @cached_property
    def mib_file(self) -> Any:
        """The same in MIB's form."""
        return mm.circuits.save_mib(self.language_circuit, self.folder / "mib.json", self.model)

    @cached_property
    def dose(self) -> Any:
        """A dose curve."""
        return mm.steering.dose_curve(
            self.model, self.batch, self.vector, alphas=[0.5, 1.0], metric=self.metric, seeds=[0], progress=False
        )

    @cached_property
    def steer(self) -> Any:
        """An intervention."""
        return mm.Steer(self.vector, 1.0)

    @cached_property
    def steering_report(self) -> Any:
        """What steering does."""
        return mm.steering.steering_report(self.model, self.steer, self.scenes[:2], max_new_tokens=4, progress=False)

    @cached_property
    def edit(self) -> Any:
        """An edit."""
        return mm.edits.zero_neurons(self.model, self.neurons)

    @cached_property
    def edit_report(self) -> Any:
        """What an edit does."""
        return mm.edits.edit_report(
            self.model, self.edit, targets=self.scenes[:2], controls=self.scenes[2:4], source="red", max_new_tokens=4,
            progress=False,
        )  # fmt: skip

    @cached_property
    def measured(self) -> Any:
        """Properties of neurons."""
        return mm.properties.localisation(self.model, self.scenes[:3], k=3, progress=False)

    @cached_property
    def lens(self) -> Any:
        """A logit lens."""
        return mm.logit_lens(self.model, self.batch, at="blocks.*.hook_resid_post", words=["red"], progress=False)

    @cached_property
    def patchscope(self) -> Any:
        """A patchscope."""
        return mm.lenses.patchscope(
            self.model, self.batch, at=POINT, positions="last", target_prompt="the word is x", progress=False
        )

    @cached_property
    def trace(self) -> Any:
        """A traced generation."""
        return self.model.trace_generation(self.batch, names="hook_logits", max_new_tokens=12)

    @cached_property
    def cache(self) -> Any:
        """Cached activations."""
        points = ["blocks.0.hook_resid_pre", POINT]
        return self.model.run_with_cache(self.batch, names=points, positions="prompt")[1]

    @cached_property
    def heat_map(self) -> Any:
        """A map over the picture."""
        return mm.attention_map(self.model, self.batch, layers=[2])[0]

    @cached_property
    def ground_shift(self) -> Any:
        """Pictures of a shift."""
        return mm.concepts.ground_shift(self.model, self.shift, self.scenes)

    @cached_property
    def grounding_scorer(self) -> Any:
        """A scorer made by hand."""

        class Overlap:
            """Counts equal words."""

            name = "overlap"
            unit = "words"
            against = "picture"

            def score(self, references: Any, texts: Any) -> Any:
                return torch.ones(len(texts))

        return Overlap()

    @cached_property
    def study_table(self) -> Any:
        """A table of a study."""
        return mm.recipes.StudyTable("pan", "cost", "what it costs", (mm.recipes.StudyValue("theirs", "time", 1.0),))

    @cached_property
    def tune(self) -> Any:
        """A fine-tune."""
        said = [mm.Sample((scene.image,), caption="on sand a man") for scene in self.scenes[:2]]
        return mm.finetune(mm.lab.load(), said, into=self.folder / "tune", steps=1, batch_size=1, progress=False)

    def saved(self, value: Any) -> str:
        """The path of a result that was saved."""
        path = self.folder / type(value).__name__
        if not path.exists():
            value.save(path)
        return str(path)

    @cached_property
    def stored(self) -> str:
        """The folder of a store on disk."""
        into = self.folder / "store"
        mm.collect(
            self.model, self.scenes[:3], at=POINT, positions="last", into=into, progress=False
        )  # fmt: skip
        return str(into)

    @cached_property
    def answered(self) -> Any:
        """A question whose answer several people gave."""
        truth = {"answer": "yes", "references": ("yes",) * 10, "types": {"answer_type": "yes/no"}}
        return [mm.Sample((self.scenes[0].image,), "is there a moon", image_id="1", **truth)]

    @cached_property
    def score_table(self) -> Any:
        """Scores of a run."""
        return mm.scorers.pope(self.answered, ["yes"])

    @cached_property
    def synonyms(self) -> str:
        """A file of words for objects."""
        path = self.folder / "synonyms.txt"
        path.write_text("dog, puppy\n", encoding="utf-8")
        return str(path)

    @cached_property
    def published(self) -> dict[str, Any]:
        """Scenes as published data sets have them: folders, and files by the reader that takes them."""
        scenes, root = self.scenes[:2], self.folder / "published"
        names = ("coco", "karpathy", "vqa", "pope", "safety", "genome", "gqa", "sbu", "jsonl")
        folders = {name: root / name for name in names}
        for folder in folders.values():
            folder.mkdir(parents=True)
        attributes, _ = published.visual_genome(scenes, folders["genome"])
        return folders | {
            "data.coco_captions": published.coco_captions(scenes, folders["coco"]),
            "data.coco_instances": published.coco_instances(scenes, folders["coco"]),
            "data.karpathy": published.karpathy(scenes, folders["karpathy"]),
            "data.vqa_v2": published.vqa_v2(scenes, folders["vqa"]),
            "data.pope": published.pope(scenes, folders["pope"]),
            "data.mm_safety_bench": published.mm_safety_bench(scenes, folders["safety"]),
            "data.visual_genome": attributes,
            "data.gqa": published.gqa(scenes, folders["gqa"]),
            "data.sbu_captions": published.sbu(scenes, folders["sbu"]),
            "data.from_jsonl": published.jsonl(scenes, folders["jsonl"]),
        }


def image(world: World) -> Any:
    """A picture."""
    return world.scenes[0].image


#: Objects that methods are called on, by class.
OBJECTS: dict[str, Callable[[World], Any]] = {
    "CaptionNeurons": lambda w: w.caption_neurons,
    "SparseDictionary": lambda w: w.sae,
    "SAETraining": lambda w: made.training(),
    "TrainingPoint": lambda w: made.training().history[0],
    "FeaturePage": lambda w: made.feature_page(),
    "TopPicture": lambda w: made.feature_page().pictures[0],
    "TextContext": lambda w: made.feature_page().contexts[0],
    "ClampedAnswers": lambda w: made.feature_page().clamped[0],
    "Drawing": lambda w: w.model.graph.draw(),
    "FeatureScores": lambda w: w.feature_scores,
    "DictionaryCard": lambda w: w.card,
    "AttributionGraph": lambda w: w.attribution_graph,
    "GraphCheck": lambda w: w.graph_check,
    "ActivationCache": lambda w: w.cache,
    "ActivationStore": lambda w: w.store,
    "Agreement": lambda w: w.agreement,
    "Circuit": lambda w: w.circuit,
    "CircuitEvaluation": lambda w: w.evaluation,
    "CircuitCurve": lambda w: w.curve,
    "CircuitOverlap": lambda w: mm.circuits.overlap(w.circuit, w.circuit, n_random=2),
    "CleanRun": lambda w: mm.patching.CleanRun(w.model, w.batch),
    "ConceptBank": lambda w: w.bank,
    "ConceptShift": lambda w: w.shift,
    "LayerShifts": lambda w: mm.concepts.LayerShifts({POINT: w.shift}),
    "DoseCurve": lambda w: w.dose,
    "EditReport": lambda w: w.edit_report,
    "AttentionLooks": lambda w: mm.lenses.attention_looks(w.model, w.batch),
    "HeatMap": lambda w: w.heat_map,
    "HeadRanking": lambda w: w.head_ranking,
    "ContextualIndex": lambda w: w.word_index,
    "LatentReading": lambda w: mm.lenses.latent_lens(w.model, w.batch, w.word_index, k=2),
    "MitigationReport": lambda w: w.mitigation,
    "HookGraph": lambda w: w.model.graph,
    "HookedMultimodal": lambda w: w.model,
    "LogitLens": lambda w: w.lens,
    "MappedStates": lambda w: w.store.mapped(POINT),
    "Measurements": lambda w: w.measured,
    "MultimodalBatch": lambda w: w.batch,
    "NeuronScores": lambda w: w.scores,
    "PatchSweep": lambda w: w.sweep,
    "PatchscopeReading": lambda w: w.patchscope,
    "PathSweep": lambda w: w.path_sweep,
    "ShiftGrounding": lambda w: w.ground_shift,
    "States": lambda w: w.states,
    "LearnedPredictor": lambda w: w.predictor,
    "SteeringTable": lambda w: w.table,
    "SteeringReport": lambda w: w.steering_report,
    "SteeringVector": lambda w: w.vector,
    "TokenLayout": lambda w: w.batch.layout,
    "lab.Scene": lambda w: w.scenes[0],
    "scorers.ObjectWords": lambda w: mm.scorers.COCO_WORDS,
    "scorers.Score": lambda w: w.score_table.scores[0],
    "scorers.ScoreTable": lambda w: w.score_table,
    "data.SampleSet": lambda w: mm.data.pope(w.published["data.pope"], w.published["pope"], progress=False),
    "Tune": lambda w: w.tune,
    "Reproduction": lambda w: mm.recipes.Reproduction("pan", w.folder, (w.study_table,)),
    "StudyTable": lambda w: w.study_table,
    "StudyValue": lambda w: w.study_table.rows[0],
    "edits.Edit": lambda w: w.edit,
    "edits.Provenance": lambda w: w.edit.provenance,
    "lab.Placed": lambda w: w.scenes[0].placed[0],
    "lab.SceneObject": lambda w: w.scenes[0].objects[0],
    "lab.Question": lambda w: w.scenes[0].questions[0],
    "RandomUnits": lambda w: mm.random_units(w.model, like=w.neurons, seed=0),
    "Units": lambda w: w.neurons,
    "metrics.Metric": lambda w: w.metric,
}

EXAMPLES: dict[str, Callable[[World], Any]] = {
    **{
        f"{start}{kind.__name__}.load.path": lambda w, name=kind.__name__: w.saved(RESULTS[name]())
        for kind in all_of(Saved)
        for start in ("", "edits.", "scorers.")
    },
    "ContextualIndex.of.states": lambda w: {POINT: torch.ones(2, 192)},
    "ContextualIndex.of.words": lambda w: {POINT: ("a", "b")},
    "model": lambda w: w.model,
    "batch": lambda w: w.batch,
    "clean": lambda w: w.batch,
    "corrupted": lambda w: w.corrupted,
    "pairs": lambda w: (w.batch, w.corrupted),
    "data": lambda w: w.batch,
    "dataset": lambda w: w.scenes[:2],
    "metric": lambda w: w.metric,
    "at": lambda w: "blocks.*.hook_resid_post",
    "names": lambda w: "blocks.*.hook_resid_post",
    "point": lambda w: POINT,
    "bank": lambda w: w.bank,
    "states": lambda w: w.states,
    "base_states": lambda w: w.states,
    "tuned_states": lambda w: w.states,
    "tuned_bank": lambda w: w.bank,
    "store": lambda w: w.store,
    "circuit": lambda w: w.circuit,
    "shift": lambda w: w.shift,
    "vector": lambda w: w.vector,
    "vectors": lambda w: w.vector,
    "interventions": lambda w: w.steer,
    "edits": lambda w: w.edit,
    "edit": lambda w: w.edit,
    "neurons": lambda w: w.neurons,
    "like": lambda w: w.neurons,
    "units": lambda w: w.neurons,
    "token": lambda w: "red",
    "answer": lambda w: "red",
    "other": lambda w: "blue",
    "image": lambda w: image(w),
    "images": lambda w: [image(w)],
    "picture": lambda w: image(w),
    "text": lambda w: "what is this",
    "question": lambda w: "what is this",
    "prompt": lambda w: "describe the image",
    "seed": lambda w: 3,
    "k": lambda w: 2,
    "n": lambda w: 2,
    "layer": lambda w: 2,
    "index": lambda w: 3,
    "path": lambda w: "result.bin",
    "folder": lambda w: "folder",
    "sigma": lambda w: 1.0,
    "factor": lambda w: 0.5,
    "alpha": lambda w: 1.0,
    "alphas": lambda w: [0.5, 1.0],
    "level": lambda w: 0.9,
    "percentile": lambda w: 90.0,
    "source": lambda w: "red",
    "target": lambda w: "blue",
    "reference": lambda w: w.corrupted,
    "regions": lambda w: {},
    "words": lambda w: ["red"],
    "word": lambda w: "red",
    "figure": lambda w: Figure(),
    "queries": lambda w: "last",
    "keys": lambda w: "image",
    "positions": lambda w: "last",
    "trace": lambda w: w.trace,
    "direction": lambda w: "denoise",
    "sae": lambda w: w.sae,
    "box": lambda w: (4, 4, 20, 20),
    "rows": lambda w: [3, 4],
    "sequence": lambda w: "language",
    "mask": lambda w: torch.ones(image(w).height, image(w).width, dtype=torch.bool),
    "device": lambda w: "cpu",
    "tokens": lambda w: torch.tensor([[5, 6]] * 3),
    "scores": lambda w: w.scores,
    "others": lambda w: [mm.find_neurons(w.model, w.batch, token="blue")],
    "scorer": lambda w: w.grounding_scorer,
    "nouns": lambda w: None,
    "concepts": lambda w: [0],
    "concept": lambda w: 0,
    "part": lambda w: "language",
    "numbers": lambda w: [1, 2, 3],
    "drop": lambda w: 0.1,
    "kind": lambda w: "neuron",
    "progress": lambda w: False,
    "max_new_tokens": lambda w: 4,
    "settings": lambda w: mm.edits.Through(n_steps=2),
    # where the same word means something else
    "load_sae.path": lambda w: w.sae_folder,
    "attribution_graph.batch": lambda w: w.one,
    "AttributionGraph.batch": lambda w: w.one,
    "transcoders": lambda w: w.sae,
    "AttributionGraph.nodes": lambda w: 0.8,
    "AttributionGraph.check.nodes": lambda w: 2,
    "AttributionGraph.edges": lambda w: 0.9,
    "AttributionGraph.into.name": lambda w: "logit red@" + str(w.attribution_graph.members[-1].rows[0]),
    "AttributionGraph.to_circuit_tracer.path": lambda w: str(w.folder / "graph.json"),
    "AttributionGraph.image": lambda w: 0,
    "monosemanticity.codes": lambda w: torch.eye(3),
    "monosemanticity.embeddings": lambda w: torch.eye(3),
    "train_sae.n_features": lambda w: 32,
    "mlp_inputs.at": lambda w: "blocks.0.hook_mlp_out",
    "lab.check.exercise": lambda w: "lens.4",
    "lab.dictionaries.name": lambda w: "projector",
    "StudyValue.of.case": lambda w: "theirs",
    "StudyValue.of.quantity": lambda w: "time",
    "StudyValue.of.interval": lambda w: mean_interval([1.0, 2.0]),
    "ClampedAnswers.value": lambda w: 1.0,
    "ClampedAnswers.control": lambda w: ("a moon",),
    "SAETraining.sae": lambda w: w.sae,
    "save_sae.folder": lambda w: w.folder / "written",
    "SparseDictionary.x": lambda w: torch.ones(3, 192),
    "SparseDictionary.values": lambda w: torch.ones(3, 192),
    "SparseDictionary.codes": lambda w: torch.ones(3, 256),
    "SparseDictionary.feature": lambda w: 3,
    "SparseDictionary.device": lambda w: "cpu",
    "Add.direction": lambda w: torch.ones(w.model.cfg.d_model),
    "SteeringVector.direction": lambda w: torch.ones(w.model.cfg.d_model),
    "SteeringVector.at": lambda w: POINT,
    "steering_vector.source": lambda w: w.states.values[:12],
    "steering_vector.target": lambda w: w.states.values[12:],
    "steering_vector.at": lambda w: POINT,
    "contrastive_vector.at": lambda w: POINT,
    "contrastive_vector.positive": lambda w: "is it red",
    "contrastive_vector.negative": lambda w: "is it blue",
    "collect.at": lambda w: POINT,
    "size_estimate.at": lambda w: POINT,
    "Replace.at": lambda w: POINT,
    "Replace.values": lambda w: w.model.run_with_cache(w.batch, names=POINT)[1][POINT],
    "AttentionLooks.map.query": lambda w: 0,
    "HookedMultimodal.hook_name_of.path": lambda w: "model.language_model.layers.3.mlp",
    "RandomUnits.interval.values": lambda w: torch.zeros(20),
    "Ablate.units": lambda w: w.neurons,
    "Ablate.value": lambda w: 0.0,
    "Clamp.low": lambda w: -1.0,
    "Clamp.high": lambda w: 1.0,
    "path_patch.to": lambda w: "hook_logits",
    "path_patch.at": lambda w: "blocks.0.hook_mlp_out",
    "corrupt.swap.images": lambda w: [scene.image for scene in w.scenes[1:4]],
    "corrupt.twin.images": lambda w: [scene.twin(color=_other(scene), object=0).image for scene in w.scenes[:3]],
    "corrupt.blank.at": lambda w: "pixels",
    "corrupt.blank.color": lambda w: (0, 0, 0),
    "corrupt.mean.at": lambda w: "hook_embed",
    "corrupt.noise.at": lambda w: "hook_embed",
    "corrupt.shuffle.at": lambda w: "hook_embed",
    "corrupt.shuffle.positions": lambda w: "image",
    "edit_report.targets": lambda w: w.scenes[:2],
    "edit_report.controls": lambda w: w.scenes[2:4],
    "edits.rank_one.batches": lambda w: w.batch,
    "edits.rank_one.samples": lambda w: w.batch,
    "edits.remove_word.batches": lambda w: w.batch,
    "edits.replace_token.batches": lambda w: w.batch,
    "edits.replace_token.controls": lambda w: (),
    "edits.remove_word.controls": lambda w: (),
    "edits.rank_one.controls": lambda w: (),
    "explain_state.states": lambda w: w.states[:1],
    "find_circuit.method": lambda w: "eap",
    "find_circuit.nodes": lambda w: "attention",
    "curve.circuit": lambda w: w.branch_circuit,
    "curve.sizes": lambda w: [0.1],
    "curve.n_random": lambda w: 1,
    "overlap.n_random": lambda w: 2,
    "overlap.first": lambda w: w.circuit,
    "overlap.second": lambda w: w.circuit,
    "circuits.save_mib.circuit": lambda w: w.language_circuit,
    "save_mib.circuit": lambda w: w.language_circuit,
    "save_mib.path": lambda w: w.folder / "written.json",
    "load_mib.path": lambda w: w.mib_file,
    "load_mib.like": lambda w: w.language_circuit,
    "CircuitCurve.at.size": lambda w: 0,
    "CircuitCurve.groups": lambda w: None,
    "CircuitCurve.ratios.values": lambda w: w.curve.random,
    "CircuitCurve.band.control": lambda w: "random",
    "CircuitCurve.standing.control": lambda w: "random",
    "CircuitCurve.band.area": lambda w: "CPR",
    "CircuitCurve.standing.area": lambda w: "CPR",
    "evaluate_circuit.n_random": lambda w: 2,
    "evaluate_circuit.n_edges": lambda w: 2,
    "positions.grid.side": lambda w: 4,
    "positions.each.of": lambda w: "image",
    "positions.object.object": lambda w: w.scenes[0].objects[0],
    "ActivationCache.samples.name": lambda w: POINT,
    "ActivationCache.mask.name": lambda w: POINT,
    "lab.scenes.n": lambda w: 2,
    "select_vectors.vectors": lambda w: {"a": w.steer},
    "Proximity.reference": lambda w: w.vector,
    "steering.Proximity.reference": lambda w: w.vector,
    "select_vectors.dataset": lambda w: w.scenes[:2],
    "neuron_report.reference": lambda w: 2,
    "patchscope.at": lambda w: POINT,
    "patchscope.target_prompt": lambda w: "the word is x",
    "register_family.family": lambda w: w.model.family,
    "sweep_concepts.words": lambda w: 5,
    "scorers.vqa_accuracy.answers": lambda w: ["yes"],
    "scorers.vqa_accuracy.dataset": lambda w: w.answered,
    "scorers.vqa_score.answer": lambda w: "yes",
    "scorers.vqa_score.people": lambda w: ["yes"] * 10,
    "scorers.pope.answers": lambda w: ["yes"],
    "scorers.pope.dataset": lambda w: w.answered,
    "scorers.says_yes.answer": lambda w: "yes",
    "scorers.chair.captions": lambda w: ["a moon"],
    "scorers.chair.dataset": lambda w: w.answered,
    "scorers.chair.words": lambda w: mm.scorers.COCO_WORDS,
    "scorers.cider_d.captions": lambda w: ["a moon"],
    "scorers.cider_d.dataset": lambda w: w.answered,
    "scorers.cider_d.corpus": lambda w: w.answered * 2,
    "scorers.attack_success.answers": lambda w: ["yes"],
    "scorers.attack_success.dataset": lambda w: w.answered,
    "scorers.answer_types.answers": lambda w: ["yes"],
    "scorers.answer_types.dataset": lambda w: w.answered,
    "scorers.word_counts.texts": lambda w: ["a red moon"],
    "scorers.word_counts.dataset": lambda w: w.answered,
    "scorers.word_counts.words": lambda w: {"color": ["red"]},
    "scorers.similarity.texts": lambda w: ["a moon"],
    "scorers.similarity.dataset": lambda w: w.answered,
    "scorers.ObjectWords.synonyms": lambda w: {"dog": ["puppy"]},
    "scorers.ObjectWords.read.path": lambda w: w.synonyms,
    "scorers.ObjectWords.name.word": lambda w: "dogs",
    "scorers.ScoreTable.baseline": lambda w: w.score_table,
    "scorers.Score.against.baseline": lambda w: w.score_table.scores[0],
    "dose_curve.data": lambda w: w.batch,
    "causal_trace.positions": lambda w: ["image", "last"],
    "ActivationCache.part.part": lambda w: "language",
    "ActivationStore.at.token": lambda w: None,
    "ActivationStore.at.keys": lambda w: None,
    "States.with_token.token": lambda w: w.states.tokens[0] if w.states.tokens else "red",
    "Circuit.threshold.minimum": lambda w: 0.0,
    "Circuit.restricted.edges": lambda w: w.circuit.kept,
    "CircuitEvaluation.interval.name": lambda w: "faithfulness",
    "CleanRun.logits.cells": lambda w: [_cell(w)],
    "CleanRun.plan.cells": lambda w: [_cell(w)],
    "CleanRun.generate.cell": lambda w: _cell(w),
    "Cell.sample": lambda w: 0,
    "Cell.changes": lambda w: _cell(w).changes,
    "Change.at": lambda w: POINT,
    "Change.rows": lambda w: torch.tensor([3]),
    "Change.apply": lambda w: torch.neg,
    "ConceptBank.decode.codes": lambda w: w.bank.codes,
    "ConceptShift.values.quantity": lambda w: "recovery",
    "ConceptShift.correlation.second": lambda w: "recovery",
    "ConceptShift.control.kind": lambda w: "random",
    "DoseCurve.interval.alpha": lambda w: 1.0,
    "EditReport.values.value": lambda w: lambda case: 1.0,
    "EditReport.interval.value": lambda w: lambda case: 1.0,
    "layer_shifts.base": lambda w: {POINT: w.states},
    "layer_shifts.tuned": lambda w: {POINT: w.shifted_states},
    "EditReport.standing.value": lambda w: lambda case: 1.0,
    "lab.edit_questions.scenes": lambda w: mm.lab.scenes(20, seed=5),
    "lab.edit_questions.source": lambda w: "red",
    "lab.edit_questions.target": lambda w: "blue",
    "EditReport.edit": lambda w: w.edit_report.edits[0].name,
    "EditReport.group": lambda w: w.edit_report.groups("target")[0],
    "EditReport.groups.role": lambda w: "target",
    "HookGraph.upstream.name": lambda w: POINT,
    "HookGraph.downstream.name": lambda w: POINT,
    "HookGraph.between.source": lambda w: "blocks.0.hook_resid_pre",
    "HookGraph.between.target": lambda w: POINT,
    "HookGraph.select.kind": lambda w: "hook_resid_post",
    "HookGraph.draw.values": lambda w: {POINT: 1.0},
    "HookedMultimodal.answer.images": lambda w: image(w),
    "HookedMultimodal.caption.images": lambda w: image(w),
    "HookedMultimodal.prepare.images": lambda w: image(w),
    "HookedMultimodal.adapter.name": lambda w: None,
    "HookedMultimodal.add_hook.name": lambda w: POINT,
    "HookedMultimodal.add_hook.hook": lambda w: lambda activation, hook: None,
    "HookedMultimodal.hooks.fwd_hooks": lambda w: [(POINT, lambda activation, hook: None)],
    "HookedMultimodal.to_single_token.text": lambda w: "red",
    "HookedMultimodal.to_string.tokens": lambda w: [5],
    "HookedMultimodal.to_str_tokens.tokens": lambda w: [5],
    "HookedMultimodal.batch.inputs": lambda w: w.batch,
    "HookedMultimodal.from_hf.hf_model": lambda w: w.model.hf_model,
    "HookedMultimodal.from_hf.processor": lambda w: w.model.processor,
    "HookedMultimodal.hf_model": lambda w: w.model.hf_model,
    "HookedMultimodal.processor": lambda w: w.model.processor,
    "HookedMultimodal.from_pretrained.path": lambda w: mm.lab.path(),
    "Contrast.against": lambda w: w.corrupted,
    "LogitLens.map.word": lambda w: "red",
    "Measurements.interval.quantity": lambda w: w.measured.quantities[0].name,
    "Measurements.interval.method": lambda w: "contribution",
    "Measurements.difference.quantity": lambda w: w.measured.quantities[0].name,
    "Measurements.difference.method": lambda w: "contribution",
    "Measurements.difference.minus": lambda w: "random",
    "PatchSweep.joined.sweeps": lambda w: [w.sweep],
    "SteeringReport.intervention": lambda w: w.steering_report.interventions[0].name,
    "SteeringReport.group": lambda w: None,
    "SteeringReport.mean.value": lambda w: lambda case: 1.0,
    "SteeringReport.beyond_control.value": lambda w: lambda case: 1.0,
    "SteeringVector.with_direction.method": lambda w: "by hand",
    "SteeringReport.verdict.value": lambda w: lambda case: 1.0,
    "SteeringReport.said.phrases": lambda w: ["red"],
    "TokenLayout.rows.positions": lambda w: "last",
    "TokenLayout.raster.values": lambda w: torch.zeros(w.batch["input_ids"].shape[1]),
    "TokenLayout.image": lambda w: 0,
    "NeuronScores.image": lambda w: 0,
    "NeuronScores.index": lambda w: 3,
    "LogitLens.image": lambda w: 0,
    "attention_map.image": lambda w: 0,
    "lab.planted.kind": lambda w: "neuron",
    "metrics.Metric.tokens": lambda w: ("red",),
    "metrics.Metric.name": lambda w: "a",
    "metrics.Metric.unit": lambda w: "logits",
    "metrics.Metric.function": lambda w: lambda logits, columns, clean: logits[:, 0],
    "Sample.images": lambda w: (image(w),),
    "scorers.ClipScore.path": lambda w: "encoder",
    "Feature.at.hook": lambda w: "blocks.1.hook_resid_post.hook_sae_acts_post",
    "Neuron.at.hook": lambda w: "blocks.1.mlp.hook_post",
    "Head.at.hook": lambda w: "blocks.1.attn.hook_z",
    "Unit.at.hook": lambda w: "blocks.1.mlp.hook_post",
    "Measurements.draws.quantity": lambda w: w.measured.quantities[0].name,
    "Measurements.draws.method": lambda w: "contribution",
    "Measurements.standing.quantity": lambda w: w.measured.quantities[0].name,
    "Measurements.standing.method": lambda w: "contribution",
    "edits.Edit.retaught.rows": lambda w: ["L2.u9"],
    "PatchSweep.top.k": lambda w: 2,
    "lab.Scene.twin.mood": lambda w: next(mood for mood in mm.lab.MOODS if mood != w.scenes[0].mood),
    "lab.Scene.save.path": lambda w: "scene.png",
    "scorers.says.phrases": lambda w: "moon",
    "metrics.unit_of.metric": lambda w: "log p, nats",
    "positions.mask.mask": lambda w: w.scenes[0].objects[0].mask,
    "ActivationCache.load.path": lambda w: w.saved(w.cache),
    "ActivationStore.load.path": lambda w: w.stored,
    "NeuronScores.load.path": lambda w: w.saved(w.scores),
    "Permuted.contrast": lambda w: mm.decoding.PAI(),
    "ContextualIndex.load.path": lambda w: w.saved(w.word_index),
    "contextual_index.texts": lambda w: ["a red circle and a moon"],
    "latent_lens.index": lambda w: w.word_index,
    "latent_lens.at": lambda w: POINT,
    "LatentReading.named.word": lambda w: "moon",
    "split_best.sweep": lambda w: mm.patching.PatchSweep(
        torch.ones(1, 1, 4), [POINT], ["last"], torch.ones(4), torch.zeros(4), "noise", "logits"
    ),
    "ablate_object.objects": lambda w: mm.positions.box((8, 8, 40, 40)),
    "ablate_object.mean": lambda w: torch.ones(192),
    "mean_image_row.at": lambda w: "hook_embed",
    "information_flow.objects": lambda w: mm.positions.box((8, 8, 40, 40)),
    "MitigationReport.method": lambda w: "boosted",
    "MitigationReport.task": lambda w: "pope",
    "MitigationReport.score": lambda w: "F1",
    "mitigation_report.data": lambda w: {"pope": w.answered},
    "mitigation_report.methods": lambda w: {"contrast": "contrasted"},
    "Intervened.interventions": lambda w: (w.steer,),
    "score_maps.maps": lambda w: [w.heat_map] * 2,
    "SteeringTable.of.keys": lambda w: w.table.keys[:1],
    "SteeringTable.keys": lambda w: ("a", "b"),
    "SteeringTable.vectors": lambda w: torch.ones(2, 192),
    "SteeringTable.at": lambda w: POINT,
    "LearnedPredictor.w_in": lambda w: torch.ones(4, 192),
    "LearnedPredictor.bias": lambda w: torch.ones(4),
    "LearnedPredictor.w_out": lambda w: torch.ones(192, 4),
    "LearnedPredictor.at": lambda w: POINT,
    "LearnedPredictor.read_at": lambda w: POINT,
    "LearnedPredictor.predict.states": lambda w: w.states.values,
    "learn_predictor.states": lambda w: w.states,
    "learn_predictor.vectors": lambda w: mm.steering.SteeringTable(w.states.values, POINT, keys=w.states.keys),
    "learn_predictor.epochs": lambda w: 2,
    "contrastive_vectors.positive": lambda w: "yes",
    "contrastive_vectors.negative": lambda w: "no",
    "contrastive_vectors.at": lambda w: POINT,
    "visual_vectors.at": lambda w: POINT,
    "blank_patch_vectors.at": lambda w: "vision.blocks.0.hook_resid_post",
    "blank_patch_vectors.draws": lambda w: 1,
    "joint_vectors.tables": lambda w: {POINT: w.table},
    "mitigation_report.max_new_tokens": lambda w: {"pope": 2},
    "reproduce.limit": lambda w: 2,
    "reproduce.paper": lambda w: "pan",
    "reproduce.into": lambda w: w.folder / "studies",
    "finetune.into": lambda w: w.folder / "finetuned",
    "finetune.dataset": lambda w: [mm.Sample((image(w),), caption="on sand a man")],
    "Tune.load.folder": lambda w: w.tune.folder,
    "with_adapters.folders": lambda w: {"place": w.tune},
    "with_adapters.model": lambda w: mm.lab.load(),
    "patch.at": lambda w: "blocks.[01].hook_resid_pre",
    "collect.positions": lambda w: "last",
    "MappedStates.split.size": lambda w: 4,
    "ConceptBank.of.method": lambda w: "kmeans",
    "ConceptBank.of.coder": lambda w: w.bank.coder,
    "Measurements.of.quantities": lambda w: w.measured.quantities,
    "Measurements.of.values": lambda w: (),
    "ground_concepts.dataset": lambda w: w.scenes,
    "score_grounding.dataset": lambda w: w.scenes,
    "ground_shift.dataset": lambda w: w.scenes,
    "corrupt.replace_words.words": lambda w: {"describe": "what"},
    "data.coco_captions.annotations": lambda w: w.published["data.coco_captions"],
    "data.coco_captions.images": lambda w: w.published["coco"],
    "data.coco_instances.annotations": lambda w: w.published["data.coco_instances"],
    "data.coco_instances.captions": lambda w: w.published["data.coco_captions"],
    "data.coco_instances.images": lambda w: w.published["coco"],
    "data.karpathy.path": lambda w: w.published["data.karpathy"],
    "data.karpathy.images": lambda w: w.published["karpathy"],
    "data.vqa_v2.questions": lambda w: w.published["data.vqa_v2"][0],
    "data.vqa_v2.annotations": lambda w: w.published["data.vqa_v2"][1],
    "data.vqa_v2.images": lambda w: w.published["vqa"],
    "data.pope.path": lambda w: w.published["data.pope"],
    "data.pope.images": lambda w: w.published["pope"],
    "data.mm_safety_bench.questions": lambda w: w.published["data.mm_safety_bench"][0],
    "data.mm_safety_bench.images": lambda w: w.published["data.mm_safety_bench"][1],
    "data.visual_genome.path": lambda w: w.published["data.visual_genome"],
    "data.visual_genome.images": lambda w: w.published["genome"],
    "data.gqa.questions": lambda w: w.published["data.gqa"][0],
    "data.gqa.scene_graphs": lambda w: w.published["data.gqa"][1],
    "data.gqa.images": lambda w: w.published["gqa"],
    "data.sbu_captions.path": lambda w: w.published["data.sbu_captions"],
    "data.sbu_captions.images": lambda w: w.published["sbu"],
    "data.from_jsonl.path": lambda w: w.published["data.from_jsonl"],
    "data.from_jsonl.images": lambda w: w.published["jsonl"],
    "data.from_jsonl.fields": lambda w: {"images": "image"},
    "data.from_rows.rows": lambda w: [{"image": image(w), "text": "what is this"}],
    "data.from_rows.images": lambda w: w.published["jsonl"],
    "data.from_rows.fields": lambda w: {"images": "image", "prompt": "text"},
    "data.SampleSet.by.type": lambda w: "subset",
}


#: Optional arguments without which a call is incomplete.
NEEDED: dict[str, tuple[str, ...]] = {
    "scorers.cider_d": ("corpus",),
    "Clamp": ("low",),
    "HookedMultimodal.forward": ("batch",),
    "HookedMultimodal.run_with_hooks": ("batch",),
    "HookedMultimodal.run_with_cache": ("batch",),
    "HookedMultimodal.generate": ("batch",),
    "HookedMultimodal.trace_generation": ("batch",),
    "HookedMultimodal.batch": ("inputs",),
    "attribute": ("at",),
    "compare_attribution": ("at",),
    "patch": ("at",),
    "path_patch": ("at",),
    "collect": ("positions",),
    "size_estimate": ("positions",),
    "steering_vector": ("at",),
    "edit_report": ("source",),
    "lab.Scene.twin": ("mood",),
    "select_vectors": ("dataset",),
    "choose_n_concepts": ("numbers", "drop"),
    "find_neurons": ("token",),
    "reproduce": ("model", "limit"),
}


def _other(scene: Any) -> str:
    return "blue" if scene.objects[0].color != "blue" else "red"


def _cell(world: World) -> Any:
    return mm.patching.Cell(0, (mm.patching.Change(POINT, torch.tensor([3]), torch.neg),))
