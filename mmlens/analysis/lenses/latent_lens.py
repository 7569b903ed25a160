"""Latent lens: which words in context have states most like those of image rows.

    reading of row x at layer l  =  the k entries (word, context, layer) with the largest  cos(x, h),   h a state of a text

Source: Krojer et al., "LatentLens: Revealing Highly Interpretable Visual Tokens in LLMs", 2026
(https://arxiv.org/abs/2602.00462), section 3; the package latentlens. *Departs:* the package stacks what it finds layer by layer
and fails where a layer holds fewer than k entries; its files are pickles, which are opened here as data alone.
"""

import heapq
import pickle
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from jaxtyping import Float

from mmlens.core.contract import checked, checked_result
from mmlens.core.errors import DamagedFileError, InputError
from mmlens.core.kinds import Count, CountOrZero, PathLike, Several
from mmlens.core.progress import progress_over
from mmlens.core.rules import Positions, as_rule
from mmlens.core.saved import Saved
from mmlens.core.view import Viewable
from mmlens.hooks.nodes import Points
from mmlens.inputs.batch import BatchLike
from mmlens.inputs.row_reader import RowReader
from mmlens.models.hooked import HookedMultimodal

if TYPE_CHECKING:
    import pandas as pd

_PIECE = 65_536
#: What reading a file that is something else raises.
_DAMAGES = (
    *(ValueError, KeyError, TypeError, AttributeError, RuntimeError, EOFError, OSError),
    pickle.UnpicklingError,
)


@checked_result
@dataclass(frozen=True, repr=False)
class ContextualIndex(Saved):
    """States of words in texts, by hook point, of length 1.

    Attributes:
        states: by hook name `[entry d_model]`, in float16.
        words: by hook name, the word of each entry.
        contexts: by hook name, the text that it stands in, up to the word.

    Example:
        >>> import mmlens as mm
        >>> index = mm.lenses.contextual_index(model, ["a red circle", "a blue moon"], at="blocks.[24].hook_resid_post")
        >>> index.words["blocks.4.hook_resid_post"][:2]
        ('circle', 'moon')
    """

    states: Mapping[str, Float[torch.Tensor, "entry d_model"]]
    words: Mapping[str, tuple[str, ...]]
    contexts: Mapping[str, tuple[str, ...]] = field(default_factory=dict)

    def __repr__(self) -> str:
        return f"ContextualIndex({', '.join(f'{name}: {len(rows)} words' for name, rows in self.states.items())})"

    @classmethod
    @checked
    def from_latentlens(cls, folder: PathLike, *, n_layers: Count) -> "ContextualIndex":
        """Read an index that the package latentlens wrote: `layer_N/embeddings_cache.pt`, for each layer.

        Its layer N is `blocks.{N-1}.hook_resid_post`, 0 the embedding; that behind the last block is normed, and left out, as its
        states are not of the stream.

        Args:
            folder: the folder.
            n_layers: blocks of the model that it was made with.

        Raises:
            InputError: for a folder without layers.
            DamagedFileError: for files that hold something else.
        """
        states, words, contexts = {}, {}, {}
        paths = sorted(Path(folder).glob("layer_*/embeddings_cache.pt"), key=lambda p: int(p.parent.name.split("_")[1]))
        for path in paths:
            number = int(path.parent.name.split("_")[1])
            if number >= n_layers:
                continue
            try:
                content = torch.load(path, weights_only=True, map_location="cpu")
                rows, about = content["embeddings"], content["metadata"]
                if len(rows) != len(about):
                    raise ValueError(f"{len(rows)} embeddings and {len(about)} entries")
                words_here = tuple(str(entry["token_str"]).strip() for entry in about)
                contexts_here = tuple(str(entry.get("caption", "")) for entry in about)
            except (
                ValueError,
                KeyError,
                TypeError,
                AttributeError,
                RuntimeError,
                EOFError,
                OSError,
                pickle.UnpicklingError,
            ) as error:
                raise DamagedFileError(
                    f"{path} is no layer of a latentlens index: {str(error).splitlines()[0]}"
                ) from error
            name = "hook_embed" if number == 0 else f"blocks.{number - 1}.hook_resid_post"
            states[name] = torch.nn.functional.normalize(rows.float(), dim=-1).half()
            words[name], contexts[name] = words_here, contexts_here
        if not states:
            raise InputError(
                f"{folder} holds no layer_N/embeddings_cache.pt of a latentlens index (layers below {n_layers})."
            )
        return cls(states, words, contexts)


@checked
@torch.no_grad()
def contextual_index(
    model: HookedMultimodal,
    texts: Several[str],
    *,
    at: Points = "blocks.*.hook_resid_post",
    first: CountOrZero = 2,
    most: Count = 50,
    progress: bool = False,
) -> ContextualIndex:
    """The states of words in texts, for `latent_lens`.

    Args:
        model: the hooked model; texts run without a picture, sample by sample.
        texts: sentences; the more, the better a reading can be.
        at: hook points of the language model.
        first: the first token of a text that is kept, behind its opening token: earlier ones hardly have a context.
        most: contexts of each token; later ones are left out. The same beginning of a text counts once.
        progress: show a progress bar.

    Raises:
        InputError: if no token is kept, or the model reads no text alone.
    """
    nodes = model.graph.select(at)
    rows: dict[str, list[torch.Tensor]] = {node.name: [] for node in nodes}
    words: list[str] = []
    contexts: list[str] = []
    counts: Counter[int] = Counter()
    seen: set[tuple[int, ...]] = set()
    for text in progress_over(texts, desc="texts", disable=not progress):
        tokens = model.to_tokens(text)
        ids = tokens[0].tolist()
        begins = int(bool(ids) and ids[0] == getattr(model.tokenizer, "bos_token_id", None))
        kept = []
        for position in range(first + begins, len(ids)):
            prefix = tuple(ids[: position + 1])
            if (
                prefix not in seen
                and counts[ids[position]] < most
                and ids[position] not in model.tokenizer.all_special_ids
            ):
                seen.add(prefix)
                counts[ids[position]] += 1
                kept.append(position)
        if not kept:
            continue
        batch = model.batch({"input_ids": tokens, "attention_mask": torch.ones_like(tokens)})
        _, cache = model.run_with_cache(batch, names=[node.name for node in nodes])
        for name, pieces in rows.items():
            pieces.append(torch.nn.functional.normalize(cache[name][0, kept].float(), dim=-1).half().cpu())
        words += [model.tokenizer.decode([ids[position]]).strip() for position in kept]
        contexts += [model.tokenizer.decode(ids[begins : position + 1]) for position in kept]
    if not words:
        raise InputError(
            f"No token of the {len(texts)} texts lies behind the first {first}; give longer texts, or first=0."
        )
    every = tuple(words), tuple(contexts)
    return ContextualIndex(
        {name: torch.cat(pieces) for name, pieces in rows.items()},
        dict.fromkeys(rows, every[0]),
        dict.fromkeys(rows, every[1]),
    )


@dataclass(frozen=True)
class LatentWord:
    """A word in context whose state is like a row's.

    Attributes:
        word: the word.
        context: the text up to it.
        at: the hook point of its state.
        cosine: between both states.
    """

    word: str
    context: str
    at: str
    cosine: float


@checked_result
@dataclass(frozen=True, repr=False)
class LatentReading(Viewable):
    """What rows read as, by the words in context that they are most like.

    Attributes:
        words: by hook name, sample and row, the nearest words, best first.
        positions: per sample, the rows, counted among the sample's own tokens.
    """

    words: Mapping[str, tuple[tuple[tuple[LatentWord, ...], ...], ...]]
    positions: tuple[tuple[int, ...], ...]

    def __repr__(self) -> str:
        name, samples = next(iter(self.words.items()))
        best = ", ".join(row[0].word for row in (samples[0] if samples else ())[:6])
        return f"LatentReading({len(self.words)} points, {sum(map(len, self.positions))} rows; {name}: {best}, ...)"

    @checked
    def named(self, word: str | Sequence[str], *, k: Count = 1) -> dict[str, float]:
        """By hook name, the share of rows that have a word among their k nearest.

        Args:
            word: the word, or several that count.
            k: how many of the nearest.
        """
        wanted = {word.casefold()} if isinstance(word, str) else {one.casefold() for one in word}
        shares = {}
        for name, samples in self.words.items():
            hits = [any(w.word.casefold() in wanted for w in row[:k]) for sample in samples for row in sample]
            shares[name] = sum(hits) / len(hits)
        return shares

    def to_frame(self) -> "pd.DataFrame":
        """A row per point, sample, row and word: its context, where its state is from, and the cosine."""
        import pandas as pd

        return pd.DataFrame(
            [
                {"point": name, "sample": sample, "position": self.positions[sample][row], "rank": rank, **vars(found)}
                for name, samples in self.words.items()
                for sample, rows in enumerate(samples)
                for row, nearest in enumerate(rows)
                for rank, found in enumerate(nearest)
            ]
        )


@checked
@torch.no_grad()
def latent_lens(
    model: HookedMultimodal,
    batch: BatchLike,
    index: ContextualIndex,
    *,
    at: Points | None = None,
    positions: Positions = "image",
    k: Count = 5,
) -> LatentReading:
    """Read rows by the words in context whose states, of any layer of an index, are most like theirs.

    Args:
        model: the hooked model.
        batch: what to run on.
        index: from `contextual_index(...)`, or `mm.lenses.ContextualIndex.from_latentlens(folder, ...)`.
        at: which points' rows are read; by default those of the index.
        positions: which rows (see `mm.positions`); image rows by default.
        k: how many words each; fewer where the index holds fewer.

    Raises:
        InputError: for points of another width than the index, or positions that name nothing.

    Example:
        >>> import mmlens as mm
        >>> index = mm.lenses.contextual_index(model, ["a small red circle", "a big blue moon"], at="blocks.4.hook_resid_post")
        >>> len(latent_lens(model, batch, index, k=2).words["blocks.4.hook_resid_post"][0][0])
        2
    """
    nodes = model.graph.select(list(index.states) if at is None else at)
    for node in nodes:
        width = next(iter(index.states.values())).shape[1]
        if node.width != width:
            raise InputError(
                f"The index holds states of width {width}, and {node.name} has {node.width}; make one of it."
            )
    reader = RowReader(as_rule(positions), batch, nodes)
    _, cache = model.run_with_cache(batch, names=[node.name for node in nodes])
    words = {}
    numbers: tuple[tuple[int, ...], ...] = ()
    for node in nodes:
        rows = reader.flat(node, cache[node.name])
        resolved = reader.resolved[node.name]
        numbers = tuple(tuple(own.tolist()) for own in resolved.numbers)
        nearest = _nearest(torch.nn.functional.normalize(rows.float().cpu(), dim=-1), index, k)
        counts = [len(own) for own in numbers]
        starts = [sum(counts[:sample]) for sample in range(len(counts))]
        words[node.name] = tuple(tuple(nearest[s : s + c]) for s, c in zip(starts, counts, strict=True))
    return LatentReading(words, numbers)


def _nearest(rows: Float[torch.Tensor, "row d_model"], index: ContextualIndex, k: int) -> list[tuple[LatentWord, ...]]:
    """The k entries most like each row, over all layers of an index, a piece of it at a time."""
    best: list[list[tuple[float, int, str, int]]] = [[] for _ in rows]
    tie = 0
    for name, states in index.states.items():
        for start in range(0, len(states), _PIECE):
            cosines = rows @ states[start : start + _PIECE].float().T
            top = cosines.topk(min(k, cosines.shape[1]), dim=1)
            for heap, values, places in zip(best, top.values.tolist(), top.indices.tolist(), strict=True):
                for value, place in zip(values, places, strict=True):
                    tie += 1
                    heapq.heappush(heap, (value, -tie, name, start + place))
                    if len(heap) > k:
                        heapq.heappop(heap)
    return [
        tuple(
            LatentWord(index.words[name][place], (index.contexts.get(name) or [""] * (place + 1))[place], name, value)
            for value, _, name, place in sorted(heap, reverse=True)
        )
        for heap in best
    ]
