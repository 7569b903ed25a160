"""Changes of rank one: keys and second moments over several batches, with padding, against a slow loop in float64."""

import pytest
import torch

from mmlens.core.unit_sets import Units
from mmlens.core.units import Neuron
from mmlens.interventions.edits import Through, rank_one
from mmlens.interventions.edits.examples import edit_examples
from mmlens.interventions.edits.rank_one import _keys, _second_moment
from tests.conftest import Subject
from tests.families.encoder_decoder import florence2
from tests.interventions.edits.test_through import tokens_of
from tests.tiny import picture


def test_the_second_moment_is_the_mean_over_all_tokens_of_all_batches(llava: Subject) -> None:
    model = llava.model
    batches = [llava.batches["left"], model.prepare("the image", images=picture(3)), llava.batches["right"]]
    rows = Units([Neuron(1, 7), Neuron(1, 0), Neuron(1, 30)])
    total, count = torch.zeros(3, 3, dtype=torch.float64), 0
    for batch in batches:
        q = model.run_with_cache(batch, names="blocks.1.mlp.hook_post")[1]["blocks.1.mlp.hook_post"]
        for sample, position in batch.layout.is_token.nonzero().tolist():
            x = q[sample, position, [row.index for row in rows]].double()
            total, count = total + torch.outer(x, x), count + 1
    torch.testing.assert_close(_second_moment(model, batches, rows), total / count)


def test_a_decoders_tokens_are_those_that_it_reads() -> None:
    model = florence2()
    batch = model.prepare("describe the image", images=picture())
    batch = model.batch({**batch, "decoder_input_ids": torch.tensor([[2, 5, 6]])})
    rows = Units([Neuron(0, 1), Neuron(0, 4)])
    q = model.run_with_cache(batch, names=rows[0].hook)[1][rows[0].hook][0][:, [1, 4]].double()
    torch.testing.assert_close(_second_moment(model, [batch], rows), q.T @ q / 3)


def test_the_change_is_that_of_the_formula(llava: Subject) -> None:
    """`delta = C^-1 K (K^T C^-1 K)^-1 V`: its columns are combinations of `C^-1 K`, and `K^T delta` is what is learnt, V."""
    model, batch, others = llava.model, llava.batches["left"], [llava.batches["right"], llava.batches["several"]]
    source, target = tokens_of(llava)
    settings = Through(learning_rate=0.5, n_steps=2)
    about = {"source": source, "layer": 1, "samples": others, "settings": settings, "max_new_tokens": 4}
    edit = rank_one(model, batch, target=target, ridge=0.1, progress=False, **about)  # type: ignore[arg-type]
    rows = Units(Neuron(1, index) for index in range(48))
    assert list(edit.rows) == list(rows)
    (example,) = edit_examples(model, [batch], source=((source,),), target=((target,),), max_new_tokens=4)
    q = model.run_with_cache(example.batch, names="blocks.1.mlp.hook_post")[1]["blocks.1.mlp.hook_post"].double()
    key = torch.stack([q[sample, position] for sample, position in example.source_places.tolist()]).mean(0)
    torch.testing.assert_close(_keys(model, [example], rows)[:, 0], key)
    moment = _second_moment(model, others, rows)
    moment = moment + 0.1 * moment.diagonal().mean() * torch.eye(48, dtype=torch.float64)
    against = torch.linalg.solve(moment, key)
    amounts = (against / (key @ against)).float()
    value = key.float() @ edit.deltas
    torch.testing.assert_close(edit.deltas, amounts[:, None] * value, atol=1e-4, rtol=1e-3)
    # two steps of Adam of half a unit each
    assert float(value.abs().max()) == pytest.approx(1.0, rel=0.1)
    told = edit.provenance.settings
    assert (told["layer"], told["ridge"], told["samples"]) == (1, 0.1, 2)
