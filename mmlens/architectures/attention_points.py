"""The points of an attention computation: its projections, what enters the product, scores, pattern and heads' outputs."""

from dataclasses import replace

from torch import nn

from mmlens.architectures.adapter_layers import base_layer
from mmlens.architectures.attention_interface import attention_tower, looks_kernel_up
from mmlens.architectures.modules import in_features
from mmlens.architectures.point_collector import Collector
from mmlens.architectures.projections import LETTERS, product_name, projection_of, treatment_of
from mmlens.declarations.rows import Rows
from mmlens.declarations.structure import Attention
from mmlens.hooks.attachment import AtSite
from mmlens.hooks.attention import ATTENTION_KINDS, AttentionKind, InAttention
from mmlens.hooks.heads import Projected, SideBySide


def add_attention(
    collect: Collector,
    prefix: str,
    attention: Attention,
    block: nn.Module,
    *,
    heads: int,
    rows: Rows,
    query_from: list[str],
    key_from: list[str],
    key_sequence: str,
) -> str:
    """Add the points of an attention computation; returns the name of the last, `hook_z`.

    Args:
        collect: where they go.
        prefix: of their names.
        attention: where things are.
        block: the block.
        heads: number of query heads.
        rows: the stream that queries are made of.
        query_from, key_from: the points that queries, and keys and values, are computed from.
        key_sequence: what keys run over.
    """
    if attention.kernel is None or not looks_kernel_up(collect.module(attention.kernel, block)):
        return _outputs_alone(collect, f"{prefix}.hook_z", attention, block, heads, rows, [*query_from, *key_from])
    kernel, last = collect.module(attention.kernel, block), collect.module(attention.o, block)
    d_head = in_features(last) // heads
    tower = collect.towers.setdefault(id(kernel.config), attention_tower(kernel.config, is_packed=rows.packed))
    axes, crosses = _axes(rows), prefix.endswith("cross_attn")
    key_rows = Rows(rows.axes, rows.width, key_sequence)
    if attention.over_channels:
        # the last axis runs over the positions, however many the picture has
        key_rows = rows = Rows(rows.axes, rows.width, "channels")
    names: dict[AttentionKind, str] = {kind: f"{prefix}.hook_{kind}" for kind in ATTENTION_KINDS}
    after: dict[AttentionKind, list[str]] = {"q": query_from, "k": key_from, "v": key_from}
    at_linears: set[AttentionKind] = set()
    for letter in LETTERS:
        name = names[letter]
        treatment = treatment_of(kernel, attention, letter, crosses=crosses)
        names[letter] = f"{prefix}.{product_name(letter, treatment)}"
        projection = projection_of(block, attention, letter, heads=heads, d_head=d_head)
        is_behind = names[letter] != name or treatment.scaled
        # rows that another sequence or a window lays out are those of the product alone
        if projection is not None and is_behind and not (crosses and letter != "q") and collect.windows is None:
            site = AtSite(Projected(collect.leaving(projection.linear), projection))
            # rows of the pass under way, also of keys and values
            pass_axes = axes[letter].replace("key", "pos")
            collect.add(name, site, rows, axes=pass_axes, width=d_head, after=after[letter])
            after[letter] = [name]
            at_linears |= {letter} if names[letter] == name else set()
    after |= {"attn_scores": [names["q"], names["k"]], "pattern": [names["attn_scores"]]}
    after["z"] = [names["pattern"], names["v"]]
    split = collect.split.received.get(id(base_layer(last)))
    split = None if split is None else replace(split, size=None)  # of heads, all processes have as many
    for kind in ATTENTION_KINDS:
        if kind in at_linears:
            continue
        wide = kind in ("attn_scores", "pattern")
        varies = wide or attention.over_channels or (attention.latent and kind in "qk")
        collect.add(
            names[kind],
            InAttention(kernel, kind, tower, split),
            key_rows if kind in "kv" else rows,
            axes=axes[kind],
            width=None if varies else d_head,
            after=after[kind],
            on_request=wide,
            units=heads if kind == "z" else None,
            read_by=last if kind == "z" else None,
        )
    return names["z"]


def _axes(rows: Rows) -> dict[AttentionKind, str]:
    batch = "" if rows.packed else "batch "
    queries, keys, pairs = (f"{batch}{axes}" for axes in ("query head d_head", "key head d_head", "head query key"))
    return {"q": queries, "k": keys, "v": keys, "attn_scores": pairs, "pattern": pairs, "z": queries}


def _outputs_alone(
    collect: Collector, name: str, attention: Attention, block: nn.Module, heads: int, rows: Rows, after: list[str]
) -> str:
    """What the heads hand to the last linear, where nothing else of the attention can be reached."""
    last = collect.module(attention.o, block)
    width = in_features(last) // heads
    site = AtSite(SideBySide(collect.entering(last), heads))
    axes = f"{'' if rows.packed else 'batch '}query head d_head"
    return collect.add(name, site, rows, axes=axes, width=width, after=dict.fromkeys(after), units=heads, read_by=last)
