"""The check before every timing: do the contenders give the same answers?"""

import torch

from benchmarks.contender import Answers


class DisagreementError(Exception):
    """Two contenders give different answers, so comparing their speed would mean nothing."""


def largest_difference(who: str, expected: Answers, found: Answers, *, tolerance: float) -> float:
    """Compare what a contender answers with what the limit answers.

    Args:
        who: the contender, for the message.
        expected: the limit's answers by name.
        found: the contender's; answers that the limit does not give are ignored.
        tolerance: largest absolute difference that counts as equal; 0 means bit-equal.

    Returns:
        The largest absolute difference over all expected answers.

    Raises:
        DisagreementError: if an answer is missing, a shape differs, a value is not finite, or a difference exceeds the
            tolerance.
    """
    missing = [name for name in expected if name not in found]
    if missing:
        raise DisagreementError(f"{who} does not answer {len(missing)} of {len(expected)} things: {_few(missing)}.")
    differences = {name: _difference(value, found[name]) for name, value in expected.items()}
    # written so that nan counts as a disagreement
    wrong = [f"{name} by {value:.3g}" for name, value in differences.items() if not value <= tolerance]
    if wrong:
        raise DisagreementError(
            f"{who} differs from the limit in {len(wrong)} of {len(expected)} answers (allowed: {tolerance:.3g}): "
            f"{_few(wrong)}."
        )
    return max(differences.values(), default=0.0)


def _difference(expected: torch.Tensor, found: torch.Tensor) -> float:
    if expected.shape != found.shape:
        return float("inf")
    return float((expected.double() - found.double()).abs().max()) if expected.numel() else 0.0


def _few(items: list[str], count: int = 4) -> str:
    return ", ".join(items[:count]) + (f" and {len(items) - count} more" if len(items) > count else "")
