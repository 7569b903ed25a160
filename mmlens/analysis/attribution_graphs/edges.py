"""Edges: how much of what a feature or a logit is comes from each source, by batched backward passes.

    A[t, s] = s's constant . d(t) / d(constant)         t = sum over s of A[t, s] + bias

A target is a feature's code (its encoder's row is sent back from what its dictionary read) or a logit less the mean of all.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int

from mmlens.analysis.attribution_graphs.linear import HEAD, LinearModel, LinearRun, flat_rows, past_features
from mmlens.analysis.attribution_graphs.structure import Cut
from mmlens.analysis.features.dictionary import SparseDictionary
from mmlens.analysis.statistics.rounding import off_by_rounding
from mmlens.core.errors import InputError


@dataclass(frozen=True)
class SourcePoints:
    """The constants of one point, row by row.

    Attributes:
        cut: the cut that hands them on; None for an entrance.
        rest: what features do not write there, or all that an entrance hands on; zero in rows that are no sources.
        rows: the rows that are sources.
        row, feature, code: of every active feature, ordered by row.
    """

    cut: Cut | None
    rest: Float[torch.Tensor, "row d"]
    rows: Int[torch.Tensor, "source"]
    row: Int[torch.Tensor, "active"]
    feature: Int[torch.Tensor, "active"]
    code: Float[torch.Tensor, "active"]

    def of_features(self, gradient: Float[torch.Tensor, "target row d"]) -> Float[torch.Tensor, "target active"]:
        """What each active feature adds to targets whose gradients are given."""
        if self.cut is None or self.cut.dictionary is None or not len(self.row):
            return gradient.new_zeros(len(gradient), 0)
        W_dec = self.cut.dictionary.to(gradient.device).W_dec.to(gradient.dtype)
        parts: list[torch.Tensor] = []
        for row, count in zip(*self.row.unique_consecutive(return_counts=True), strict=True):
            first = sum(part.shape[1] for part in parts)
            features = self.feature[first : first + int(count)]
            parts.append(gradient[:, int(row)] @ W_dec[features].T)
        return torch.cat(parts, 1) * self.code.to(gradient.dtype)

    def of_rest(self, gradient: Float[torch.Tensor, "target row d"]) -> Float[torch.Tensor, "target source"]:
        """What is not of features adds, by row."""
        return torch.einsum("trd,rd->tr", gradient, self.rest.to(gradient.dtype))[:, self.rows]


class Edges:
    """All edges that can be asked for in one linear model.

    Args:
        linear: the model.
        run: its run.

    Attributes:
        sources: by point, in execution order. Columns of edges are all active features, then the errors of all cuts, then the
            rows of all entrances.
        dictionaries: those whose features are nodes, by the point that they write.
        place, row, feature, code: of every active feature: the number of its dictionary, and what it is.
    """

    @torch.no_grad()
    def __init__(self, linear: LinearModel, run: LinearRun):
        self.linear, self.run = linear, run
        places = {cut.name: cut for cut in linear.structure.cuts}
        masks = {entrance.node.name: entrance.text_only for entrance in linear.structure.entrances}
        texts = ~linear.batch.layout.is_image.flatten()
        self.sources = {
            name: _of_cut(places[name], run) if name in places else _of_entrance(leaf, texts if masks[name] else None)
            for name, leaf in run.leaves.items()
        }
        of_cuts = [source.cut for source in self.sources.values() if source.cut is not None]
        self.dictionaries = {cut.name: cut.dictionary for cut in of_cuts if cut.dictionary is not None}
        counts = [len(self.sources[name].row) for name in self.dictionaries]
        self.place = torch.arange(len(counts)).repeat_interleave(torch.tensor(counts, dtype=torch.long))
        self.row, self.feature = (self._joined(name).long() for name in ("row", "feature"))
        self.code = self._joined("code")
        biases = {name: _bias(dictionary, run.leaves[name]) for name, dictionary in self.dictionaries.items()}
        self._without = linear.replay(run, biases)

    def _joined(self, name: str) -> torch.Tensor:
        parts = [getattr(self.sources[at], name).cpu() for at in self.dictionaries]
        return torch.cat(parts) if parts else torch.zeros(0)

    @property
    def errors(self) -> list[tuple[str, int]]:
        """The point and row of every error."""
        return [(n, int(row)) for n, source in self.sources.items() if source.cut is not None for row in source.rows]

    @property
    def entering(self) -> list[tuple[str, int]]:
        """The point and row of every source of an entrance."""
        return [(n, int(row)) for n, source in self.sources.items() if source.cut is None for row in source.rows]

    @torch.no_grad()
    def constants(self) -> dict[str, torch.Tensor]:
        """What every cut and entrance hands on, without what transcoders lead past their features."""
        constants = {name: leaf.detach() for name, leaf in self.run.leaves.items()}
        for name, dictionary in self.dictionaries.items():
            past = past_features(dictionary, self.run.reads[name].detach(), constants[name])
            if past is not None:
                constants[name] = constants[name] - past
        return constants

    def of_features(
        self, numbers: Int[torch.Tensor, "target"], batch_size: int
    ) -> Iterator[tuple[torch.Tensor, Float[torch.Tensor, "target column"], Float[torch.Tensor, "target"]]]:
        """Edges into features, some at a time: which features, their edges, and their biases.

        Args:
            numbers: among all active ones.
            batch_size: targets of one backward pass.

        Raises:
            InputError: if a feature's code is no sum of edges and bias.
        """
        for number, name in enumerate(self.dictionaries):
            for chunk in numbers[self.place[numbers] == number].split(batch_size):
                if not len(chunk):
                    continue
                x, rows, features = self.run.reads[name], self.row[chunk], self.feature[chunk]
                dictionary = self.dictionaries[name].to(x.device)
                vectors = dictionary.W_enc.T[features]
                if dictionary.r_mag is not None:
                    vectors = vectors * dictionary.r_mag[features].exp()[:, None]
                back = x.new_zeros(len(chunk), *x.shape)
                back.view(len(chunk), -1, dictionary.d_in)[torch.arange(len(chunk)), rows] = vectors.to(x)
                edges = self._edges(x, back, name)
                without = flat_rows(self._without[name], dictionary.d_in)[rows].to(dictionary.W_enc.dtype)
                pre = dictionary.pre_codes(without)[torch.arange(len(chunk)), features]
                self._require_sum(edges, pre, self.code[chunk], f"features of {name}", x.dtype)
                yield chunk, edges.cpu(), pre.cpu()

    def of_logits(
        self, targets: Sequence[tuple[int, int]]
    ) -> tuple[Float[torch.Tensor, "target column"], Float[torch.Tensor, "target"], Float[torch.Tensor, "target"]]:
        """Edges into logits, their biases and values.

        Args:
            targets: row and token of each; values are less the mean over the vocabulary.

        Raises:
            InputError: if a logit is no sum of edges and bias.
        """
        rows, tokens = torch.tensor(targets).unbind(1)
        head, without = (flat_rows(x.detach(), x.shape[-1])[rows] for x in (self.run.reads[HEAD], self._without[HEAD]))
        value, bias = (h.gather(1, tokens.to(h.device)[:, None])[:, 0] - h.mean(-1) for h in (head, without))
        edges = self.logit_edges(targets)
        self._require_sum(edges, bias.to(edges), value.to(edges), "logits", head.dtype)
        return edges, bias.cpu(), value.cpu()

    def logit_edges(self, targets: Sequence[tuple[int, int]]) -> Float[torch.Tensor, "target column"]:
        """Edges into logits less their mean, whether they add up or not; `targets` as for `of_logits`."""
        with torch.enable_grad():
            head = self.run.reads[HEAD]
            rows = flat_rows(head, head.shape[-1])
            logits = [rows[row, token] - rows[row].mean() for row, token in targets]
        return torch.cat([self._edges(logit, torch.ones_like(logit)[None], HEAD) for logit in logits]).cpu()

    def _edges(self, target: torch.Tensor, back: torch.Tensor, name: str) -> Float[torch.Tensor, "target column"]:
        """Edges of targets whose gradients by what was read are given, `[target *read]`."""
        names = [point for point in self.run.leaves if _comes_before(point, name, list(self.run.leaves))]
        leaves = [self.run.leaves[point] for point in names]
        products: Sequence[torch.Tensor | None] = (
            torch.autograd.grad(target, leaves, back, retain_graph=True, allow_unused=True, is_grads_batched=True)
            if target.requires_grad
            else [None] * len(leaves)
        )
        by_point = dict(zip(names, products, strict=True))
        features: list[torch.Tensor] = []
        errors: list[torch.Tensor] = []
        inputs: list[torch.Tensor] = []
        for point, source in self.sources.items():
            gradient, width = by_point.get(point), source.rest.shape[1]
            wide = torch.promote_types(back.dtype, torch.float32)
            if gradient is None:
                parts = back.new_zeros(len(back), len(source.row)), back.new_zeros(len(back), len(source.rows))
            else:
                rows = gradient.reshape(len(back), -1, width).to(wide)
                parts = source.of_features(rows), source.of_rest(rows)
            features.append(parts[0].to(wide))
            (inputs if source.cut is None else errors).append(parts[1].to(wide))
        return torch.cat([*features, *errors, *inputs], 1)

    def _require_sum(
        self, edges: torch.Tensor, bias: torch.Tensor, value: torch.Tensor, what: str, dtype: torch.dtype
    ) -> None:
        """Refuse a model in which something else than what is held fast is no linear map."""
        value = value.to(edges)
        total = edges.sum(1) + bias.to(edges)
        size = edges.abs().sum(1) + bias.abs().to(edges) + value.abs()
        share = float(((total - value).abs() / size.clamp_min(1e-30)).max())
        precision = min((dtype, value.dtype), key=lambda kind: torch.finfo(kind).bits)
        if share > off_by_rounding(precision):
            in_towers = len(self.linear.structure.parts) > 1
            raise InputError(
                f"The {what} of {self.linear.model.family.name} are no sums of what MLPs and inputs write, even with patterns "
                f"and norms held fast: {share:.1%} of what flows there is missing, since the model multiplies streams elsewhere. "
                + (
                    "Begin at the language model: leave out dictionaries of the vision encoder and the projector."
                    if in_towers
                    else "Its attention is gated, or it has other products; mm.find_circuit and mm.patch need no linear model."
                )
            )


def _comes_before(point: str, name: str, order: list[str]) -> bool:
    """Whether a point's constant can reach what a dictionary reads, or the head."""
    return name == HEAD or order.index(point) < order.index(name)


def _of_cut(cut: Cut, run: LinearRun) -> SourcePoints:
    y = run.leaves[cut.name].detach()
    no_rows = torch.zeros(0, dtype=torch.long)
    if cut.dictionary is None:
        rows = flat_rows(y, y.shape[-1])
        return SourcePoints(cut, rows, torch.arange(len(rows)), no_rows, no_rows, torch.zeros(0))
    dictionary = cut.dictionary.to(y.device)
    x = flat_rows(run.reads[cut.name].detach(), dictionary.d_in).to(dictionary.W_enc.dtype)
    codes = dictionary.encode(x)
    past = past_features(dictionary, run.reads[cut.name].detach(), y)
    left = flat_rows(y if past is None else y - past, dictionary.d_out)
    left = left.to(torch.promote_types(left.dtype, codes.dtype))
    rest = left - codes @ dictionary.W_dec - dictionary.b_dec
    row, feature = codes.nonzero(as_tuple=True)
    return SourcePoints(cut, rest, torch.arange(len(rest)), row, feature, codes[row, feature])


def _of_entrance(leaf: torch.Tensor, texts: torch.Tensor | None) -> SourcePoints:
    rows = flat_rows(leaf.detach(), leaf.shape[-1])
    no_rows = torch.zeros(0, dtype=torch.long)
    text_rows = torch.arange(len(rows)) if texts is None else texts.nonzero().flatten().cpu()
    return SourcePoints(None, rows, text_rows, no_rows, no_rows, torch.zeros(0))


def _bias(dictionary: SparseDictionary, like: torch.Tensor) -> torch.Tensor:
    """What a dictionary writes without features, at every row."""
    b_dec = dictionary.to(like.device).b_dec
    return b_dec.expand(like.numel() // len(b_dec), -1).reshape(like.shape)
