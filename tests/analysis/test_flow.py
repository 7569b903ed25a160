"""Models in which the answer takes a known route: every verb finds that route, and no other."""

from typing import Any, Literal

import pytest
import torch

import mmlens as mm
from mmlens import lab
from mmlens.lab.planting import Hop
from mmlens.models.hooked import HookedMultimodal
from tests.analysis.circuits.conftest import planted_pair
from tests.analysis.conftest import Wrapped

ROUTES = {
    "direct_flow": (Hop(1, 2, "image", "last"),),
    "question_flow": (Hop(0, 2, "image", "what"), Hop(2, 1, "what", "last")),
}
GROUPS = ("image", "what", "last")
LEGS = (("what", "image"), ("last", "what"), ("last", "image"))
LAYERS = range(3)


@pytest.fixture(scope="module", params=list(ROUTES))
def flow(request: pytest.FixtureRequest) -> Wrapped:
    planted = lab.planted(request.param)
    wrap = HookedMultimodal.from_hf
    return Wrapped(planted, wrap(planted.model, planted.processor), wrap(planted.twin, planted.processor))


@pytest.fixture(scope="module")
def metric(flow: Wrapped) -> Any:
    return mm.metrics.logit_difference(flow.truth.token, flow.truth.default_token)


@pytest.fixture(scope="module")
def gap(flow: Wrapped, metric: Any) -> float:
    """What the picture's colour changes."""
    truth = flow.truth
    with torch.no_grad():
        logits = [flow.model(batch)[:, -1] for batch in planted_pair(flow)]
    clean, corrupted = (rows[:, truth.token] - rows[:, truth.default_token] for rows in logits)
    return float((clean - corrupted).mean())


def test_the_route_is_the_one_that_is_told(flow: Wrapped) -> None:
    route = ROUTES[flow.planted.kind]
    assert flow.truth.route == route
    assert (flow.truth.head_layer, flow.truth.head, flow.truth.layer) == (
        route[-1].layer,
        route[-1].head,
        route[-1].layer,
    )
    assert lab.planted("patch").truth.route == (Hop(0, 2, "image", "last"),)


@pytest.mark.parametrize("window", [1, 2, 3])
@pytest.mark.parametrize(("queries", "keys"), LEGS)
def test_only_cuts_of_a_hop_lose_the_answer(
    flow: Wrapped, metric: Any, gap: float, queries: str, keys: str, window: int
) -> None:
    batch, _ = planted_pair(flow)
    sweep = mm.knock_out(flow.model, batch, queries=queries, keys=keys, window=window, metric=metric, progress=False)
    hops = {hop.layer for hop in flow.truth.route if (hop.source, hop.target) == (keys, queries)}
    lost = -sweep.effect.mean(-1)[:, 0] / gap
    for centre in LAYERS:
        # a window of two layers is its centre and the one before; of three, also the one behind
        layers = set(range(centre - window // 2, centre + (window - 1) // 2 + 1))
        assert (lost[centre] > 0.5) == bool(hops & layers)
        assert lost[centre] > 0.5 or abs(float(lost[centre])) < 0.02
    if not hops:
        assert float((sweep.corrupted - sweep.clean).abs().max()) < 0.02 * gap
    twin = mm.knock_out(flow.twin, batch, queries=queries, keys=keys, window=window, metric=metric, progress=False)
    assert float(twin.effect.abs().max()) < 0.02 * gap


def test_a_hop_is_its_one_head(flow: Wrapped, metric: Any, gap: float) -> None:
    batch, _ = planted_pair(flow)
    for hop in flow.truth.route:
        for head in range(4):
            sweep = mm.knock_out(
                flow.model, batch, queries=hop.target, keys=hop.source, heads=[mm.Head(hop.layer, head)],
                metric=metric, progress=False,
            )  # fmt: skip
            assert (float(-sweep.effect.mean()) > 0.5 * gap) == (head == hop.head)


@pytest.mark.parametrize("verb", [mm.patch, mm.attribute], ids=["patch", "attribute"])
def test_the_stream_carries_the_answer_at_the_hops_places(flow: Wrapped, metric: Any, verb: Any) -> None:
    clean, corrupted = planted_pair(flow)
    sweep = verb(
        flow.model, clean, corrupted, at=["blocks.*.hook_resid_pre", "blocks.2.hook_resid_post"], positions=GROUPS,
        metric=metric, progress=False,
    )  # fmt: skip
    recovered = sweep.effect.mean(-1) / (sweep.clean - sweep.corrupted).mean()
    for layer in (*LAYERS, 3):
        behind = [hop.target for hop in flow.truth.route if hop.layer < layer]
        place = behind[-1] if behind else "image"
        for number, group in enumerate(GROUPS):
            share = float(recovered[layer, number])
            if group != place:
                assert share == pytest.approx(0.0, abs=0.02)
            elif sweep.method == "exact":
                assert share == pytest.approx(1.0, abs=0.02)
            else:  # a slope of a bent way, right in kind
                assert share > 0.4
    twin = verb(
        flow.twin, clean, corrupted, at="blocks.*.hook_resid_pre", positions=GROUPS, metric=metric, progress=False
    )
    assert float(twin.effect.abs().max()) < 0.02 * float((sweep.clean - sweep.corrupted).mean())


def test_heads_of_the_route_are_the_ones_that_attribution_finds(flow: Wrapped, metric: Any, gap: float) -> None:
    clean, corrupted = planted_pair(flow)
    sweep = mm.attribute(
        flow.model, clean, corrupted, at="blocks.*.attn.hook_z", units="head", metric=metric, progress=False
    )
    heads = {mm.Head(hop.layer, hop.head) for hop in flow.truth.route}
    assert set(sweep.top(len(heads))) == heads
    strength = sweep.effect.mean(-1).abs().amax(1) / gap
    assert sorted(strength.tolist())[-len(heads) - 1] < 0.02


@pytest.mark.parametrize("method", ["eap", "eap-ig", "exact"])
def test_the_circuit_is_exactly_the_route(
    flow: Wrapped, metric: Any, gap: float, method: Literal["eap", "eap-ig", "exact"]
) -> None:
    clean, corrupted = planted_pair(flow)
    circuit = mm.find_circuit(
        flow.model, (clean, corrupted), metric=metric, method=method, groups=GROUPS, towers="language", progress=False
    )
    heads = [f"L{hop.layer}.h{hop.head}" for hop in flow.truth.route]
    route = {(writer, f"{reader}.v") for writer, reader in zip(["projector", *heads], heads, strict=False)}
    route |= {(heads[-1], "logits")}
    kept = circuit.threshold(0.05 * gap)
    assert {(edge.writer, edge.reader) for edge in kept.edges} == route
    assert {(edge.writer, edge.reader) for edge in circuit.strongest(len(route)).edges} == route
    twin = mm.find_circuit(
        flow.twin, (clean, corrupted), metric=metric, method=method, groups=GROUPS, towers="language", progress=False
    )
    assert not twin.threshold(0.02 * gap).edges


def test_another_word_of_the_question_is_no_part_of_it(flow: Wrapped, metric: Any, gap: float) -> None:
    batch, _ = planted_pair(flow)
    sweep = mm.knock_out(flow.model, batch, queries="assistant", keys="image", metric=metric, progress=False)
    assert float(sweep.effect.abs().max()) < 0.02 * gap
    torch.testing.assert_close(sweep.corrupted, sweep.clean, rtol=0, atol=0.02 * gap)
