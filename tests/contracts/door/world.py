"""A model, its batches, and a result of every kind, made with the lab model when it is first asked for."""

import tempfile
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from typing import Any

import torch

import mmlens as mm
from tests.analysis.readers import published

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
    def concept_count(self) -> Any:
        """How many concepts are enough."""
        return mm.concepts.choose_n_concepts(self.states, numbers=[2, 3], drop=0.1, method="kmeans")

    @cached_property
    def concept_grounding(self) -> Any:
        """Pictures and words of concepts."""
        return mm.concepts.ground_concepts(self.model, self.bank, self.scenes, progress=False)

    @cached_property
    def concept_sweep(self) -> Any:
        """Concepts of several points."""
        return mm.concepts.sweep_concepts(self.model, self.store, 2, method="kmeans", words=3)

    @cached_property
    def selection(self) -> Any:
        """Vectors that were selected."""
        return mm.steering.select_vectors(
            self.model, {"a": self.vector}, method=mm.steering.Proximity(self.vector), k=1, progress=False
        )

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
