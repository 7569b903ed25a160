"""`verify`: fire every hook point, edit it, and compare with the bare Hugging Face model."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

import torch

from mmlens.core.contract import checked
from mmlens.core.errors import InputError, VerificationError
from mmlens.core.names import into_product
from mmlens.core.progress import progress_over
from mmlens.core.view import Display
from mmlens.hooks.attention import allowed_by
from mmlens.inputs.batch import BatchLike, MultimodalBatch
from mmlens.models.alone import AloneCheck, check_alone
from mmlens.models.dual_encoder import run_forward
from mmlens.models.forward_inputs import completed_inputs
from mmlens.models.protocol import Hooked, HookedModel
from mmlens.models.rounding import ROUNDING_FACTOR, rounding

if TYPE_CHECKING:
    import pandas as pd


@dataclass(frozen=True)
class PointCheck:
    """What was found at one point.

    Attributes:
        name: hook name.
        calls: how often it fired in one forward.
        shape: of the tensor it saw, empty if it never fired.
        width_fits: whether the last axis has the width that the graph says.
        effect: largest change of a logit when noise is added there; None if not tried.
        dead: the declared reason why it cannot move the logits, or None.
    """

    name: str
    calls: int
    shape: tuple[int, ...]
    width_fits: bool
    effect: float | None
    dead: str | None

    @property
    def ok(self) -> bool:
        """Fired, of the declared width, and moving the logits exactly if it is not declared dead."""
        causal = self.effect is None or (self.effect > 0) != (self.dead is not None)
        return self.calls > 0 and self.width_fits and causal


@dataclass(frozen=True)
class VerifyReport(Display):
    """The table that `verify` returns.

    Attributes:
        model: the model's class.
        points: one check per hook point.
        parity: largest difference of logits between the wrapped model without hooks and the bare one (must be 0).
        hooked_parity: the same with every point hooked, at positions that are not padding.
        tolerance: the bound on `hooked_parity`, from the model's own rounding on this batch.
        alone: how far what is read of a sample depends on what it runs with; None if not tried.
        looking_ahead: attention in which positions see later ones, where the family says that they look back only.
    """

    model: str
    points: tuple[PointCheck, ...]
    parity: float
    hooked_parity: float
    tolerance: float
    alone: AloneCheck | None = None
    looking_ahead: tuple[str, ...] = ()

    @property
    def failed(self) -> list[PointCheck]:
        """The points that are not as declared."""
        return [point for point in self.points if not point.ok]

    @property
    def ok(self) -> bool:
        """Whether everything holds."""
        sound = not self.failed and not self.looking_ahead and not (self.alone and self.alone.failed)
        return sound and self.parity == 0 and self.hooked_parity <= self.tolerance

    def __repr__(self) -> str:
        dead = sum(point.dead is not None for point in self.points)
        lines = [
            f"{self.model}: {len(self.points)} hook points, {len(self.failed)} failed, {dead} declared dead; "
            f"difference from bare Hugging Face {self.parity:g} without hooks, {self.hooked_parity:.1e} with all"
        ]
        lines += [f"  {p.name}: calls {p.calls}, shape {list(p.shape)}, effect {p.effect}" for p in self.failed[:20]]
        if self.alone is not None:
            failures = {variant: self.alone.points[variant] for variant in self.alone.failed}
            where = (
                f"; too far: {', '.join(f'{variant} at {name}' for variant, name in failures.items())}"
                if failures
                else ""
            )
            lines.append(f"  {self.alone!r}{where}")
        if self.looking_ahead:
            lines.append(
                f"  {self.looking_ahead[0]}: positions see later ones, so the family's Language needs looks_ahead=True"
            )
        return "\n".join(lines)

    def to_frame(self) -> "pd.DataFrame":
        """One row per point."""
        import pandas as pd

        rows = [
            {"name": p.name, "calls": p.calls, "shape": p.shape, "effect": p.effect, "dead": p.dead, "ok": p.ok}
            for p in self.points
        ]
        return pd.DataFrame(rows)

    def raise_if_failed(self) -> "VerifyReport":
        """Return the report if all is well.

        Raises:
            VerificationError: with the table of what failed.
        """
        if not self.ok:
            raise VerificationError(repr(self))
        return self


def example_batch(model: HookedModel) -> MultimodalBatch:
    """A small batch of noise pictures and a short question.

    Raises:
        InputError: if the model has no processor.
    """
    if model.processor is None:
        raise InputError("verify needs a batch for a model without a processor: verify(model, batch=...).")
    batch = _examples(model, [0])
    if "decoder_input_ids" in batch:
        # one token alone has nothing to attend to, so that edits of its queries and keys could not show
        batch = model.extend(batch, model.to_tokens(_QUESTIONS[0])[:, :3])
    return batch


#: What is asked about the example pictures; of different length, so that one is padded beside the other.
_QUESTIONS = ("describe the image", "what is it in the middle of the image and what is it for")


def _examples(model: HookedModel, samples: Sequence[int], **options: Any) -> MultimodalBatch:
    """A batch of some of two questions, each about a noise picture of its own."""
    generators = [torch.Generator().manual_seed(sample) for sample in samples]
    pictures = [torch.randint(0, 256, (64, 64, 3), generator=g, dtype=torch.uint8) for g in generators]
    return model.prepare([_QUESTIONS[sample] for sample in samples], [[picture] for picture in pictures], **options)


@checked
@torch.no_grad()
def verify(
    model: Hooked, batch: BatchLike | None = None, *, causal: bool = True, progress: bool = True
) -> VerifyReport:
    """Check that every listed hook point fires, is of the declared width, and moves the logits when edited.

    Args:
        model: the hooked model.
        batch: what to run on; noise pictures with a short question by default, of which it is then also tried whether what
            is read of a sample depends on padding, batch-mates or how it was written.
        causal: edit each point and look at the logits: one forward per point.
        progress: show a progress bar.

    Returns:
        A report that prints itself; `.ok`, `.to_frame()`, `.raise_if_failed()`.
    """
    alone = None
    if batch is None:
        batch = example_batch(model)
        if model.family.score is None:  # what a dual encoder reads is not written on
            alone = check_alone(model, partial(_examples, model))
    inputs = batch.to(model.device).inputs
    with completed_inputs(model, inputs, written=batch.written):
        bare = run_forward(model.family, model.hf_model, inputs)
    parity = _difference(model(batch), bare)
    shapes: dict[str, list[tuple[int, ...]]] = {name: [] for name in model.graph.names}
    ahead: list[str] = []
    backwards = set() if model.family.language.looks_ahead else _over_what_is_written(model)

    def look(activation: torch.Tensor, hook: Any) -> None:
        shapes[hook.name].append(tuple(activation.shape))
        if hook.name in backwards and _sees_later(activation, batch, model.graph[hook.name].sequence):
            ahead.append(hook.name)

    hooked = model.run_with_hooks(batch, fwd_hooks=[("*", look)])
    real = torch.ones(hooked.shape[:2], dtype=torch.bool, device=hooked.device)
    if model.graph["hook_logits"].sequence == "language":
        real = batch.layout.is_token.to(hooked.device)
    checks = []
    for node in progress_over(model.graph, desc="verify", disable=not progress):
        calls, effect = shapes[node.name], None
        if causal and calls:
            effect = _difference(model.run_with_hooks(batch, fwd_hooks=[(node.name, _noise())])[real], bare[real])
        shape = calls[-1] if calls else ()
        width_fits = bool(calls) and (node.width is None or shape[-1] == node.width)
        checks.append(PointCheck(node.name, len(calls), shape, width_fits, effect, node.dead))
    return VerifyReport(
        type(model.hf_model).__name__,
        tuple(checks),
        parity,
        _difference(hooked[real], bare[real]),
        ROUNDING_FACTOR * rounding(model, batch),
        alone,
        tuple(ahead),
    )


def _noise() -> Callable[..., torch.Tensor]:
    """A hook that adds seeded noise of the activation's own size."""
    generator = torch.Generator().manual_seed(0)

    def add(activation: torch.Tensor, hook: Any) -> torch.Tensor:
        noise = torch.randn(activation.shape, generator=generator).to(activation)
        size = activation.abs().clamp(max=1e4).float().mean().clamp(min=0.1).to(activation.dtype)
        return activation + noise * size

    return add


def _over_what_is_written(model: HookedModel) -> set[str]:
    """The attention scores among the positions that new tokens follow."""
    graph = model.graph
    sequence = graph["hook_logits"].sequence
    scores = [node.name for node in graph if node.kind == "attn.attn_scores" and node.sequence == sequence]
    keys = {name: into_product(graph.names, name.removesuffix(".hook_attn_scores"), "k") for name in scores}
    return {name for name, at in keys.items() if graph[at].sequence == sequence}


def _sees_later(scores: torch.Tensor, batch: MultimodalBatch, sequence: str) -> bool:
    """Whether a position that is no padding sees a later one; scores are very low where nobody looks."""
    later = allowed_by(scores).triu(1)
    if sequence == "language":
        real = batch.layout.is_token.to(scores.device)
        later = later & real[:, None, :, None] & real[:, None, None, :]
    return bool(later.any())


def _difference(a: torch.Tensor, b: torch.Tensor) -> float:
    return float((a - b).abs().max())
