"""Runs with patched edges: against the two whole runs, a slow double-precision reference, and path patching."""

from typing import Any

import pytest
import torch
from transformers.models.llama.modeling_llama import apply_rotary_pos_emb

from mmlens.analysis.circuits.build import edge_graph
from mmlens.analysis.circuits.runs import Pair, graph_pairs
from mmlens.analysis.patching.paths import path_patch
from mmlens.core.errors import InputError
from mmlens.core.units import Head
from tests.analysis.circuits.conftest import GROUPS, METRIC, MakePair
from tests.conftest import Subject, bare_copy
from tests.families import FAMILIES
from tests.tiny import picture


@pytest.mark.parametrize("nodes", ["head", "attention"])
@pytest.mark.parametrize("side", ["left", "right"])
def test_no_edge_is_the_clean_run_and_all_edges_are_the_corrupted_one(
    subject: Subject, make_pair: MakePair, nodes: str, side: str
) -> None:
    pair = make_pair(subject, nodes, side=side)
    clean, corrupted = pair.ends
    assert torch.equal(pair.run(torch.zeros_like(pair.graph.allowed)), clean)
    torch.testing.assert_close(pair.run(pair.graph.allowed), corrupted, rtol=0, atol=1e-5)
    assert float((clean - corrupted).abs().min()) > 0.01, "the comparison could not fail"
    # one path left clean is noticed: from the pixels through the projector and the last attention to the logits
    most = pair.graph.allowed.clone()
    for r, reader in enumerate(pair.graph.readers):
        for w, writer in enumerate(pair.graph.writers):
            ends = (writer.name, reader.name)
            if ends == ("vision.embed", "projector") or (ends[0] == "projector" and reader.name.startswith("L2.")):
                most[r, w] = False
            if reader.kind == "logits" and writer.layer == 2:
                most[r, w] = False
    assert float((pair.run(most) - corrupted).abs().max()) > 1e-3


@pytest.mark.parametrize(
    ("name", "nodes", "heads_refused"),
    [
        ("gemma3", "head", None),
        ("qwen3_5", "attention", r"What logits reads \(ln_final.hook_in\) is not the sum .* Try nodes='attention'"),
        ("idefics3", "head", None),
        ("lfm3_vl", "attention", r"Try nodes='attention'"),
        (
            "got_ocr2",
            "attention",
            r"cannot be told apart: it has no vision.blocks.0.attn.hook_pattern. Use nodes='attention'",
        ),
        ("minicpm_v_4_6", "attention", None),
    ],
)
def test_further_kinds_of_blocks(name: str, nodes: str, heads_refused: str | None) -> None:
    tiny = next(each for each in FAMILIES if each.name == name)
    model = tiny.make()
    clean, corrupted = (model.prepare("describe the image", images=picture(seed, *tiny.sizes[0])) for seed in (0, 8))

    def pair(nodes: Any, towers: Any = "all") -> Pair:
        graph = edge_graph(model, [clean], nodes=nodes, groups=GROUPS, towers=towers)  # type: ignore[arg-type]
        return graph_pairs(model, clean, corrupted, graph, METRIC)[0]

    if name == "minicpm_v_4_6":  # its tower merges rows between blocks
        with pytest.raises(InputError, match=r"changes its rows on the way, from .* Begin at the language model"):
            pair(nodes)
    if heads_refused is not None:
        with pytest.raises(InputError, match=heads_refused):
            pair("head")
    found = pair(nodes, "language" if name == "minicpm_v_4_6" else "all")
    assert torch.equal(found.run(torch.zeros_like(found.graph.allowed)), found.ends[0])
    torch.testing.assert_close(found.run(found.graph.allowed), found.ends[1], rtol=0, atol=1e-5)
    assert float((found.ends[0] - found.ends[1]).abs().min()) > 1e-3, "the comparison could not fail"


def edge(pair: Pair, writer: str, reader: str) -> torch.Tensor:
    """What one edge changes, `[sample]`."""
    mask = torch.zeros_like(pair.graph.allowed)
    rows = [each.name for each in pair.graph.readers].index(reader)
    mask[rows, [each.name for each in pair.graph.writers].index(writer)] = True
    assert pair.graph.allowed[mask].all()
    return pair.run(mask) - pair.ends[0]


EDGES: list[tuple[str, str, dict[str, Any], str]] = [
    ("L0.h1", "L2.h3.q", {"units": [Head(0, 1)]}, "blocks.2.attn.hook_q[h3]"),
    ("L0.h1", "L2.kv1.k", {"units": [Head(0, 1)]}, "blocks.2.attn.hook_k[h1]"),
    ("L1.h2", "L2.kv0.v", {"units": [Head(1, 2)]}, "blocks.2.attn.hook_v[h0]"),
    ("L0.h1", "L1.mlp", {"units": [Head(0, 1)]}, "blocks.1.mlp.hook_post"),
    ("L1.mlp", "logits", {"at": "blocks.1.hook_mlp_out"}, "hook_logits"),
    ("projector", "L1.kv1.v", {"at": "hook_embed", "positions": {"image": "image"}}, "blocks.1.attn.hook_v[h1]"),
    ("vision.L0.mlp", "projector", {"at": "vision.blocks.0.hook_mlp_out"}, "projector.hook_in"),
    ("vision.L0.h1", "vision.L1.h0.k", {"units": [Head(0, 1, "vision")]}, "vision.blocks.1.attn.hook_k[h0]"),
]


def test_single_edges_equal_the_three_runs_of_path_patching(subject: Subject, make_pair: MakePair) -> None:
    pair = make_pair(subject)
    largest = 0.0
    for writer, reader, sender, receiver in EDGES:
        paths = path_patch(
            subject.model, pair.clean, pair.corrupted, to=receiver, metric=METRIC, progress=False, **sender
        )
        found = edge(pair, writer, reader)
        torch.testing.assert_close(found, paths.effect[0, 0], rtol=0, atol=2e-5)
        largest = max(largest, float(found.abs().max()))
    assert largest > 0.1, "the comparison could not fail"


class Reference:
    """A Llama whose every reader has an input of its own, in double precision and plain steps."""

    def __init__(self, bare: Any):
        self.bare = bare
        self.language = bare.model.language_model
        self.writes: dict[str, torch.Tensor] = {}

    def run(
        self, embeds: torch.Tensor, groups: dict[str, torch.Tensor], other: dict[str, torch.Tensor], cut: Any
    ) -> Any:
        """Logits at the last position; `cut(writer, reader)` says which edges carry `other`."""
        self.writes = writes = {name: embeds * mask[..., None] for name, mask in groups.items()}

        def into(reader: str) -> torch.Tensor:
            return sum(other[w] if cut(w, reader) else value for w, value in writes.items())  # type: ignore[return-value]

        length = embeds.shape[1]
        tables = self.language.rotary_emb(embeds, torch.arange(length)[None])
        causal = torch.full((length, length), float("-inf"), dtype=embeds.dtype).triu(1)
        for number, block in enumerate(self.language.layers):
            attn, norm = block.self_attn, block.input_layernorm

            def project(linear: Any, reader: str, head: int, norm: Any = norm) -> torch.Tensor:
                return linear(norm(into(reader))).unflatten(-1, (-1, 8)).transpose(1, 2)[:, head : head + 1]

            heads = {}
            for head in range(4):
                group = head // 2
                q = project(attn.q_proj, f"L{number}.h{head}.q", head)
                k = project(attn.k_proj, f"L{number}.kv{group}.k", group)
                v = project(attn.v_proj, f"L{number}.kv{group}.v", group)
                q, k = apply_rotary_pos_emb(q, k, *tables)
                z = (q @ k.transpose(-1, -2) / 8**0.5 + causal).softmax(-1) @ v
                heads[f"L{number}.h{head}"] = z[:, 0] @ attn.o_proj.weight[:, head * 8 : head * 8 + 8].T
            writes |= heads
            mlp = block.mlp(block.post_attention_layernorm(into(f"L{number}.mlp")))
            writes[f"L{number}.mlp"] = mlp
        return self.bare.lm_head(self.language.norm(into("logits")))[:, -1]


def test_any_set_of_edges_equals_a_slow_double_precision_reference(llava: Subject) -> None:
    model = llava.model
    pictures = [images[0] for images in llava.batches["left"].images]
    clean, corrupted = (model.prepare("describe the image", images=picture) for picture in pictures)
    graph = edge_graph(model, [clean], nodes="head", groups=GROUPS, towers="language")  # type: ignore[arg-type]
    pair = graph_pairs(model, clean, corrupted, graph, METRIC)[0]
    bare = bare_copy(model).double()  # a copy of its own: the shared one stays in single precision
    last = torch.zeros_like(clean.layout.is_image)
    last[:, -1] = True
    groups = {"projector": clean.layout.is_image, "embed[text]": ~clean.layout.is_image & ~last, "embed[last]": last}
    with torch.no_grad():
        embeds = [model.run_with_cache(b, names="hook_embed")[1]["hook_embed"].double() for b in (clean, corrupted)]
        slow = Reference(bare)
        slow.run(embeds[1], groups, {}, lambda writer, reader: False)
        other = dict(slow.writes)
        red, blue = model.to_single_token("red"), model.to_single_token("blue")
        names = [w.name for w in graph.writers], [r.name for r in graph.readers]
        for seed in range(3):
            cut = torch.rand(graph.allowed.shape, generator=torch.Generator().manual_seed(seed)) < 0.5

            def is_cut(writer: str, reader: str, cut: torch.Tensor = cut) -> bool:
                return bool(cut[names[1].index(reader), names[0].index(writer)])

            logits = slow.run(embeds[0], groups, other, is_cut)
            expected = (logits[:, red] - logits[:, blue]).float()
            torch.testing.assert_close(pair.run(cut), expected, rtol=0, atol=1e-5)
            assert float((expected - pair.ends[0]).abs().max()) > 1e-3, "the comparison could not fail"
