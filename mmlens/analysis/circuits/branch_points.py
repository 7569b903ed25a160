"""Where branches of a graph receive what they read, and what stands behind them."""

from torch import nn

from mmlens.analysis.circuits.streams import StreamBranch
from mmlens.architectures.weights import AttentionWeights
from mmlens.hooks.attachment import AtSite, TensorAccess
from mmlens.hooks.point import Point
from mmlens.hooks.site import Site
from mmlens.models.hooked import HookedMultimodal


def reach_of(point: Point) -> TensorAccess | None:
    """How a point reads and writes its tensor, where modules hand it on; None elsewhere."""
    return point.attachment.reach if isinstance(point.attachment, AtSite) else None


def norm_behind(model: HookedMultimodal, out: str, attn: AttentionWeights) -> nn.Module | None:
    """The module that returns what an attention branch adds to the stream, if it is a norm of what `W_O` gives."""
    reach = reach_of(model.hook_dict[out])
    if not isinstance(reach, Site) or list(reach.module.children()) or reach.module is attn.output:
        return None
    return reach.module


def entrance_of(branch: StreamBranch) -> str:
    """Where a branch receives its stream.

    A norm of its own has an entrance (`hooks/entrances.py`); where branches share one, or the norm is known to no hook point,
    it is the branch's own input, seen in front of the norm, if there is one (`wiring.py`).
    """
    if branch.kind == "cross_attn" or branch.shared or branch.bare:
        return f"{branch.block}.{branch.kind}.hook_in"
    return f"{branch.block}.hook_{'mlp' if branch.kind == 'mlp' else 'attn'}_in"


def memory_of(branch: StreamBranch) -> str:
    """Where cross-attention receives what it makes keys and values of."""
    return f"{branch.block}.{branch.kind}.hook_memory"


def short_name(point: str) -> str:
    """The name of a node that has one hook point: `projector`, `projector.deepstack.0`, `encoder.ln_final`."""
    return point.partition(".hook_")[0]
