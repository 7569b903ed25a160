"""Faithfulness, completeness and minimality of a circuit that is known, beside random ones."""

from pathlib import Path

import pytest
import torch

from mmlens.analysis.circuits.evaluate import CircuitEvaluation, evaluate_circuit
from mmlens.analysis.circuits.find import find_circuit
from mmlens.analysis.metrics import logit_difference
from mmlens.core.errors import InputError
from tests.analysis.circuits.conftest import planted_pair
from tests.analysis.conftest import Wrapped


def test_the_planted_circuit_suffices_is_needed_and_no_edge_is_idle(planted_patch: Wrapped, tmp_path: Path) -> None:
    truth, model = planted_patch.truth, planted_patch.model
    metric = logit_difference(truth.token, truth.default_token)
    clean, corrupted = planted_pair(planted_patch)
    found = find_circuit(model, (clean, corrupted), metric=metric, method="eap", progress=False)
    circuit = found.strongest(3)
    # pictures that it was not found on
    held_out = [
        model.prepare(
            [planted_patch.planted.prompt] * 2, images=[[planted_patch.planted.image(p, seed=s)] for s in (7, 8)]
        )
        for p in (True, False)
    ]
    result = evaluate_circuit(
        model, circuit, (held_out[0], held_out[1]), metric=metric, n_random=5, n_edges=3, progress=False
    )
    assert result.n_edges == 3
    torch.testing.assert_close(result.faithfulness, torch.ones(2), rtol=0, atol=0.02)
    torch.testing.assert_close(result.completeness, torch.ones(2), rtol=0, atol=0.02)
    torch.testing.assert_close(result.minimality, torch.ones(3, 2), rtol=0, atol=0.02)
    assert float(result.random_faithfulness.abs().max()) < 0.02
    assert float(result.random_minimality.abs().max()) < 0.02
    assert result.as_good_at_random == 0.0
    assert result.interval("faithfulness").low > result.interval("random_faithfulness").high
    assert "faithfulness 1.0" in repr(result).replace("faithfulness  ", "faithfulness ") or "0.99" in repr(result)
    assert result.to_frame()["measure"].tolist() == ["faithfulness", "completeness", "minimality"]
    with pytest.raises(InputError, match=r"There is no measure 'faith'"):
        result.interval("faith")
    path = result.save(tmp_path / "evaluation.safetensors")
    again = CircuitEvaluation.load(path)
    assert repr(again) == repr(result)
    assert again.edges == result.edges
    assert again.to_frame().equals(result.to_frame())
    circuit.save(path)
    with pytest.raises(InputError, match="is no circuit evaluation"):
        CircuitEvaluation.load(path)


def test_the_whole_graph_is_faithful_and_nothing_is_left_without_it(planted_patch: Wrapped) -> None:
    truth, model = planted_patch.truth, planted_patch.model
    metric = logit_difference(truth.token, truth.default_token)
    clean, corrupted = planted_pair(planted_patch, 2)
    whole = find_circuit(model, (clean, corrupted), metric=metric, method="eap", nodes="attention", progress=False)
    result = evaluate_circuit(model, whole, (clean, corrupted), metric=metric, n_random=0, n_edges=0, progress=False)
    torch.testing.assert_close(result.faithfulness, (whole.clean - whole.corrupted) / result.gap, rtol=0, atol=1e-5)
    torch.testing.assert_close(result.completeness, torch.ones(2), rtol=0, atol=1e-5)
    with pytest.raises(InputError, match=r"have the same metric, so there is no gap"):
        evaluate_circuit(model, whole, (clean, clean), metric=metric, progress=False)
