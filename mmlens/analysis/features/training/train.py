"""`train_sae`: a sparse autoencoder or transcoder of states that were collected.

Source: Gao et al., "Scaling and evaluating sparse autoencoders", 2024 (https://arxiv.org/abs/2406.04093), TopK with the
auxiliary loss; transcoders past which what is read goes: Paulo, Shabalin, Belrose, "Transcoders Beat Sparse Autoencoders for
Interpretability", 2025 (https://arxiv.org/abs/2501.18823); one threshold for use: Bussmann et al., "BatchTopK Sparse
Autoencoders", 2024 (https://arxiv.org/abs/2412.06410).
"""

from collections.abc import Iterator
from dataclasses import asdict
from typing import Any

import torch

from mmlens.analysis.features.dictionary import SparseDictionary
from mmlens.analysis.features.row_quality import RowQuality, RowSums
from mmlens.analysis.features.training.coder import Selection, SparseCoder, require_sparsify
from mmlens.analysis.features.training.result import SAETraining, TrainingPoint
from mmlens.analysis.features.training.rows import PointStates, TrainingData, TrainingRows
from mmlens.core.checkpoint import Checkpoint
from mmlens.core.contract import checked
from mmlens.core.errors import InputError
from mmlens.core.identity import identity_of
from mmlens.core.kinds import Count, Fraction, PathLike, Positive, Seed, Text
from mmlens.core.progress import ProgressBar
from mmlens.core.tensor_kinds import Device

_POINTS = 100  # of the history


@checked
def train_sae(
    states: TrainingData,
    *,
    at: Text | None = None,
    source: Text | PointStates | None = None,
    n_features: Count,
    k: Count = 24,
    skip: bool = False,
    selection: Selection | None = None,
    epochs: Count = 4,
    batch_size: Count = 1024,
    lr: Positive | None = None,
    held_out: Fraction = 0.1,
    dead_after: Count = 50_000,
    seed: Seed = 0,
    checkpoint: PathLike | None = None,
    device: Device = "cpu",
    progress: bool = True,
) -> SAETraining:
    """Train a sparse autoencoder on states of one point, or a transcoder from one point to another.

    Rows are read from their files as they are needed and mixed across samples. Training begins at the mean of the states, keeps
    what features write at length 1, and brings dead features back by an auxiliary loss. With a `checkpoint` the same call goes on
    where an interrupted one stopped, to the same bits.

    Args:
        states: a store from `mm.collect`, states of one point, or several of either, e.g. rows of pictures and of answers.
        at: the hook point, where the stores hold several.
        source: of a transcoder, what it reads: a point of the stores, `"blocks.3.mlp.hook_in"` where they were collected inside
            `mm.features.mlp_inputs`, or states of the same rows. None for an autoencoder.
        n_features: how many features; 4 to 8 times the width in small models.
        k: features of a row, on average where `selection="jumprelu"`.
        skip: of a transcoder, let what is read also go past the features, by a matrix.
        selection: how features of a row are chosen in what is returned: `"topk"`, its k largest, or `"jumprelu"`, those above one
            threshold that leaves k on average. The default is topk for autoencoders; transcoders are always jumprelu, which
            SAELens's format has and by which no feature depends on another.
        epochs: passes over the rows.
        batch_size: rows a step.
        lr: highest learning rate of Adam; None for sparsify's rule, `2e-4 / sqrt(n_features / 16384)`.
        held_out: the share of pictures (rows of one name, or of one picture and prompt) that are not trained on, and on which the
            result is measured.
        dead_after: rows without a code after which a feature counts as dead.
        seed: of first weights, the order of rows, and which pictures are held out.
        checkpoint: a file; written every few seconds.
        device: where to train.
        progress: show a progress bar over steps.

    Returns:
        The dictionary (`.sae`), on the CPU, with the history and what it gives back of held-out pictures.

    Raises:
        InputError: before any step, if sparsify is not installed, points or rows do not fit, k is too large, or the checkpoint is
            of another run.

    Example:
        >>> store = mm.collect(model, scenes, at="blocks.3.hook_resid_post", positions="all")  # doctest: +SKIP
        >>> mm.train_sae(store, n_features=1536).sae.encode(states)  # doctest: +SKIP
    """
    require_sparsify()
    if k > n_features:
        raise InputError(f"k={k} features of a row are more than n_features={n_features}.")
    if batch_size < 4:
        raise InputError(f"batch_size={batch_size}: a step compares rows with their mean, so it needs 4 at least.")
    if source is None and skip:
        raise InputError(
            "skip=True leads what is read past the features of a transcoder; name what it reads: source=..."
        )
    if source is not None and selection == "topk":
        raise InputError(
            "A transcoder chooses by a threshold (selection='jumprelu'): SAELens's format has no other one."
        )
    rows = TrainingRows.of(states, at, source, held_out=held_out, seed=seed)
    if rows.count < 2:
        raise InputError(f"held_out={held_out} leaves {rows.count} of {len(rows)} rows to train on; hold out fewer.")
    rule: Selection = selection or ("topk" if source is None else "jumprelu")
    target, at_in = rows.targets[0].at, _at_in(rows, source)
    settings: dict[str, Any] = {
        "trainer": f"mmlens.train_sae, sparsify {require_sparsify().__version__}",
        "n_features": n_features,
        "k": k,
        "skip": skip,
        "epochs": epochs,
        "batch_size": batch_size,
        "lr": lr,
        "held_out": held_out,
        "dead_after": dead_after,
        "seed": seed,
        "selection": rule,
    }
    run = Checkpoint(
        checkpoint, "training", lambda _: {"states": rows.identity, "settings": identity_of(settings), "at": target}
    )
    first_x, first_y = _first_rows(rows, at_in)
    coder = SparseCoder(
        *(first_x, first_y),
        n_features=n_features, k=k, selection=rule, transcodes=source is not None, skip=skip,
        lr=lr, dead_after=dead_after, seed=seed, device=torch.device(device),
    )  # fmt: skip
    history = _learn(rows, coder, run, epochs=epochs, batch_size=batch_size, progress=progress)
    sae = coder.dictionary(target, at_in, first_x)
    quality, silent = _measured(rows, sae)
    dead = float(coder.dead.float().mean()) if quality is None else silent
    return SAETraining(sae, history, quality, dead, rows.count, settings)


def _first_rows(rows: TrainingRows, at_in: str | None) -> tuple[torch.Tensor, torch.Tensor]:
    """The rows that training begins with, once they are all finite and of one width."""
    first_x, first_y = rows.buffer(0, 0)
    target = rows.targets[0].at
    if not (first_x.isfinite().all() and first_y.isfinite().all()):
        raise InputError(
            f"States at {target} are not all finite; leave those that are not out, or collect them in float32."
        )
    if first_x.shape[1] != first_y.shape[1]:
        raise InputError(
            f"sparsify trains transcoders between points of one width, found d={first_x.shape[1]} at {at_in} and "
            f"d={first_y.shape[1]} at {target}."
        )
    return first_x, first_y


def _at_in(rows: TrainingRows, source: object) -> str | None:
    """What a transcoder reads, as `SparseDictionary.at_in` says it."""
    if source is None:
        return None
    return source if isinstance(source, str) else rows.sources[0].at


def _learn(
    rows: TrainingRows, coder: SparseCoder, run: Checkpoint, *, epochs: int, batch_size: int, progress: bool
) -> tuple[TrainingPoint, ...]:
    """Train from where the checkpoint stands to the end."""
    counts = [rows.batches(epoch, batch_size) for epoch in range(epochs)]
    total = sum(map(sum, counts))
    every = max(1, total // _POINTS)
    if run.tensors:
        coder.restore(run.tensors)
    about = run.parts or {
        "step": 0,
        "rows": 0,
        "points": [],
        "sums": {"unexplained": 0.0, "auxiliary": 0.0, "steps": 0},
    }
    with ProgressBar(total=total, initial=about["step"], desc="train", unit="step", disable=not progress) as bar:
        for x, y in _batches(rows, counts, about["step"]):
            for name, value in coder.step(x, y, about["step"] / total).items():
                about["sums"][name] += value
            about["sums"]["steps"] += 1
            about["step"] += 1
            about["rows"] += len(y)
            bar.update()
            if about["step"] % every == 0 or about["step"] == total:
                sums, dead = about["sums"], float(coder.dead.float().mean())
                means = (sums["unexplained"] / sums["steps"], sums["auxiliary"] / sums["steps"])
                point = TrainingPoint(about["step"], about["rows"], *means, dead)
                about["points"].append(asdict(point))
                about["sums"] = dict.fromkeys(sums, 0)
                bar.set_postfix(explained=f"{1 - point.unexplained:.3f}", dead=f"{dead:.1%}")
                run.tensors, run.parts = coder.state(), about
                run.save(now=about["step"] == total)
    return tuple(TrainingPoint(**point) for point in about["points"])


def _batches(rows: TrainingRows, counts: list[list[int]], start: int) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
    """All batches from a step on; buffers before it are not read."""
    n_before = 0
    for epoch, buffers in enumerate(counts):
        for number, count in enumerate(buffers):
            if n_before + count > start:
                x, y = rows.buffer(epoch, number)
                pieces = list(zip(x.tensor_split(count), y.tensor_split(count), strict=True))
                yield from pieces[max(0, start - n_before) :]
            n_before += count


@torch.no_grad()
def _measured(rows: TrainingRows, sae: SparseDictionary) -> tuple[RowQuality | None, float]:
    """What is given back of the rows that are held out, and the share of features that are 0 in all of them."""
    sums = RowSums(len(sae), sae.d_out)
    for x, y in rows.held_rows():
        codes = sae.encode(x)
        recons = sae.decode(codes, x)
        sums.add(codes, recons, y - recons)
    return (sums.quality, float((sums.fired == 0).float().mean())) if sums.rows else (None, 0.0)
