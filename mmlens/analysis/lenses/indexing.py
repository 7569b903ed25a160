"""An index of words in context, made of texts."""

import hashlib
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import nullcontext
from pathlib import Path

import torch
from jaxtyping import Int

from mmlens.analysis.lenses.contextual_index import ContextualIndex
from mmlens.analysis.store.collection_config import CollectionConfig
from mmlens.analysis.store.folder import Done, StoreFolder
from mmlens.analysis.store.shard import MemoryShard, Record
from mmlens.analysis.store.store import ActivationStore
from mmlens.core.contract import checked
from mmlens.core.errors import InputError
from mmlens.core.kinds import Count, CountOrZero, PathLike, Several
from mmlens.core.processes import Process
from mmlens.core.progress import progress_over
from mmlens.hooks.nodes import Points
from mmlens.models.hooked import HookedMultimodal
from mmlens.models.refusal import refuse_forward

#: Entries of a file of a folder.
_SHARD = 16_384


@checked
@torch.no_grad()
def contextual_index(
    model: HookedMultimodal,
    texts: Several[str],
    *,
    at: Points = "blocks.*.hook_resid_post",
    first: CountOrZero = 2,
    most: Count = 50,
    into: PathLike | None = None,
    progress: bool = False,
) -> ContextualIndex:
    """The states of words in texts, for `latent_lens`.

    Args:
        model: the hooked model; texts run without a picture, sample by sample.
        texts: sentences; the more, the better a reading can be.
        at: hook points of the language model.
        first: the first token of a text that is kept, behind its opening token: earlier ones hardly have a context.
        most: contexts of each token; later ones are left out. The same beginning of a text counts once.
        into: folder for an index that memory does not hold: states are written as they are made and stay there; words and
            contexts (some 0.4 KB each) are in memory. A call that was stopped is gone on with by the same call;
            `mm.lenses.ContextualIndex.load(folder)` opens it again.
        progress: show a progress bar.

    Raises:
        InputError: if no token is kept, the model reads no text alone, or the folder holds something else; before any run.
    """
    nodes = model.graph.select(at)
    names = nodes.names
    towers = [node.name for node in nodes if node.sequence != "language"]
    if towers:
        raise InputError(
            f"{towers[0]} holds no states of a text's tokens; index points of the language model: 'blocks.*.hook_resid_post'."
        )
    entries = _Entries(model, first, most)
    pieces = [(tokens, kept, begins) for tokens, kept, begins in map(entries.of, texts) if kept]
    if not pieces:
        raise InputError(
            f"No token of the {len(texts)} texts lies behind the first {first}; give longer texts, or first=0."
        )
    text = model.batch({"input_ids": pieces[0][0], "attention_mask": torch.ones_like(pieces[0][0])})
    refuse_forward(model, text, "The texts of an index")
    said = hashlib.sha256("\0".join(texts).encode()).hexdigest()[:16]
    rule = f"words of {len(texts)} texts ({said}) behind the first {first}, {most} contexts each"
    question = CollectionConfig.of(model, tuple(names), rule=rule, prompt="", max_new_tokens=0, dtype="float16")
    folder = None if into is None else StoreFolder(Path(into), question, Process())
    if folder is not None and (Path(into or "") / "store.json").is_file():
        store = ActivationStore.load(into or "")
        if store.finished:
            return ContextualIndex.of_store(store)
    shards: list[MemoryShard] = []
    with nullcontext(Done()) if folder is None else folder.run() as done:
        for shard in _shards(model, names, pieces, len(done.here or ()), progress):
            if folder is None:
                shards.append(shard)
            else:
                folder.add(shard)
    return ContextualIndex.of_store(
        ActivationStore(question, tuple(shards)) if folder is None else ActivationStore.load(folder.path)
    )


class _Entries:
    """Which tokens of texts are kept: a beginning once, a token so many times."""

    def __init__(self, model: HookedMultimodal, first: int, most: int):
        self.model, self.first, self.most = model, first, most
        self.counts: Counter[int] = Counter()
        self.seen: set[bytes] = set()

    def of(self, text: str) -> tuple[Int[torch.Tensor, "1 pos"], list[int], int]:
        """A text's tokens, the positions that are kept, and how many opening tokens it has."""
        tokens = self.model.to_tokens(text)
        ids, tokenizer = tokens[0].tolist(), self.model.tokenizer
        begins = int(bool(ids) and ids[0] == getattr(tokenizer, "bos_token_id", None))
        kept = []
        digest = hashlib.sha256()
        for position, token in enumerate(ids):
            digest.update(token.to_bytes(8, "little", signed=True))
            if position < self.first + begins or token in tokenizer.all_special_ids or self.counts[token] >= self.most:
                continue
            if (prefix := digest.digest()) not in self.seen:
                self.seen.add(prefix)
                self.counts[token] += 1
                kept.append(position)
        return tokens, kept, begins


def _shards(
    model: HookedMultimodal,
    names: Sequence[str],
    pieces: Sequence[tuple[torch.Tensor, list[int], int]],
    finished: int,
    progress: bool,
) -> Iterator[MemoryShard]:
    """The entries behind those that are finished, whole texts together."""
    number, rows, records = 0, dict[str, list[torch.Tensor]](), list[Record]()
    for tokens, kept, begins in progress_over(pieces, desc="texts", disable=not progress):
        number += len(kept)
        if number <= finished:
            continue
        _, cache = model.run_with_cache(
            model.batch({"input_ids": tokens, "attention_mask": torch.ones_like(tokens)}), names=list(names)
        )
        for name in names:
            unit = torch.nn.functional.normalize(cache[name][0, kept].float(), dim=-1)
            rows.setdefault(name, []).append(unit.half().cpu())
        decode, ids = model.tokenizer.decode, tokens[0].tolist()
        for place, position in enumerate(kept, start=number - len(kept)):
            word, context = decode([ids[position]]).strip(), decode(ids[begins : position + 1])
            records.append(Record(place, str(place), 1, (word,), context))
        if len(records) >= _SHARD:
            yield _shard(rows, records)
            rows, records = {}, []
    if records:
        yield _shard(rows, records)


def _shard(rows: dict[str, list[torch.Tensor]], records: Sequence[Record]) -> MemoryShard:
    none = torch.full((len(records),), -1)
    return MemoryShard({name: torch.cat(pieces) for name, pieces in rows.items()}, tuple(records), none, none, {})
