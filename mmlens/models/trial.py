"""The trial of a family that was worked out: a model wrapped with it, and verified point by point."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from torch import nn

from mmlens.core.errors import MMLensError
from mmlens.declarations.family import Family
from mmlens.discover.outcome import TrialOutcome
from mmlens.models.protocol import HookedModel
from mmlens.models.verify import verify


@dataclass(frozen=True)
class Trial:
    """Tries families on one model; what `mmlens.discover.discover` needs of the hooked models above it.

    Attributes:
        wrap: wraps the model with a family: `HookedMultimodal`.
        model: the bare model.
        example: keyword tensors of one batch with a picture and text.
        progress: show a progress bar while points are verified.
    """

    wrap: Callable[..., HookedModel]
    model: nn.Module
    example: Mapping[str, Any]
    progress: bool = True

    def __call__(self, family: Family) -> TrialOutcome:
        """Verify the model under a family."""
        try:
            hooked = self.wrap(self.model, family=family)
            report = verify(hooked, hooked.batch(dict(self.example)), progress=self.progress)
        except (MMLensError, RuntimeError) as error:
            return TrialOutcome(False, self._stopping(family), f"what was found does not run with hooks: {error}")
        names = [point.name for point in report.points if not point.ok or point.calls != 1]
        ok = report.parity == 0 and not names and report.hooked_parity <= report.tolerance
        if not names:
            names = [name for name in hooked.graph.names if name.endswith("attn.hook_pattern")]
        return TrialOutcome(ok, names if report.parity == 0 else None, f"verify failed: {report!r}")

    def _stopping(self, family: Family) -> list[str]:
        """The points at which a hook alone stops the run."""
        names: list[str] = []
        try:
            hooked = self.wrap(self.model, family=family)
        except MMLensError:
            return names
        for name in hooked.graph.names:
            try:
                hooked.run_with_cache(dict(self.example), names=name)
            except (MMLensError, RuntimeError):
                names.append(name)
        return names
