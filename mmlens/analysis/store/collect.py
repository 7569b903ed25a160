"""`collect`: the states of a dataset in one pass over the model.

Source: which state stands for a word: Parekh, Khayatan, Shukor, Newson, Cord, "A Concept-Based Explainability Framework for
Large Multimodal Models", NeurIPS 2024 (https://arxiv.org/abs/2406.08074), section 3.1: X = {X_i : t in f(X_i) and t in y_i},
z_i = the state that predicts the first occurrence of t in the caption, at its last token.
Departs: words are matched as words, and only in what was generated. The published code looked for the text anywhere, so that
"red" was found in "covered", and some words in the prompt.
"""

from collections.abc import Iterator, Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import Literal, cast

import torch

from mmlens.analysis.samples.sample import DEFAULT_PROMPT, Dataset, Sample, as_samples, batches, length_of
from mmlens.analysis.store.at_positions import AtGenerated, AtPositions, Generated
from mmlens.analysis.store.at_word import AtWord, WordToken
from mmlens.analysis.store.collection_config import CollectionConfig
from mmlens.analysis.store.folder import Done, StoreFolder
from mmlens.analysis.store.rules import CollectionRule, refuse_keys
from mmlens.analysis.store.size import SizeEstimate, estimate, require_room
from mmlens.analysis.store.store import ActivationStore
from mmlens.analysis.store.writing import DTYPES, ShardWriter
from mmlens.architectures.tensor_parallel import is_split
from mmlens.core.contract import checked
from mmlens.core.errors import InputError
from mmlens.core.kinds import Count, PathLike, Text
from mmlens.core.processes import Process
from mmlens.core.rules import GENERATED, Positions, as_rule
from mmlens.hooks.nodes import Points, Selection
from mmlens.models.contrast.methods import ContrastChoice, ContrastMethod
from mmlens.models.hooked import HookedMultimodal
from mmlens.models.processes import process_of


@checked
@torch.no_grad()
def collect(
    model: HookedMultimodal,
    dataset: Dataset,
    *,
    at: Points,
    token: str | Sequence[str] | None = None,
    positions: Positions | Generated | None = None,
    word_token: WordToken = "last",
    every_word: bool = False,
    in_truth: bool = False,
    prompt: Text | None = None,
    max_new_tokens: Count = 30,
    contrast: ContrastChoice = None,
    into: PathLike | None = None,
    dtype: Literal["float16", "bfloat16", "float32"] = "float16",
    batch_size: Count = 8,
    save_every: Count = 256,
    progress: bool = True,
) -> ActivationStore:
    """Keep the states of one or several points over a dataset: of a word in the model's captions, or of some positions.

    What is kept of a sample:

    - `token="dog"`: the state that predicts the word in the model's own caption, at its first occurrence; samples whose
      caption lacks it give none. Several words are a class: the first of them that the caption has; with `every_word` each
      of them is its own: a caption gives a state for every one that it has.
    - `positions="generated"` or `"generated_mean"`: the states that predict each generated token up to the end token,
      or their mean.
    - any other `positions` (see `mm.positions`): states of the prompt, or of the picture's own towers, from one forward pass.

    Into a folder, runs are resumable: a run that was stopped, however suddenly, is gone on with by the same call, and
    nothing is lost or doubled. A finished store is extended: samples that it has (by their pixels and prompt) are left
    out.

    On several devices, start the program by `accelerate launch --multi_gpu --num_processes 4 ...` (or `torchrun`): each process
    takes its share of the dataset and writes its own files, and the store is the one that a lone process makes. Where there is
    no accelerator the same command runs on the processor; `accelerate launch --cpu` starts one process, whatever number it is
    given.

    Args:
        model: the hooked model.
        dataset: see `mmlens.analysis.samples.sample.Dataset`; read once, in order, a batch in memory at a time.
        at: hook points, several at once.
        token: a word, or several; words of the caption are compared whole, in lower case. "traffic light" is two in a row.
        positions: see above.
        word_token: which token of a word of several tokens (the last one in the paper).
        every_word: of several words, keep the states of all that a caption has, in place of the first's.
        in_truth: keep a sample only if its true caption has the word as well.
        prompt: asked where a sample brings none; `"describe the image"` by default.
        max_new_tokens: upper bound on the generated tokens.
        contrast: contrastive decoding of what is generated, as for `model.generate`; states are those of the sample's own run.
        into: folder of the store; None keeps it in memory.
        dtype: in which states are kept.
        batch_size: samples at a time.
        save_every: samples per file; at most this many are lost when a run is killed.
        progress: show a progress bar over samples.

    Returns:
        The store; `.at(point)` gives states.

    Raises:
        InputError: for points that predict no token, a word that is none, positions that do not exist, or a folder that
            holds the store of another question; before any forward pass.
        MMLensError: if a state is too large for `dtype`, or the disk too small.

    Example:
        >>> import mmlens as mm
        >>> store = mm.collect(model, [scene], at="blocks.4.hook_resid_post", token=["person", "circle"], progress=False)
        >>> store.at().tokens, store.at().captions
        (('person',), ('a small person in orange on sand',))
    """
    rule = _rule(
        token, positions, word_token, in_truth, max_new_tokens, cast("ContrastMethod | None", contrast), every_word
    )
    nodes = model.graph.select(at)
    _check(model, nodes, rule, dtype, batch_size, save_every)
    question_text = DEFAULT_PROMPT if prompt is None else prompt
    length = 0 if isinstance(rule, AtPositions) else max_new_tokens
    question = CollectionConfig.of(
        model, tuple(nodes.names), rule=str(rule), prompt=question_text, max_new_tokens=length, dtype=dtype
    )
    process = process_of(model)
    if into is not None and is_split(model.base):
        raise InputError(
            "The processes of this launch hold one model together, and all would write the same store; collect in memory "
            "(into=None), where each has the whole of it."
        )
    if into is None and process.count > 1:
        raise InputError(
            f"{process.count} processes cannot share memory; collect into a folder: collect(..., into=path)."
        )
    folder = None if into is None else StoreFolder(Path(into), question, process)
    total = length_of(dataset)
    numbers: list[int] = []
    block = batch_size
    full = -(-save_every // batch_size) * batch_size  # whole batches, so that a resumed run makes the same ones
    tokenizer = None if model.processor is None else model.tokenizer
    run = nullcontext(Done()) if folder is None else folder.run()
    with run as finished_part, ShardWriter(folder, dtype=DTYPES[dtype], samples=full, tokenizer=tokenizer) as writer:
        queue = _pending(as_samples(dataset, prompt=prompt), finished_part, process, block, numbers, into)
        remainder = None if total is None else max(0, total // process.count - len(finished_part.here or ()))
        batch_stream = batches(model, queue, batch_size=batch_size, progress=progress, desc="collect", total=remainder)
        for count, (samples, batch) in enumerate(batch_stream):
            result = rule.take(model, nodes, samples, batch)
            if folder is not None and not count:
                require_room(folder.path, rule, result, dtype=DTYPES[dtype], samples=remainder)
            writer.add(numbers[: len(samples)], samples, result)
            del numbers[: len(samples)]
    if folder is None:
        return ActivationStore(question, tuple(writer.kept))
    return ActivationStore.load(folder.path)


@checked
def size_estimate(
    model: HookedMultimodal,
    dataset: Dataset,
    *,
    at: Points,
    token: str | Sequence[str] | None = None,
    positions: Positions | Generated | None = None,
    prompt: Text | None = None,
    max_new_tokens: Count = 30,
    dtype: Literal["float16", "bfloat16", "float32"] = "float16",
) -> SizeEstimate:
    """How many bytes `collect` will store, at most; runs the first sample, for one token.

    Args:
        model, dataset, at, token, positions, prompt, max_new_tokens, dtype: as for `collect`.

    Returns:
        Bytes per sample and in all.

    Raises:
        InputError: as `collect`, and for a dataset that can be read only once.

    Example:
        >>> import mmlens as mm
        >>> print(mm.store.size_estimate(model, [scene] * 1000, at="blocks.*.hook_resid_post", positions="generated"))
        65.9 MiB (1000 samples, 67.5 KiB per sample)
    """
    rule = _rule(token, positions, "last", False, max_new_tokens)
    nodes = model.graph.select(at)
    _check(model, nodes, rule, dtype, 1, 1)
    return estimate(model, dataset, nodes, rule, dtype=DTYPES[dtype], prompt=prompt)


def _rule(
    token: str | Sequence[str] | None,
    positions: Positions | Generated | None,
    word_token: WordToken,
    in_truth: bool,
    max_new_tokens: int,
    contrast: ContrastMethod | None = None,
    every_word: bool = False,
) -> CollectionRule:
    """What is asked for, as a rule.

    Raises:
        InputError: if it is nothing, or two things, or cannot be.
    """
    if (token is None) == (positions is None):
        raise InputError(
            f"Say which states to keep, by one of token= and positions=; found {'both' if token is not None else 'neither'}. "
            "token='dog' keeps the state that predicts the word in the model's caption."
        )
    if token is not None:
        return AtWord.of(token, word_token, in_truth, max_new_tokens, contrast, every_word)
    if in_truth or every_word:
        option = "in_truth=True compares a word with true captions" if in_truth else "every_word=True is of words"
        raise InputError(f"{option}; say which word: token=...")
    if positions == "generated_mean" or as_rule(positions) == GENERATED:
        kind: Generated = "generated_mean" if positions == "generated_mean" else "generated"
        return AtGenerated(kind, max_new_tokens, contrast)
    if contrast is not None:
        raise InputError(
            f"contrast= changes what is written, and positions={positions!r} are read in a forward pass, which writes nothing; "
            "collect token=... or positions='generated', or leave contrast out."
        )
    return AtPositions(as_rule(positions))


def _check(
    model: HookedMultimodal, nodes: Selection, rule: CollectionRule, dtype: str, batch_size: int, save_every: int
) -> None:
    """Refuse what cannot be, before any forward pass."""
    refuse_keys(nodes)
    rule.check(model, nodes)


def _pending(
    samples: Iterator[Sample],
    finished_part: Done,
    process: Process,
    block: int,
    numbers: list[int],
    where: str | Path | None,
) -> Iterator[Sample]:
    """The samples that this process has still to run; their order numbers are appended as they go.

    Raises:
        InputError: if a sample is not the one that an interrupted run found in its place.
    """
    here = finished_part.here or {}
    for place, sample in enumerate(samples):
        number = finished_part.base + place
        if not process.takes(place, block) or sample.key in finished_part.before:
            continue
        if number in here:
            if here[number] != sample.key:
                raise InputError(
                    f"The store at {where} is unfinished, and its sample {place} is another ({here[number]}, now {sample.key}): "
                    "finish it with the dataset that it was begun with, or collect into another folder."
                )
            continue
        numbers.append(number)
        yield sample
