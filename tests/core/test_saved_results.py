"""Every kind of file: no damage of it is silent; every result pickles, or says why not."""

import pickle
import random
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import fields, is_dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch

from mmlens.analysis.attention.looks import AttentionLooks
from mmlens.analysis.attribution.compare import agreement
from mmlens.analysis.attribution_graphs.check_result import GraphCheck
from mmlens.analysis.attribution_graphs.graph import AttributionGraph
from mmlens.analysis.attribution_graphs.nodes import GraphNode
from mmlens.analysis.circuits.circuit import Circuit, Edge
from mmlens.analysis.circuits.curve_result import CircuitCurve
from mmlens.analysis.circuits.evaluate import CircuitEvaluation
from mmlens.analysis.circuits.graph import EdgeGraph, Reader, Writer
from mmlens.analysis.circuits.overlap import CircuitOverlap
from mmlens.analysis.concepts.extract import extract_concepts
from mmlens.analysis.features.card import DictionaryCard
from mmlens.analysis.heads.ranking import HeadRanking
from mmlens.analysis.heatmap import HeatMap
from mmlens.analysis.lenses.contextual_index import ContextualIndex
from mmlens.analysis.lenses.latent_lens import LatentReading, LatentWord
from mmlens.analysis.lenses.patchscopes import PatchscopeReading
from mmlens.analysis.mitigation.result import MitigationReport
from mmlens.analysis.neurons.captions import CaptionNeurons
from mmlens.analysis.nouns.caption_nouns import CaptionWord
from mmlens.analysis.patching.paths import PathSweep
from mmlens.analysis.scores.score import Score, ScoreTable
from mmlens.analysis.shift.layers import LayerShifts
from mmlens.analysis.steering.learned import LearnedPredictor
from mmlens.analysis.store.folder import INDEX_FILE, MAIN_FILE
from mmlens.analysis.store.shard import _FILE as SHARD_FILE
from mmlens.analysis.store.states import States
from mmlens.analysis.study_table import StudyTable, StudyValue
from mmlens.analysis.tuning.tune import RECORD, Tune
from mmlens.core.checkpoint import Checkpoint
from mmlens.core.errors import InputError
from mmlens.core.identity import identity_of
from mmlens.core.unit_sets import Units
from mmlens.hooks.cache import ActivationCache
from mmlens.inputs.layout import TokenLayout
from mmlens.interventions.edits.edit import Edit, Provenance
from mmlens.interventions.steering_table import SteeringTable
from mmlens.interventions.steering_vector import SteeringVector
from mmlens.recipes.reproduce import Reproduction
from mmlens.recipes.study import Study
from tests.viz import made

ROOT = Path(__file__).parents[2]
AT = "blocks.1.hook_resid_post"
IDENTITY = {"weights": "0123456789abcdef", "metric": "unknown"}


def states() -> States:
    values = 9 * torch.eye(8)[torch.arange(12) % 3] + 0.1 * made.noise(12, 8)
    return States(values, AT, keys=tuple(map(str, range(12))), tokens=("dog",) * 12, source="m with 1 edits")


def circuit() -> Circuit:
    writers = (
        Writer("embed[text]", "language", "hook_embed", "s", 0, group="text"),
        Writer("L0.mlp", "language", "m", "s", 2),
    )
    readers = (
        Reader("L0.mlp", "language", "mlp", "m", "s", 0, feeds=("L0.mlp",)),
        Reader("logits", "language", "logits", "l", "s", 2),
    )
    graph = EdgeGraph(writers, readers, "attention", "language", {})
    scores = made.noise(2, 2, 3).where(graph.allowed[..., None], torch.tensor(0.0))
    return Circuit(
        graph, scores, graph.allowed.clone(), "eap", "m, logits", torch.ones(3), torch.zeros(3), identity=IDENTITY
    )


def curve() -> CircuitCurve:
    values, drawn = made.noise(2, 3, 4), made.noise(2, 3, 4)
    edges = torch.tensor([[0, 1, 3], [0, 2, 3]])
    shares = torch.tensor([0.0, 0.3, 1.0])
    whole, empty = torch.ones(4), torch.zeros(4)
    return CircuitCurve(
        shares, edges, 3, values, drawn, drawn, whole, empty, "m, logits", "eap", "mean", identity=IDENTITY
    )


def attribution_graph() -> AttributionGraph:
    members = (
        GraphNode("feature", "L0.hook_mlp_out.f3@1", "blocks.0.hook_mlp_out", (1,), "red", feature=3, value=0.5),
        GraphNode("source", "patch 0", "hook_embed", (0,), "patch", box=(0.0, 0.0, 8.0, 8.0), image=0),
        GraphNode("logit", "logit red@1", "hook_logits", (1,), "red", token=5, value=2.0),
    )
    weights = torch.tensor([[0.0, 0.5, 0.0], [1.0, 0.25, 0.0]])
    shares, shown = torch.ones(1), torch.tensor([True, True, True])
    return AttributionGraph(
        members, weights, torch.zeros(2), torch.tensor([0.75]), shares, 4, ("<image>", "red"), (made.picture(),),
        IDENTITY, shown, weights > 0.3, 0.8,
    )  # fmt: skip


def graph_check() -> GraphCheck:
    return GraphCheck(("a", "b"), ("c", "d"), *(made.noise(2, 2) for _ in range(4)), 1e-6)


def study_table() -> StudyTable:
    rows = (StudyValue("theirs", "time", 1.0, "s", 0.5, 1.5, 3, 2.0, 0.9, "a note"), StudyValue("ours", "time", None))
    return StudyTable("pan", "cost", "what it costs", rows, ("a note",), identity=IDENTITY)


def tune() -> Tune:
    return Tune(Path("folder"), (1.0, 0.5), {"steps": 2, "targets": ["q_proj"]}, IDENTITY)


def evaluation() -> CircuitEvaluation:
    shares = [made.noise(3), made.noise(3), made.noise(1, 3), made.noise(2, 3), made.noise(2, 3), made.noise(1, 3)]
    return CircuitEvaluation(1, 2.0, "m, logits", *shares[:3], [Edge("a", "b", 0.5)], *shares[3:], IDENTITY)


def edit() -> Edit:
    about = Provenance("Model", "0123", "through", "red", "blue", {"steps": 3}, 0, {"loss": [1.0, 0.5]})
    return Edit(Units(["L0.u3", "L1.u2"]), made.noise(2, 8), about)


def layout() -> TokenLayout:
    return TokenLayout(torch.zeros(1, 3, dtype=torch.bool), torch.ones(1, 3, dtype=torch.bool), ())


def cache() -> ActivationCache:
    return ActivationCache({"hook_embed": made.noise(2, 3, 4)}, None, axes={"hook_embed": "batch pos d_model"})


#: A small result of every kind that has a file.
RESULTS: dict[str, Callable[[], Any]] = {
    "PatchSweep": lambda: replace(made.sweep(["a", "b"], ["image", "last"]), identity=IDENTITY),
    "NeuronScores": lambda: made.neurons(2, 8),
    "Measurements": lambda: made.measured(2, 1),
    "EditReport": lambda: made.edits(2),
    "DoseCurve": lambda: made.dose(2),
    "SteeringReport": lambda: made.steering(1, 2),
    "ConceptShift": lambda: made.shift(3),
    "ConceptBank": lambda: extract_concepts(states(), 3, method="kmeans"),
    "SteeringVector": lambda: SteeringVector(made.noise(8), AT, {"method": "mean difference"}),
    "SteeringTable": lambda: SteeringTable(made.noise(2, 8), AT, "sample", ("a", "b"), {"method": "contrastive"}),
    "LearnedPredictor": lambda: LearnedPredictor(
        made.noise(3, 8), made.noise(3), made.noise(8, 3), AT, AT, {"epochs": 3}
    ),
    "HeadRanking": lambda: HeadRanking(
        made.noise(2, 3), made.noise(2, 3), {"attention": made.noise(2, 3)}, (0, 2), "visual", 4, IDENTITY
    ),
    "MitigationReport": lambda: MitigationReport(
        {"pope": {"hit": UNSAVED["Score"]()}},
        {"a": {"pope": {"hit": UNSAVED["Score"]()}}},
        {"a": ({"pope": {"hit": UNSAVED["Score"]()}},)},
        {"plain": (3.0, 0.5), "a": (3.0, 1.0)},
        {"a": "boosted"},
        IDENTITY,
    ),
    "PathSweep": lambda: PathSweep(
        replace(made.sweep(["a", "b"], ["image", "last"]), identity=IDENTITY), ["c[h1]"], "branches", {"a": ["d"]}
    ),
    "Agreement": lambda: agreement(
        replace(made.sweep(["a", "b"], ["image"]), method="atp"), made.sweep(["a", "b"], ["image"])
    ),
    "HeatMap": lambda: HeatMap(made.noise(2, 3), (24, 36), (0.0, 0.0, 36.0, 24.0), "a map"),
    "PatchscopeReading": lambda: PatchscopeReading(
        ["a"],
        torch.tensor([[0, -1]]),
        torch.tensor([[[[4], [5]]]]),
        torch.tensor([[[[0.5], [0.25]]]]),
        [[["x", ""]]],
        "b",
        {4: "red", 5: "blue"},
    ),
    "ContextualIndex": lambda: ContextualIndex.of(
        {AT: made.noise(2, 4).half()}, {AT: ("a", "b")}, {AT: ("an a", "a b")}
    ),
    "Circuit": circuit,
    "CircuitEvaluation": evaluation,
    "CircuitCurve": curve,
    "CircuitOverlap": lambda: CircuitOverlap("edges", ["a -> b"], ["b -> c"], [], [0.25, 0.0], 0.5),
    "AttributionGraph": attribution_graph,
    "StudyTable": study_table,
    "Edit": edit,
    "ActivationCache": cache,
}
#: What those have that have no file, or folders of files.
UNSAVED: dict[str, Callable[[], Any]] = {
    "LogitLens": lambda: replace(made.lens(2, 3), layout=layout()),
    "ShiftGrounding": lambda: made.shift_board(2),
    "States": states,
    "TokenLayout": layout,
    "Provenance": lambda: edit().provenance,
    "AttentionLooks": lambda: AttentionLooks(
        made.noise(1, 2, 1, 4).softmax(-1), (0,), ("last",), (5,), torch.zeros(4, 4), made.picture(), layout()
    ),
    "Score": lambda: Score("hit", "share", np.ones(2), np.ones(2), ("a", "b"), ("a", "b")),
    "ScoreTable": lambda: ScoreTable("steering", (UNSAVED["Score"](),)),
    "DictionaryCard": lambda: DictionaryCard(AT, {}, 1.0, 1.2, 3.0, made.noise(4).abs(), 2),
    "LatentReading": lambda: LatentReading({AT: (((LatentWord("a", "an a", AT, 0.5),),),)}, ((3,),)),
    "LayerShifts": lambda: LayerShifts({"blocks.24": made.shift(3)}),
    "GraphCheck": graph_check,
    "SAETraining": made.training,
    "FeaturePage": made.feature_page,
    "TopPicture": lambda: made.feature_page().pictures[0],
    "TextContext": lambda: made.feature_page().contexts[0],
    "ClampedAnswers": lambda: made.feature_page().clamped[0],
    "TrainingPoint": lambda: made.training().history[0],
    "CaptionNeurons": lambda: CaptionNeurons("a moon", (CaptionWord("moon", 1, (5,)),), (made.neurons(2, 8),), "0"),
    "StudyValue": lambda: study_table().rows[0],
    "Tune": tune,
    "Reproduction": lambda: Reproduction("pan", Path("folder"), (study_table(),)),
}


class SavedCheckpoint:
    """A checkpoint with something in it, saved and loaded as other results are."""

    def save(self, path: Path) -> None:
        found = Checkpoint(path, "sweep", lambda exact: IDENTITY)
        found.tensors["values"], found.parts["done"] = made.noise(3, 4), [1, 2]
        found.save(now=True)

    @classmethod
    def load(cls, path: Path) -> Checkpoint:
        return Checkpoint(path, "sweep", lambda exact: IDENTITY)


class SavedTune:
    """What a fine-tune's folder says of it, saved and loaded as other results are."""

    def save(self, path: Path) -> None:
        replace(tune(), folder=path.parent).record()

    @classmethod
    def load(cls, path: Path) -> Tune:
        return Tune.load(path.parent)


class SavedStudy:
    """What a study's folder is of: read, and compared, whenever the study goes on."""

    def save(self, path: Path) -> None:
        path.unlink(missing_ok=True)  # it is written once
        self.load(path)

    @classmethod
    def load(cls, path: Path, identity: dict[str, str] = IDENTITY) -> Study:
        nothing: Any = None  # neither model nor samples nor settings have a part in it
        study = Study("pan", nothing, nothing, nothing, path.parent, identity)
        study.begin()
        return study


FORMATS = {**RESULTS, "Checkpoint": SavedCheckpoint, "Tune": SavedTune, "Study": SavedStudy}
#: Those whose file has a name of its own, in a folder.
NAMES = {"Tune": RECORD, "Study": "study.json"}


def path_of(name: str, folder: Path) -> Path:
    """Where a result is saved."""
    return folder / NAMES.get(name, "file")


def test_every_kind_of_file_is_here() -> None:
    """But those that stores are made of, which have tests of their own."""
    sources = [path.read_text("utf-8") for path in (ROOT / "mmlens").rglob("*.py")]
    names = {name for text in sources for name in re.findall(r'(?:Tensor|Json)Kind\(\s*f?"mmlens\.([\w.]+)', text)}
    kinds = {name.rpartition(".")[2] for name in names if not name.startswith("store.ActivationStore")}
    saved = {name for text in sources for name in re.findall(r"^class (\w+)\(.*\bSaved\b.*\):", text, re.MULTILINE)}
    assert (kinds - {"shard"}) | saved == set(FORMATS)


#: Of the form of each kind of file, where it is not 1: whoever changes one raises it, here too, so that older files are refused.
VERSIONS = {"ActivationCache": 2, "Checkpoint": 2}


@pytest.mark.parametrize("name", FORMATS)
def test_files_say_of_which_version_they_are(name: str, tmp_path: Path) -> None:
    path = path_of(name, tmp_path)
    FORMATS[name]().save(path)
    found = re.findall(rb'"format"\s*:\s*"(?:\\")?mmlens\.([\w. ]+)/(\d+)', path.read_bytes())
    assert [int(version) for _, version in found] == [VERSIONS.get(name, 1)]


def test_files_of_stores_are_of_their_version() -> None:
    assert [kind.version for kind in (MAIN_FILE, INDEX_FILE, SHARD_FILE)] == [2, 2, 3]


@pytest.mark.parametrize("name", FORMATS)
def test_a_result_comes_back_from_its_file(name: str, tmp_path: Path) -> None:
    result = FORMATS[name]()
    path = path_of(name, tmp_path)
    result.save(path)
    again = type(result).load(path)
    if name == "Checkpoint":
        assert torch.equal(again.tensors["values"], made.noise(3, 4))
        assert (again.parts["done"], again.identity) == ([1, 2], IDENTITY)
    elif name == "ActivationCache":
        assert torch.equal(again["hook_embed"], result["hook_embed"])
    elif name == "ContextualIndex":
        assert (again.words, again.contexts) == (result.words, result.contexts)
        assert torch.equal(again.states[AT].values[:], result.states[AT].values[:])
    elif name == "Tune":
        assert as_plain(again) == as_plain(replace(tune(), folder=tmp_path))
    elif name == "Study":
        with pytest.raises(InputError, match=r"holds a study that differs in weights\."):
            SavedStudy.load(path, {**IDENTITY, "weights": "another"})
    else:
        assert identity_of(as_plain(again)) == identity_of(as_plain(result))


def as_plain(value: Any) -> Any:
    """A value whose lists and tuples are alike, as JSON knows no difference."""
    if isinstance(value, list | tuple):
        return [as_plain(item) for item in value]
    if isinstance(value, Mapping):
        return {key: as_plain(item) for key, item in value.items()}
    if isinstance(value, pd.DataFrame):
        return as_plain(value.to_dict("list"))
    if is_dataclass(value) and not isinstance(value, type):
        return {entry.name: as_plain(getattr(value, entry.name)) for entry in fields(value)}
    return value


def damages(whole: bytes, count: int, rng: random.Random) -> Iterator[bytes]:
    """What disks, transfers and other programs do to a file: of every three a flipped bit, a lost piece, a wrong piece."""
    for number in range(count):
        start = rng.randrange(len(whole))
        stop = min(len(whole), start + rng.randint(1, 64))
        changed = bytearray(whole)
        if number % 3 == 0:
            changed[start] ^= 1 << rng.randrange(8)
            yield bytes(changed)
        elif number % 3 == 1:
            yield rng.choice([whole[:start], whole[:start] + whole[stop:], whole[start + 1 :], b""])
        else:
            noise = rng.randbytes(stop - start)
            pieces = [noise, bytes(len(noise)), noise + whole[start:stop], whole[:start][-64:] + whole[start:stop]]
            damaged = whole[:start] + rng.choice(pieces) + whole[stop:]
            changed[start] ^= 255
            yield bytes(changed) if damaged == whole else damaged


def count_silent(name: str, folder: Path, count: int) -> list[bytes]:
    """The damages after which a file is still read."""
    path, result = path_of(name, folder), FORMATS[name]()
    result.save(path)
    whole, silent = path.read_bytes(), []
    for damaged in damages(whole, count, random.Random(name)):
        path.write_bytes(damaged)
        try:
            type(result).load(path)
        except InputError as error:
            silent += [] if str(path) in str(error) else [damaged]
        else:
            silent.append(damaged)
    return silent


@pytest.mark.parametrize("name", FORMATS)
def test_no_damage_is_silent(name: str, tmp_path: Path) -> None:
    """A slice of the next."""
    assert count_silent(name, tmp_path, 30) == []


@pytest.mark.slow
@pytest.mark.parametrize("name", FORMATS)
def test_none_of_many_damages_is_silent(name: str, tmp_path: Path) -> None:
    """300 of each kind of file, and the 550 of stores."""
    assert count_silent(name, tmp_path, 300) == []


@pytest.mark.parametrize("name", FORMATS)
def test_a_file_of_another_kind_is_refused_by_name(name: str, tmp_path: Path) -> None:
    other = "Circuit" if name != "Circuit" else "Edit"
    path = path_of(name, tmp_path)
    FORMATS[other]().save(path)
    with pytest.raises(InputError, match=re.escape(str(path))):
        type(FORMATS[name]()).load(path)


PICKLED = {**RESULTS, **UNSAVED}
#: Results that always hold the model that they are of, and so pickle as little as it does.
WITH_MODEL = {"FeatureScores"}


@pytest.mark.parametrize("name", PICKLED)
def test_results_pickle(name: str) -> None:
    """A cache, which belongs to a model, says why not; see tests/models/test_copies.py for results that hold a model."""
    result = PICKLED[name]()
    again = pickle.loads(pickle.dumps(result))
    assert type(again) is type(result)
    if name == "ActivationCache":
        assert torch.equal(again["hook_embed"], result["hook_embed"])
    else:
        assert identity_of(again) == identity_of(result)


def test_every_public_result_is_pickled_here() -> None:
    sources = [path.read_text("utf-8") for path in (ROOT / "mmlens").rglob("*.py")]
    names = {name for text in sources for name in re.findall(r"@checked_result\n@dataclass\(.*\)\nclass (\w+)", text)}
    assert names - WITH_MODEL <= set(PICKLED), "say here how a small one is made"
