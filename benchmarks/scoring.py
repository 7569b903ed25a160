"""Scoring all neurons of the language model for a few tokens: mmlens, activation times gradient, the reference's way."""

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from transformers import LlavaConfig, LlavaForConditionalGeneration

from benchmarks.compare import compare
from benchmarks.contender import Answers, Contender
from benchmarks.models import Subject
from benchmarks.table import Row
from mmlens.analysis.neurons.find import score_words
from mmlens.analysis.neurons.scores import NeuronScores

TARGET = 1.05
_TOKENS = (20, 21, 22, 23, 24)
#: The products are added up in another order.
_ROUNDING = 1e-4
#: Columns of the reference's projection are stored in half precision.
_HALF = 5e-3
_MIB = 2**20


@dataclass(frozen=True)
class _Bare:
    """The weights that scoring reads, and hooks on the inputs of the down projections."""

    subject: Subject

    @property
    def layers(self) -> Any:
        return self.subject.bare.model.language_model.layers

    @property
    def unembedding(self) -> torch.Tensor:
        return self.subject.bare.lm_head.weight

    def activations(self, *, last: bool = False) -> list[torch.Tensor]:
        """One forward pass that keeps every MLP's hidden neurons."""
        kept: list[torch.Tensor] = []

        def keep(module: Any, args: Any) -> None:
            kept.append(args[0][:, -1].clone() if last else args[0])

        handles = [layer.mlp.down_proj.register_forward_pre_hook(keep) for layer in self.layers]
        try:
            self.subject.bare(**self.subject.inputs, use_cache=False)
        finally:
            for handle in handles:
                handle.remove()
        return kept

    def scores(self, kept: list[torch.Tensor]) -> Answers:
        """What the scores must be, in float64."""
        columns = self.unembedding[list(_TOKENS)].double()
        scores = [
            q[:, -1].double() * (columns @ layer.mlp.down_proj.weight.double())
            for q, layer in zip(kept, self.layers, strict=True)
        ]
        return {"scores": torch.stack(scores, dim=1)}

    def projection(self) -> list[torch.Tensor]:
        """The reference's preparation: `W_out @ W_U` of every layer, in float16."""
        table = self.unembedding.float().T
        return [(layer.mlp.down_proj.weight.float().T @ table).half() for layer in self.layers]

    def looked_up(self, projection: list[torch.Tensor]) -> list[torch.Tensor]:
        """The reference's way with an image: a forward pass, and columns of what was prepared."""
        wanted = list(_TOKENS)
        return [
            q * table[:, wanted].T.float() for q, table in zip(self.activations(last=True), projection, strict=True)
        ]


def scoring(subject: Subject, *, repeats: int, clock: Callable[[], float]) -> list[Row]:
    """Rows of scoring five tokens on one image, beside a forward pass that caches the MLPs.

    Args:
        subject: the model and its input.
        repeats: timed rounds.
        clock: as for `alternate`; on a GPU it is always the wall clock.
    """
    bare, model, batch = _Bare(subject), subject.hooked, subject.batch
    on_gpu = model.device.type == "cuda"
    synchronise = torch.cuda.synchronize if on_gpu else lambda: None
    clock = time.perf_counter if on_gpu else clock
    with torch.no_grad():
        synchronise()
        start = clock()
        projection = bare.projection()
        synchronise()
        prepared = 1000 * (clock() - start)

    def scored(method: str) -> list[NeuronScores]:
        return score_words(model, batch, _TOKENS, method=method)

    limit = Contender("bare torch hooks on the MLPs", bare.activations, bare.scores)
    elsewhere = frozenset({"scores"})
    others = [
        Contender("mmlens, contribution", lambda: scored("contribution"), _answers, _ROUNDING, TARGET),
        Contender("mmlens, direct_effect", lambda: scored("direct_effect"), _answers, lacks=elsewhere),
        Contender("mmlens, gradient_x_activation", lambda: scored("gradient_x_activation"), _answers, lacks=elsewhere),
        Contender(
            "the reference's columns",
            lambda: bare.looked_up(projection),
            lambda found: {"scores": torch.stack(found, dim=1)},
            _HALF,
        ),
    ]
    name = f"score all neurons for {len(_TOKENS)} tokens ({subject.name}, {model.device.type})"
    rows = compare(name, limit, others, repeats=repeats, synchronise=synchronise, clock=clock)
    return [*rows, _preparation(name, rows, projection, prepared, subject)]


def _answers(found: list[NeuronScores]) -> Answers:
    return {"scores": torch.stack([each.scores for each in found])}


def _preparation(
    name: str, rows: list[Row], projection: list[torch.Tensor], milliseconds: float, subject: Subject
) -> Row:
    """What the reference prepares, and from how many images on that pays."""
    time_of = {row.contender: row.milliseconds or 0.0 for row in rows}
    saved = time_of["mmlens, contribution"] - time_of["the reference's columns"]
    pays = f"pays from {milliseconds / saved:,.0f} images on" if saved > 0 else "never pays: its images take as long"
    size = sum(table.nbytes for table in projection) / _MIB
    columns = sum(len(_TOKENS) * len(table) * 4 for table in projection) / _MIB
    note = f"once, {size:,.0f} MiB beside {columns:.2f} MiB of columns on demand; {pays}"
    return Row(name, "the reference's preparation", milliseconds, note=note)


def memory() -> list[Row]:
    """What the reference's projection would hold at the sizes of LLaVA 1.5 7B, on tensors without numbers."""
    vision = {"hidden_size": 1024, "intermediate_size": 4096, "num_hidden_layers": 24, "num_attention_heads": 16}
    text = {"hidden_size": 4096, "intermediate_size": 11008, "num_hidden_layers": 32, "num_attention_heads": 32}
    config = LlavaConfig(
        vision_config={"model_type": "clip_vision_model", "image_size": 336, "patch_size": 14, **vision},
        text_config={"model_type": "llama", "vocab_size": 32064, **text},
    )
    with torch.device("meta"):
        model = LlavaForConditionalGeneration(config).half()
    bare = _Bare(Subject("LLaVA 1.5 7B", model, {}))
    with torch.no_grad():
        whole = sum(table.nbytes for table in bare.projection())
        chosen = bare.unembedding[list(_TOKENS)]
        columns = [chosen @ layer.mlp.down_proj.weight for layer in bare.layers]
    ours = sum(each.numel() * 4 for each in columns)
    weights = sum(parameter.nbytes for parameter in model.parameters())
    note = (
        f"the reference's projection {whole / 2**30:.1f} GiB, the columns of {len(_TOKENS)} tokens {ours / _MIB:.1f} MiB; "
        f"the model itself {weights / 2**30:.1f} GiB"
    )
    return [Row("memory of scoring at LLaVA 1.5 7B's sizes (meta tensors)", "mmlens", note=note)]
