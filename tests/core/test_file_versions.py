"""Versions of files: users have files of these, and a file of another version is refused."""

import importlib

from mmlens.core.results import TensorKind
from tests.test_values import PACKAGE

#: A number goes up where old files can no longer be read; new kinds of results are added.
VERSIONS = {
    "mmlens.circuits.Circuit": 5,
    "mmlens.circuits.CircuitEvaluation": 3,
    "mmlens.concepts.ConceptBank": 2,
    "mmlens.concepts.ConceptShift": 2,
    "mmlens.edits.Edit": 3,
    "mmlens.edits.EditReport": 4,
    "mmlens.neurons.NeuronScores": 3,
    "mmlens.patching.PatchSweep": 3,
    "mmlens.properties.Measurements": 2,
    "mmlens.steering.DoseCurve": 4,
    "mmlens.steering.SteeringReport": 4,
    "mmlens.steering.SteeringVector": 2,
    "mmlens.store.ActivationCache": 2,
    "mmlens.store.ActivationStore": 2,
    "mmlens.store.ActivationStore.index": 2,
    "mmlens.store.ActivationStore.shard": 2,
}


def test_every_kind_of_file_has_its_version() -> None:
    kind_of_file = TensorKind.__mro__[1]
    paths = [path.relative_to(PACKAGE.parent).with_suffix("") for path in PACKAGE.rglob("*.py")]
    modules = [importlib.import_module(".".join(path.parts)) for path in paths if "__" not in path.stem]
    kinds = {value._format for module in modules for value in vars(module).values() if isinstance(value, kind_of_file)}
    found = dict(kind.rsplit("/", 1) for kind in kinds)
    assert {name: int(found[name]) for name in VERSIONS} == VERSIONS
