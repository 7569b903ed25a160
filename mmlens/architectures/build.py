"""From a family's declaration and a real model to hook points and their graph, part by part."""

from dataclasses import dataclass
from typing import cast

from torch import nn

from mmlens.architectures.modules import out_features
from mmlens.architectures.point_collector import Collector
from mmlens.architectures.projector_points import add_deepstack, add_projector
from mmlens.architectures.stacks import StackBuilder
from mmlens.architectures.tensor_parallel import SplitModules
from mmlens.declarations.family import Encoder, Family, Score, Vision
from mmlens.declarations.rows import Form, Rows
from mmlens.declarations.structure import Config, Norm
from mmlens.hooks.attachment import AtSite
from mmlens.hooks.graph import HookGraph
from mmlens.hooks.point import Point
from mmlens.hooks.site import MethodSite
from mmlens.hooks.views import OneRow


@dataclass
class PointGraph:
    """The points of a model and their graph, in execution order."""

    points: dict[str, Point]
    graph: HookGraph


def build(model: nn.Module, family: Family, config: Config) -> PointGraph:
    """All hook points of a model, and their graph.

    Args:
        model: the bare Hugging Face model.
        family: its declaration.
        config: its configuration.

    Raises:
        UnsupportedModelError: if the model lacks a module that the declaration names.
    """
    builder = StackBuilder(Collector(model, family.name, split=SplitModules.of(model)), family, config)
    vision_outputs, further_outputs = _add_vision(builder)
    projections = add_projector(builder, vision_outputs, further_outputs)
    _add_language(builder, projections, add_deepstack(builder))
    collect = builder.collect
    return PointGraph(collect.points, HookGraph(collect.nodes, collect.edges))


def _add_vision(builder: StackBuilder) -> tuple[list[str], list[str]]:
    """The vision encoder; returns the points that are handed on, and those handed on beside them."""
    stacks = builder.family.vision.stacks
    after = builder.add_embedding("vision.hook_embed", stacks[0], builder.rows(stacks[0]), [])
    posts: dict[tuple[str, int], str] = {}
    for stack in stacks:
        names = builder.add("vision", stack, builder.rows(stack), after=None if stack.apart else after)
        posts |= {(stack.name, layer): name for layer, name in enumerate(names)}
        after = names[-1]
    beside = builder.numbered(builder.family.vision.beside(builder.config))
    handed_on = [posts[read] for read in builder.reads()]
    if builder.family.vision.norm is not None:
        handed_on = [_add_final_norm(builder, builder.family.vision, handed_on[-1])]
    return handed_on, [posts[read] for read in beside]


def _add_final_norm(builder: StackBuilder, vision: Vision, last: str) -> str:
    """The tower's final norm, which may see the class row alone; returns the name of its output."""
    rows = builder.rows(vision.stacks[-1])
    if vision.norm_pooled:
        rows = Rows("batch query d_vision", rows.width, "pooled")
        builder.collect.form = Form(one_row=True)
    norm_output = builder.add_norm("vision.ln_final", cast(Norm, vision.norm), rows, last)
    builder.collect.form = Form()
    return norm_output


def _add_language(builder: StackBuilder, projections: str, additions: dict[int, str]) -> None:
    """The language model, from the merged embeddings to the logits.

    Args:
        builder: adds stacks.
        projections: the projector's last point.
        additions: what DeepStack adds, by the block that it is added in front of.
    """
    collect, language = builder.collect, builder.family.language
    width = builder.width(language.stack)
    read = [projections] if language.merges else []
    if language.encoder is None:
        rows = Rows("batch pos d_model", width, "language")
        first = language.stack if language.crossing is None else language.crossing.stack
        if language.enters is None:
            embed = builder.add_embedding("hook_embed", first, rows, read)
        else:
            path, argument = language.enters
            site = AtSite(collect.entering(collect.module(path), argument))
            embed = collect.add("hook_embed", site, rows, after=read, role="writes")
        memory = (projections, "projector")
    else:
        rows = Rows("batch pos d_model", width, "decoder")
        memory = (_add_encoder(builder, language.encoder, read), "language")
        embed = builder.add_embedding("hook_embed", language.stack, rows, [])
    posts = builder.add(
        "language", language.stack, rows, after=embed, memory=memory, additions=additions, cross_stack=language.crossing
    )
    last = posts[-1]
    if language.norm is not None:
        last = builder.add_norm("ln_final", language.norm, rows, last)
    head = collect.module(language.head)
    if builder.family.score is not None:
        _add_score(builder, builder.family.score, head, [last], [projections])
        return
    output_site = AtSite(collect.leaving(head))
    vocab = out_features(head) + language.more_tokens(builder.config)
    collect.add("hook_logits", output_site, rows, axes="batch pos vocab", width=vocab, after=[last])


def _add_score(builder: StackBuilder, score: Score, head: nn.Module, text: list[str], picture: list[str]) -> None:
    """The end of a dual encoder: the text's embedding, and the scores of pictures and texts in the place of logits.

    Args:
        builder: adds stacks.
        score: its declaration.
        head: the module that returns the text's embedding.
        text, picture: the points that both embeddings are made of.
    """
    collect = builder.collect
    rows = Rows("batch query d_model", out_features(head), "pooled")
    collect.form = Form(one_row=True)
    embedding = collect.add("hook_projected", AtSite(collect.leaving(head)), rows, after=text)
    collect.form = Form()
    scores = OneRow(MethodSite(collect.model, "forward", score.field))
    collect.add("hook_logits", AtSite(scores), rows, axes="batch query vocab", width=None, after=[embedding, *picture])


def _add_encoder(builder: StackBuilder, encoder: Encoder, read: list[str]) -> str:
    """The encoder of the language model; returns the point that the decoder looks at."""
    rows = Rows("batch pos d_model", builder.width(encoder.stack), "language")
    embed = builder.add_embedding("encoder.hook_embed", encoder.stack, rows, read)
    last = builder.add("language", encoder.stack, rows, after=embed)[-1]
    return last if encoder.norm is None else builder.add_norm("encoder.ln_final", encoder.norm, rows, last)
