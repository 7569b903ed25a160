"""Random units of the same layers."""

from dataclasses import dataclass

from mmlens.analysis.controls.match import MATCHES, Match


@MATCHES.register("layer")
@dataclass(frozen=True)
class Layer(Match):
    """Any other units of the same blocks and branches, as many in each."""
