"""The hook points of a projector, and of the further mergers that feed the language model above its first block."""

from dataclasses import replace
from typing import Any, cast

from torch import nn

from mmlens.architectures.attention_points import add_attention
from mmlens.architectures.modules import out_features
from mmlens.architectures.stacks import StackBuilder
from mmlens.core.errors import UnsupportedModelError
from mmlens.declarations.projector import Pooling
from mmlens.declarations.rows import Form, Rows
from mmlens.hooks.attachment import AtSite
from mmlens.hooks.mixture import Unflattened


def add_projector(builder: StackBuilder, handed_on: list[str], beside: list[str]) -> str:
    """The projector; returns its last point.

    Args:
        builder: adds stacks.
        handed_on: the points of the tower that it receives.
        beside: those that it gets by a second argument.
    """
    collect, projector = builder.collect, builder.family.projector
    collect.form = Form(projector.nested, projector.lone_axis, one_row=projector.one_row)
    is_packed = builder.family.vision.stacks[0].packed if projector.packed is None else projector.packed
    batch = "patch" if is_packed else "batch patch"
    first = _add_input(builder, batch, handed_on)
    sequence = "pooled" if projector.one_row else "queries" if projector.queries else "projector"
    windows = projector.pooling is not None and projector.pooling.windows
    axes = "batch query d_model" if projector.queries else f"{'patch' if windows else batch} d_model"
    width = projector.width(builder.config) if projector.width else builder.width(builder.family.language.stack)
    rows = Rows(axes, width, sequence)
    inner = _add_hidden(builder, rows, batch, [first, *beside])
    output = collect.returned(projector.returns)
    if projector.laid_out is not None:
        output = Unflattened(output, collect.leaving(collect.module(projector.laid_out)))
    collect.form = Form()
    return collect.add("projector.hook_out", AtSite(output), rows, after=inner)


def _add_input(builder: StackBuilder, batch: str, handed_on: list[str]) -> str:
    """What the projector receives; returns the name of its point."""
    collect, vision, projector = builder.collect, builder.family.vision, builder.family.projector
    path, argument = projector.receives
    module = collect.module(path)
    width = sum(node.width or 0 for node in collect.nodes if node.name in handed_on)
    width *= projector.side_by_side(builder.config)
    if projector.received_width is not None:
        width = projector.received_width(builder.config)
    if argument is None:
        site, batch = collect.leaving(module), "patch" if vision.stacks[0].packed else "batch patch"
    else:
        site = collect.entering(module, argument)
    rows = Rows(f"{batch} d_vision", width, projector.receives_rows)
    if vision.norm_pooled:
        rows = Rows("batch query d_vision", width, "pooled")
    shape: dict[str, Any] = {"axes": "batch d_vision row column", "width": None} if vision.stacks[-1].maps else {}
    return collect.add("projector.hook_in", AtSite(site), rows, after=handed_on, **shape)


def _add_hidden(builder: StackBuilder, output: Rows, batch: str, read: list[str]) -> list[str]:
    """What lies between the projector's input and its output; returns the points that its output is computed from.

    Args:
        builder: adds stacks.
        output: the rows that it returns.
        batch: the axes in front of the features of the rows that it receives.
        read: its input.
    """
    collect, projector = builder.collect, builder.family.projector
    if projector.mlp is not None and projector.mlp_first:
        rows = Rows(f"{batch} d_model", -1, projector.receives_rows)
        read = collect.mlp("projector.mlp", projector.mlp, None, rows, read)
    if projector.stack is not None:
        text = any(kind.text_mlp for kind in projector.stack.kinds)
        rows = Rows("batch pos d_model", builder.width(projector.stack), "queries+text" if text else output.sequence)
        memory = (read[0], projector.receives_rows)
        # after=None: the queries are learned, nothing flows into the first block's stream
        read = [builder.add("projector", projector.stack, rows, after=None, memory=memory)[-1]]
    if projector.pooling is not None:
        read = [_add_pooling(builder, projector.pooling, read)]
    if projector.mixer is not None:
        site = AtSite(collect.leaving(collect.module(projector.mixer)))
        read = [collect.add("projector.hook_mixer_out", site, output, width=None, after=read)]
    if projector.mlp is not None and not projector.mlp_first:
        rows = replace(output, sequence=projector.mlp_rows or output.sequence)
        outer = collect.form
        collect.form = replace(outer, rows_first=projector.mlp_rows_first)
        read = collect.mlp("projector.mlp", projector.mlp, None, rows, read)
        collect.form = outer
    return read


def _add_pooling(builder: StackBuilder, pooling: Pooling, read: list[str]) -> str:
    """Attention in no block; returns the name of its output."""
    collect, attention = builder.collect, pooling.attention
    batch_axis = "windows" if pooling.windows else "queries"
    looked_at = batch_axis if pooling.windows else builder.family.projector.receives_rows
    width = out_features(collect.module(attention.o))
    rows = Rows("batch query d_model", width, batch_axis)
    z = add_attention(
        collect,
        "projector.cross_attn",
        attention,
        collect.model,
        heads=pooling.heads(builder.config),
        rows=rows,
        # learned queries read nothing; those of a window are made of its patches
        query_from=read if pooling.windows else [],
        key_from=read,
        key_sequence=f"{looked_at}+{batch_axis}" if attention.joined else looked_at,
    )
    branch = collect.branch(attention.branch, collect.model, attention.scale)
    return collect.add("projector.hook_cross_attn_out", branch, rows, after=[z])


def add_deepstack(builder: StackBuilder) -> dict[int, str]:
    """The further mergers; returns their outputs by the language block that they are added in front of."""
    collect, deep = builder.collect, builder.family.projector.deepstack
    if deep is None:
        return {}
    vision = builder.family.vision.stacks[-1]
    axes = "patch d_model" if vision.packed else "batch patch d_model"
    rows = Rows(axes, builder.width(builder.family.language.stack), "projector")
    additions: dict[int, str] = {}
    mergers = list(cast(nn.ModuleList, collect.module(deep.path)))
    reads, into = deep.read(builder.config), deep.into(builder.config)
    depth = len(builder.blocks(builder.family.language.stack))
    if not all(0 < layer < depth for layer in into):
        raise UnsupportedModelError(
            f"{builder.family.name} adds vision features in front of language blocks {list(into)}; of {depth} blocks it must be "
            f"some of 1..{depth - 1}."
        )
    for number, (merger, read, layer) in enumerate(zip(mergers, reads, into, strict=True)):
        prefix = f"projector.deepstack.{number}"
        beside = deep.side_by_side(builder.config)
        sequence = "vision" if beside == 1 else "projector"
        input_rows = Rows(axes.replace("d_model", "d_vision"), builder.width(vision) * beside, sequence)
        input_site = AtSite(collect.entering(merger, deep.argument))
        post = f"vision.{vision.name}.{read}.hook_resid_post"
        last = collect.add(f"{prefix}.hook_in", input_site, input_rows, after=[post])
        inner = collect.mlp(f"{prefix}.mlp", deep.mlp, merger, rows, [last])
        output_site = AtSite(collect.leaving(merger))
        additions[layer] = collect.add(f"{prefix}.hook_out", output_site, rows, after=inner)
    return additions
