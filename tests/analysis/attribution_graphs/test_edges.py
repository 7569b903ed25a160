"""What flows into a node adds up to what it is, and edges are what the model's weights and other runs say."""

import copy
from typing import Any

import pytest
import torch

import mmlens as mm
from mmlens.analysis.attribution_graphs.edges import Edges
from mmlens.analysis.attribution_graphs.linear import HEAD, LinearModel, flat_rows
from mmlens.analysis.attribution_graphs.structure import structure_of
from mmlens.core.errors import InputError
from mmlens.models.hooked import HookedMultimodal
from tests.analysis.attribution_graphs.made import PROMPT, made, transcoder, transcoders, wide
from tests.tiny import picture

#: With what enters the language model behind its first block, and what is read where.
FAMILIES = {
    "llava_clip": ["hook_embed"],
    "qwen2_vl": ["hook_embed"],
    "instructblip": ["hook_embed"],
    "gemma3": ["hook_embed"],
    "paligemma2": ["hook_embed"],
    "mllama": ["projector.hook_out", "hook_embed"],
    "qwen3_vl": ["hook_embed", "projector.deepstack.0.hook_out", "projector.deepstack.1.hook_out"],
    "florence2": ["encoder.hook_embed", "hook_embed"],
}
TOWERS = ("llava_clip", "qwen2_vl", "instructblip", "gemma3", "mllama", "qwen3_vl")
QUIET: dict[str, Any] = {"progress": False, "max_nodes": 60}


def off(graph: Any) -> float:
    """How far the sums of edges and biases are from the values of their targets, as a share of what flows there."""
    total = graph.weights.sum(1) + graph.bias
    value = torch.tensor([node.value for node in graph.targets], dtype=total.dtype)
    return float(((total - value).abs() / (graph.weights.abs().sum(1) + graph.bias.abs())).max())


@pytest.mark.parametrize("name", FAMILIES)
def test_what_flows_into_a_node_adds_up_to_it(name: str) -> None:
    model, batch = made(name)
    clean = model(batch)
    graph = mm.attribution_graph(model, batch, transcoders(model), **QUIET)
    assert off(graph) < 5e-6
    assert len({node.at for node in graph.members if node.kind == "feature"}) == 2
    assert sorted({node.at for node in graph.members if node.kind == "source"}) == sorted(FAMILIES[name])
    assert len({node.name for node in graph.members}) == len(graph.members)
    assert float(graph.bias.abs().max()) > 1e-3, "a bias that is always zero hides what is missing"
    sources = torch.tensor([node.kind in ("source", "error") for node in graph.members])
    assert float(graph.influence[sources].sum()) == pytest.approx(1, abs=1e-4)
    # logits are those of the model, less their mean
    last = graph.targets[-1]
    head = model.run_with_cache(batch, names=HEAD)[1][HEAD].reshape(-1, model.graph[HEAD].width)[last.rows[0]]
    assert last.value == pytest.approx(float(head[last.token] - head.mean()), abs=2e-5)
    assert torch.equal(model(batch), clean)
    assert not any(point.attached for point in model.hook_dict.values())


@pytest.mark.parametrize("name", TOWERS)
def test_features_of_the_vision_encoder_are_nodes_and_patches_its_sources(name: str) -> None:
    model, batch = made(name)
    graph = mm.attribution_graph(model, batch, transcoders(model, in_tower=True), max_nodes=400, progress=False)
    assert off(graph) < 5e-6
    kinds = {(node.kind, node.at.startswith("vision.")) for node in graph.members}
    assert {("feature", True), ("feature", False), ("error", True), ("source", True), ("source", False)} <= kinds
    texts = [node.text for node in graph.members if node.kind == "source" and not node.at.startswith("vision.")]
    assert not any("patch" in text for text in texts), "rows of the picture are no sources of the language model here"


def in_float64(model: Any, offset: float) -> Any:
    """A copy in float64, whose root mean squares are too: transformers takes them in float32."""
    model = copy.deepcopy(model).double()
    for module in model.modules():
        if type(module).__name__.endswith("RMSNorm"):
            eps = getattr(module, "variance_epsilon", getattr(module, "eps", 0.0))

            def forward(x: torch.Tensor, weight: torch.Tensor = module.weight, eps: float = eps) -> torch.Tensor:
                return x * (x.pow(2).mean(-1, keepdim=True) + eps).rsqrt() * (weight + offset)

            module.forward = forward
    return model


@pytest.mark.parametrize(("name", "offset"), [("llava_clip", 0.0), ("gemma3", 1.0)])
def test_sums_are_exact_in_float64(name: str, offset: float) -> None:
    model = in_float64(made(name)[0].hf_model, offset)
    hooked = HookedMultimodal.from_hf(model, made(name)[0].processor)
    batch = hooked.prepare(PROMPT, images=picture(1))
    batch = hooked.batch({k: v.double() if v.is_floating_point() else v for k, v in batch.inputs.items()})
    dictionaries = [wide(dictionary) for dictionary in transcoders(hooked, in_tower=True)]
    assert off(mm.attribution_graph(hooked, batch, dictionaries, **QUIET)) < 1e-13


@pytest.mark.parametrize("name", ["llava_clip", "mllama", "qwen3_vl", "gemma3"])
@torch.no_grad()
def test_taking_a_source_out_changes_every_target_by_its_edge(name: str) -> None:
    model, batch = made(name)
    dictionaries = transcoders(model)
    linear = LinearModel(model, batch, structure_of(model, dictionaries))
    with torch.enable_grad():
        run = linear.run()
    edges = Edges(linear, run)
    targets = [(int(edges.run.reads[HEAD].shape[-2]) - 1, token) for token in (9, 14)]
    logits, *_ = edges.of_logits(targets)
    places = [*edges.errors, *edges.entering]
    clean = linear.replay(run, edges.constants())
    for number in range(0, len(places), 7):
        at, row = places[number]
        constants = edges.constants()
        width = edges.sources[at].rest.shape[1]
        new = constants[at].clone()
        new.view(-1, width)[row] -= edges.sources[at].rest[row]
        after = linear.replay(run, {**constants, at: new})
        heads = [flat_rows(reads[HEAD], reads[HEAD].shape[-1])[targets[0][0]] for reads in (clean, after)]
        change = torch.stack([(heads[0] - heads[1])[token] - (heads[0] - heads[1]).mean() for _, token in targets])
        torch.testing.assert_close(logits[:, len(edges.code) + number], change, atol=5e-6, rtol=1e-4)


@torch.no_grad()
def test_edges_are_those_of_the_weights_of_hugging_face() -> None:
    """Through one attention by its pattern, values and output, and past it; into the logits through the final norm."""
    model, batch = made("llava_clip")
    dictionaries = transcoders(model)
    graph = mm.attribution_graph(model, batch, dictionaries, target=["red", "blue"], progress=False)
    language = model.hf_model.model.language_model
    hf = type(model.hf_model)._from_config(model.hf_model.config, attn_implementation="eager")
    hf.load_state_dict(model.hf_model.state_dict())
    result = hf.eval()(**batch, output_attentions=True, output_hidden_states=True)
    layer, first = language.layers[0], dictionaries[0]
    x, pattern = result.hidden_states[0][0], result.attentions[0][0]
    heads = pattern.shape[0]

    def scale(rows: torch.Tensor, norm: Any) -> torch.Tensor:
        return (rows.pow(2).mean(-1, keepdim=True) + norm.variance_epsilon).sqrt()

    attention = layer.self_attn
    normed = layer.input_layernorm(x)
    values = attention.v_proj(normed).unflatten(-1, (-1, attention.head_dim))
    values = values.repeat_interleave(heads // values.shape[1], 1)
    W_O = attention.o_proj.weight.T.unflatten(0, (heads, -1))
    middle = x + attention.o_proj((pattern @ values.transpose(0, 1)).transpose(0, 1).flatten(1))
    gain = layer.post_attention_layernorm.weight / scale(middle, layer.post_attention_layernorm)
    features = [node for node in graph.targets if node.at == "blocks.0.hook_mlp_out"]
    sources = {node.rows[0]: number for number, node in enumerate(graph.members) if node.kind == "source"}
    assert len(features) > 20
    for node in features[::9]:
        q, vector = node.rows[0], first.W_enc[:, node.feature] * gain[node.rows[0]]
        for p in (0, 3, q):
            through = sum(pattern[h, q, p] * (values[p, h] @ W_O[h]) for h in range(heads))
            expected = float((through + (x[p] if p == q else 0)) @ vector)
            found = float(graph.weights[graph.targets.index(node), sources[p]])
            assert found == pytest.approx(expected, abs=5e-6)
    # from the last MLP straight into a logit
    final = language.norm
    stream = result.hidden_states[-1][0]
    last = len(stream) - 1
    assert torch.allclose(final.weight * (final.weight * 0 + 1), final.weight)
    W_U = model.hf_model.lm_head.weight
    before = model.run_with_cache(batch, names="blocks.2.hook_resid_post")[1]["blocks.2.hook_resid_post"][0, last]
    out = final.weight / scale(before, final)
    error = next(
        n
        for n, m in enumerate(graph.members)
        if m.kind == "error" and m.at == "blocks.2.hook_mlp_out" and m.rows == (last,)
    )
    wrote = model.run_with_cache(batch, names="blocks.2.hook_mlp_out")[1]["blocks.2.hook_mlp_out"][0, last]
    for number, word in enumerate(("red", "blue"), start=len(graph.targets) - 2):
        expected = float((wrote * out) @ (W_U[model.to_single_token(word)] - W_U.mean(0)))
        assert float(graph.weights[number, error]) == pytest.approx(expected, abs=5e-6)


@pytest.mark.parametrize(
    "settings",
    [
        {"activation": "topk", "k": 6},
        {"activation": "jumprelu", "threshold": torch.full((40,), 0.2)},
        {"activation": "gated", "b_gate": torch.full((40,), 0.1), "r_mag": torch.linspace(-0.5, 0.5, 40)},
        {"activation": "groupmax", "k": 8},
    ],
    ids=lambda settings: settings["activation"],
)
def test_codes_of_every_kind_add_up(settings: Any) -> None:
    model, batch = made("llava_clip")
    dictionaries = transcoders(model, **settings)
    graph = mm.attribution_graph(model, batch, dictionaries, **QUIET)
    assert off(graph) < 5e-6
    with model.attach(*dictionaries):
        codes = model.run_with_cache(batch, names="**.hook_sae_acts_post")[1]
    for node in graph.targets[:40:5]:
        assert node.value == pytest.approx(float(codes[f"{node.at}.hook_sae_acts_post"][0, node.rows[0], node.feature]))


def test_autoencoders_stand_in_for_a_stream_where_they_were_trained() -> None:
    model, batch = made("llava_clip")
    make = torch.Generator().manual_seed(0)
    W, at = torch.randn(32, 40, generator=make) / 6, "blocks.1.hook_resid_post"
    sae = mm.features.SparseDictionary(W, torch.zeros(40), W.T.contiguous(), torch.randn(32, generator=make) / 4, at)
    graph = mm.attribution_graph(model, batch, [sae, *transcoders(model)[:1]], **QUIET)
    assert off(graph) < 5e-6
    into = graph.weights[-1] != 0
    early = [n for n, node in enumerate(graph.members) if node.at in ("hook_embed", "blocks.0.hook_mlp_out")]
    assert not into[early].any(), "what comes before reaches the logits through the autoencoder alone"


def test_what_has_no_linear_model_is_refused_by_what_is_missing() -> None:
    model, batch = made("lfm3_vl")
    with pytest.raises(
        InputError, match=r"lfm3_vl are no sums .* \d+\.\d% of what flows there is missing.*find_circuit"
    ):
        mm.attribution_graph(model, batch, transcoders(model), progress=False)
    assert not any(point.attached for point in model.hook_dict.values())
    model, batch = made("glm4v")
    with pytest.raises(InputError, match="leave out dictionaries of the vision encoder and the projector"):
        mm.attribution_graph(model, batch, transcoders(model, in_tower=True), progress=False)


def test_what_cannot_be_is_refused_before_anything_runs(monkeypatch: pytest.MonkeyPatch) -> None:
    model, batch = made("llava_clip")
    dictionaries = transcoders(model)
    two = model.prepare([PROMPT, PROMPT], images=[[picture(0)], [picture(1)]])
    monkeypatch.setattr(type(model.hf_model), "forward", lambda *_, **__: pytest.fail("it ran"))
    normed = transcoder(model, "blocks.1.hook_mlp_out", normalization="layer_norm")
    dead = next(node.name for node in model.graph if node.dead and node.name.endswith("hook_mlp_out"))
    cases: list[tuple[dict[str, Any], str]] = [
        ({"batch": two}, "of one sample, and the batch has 2"),
        ({"transcoders": []}, "non-empty"),
        ({"transcoders": [dictionaries[0], dictionaries[0]]}, r"blocks\.0\.hook_mlp_out has a sparse dictionary"),
        ({"transcoders": normed}, "normalises what it reads"),
        ({"transcoders": transcoder(model, dead)}, f"{dead} reaches nothing"),
        ({"target": "zebra"}, "zebra"),
        ({"target": 10**6}, "There is no token 1000000"),
        ({"target": ["red", "red"]}, "without repetition"),
        ({"max_nodes": 0}, "at least 1"),
    ]
    for arguments, message in cases:
        given = {"batch": batch, "transcoders": dictionaries, "progress": False, **arguments}
        with pytest.raises(InputError, match=message):
            mm.attribution_graph(model, **given)
