"""What steering one layer adds to the time of generating, beside a generation without it and a hand-written hook."""

from collections.abc import Callable
from typing import Any

import torch

import mmlens as mm
from benchmarks.agreement import DisagreementError, largest_difference
from benchmarks.compare import compare
from benchmarks.contender import Contender
from benchmarks.models import Subject
from benchmarks.table import Row

TARGET = 1.03
_NEW_TOKENS, _LAYER = 24, 6


@torch.no_grad()
def steered(subject: Subject, *, repeats: int, clock: Callable[[], float]) -> list[Row]:
    """Rows of steering every position of the prompt and every new token.

    Args:
        subject: the model and its input.
        repeats: timed rounds.
        clock: as for `alternate`.

    Raises:
        DisagreementError: if mmlens and the hook choose different tokens, or steering changes none.
    """
    model, batch = subject.hooked, subject.batch
    options = {"max_new_tokens": _NEW_TOKENS, "min_new_tokens": _NEW_TOKENS, "pad_token_id": 0}
    block = subject.bare.model.language_model.layers[_LAYER]
    direction = torch.randn(model.cfg.d_model, generator=torch.Generator().manual_seed(0))
    steer = mm.Steer(mm.steering.SteeringVector(direction, f"blocks.{_LAYER}.hook_resid_post"))

    def bare() -> torch.Tensor:
        return subject.bare.generate(**subject.inputs, do_sample=False, **options)

    def hooked() -> torch.Tensor:
        def add(module: Any, args: Any, output: Any) -> Any:
            return output + direction if isinstance(output, torch.Tensor) else (output[0] + direction, *output[1:])

        handle = block.register_forward_hook(add)
        try:
            return bare()
        finally:
            handle.remove()

    def ours() -> torch.Tensor:
        with model.intervene(steer):
            return model.generate(batch, **options)

    name = f"generate {_NEW_TOKENS} tokens, one layer steered ({subject.name})"
    expected = hooked()
    largest_difference(f"{name}: mmlens", {"tokens": expected}, {"tokens": ours()}, tolerance=0.0)
    if torch.equal(expected, bare()):
        raise DisagreementError(f"{name}: steering changes no token, so nothing is compared.")
    note = f"acts on {steer.touched}"
    limit = Contender("bare Hugging Face, not steered", bare, lambda found: {"plain": found})
    apart = frozenset({"plain"})
    others = [
        Contender("mmlens.Steer", ours, lambda found: {"tokens": found}, target=TARGET, lacks=apart, note=note),
        Contender("a torch hook", hooked, lambda found: {"tokens": found}, lacks=apart, note="chooses the same tokens"),
    ]
    return compare(name, limit, others, repeats=repeats, clock=clock)
