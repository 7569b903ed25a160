"""What methods are called on: an object of every public class."""

import functools
from collections.abc import Callable
from dataclasses import fields, is_dataclass
from typing import Any

import mmlens as mm
from tests.contracts.door.world import POINT, World
from tests.viz import made


def first_fact() -> Any:
    """A fact of the narrator's world."""
    tale = mm.lab.tales.scene(seed=3)
    return next(mm.lab.tales.facts_of(tale.scene.placed, tale.scene.place, tale.scene.mood))


def declaration(cls: type, world: World) -> Any:
    """A piece of a family's declaration."""
    queue: list[Any] = list(mm.families.families().values())
    for piece in queue:
        if isinstance(piece, cls):
            return piece
        if isinstance(piece, tuple):
            queue += piece
        elif is_dataclass(piece):
            queue += [getattr(piece, field.name) for field in fields(piece)]
    raise LookupError(f"no family has a {cls.__name__}")


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
    "ActivationStore": lambda w: mm.store.ActivationStore.load(w.stored),
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
    "ConceptCount": lambda w: w.concept_count,
    "ConceptGrounding": lambda w: w.concept_grounding,
    "ConceptSweep": lambda w: w.concept_sweep,
    "families.VerifyReport": lambda w: mm.verify(w.model),
    "tales.Tale": lambda w: mm.lab.tales.scene(seed=3),
    "tales.TaleQuestion": lambda w: mm.lab.tales.scene(seed=3).questions[0],
    "tales.Fact": lambda w: first_fact(),
    "StateExplanation": lambda w: mm.concepts.explain_state(w.model, w.bank, w.states[:1]),
    "ActiveConcept": lambda w: mm.steering.ActiveConcept(w.bank, [0]),
    "VectorPredictor": lambda w: w.predictor,
    "Selection": lambda w: w.selection,
    "GenerationTrace": lambda w: w.trace,
    "View": lambda w: w.sweep.view(),
    "Planted": lambda w: mm.lab.planted("neuron"),
    "UnknownModel": lambda w: mm.lab.unknown(),
    "Measure": lambda w: w.metric.on(w.model),
    **{
        f"families.{name}": functools.partial(declaration, getattr(mm.families, name))
        for name in mm.families.__all__
        if name[0].isupper() and name not in ("PointCheck", "VerifyReport")
    },
}
