"""The arithmetic of rows, by hand: what packed rows are given, which rows a change reaches, what they cost, what agrees."""

from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import nn

from mmlens.execution.affected_rows import AffectedRows, BlockStep, ChangeLocation, Schedule, place_of
from mmlens.execution.cell_runs import CellRuns
from mmlens.execution.cells import Cell
from mmlens.execution.cost import Costs, total, weights_of
from mmlens.execution.equivalence_check import Evidence, RecomputedRows, evidence, weakest_evidence
from mmlens.execution.jobs import Job, chunks, cut
from mmlens.execution.plan import Plan
from mmlens.execution.query_groups import RowSpan
from mmlens.execution.recording import Attended, _behind_head, is_shared
from mmlens.execution.rowwise import RowsOf, only_rows
from mmlens.models.decoder import NotAloneError

BATCH, LENGTH = 3, 4
SPANS = [RowSpan(0, torch.tensor([1, 3]), 0), RowSpan(2, torch.tensor([0]), 2)]
#: The same, one by one.
PAIRS = [(0, 1), (0, 3), (2, 0)]


def tensor(*shape: int) -> torch.Tensor:
    return torch.arange(float(torch.Size(shape).numel())).reshape(shape)


def rows_of(value: Any, batch: int = BATCH) -> Any:
    return RowsOf(SPANS).of_all({"it": value}, (batch, LENGTH))["it"]


@pytest.mark.parametrize("samples", [BATCH, 1])
@pytest.mark.parametrize(("front", "rest"), [((), ()), ((), (5,)), ((2,), ()), ((2,), (5, 6)), ((7, 2), (5,))])
def test_rows_are_cut_wherever_batch_and_positions_stand(
    samples: int, front: tuple[int, ...], rest: tuple[int, ...]
) -> None:
    """Rotary tables `[batch pos d]`, position ids `[batch pos]`, and three of them `[axis batch pos]`; shared by all if one."""
    value = tensor(*front, samples, LENGTH, *rest)
    entries = [
        value[(*[slice(None)] * len(front), sample if samples > 1 else 0, row)].unsqueeze(len(front))
        for sample, row in PAIRS
    ]
    found = rows_of(value)
    assert torch.equal(found, torch.cat([entry.unsqueeze(len(front)) for entry in entries], len(front) + 1))


def test_what_is_no_rows_stays_and_masks_are_left_to_the_recording() -> None:
    assert torch.equal(rows_of(tensor(LENGTH)), torch.tensor([1.0, 3.0, 0.0]))
    scalar, table, word = torch.tensor(2.0), tensor(LENGTH + 1, 6), "word"
    assert rows_of(scalar) is scalar
    assert rows_of(table) is table
    assert rows_of(word) is word
    assert rows_of(tensor(BATCH, 1, LENGTH, LENGTH)) is None
    assert RowsOf(SPANS).of_all({"attention_mask": tensor(BATCH, LENGTH)}, (BATCH, LENGTH)) == {"attention_mask": None}
    alone = tensor(1, 6)
    assert rows_of(alone, batch=1) is alone
    with pytest.raises(NotAloneError, match=r"a tensor \[3, 6\] that is no row's and differs by sample"):
        rows_of(tensor(BATCH, 6))


def test_several_tensors_are_cut_each_and_one_that_comes_twice_once() -> None:
    table, rows = tensor(BATCH, LENGTH), torch.tensor([[1.0, 3.0, 8.0]])
    cutter = RowsOf(SPANS)
    found = cutter.of_all({"pair": (table, [table]), "more": {"deep": table, "flag": True}}, (BATCH, LENGTH))
    assert torch.equal(found["pair"][0], rows)
    assert found["pair"][1][0] is found["pair"][0] is found["more"]["deep"]
    assert isinstance(found["pair"][1], list)
    assert found["more"]["flag"] is True


def test_linears_compute_some_rows_alone_and_are_themselves_again() -> None:
    linear, other, x = nn.Linear(3, 2), nn.Linear(3, 2), torch.randn(1, 5, 3)
    instance = other.forward
    vars(other)["forward"] = instance
    whole = linear(x), other(x)
    with only_rows([linear, other], torch.tensor([1, 4])), torch.no_grad():
        for module, expected in zip((linear, other), whole, strict=True):
            found = module(x)
            torch.testing.assert_close(found[:, [1, 4]], expected[:, [1, 4]])
            assert not found[:, [0, 2, 3]].any()
    assert "forward" not in vars(linear)
    assert vars(other)["forward"] == instance
    with only_rows([linear], None):
        assert "forward" not in vars(linear)


@pytest.mark.parametrize(
    ("kind", "layer", "place"),
    [
        ("embed", None, (0, "pre")),
        ("ln_final.out", None, (3, "final")),
        ("resid_pre", 1, (1, "pre")),
        ("resid_post", 2, (2, "post")),
        ("attn.k", 1, (1, "keys")),
        ("attn.rot_k", 1, (1, "keys")),
        ("attn.v", 0, (0, "keys")),
        ("ln1.scale", 0, (0, "keys")),
        ("attn.q", 1, (1, "rows")),
        ("mlp_out", 1, (1, "rows")),
    ],
)
def test_the_place_of_a_point(kind: str, layer: int | None, place: tuple[int, str]) -> None:
    assert place_of(kind, layer, 3) == ChangeLocation(*place)


def attended(mask: torch.Tensor | None, *, causal: bool = True) -> Attended:
    nothing = torch.empty(0)
    return Attended(nothing, nothing, nothing, mask, causal, {})


def test_who_looks_at_whom() -> None:
    """By the mask of a sample, or the only one there is, wider than the rows; without one, back alone or everywhere."""
    masks = torch.rand(BATCH, 1, LENGTH, LENGTH + 2) > 0.5
    layers = [attended(masks), attended(masks[:1]), attended(None), attended(None, causal=False)]
    rows = AffectedRows(layers, LENGTH, [torch.tensor([3])] * BATCH)
    for sample in range(BATCH):
        assert torch.equal(rows.pairs(0, sample), masks[sample, 0, :, :LENGTH])
        assert torch.equal(rows.pairs(1, sample), masks[0, 0, :, :LENGTH])
        assert torch.equal(rows.pairs(2, sample), torch.ones(LENGTH, LENGTH).tril().bool())
        assert rows.pairs(3, sample).all()
    assert not rows.causal
    assert AffectedRows(layers[2:3], LENGTH, []).causal


def windowed(depth: int = 2, length: int = 6) -> AffectedRows:
    """Every row looks at itself and the one before it; the last is read."""
    mask = (torch.eye(length) + torch.eye(length).roll(-1, 1).tril(-1)).bool()[None, None]
    return AffectedRows([attended(mask)] * depth, length, [torch.tensor([length - 1])])


def test_what_the_answer_needs_of_each_block() -> None:
    needs = [flags.nonzero().flatten().tolist() for flags in windowed().needed(0)]
    assert needs == [[4, 5], [5]]  # behind the first block, behind the second


@pytest.mark.parametrize(
    ("layer", "stage", "rows", "steps", "final"),
    [
        # reaches 3 and 4 in the first block, of which 4 is needed; it reaches 5 in the second
        (0, "pre", [3], {0: ([3, 4], [3], [4]), 1: ([4, 5], [4], [5])}, [5]),
        (0, "pre", [1], {}, None),  # too far from the last row
        (0, "keys", [4], {0: ([4, 5], [], [4, 5]), 1: ([5], [4, 5], [5])}, [5]),  # 4 is a key alone in the second
        (0, "rows", [4], {0: ([4], [], [4]), 1: ([4, 5], [4], [5])}, [5]),
        (0, "post", [4], {0: ([], [], [4]), 1: ([4, 5], [4], [5])}, [5]),
        (1, "post", [5], {1: ([], [], [5])}, [5]),
        (1, "post", [4], {1: ([], [], [])}, None),
        (2, "final", [5], {}, [5]),
        (2, "final", [2], {}, [2, 5]),
    ],
)
def test_what_is_computed_for_a_change(
    layer: int, stage: str, rows: list[int], steps: dict[int, tuple[list[int], ...]], final: list[int] | None
) -> None:
    found = windowed().schedule(0, [(ChangeLocation(layer, stage), torch.tensor(rows))])
    assert (None if found.final is None else found.final.tolist()) == final
    if final is not None:
        parts = {n: (s.rows.tolist(), s.differs.tolist(), s.handed_on.tolist()) for n, s in found.steps.items()}
        assert parts == steps
        assert found.most == max((len(part[0]) for part in parts.values()), default=0)


def test_far_fewer_rows_than_differ_are_computed_behind_their_keys() -> None:
    """All rows differ and one is read: in the last block the others are keys alone."""
    causal = AffectedRows([attended(None)] * 2, 6, [torch.tensor([5])])
    found = causal.schedule(0, [(ChangeLocation(0, "pre"), None)])
    assert found.steps[0].keys is None
    assert found.steps[0].rows.tolist() == found.steps[0].handed_on.tolist() == list(range(6))
    assert found.steps[1].rows.tolist() == found.steps[1].handed_on.tolist() == [5]
    assert found.steps[1].keys is not None
    assert found.steps[1].keys.tolist() == list(range(6))
    assert found.most == 6
    half = causal.schedule(0, [(ChangeLocation(1, "pre"), torch.tensor([4, 5]))])
    assert half.steps[1].keys is not None  # one row of two
    assert causal.schedule(0, [(ChangeLocation(1, "pre"), torch.tensor([5]))]).steps[1].keys is None


def step(rows: list[int], keys: list[int] | None, differs: list[int]) -> BlockStep:
    several = torch.tensor
    return BlockStep(several(rows), None if keys is None else several(keys), several(differs), several(rows))


def test_costs_by_hand() -> None:
    costs = Costs((10.0, 20.0), (1.0, 2.0), (3.0, 4.0), head=100.0, front=1000.0, length=4)
    assert costs.whole == 1000 + 4 * (10 + 20 + 100) + (1 + 2 + 3 + 4) * (3 + 4)
    everywhere = Costs((10.0, 20.0), (1.0, 2.0), (3.0, 4.0), 100.0, 1000.0, 4, causal=False)
    assert everywhere.whole == 1000 + 4 * (10 + 20 + 100) + 16 * (3 + 4)
    assert costs.of(Schedule({}, None)) == 0
    one = Schedule({1: step([1, 3], None, [1])}, torch.tensor([3]))
    # two rows, which look at 2 and 4; one of them was clean, and its query, key and value are known
    assert costs.of(one) == 100 + 2 * 20 + 4 * (2 + 4) - 2
    assert costs.of(one, serves=False) == 100 + 2 * 20 + 4 * (2 + 4)
    assert everywhere.of(one) == 100 + 2 * 20 + 4 * (2 * 4) - 2
    assert costs.of(Schedule({1: step([1, 3], None, [1, 2, 3])}, torch.tensor([3]))) == costs.of(one, serves=False)
    assert costs.of(Schedule({1: step([1, 3], None, [1, 3])}, torch.tensor([3]))) == costs.of(one, serves=False)
    keys = Schedule({0: step([3], [0, 1, 3], [0, 1, 3])}, torch.tensor([2, 3]))
    assert costs.of(keys) == 2 * 100 + 10 + 3 * 4 + 3 * 1


def test_products_are_those_of_weight_matrices() -> None:
    block = nn.Sequential(nn.Linear(3, 5), nn.LayerNorm(5), nn.Linear(5, 2, bias=False))
    assert weights_of(block) == 15 + 10
    products: dict[nn.Module, float] = {block[0]: 1.0, block[2]: 4.0, nn.Linear(1, 1): 16.0}
    assert total(products, [block]) == 5
    assert total(products, [block[2], block]) == 5  # once each
    assert total(products, []) == 0


def test_plans_add_up() -> None:
    one, two = Plan(2, 1e9, 4e9, 2**20, ("a", "b"), ("x",)), Plan(3, 2e9, 8e9, 3 * 2**20, ("b", "c"), ("x", "y"))
    both = one + two
    assert both == Plan(5, 3e9, 12e9, 3 * 2**20, ("a", "b", "c"), ("x", "y"))
    assert both.fraction == 0.25
    assert repr(both).splitlines() == [
        "Plan: 5 cells, 3 of 12 GFLOP (25.0% of whole forward passes)",
        "  kept: 3 MiB of the clean run",
        *("  served: a", "  served: b", "  served: c"),
        *("  widened: x", "  widened: y"),
    ]


#: The rounding of float32 at one.
EPS = torch.finfo(torch.float32).eps


def test_evidence_is_the_worst_of_all_trials() -> None:
    clean = torch.tensor([[0.0, 2.0], [1.0, 0.0]])
    fast = {0: [[1.0, 4.0]], 1: [[1.0, -8.0]]}
    whole = {0: [[1.0, 4.5]], 1: [[1.25, -8.0]]}
    trials = [[Cell(0, ())], [Cell(1, ())]]
    found = evidence(
        trials,
        lambda cells: torch.tensor(fast[cells[0].sample]),
        lambda cells: torch.tensor(whole[cells[0].sample]),
        clean,
    )
    assert (found.difference, found.effect) == (0.5, 8.0)
    assert found.allowed == pytest.approx(120 * EPS * 8)
    small = evidence(trials[:1], lambda cells: clean[:1] / 8, lambda cells: clean[:1] / 8, clean / 8)
    assert small == Evidence(0.0, 0.0, pytest.approx(120 * EPS))  # logits near zero are rounded as those of size one
    lost = evidence(trials[:1], lambda cells: clean[:1] * torch.nan, lambda cells: clean[:1], clean)
    assert lost.difference == torch.inf
    assert not lost.holds


def test_rows_agree_up_to_the_rounding_of_what_was_added() -> None:
    recorded = torch.tensor([[4.0, 1.0], [2.0, -2.0]])
    exact = RecomputedRows(recorded.clone(), recorded).evidence()
    assert exact.holds
    assert exact.difference == 0
    off = recorded.clone()
    off[1, 0] += 0.5
    found = RecomputedRows(off, recorded).evidence()
    assert found.difference == pytest.approx(0.5 - 2 * EPS * 2)
    assert (found.effect, found.allowed) == (2.0, pytest.approx(120 * EPS * 2))
    assert not found.holds
    # a block that adds 1e-5 to a stream of 4: what rounding allows of the sum would hide half of what it adds
    before = recorded - torch.tensor([[1e-5, 0.0], [1.0, 0.0]])
    close = recorded.clone()
    close[0, 0] += 1e-5
    hidden = RecomputedRows(close, recorded, before).evidence()
    assert hidden.difference < hidden.allowed
    assert hidden.effect == pytest.approx(1e-5, rel=0.1)
    assert not hidden.holds
    # the row that decides is the one that is worst for what it may be, not the one that differs most
    tops, starts = torch.tensor([[100.0], [100.0]]), torch.tensor([[99.99], [0.0]])
    pair = RecomputedRows(tops + torch.tensor([[1.0e-3], [1.2e-3]]), tops, starts).evidence()
    assert pair.effect == pytest.approx(0.01, rel=1e-3)
    assert not pair.holds
    broken = recorded.clone()
    broken[0, 1] = torch.nan
    assert RecomputedRows(broken, recorded).evidence().difference == torch.inf


def test_the_first_that_does_not_agree_decides() -> None:
    recorded = torch.tensor([[4.0, 1.0]])
    good, small = RecomputedRows(recorded, recorded), RecomputedRows(recorded + 1e-5, recorded)
    bad, worse = RecomputedRows(recorded + 0.5, recorded), RecomputedRows(recorded + 1.0, recorded)
    assert weakest_evidence([]) == Evidence(0.0, 0.0, 0.0)
    assert weakest_evidence([good, small, good]).difference == pytest.approx(1e-5, rel=0.1)
    assert weakest_evidence([good, bad, worse]).difference == pytest.approx(0.5, rel=1e-4)


def job(sample: int, steps: dict[int, list[int]]) -> Job:
    schedule = Schedule({layer: step(rows, None, rows) for layer, rows in steps.items()}, torch.tensor([5]))
    return Job(Cell(sample, ()), schedule, {}, torch.empty(0), torch.empty(0))


def test_cells_run_together_that_begin_together_up_to_a_limit() -> None:
    jobs = {
        0: job(0, {1: [4, 5]}),
        1: job(1, {0: [2]}),
        2: job(0, {0: [3, 4, 5]}),
        3: job(0, {0: [1, 2]}),
        4: job(0, {}),
        5: job(0, {0: [0, 1, 2, 3, 4, 5]}),
    }
    # by block, sample and first row: 5 3 2 | 1 | 0, and at the end the one that runs no block
    assert list(chunks(jobs, 5, 3)) == [[5], [3, 2], [1, 0, 4]]
    assert list(chunks(jobs, 3, 3)) == [[5], [3], [2], [1, 0, 4]]
    assert list(chunks({}, 3, 3)) == []


def test_a_cut_of_rows() -> None:
    rows, values = torch.tensor([2, 5, 7]), tensor(3, 2)
    assert torch.equal(cut(rows, values, torch.tensor([2, 7])), values[[0, 2]])
    assert cut(rows, values, rows) is values


def test_what_blocks_write_into_is_shared() -> None:
    assert is_shared({"keys": 1})
    assert not any(map(is_shared, ({}, torch.ones(2), [1], (1,), "word", None, 3)))


def model(**text: float) -> Any:
    return SimpleNamespace(config=SimpleNamespace(get_text_config=lambda: SimpleNamespace(**text)))


@pytest.mark.parametrize(
    ("text", "behind"),
    [
        ({}, lambda x: x),
        ({}, lambda x: 3 * x),
        ({"logit_scale": 0.0625}, lambda x: 0.0625 * x),
        ({"logits_scaling": 8.0}, lambda x: x / 8),
        ({"final_logit_softcapping": 2.0}, lambda x: 2 * torch.tanh(x / 2)),
        ({"final_logit_softcapping": 2.0}, lambda x: x),
        ({"final_logit_softcapping": 3.0, "output_multiplier": 0.5}, lambda x: 3 * torch.tanh(x * 0.5 / 3)),
    ],
)
def test_what_follows_the_unembedding_is_found(text: dict[str, float], behind: Any) -> None:
    head, other = torch.randn(2, 5, 7) * 3, torch.randn(4, 7)
    found = _behind_head(head, behind(head), model(**text))
    torch.testing.assert_close(found(other), behind(other))
    if len(text) == 1 and "soft" not in str(text):  # the configuration's number, not what rounding leaves of it
        assert torch.equal(found(other), behind(other))


def test_what_follows_the_unembedding_must_be_known() -> None:
    head = torch.randn(2, 5, 7)
    for logits in (head + 1, head[:, :, :3], head**3):
        with pytest.raises(NotAloneError, match="neither a factor nor a soft cap"):
            _behind_head(head, logits, model(final_logit_softcapping=2.0))


def test_rows_in_one_call_are_bound_by_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    """Half of what is free on a GPU, by default; what a processor's caches hold on a CPU."""
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda device: (2000, 8000))

    def rows(device: str, budget: float | None = None) -> int:
        runner: Any = SimpleNamespace(device=torch.device(device), bytes_per_row=10)
        runs: Any = None
        return CellRuns._rows(runs, runner, budget)

    assert rows("cuda") == 100
    assert rows("cpu") == 2048
    assert rows("mps") == 2**31 // 10
    assert [rows("cpu", budget) for budget in (55, 10, 1)] == [5, 1, 1]
