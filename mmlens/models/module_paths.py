"""Hook names of what modules take and return: for users who know a model by its modules, or by another library's names."""

import re
from typing import Any

from torch import nn

from mmlens.core.contract import checked
from mmlens.core.errors import UnknownNameError
from mmlens.core.names import nearest
from mmlens.hooks.attachment import AtSite
from mmlens.hooks.site import Site
from mmlens.models.protocol import HookedModel

#: Endings that say which tensor of a module is meant, as in nnsight (`.output[0]`, `.input`) and in TransformerLens's bridge.
_ENDING = re.compile(r"\.(output|input|inputs|hook_out|hook_in)(?:[.\[].*)?$")
#: How TransformerLens's bridge calls parts of a model, and what that is here; what follows is the same but for `_OF_BRIDGE`.
_PREFIXES = {
    "vision_encoder.encoder_layers.": "vision.blocks.",
    "vision_encoder.": "vision.",
    "vision_projector.": "projector.",
}
#: Names of the bridge behind a block's prefix, and the points that hold the same tensor.
_OF_BRIDGE = {
    "hook_in": "hook_resid_pre",
    "hook_out": "hook_resid_post",
    "ln1.hook_in": "hook_resid_pre",
    "ln2.hook_in": "hook_resid_mid",
    "attn.hook_out": "hook_attn_out",
    "attn.q.hook_out": "attn.hook_q",
    "attn.k.hook_out": "attn.hook_k",
    "attn.v.hook_out": "attn.hook_v",
    "attn.o.hook_in": "attn.hook_z",
    "attn.o.hook_out": "hook_attn_out",
    "mlp.hook_out": "hook_mlp_out",
    "mlp.gate.hook_out": "mlp.hook_pre",
    "mlp.out.hook_in": "mlp.hook_post",
    "mlp.out.hook_out": "hook_mlp_out",
    "ln1_post.hook_out": "hook_attn_out",
    "ln2_post.hook_out": "hook_mlp_out",
    "unembed.hook_out": "hook_logits",
    "hook_unembed": "hook_logits",
}


@checked
def hook_name_of(model: HookedModel, path: str) -> str:
    """The hook point that holds what a module returns, or takes.

    Args:
        model: the hooked model.
        path: a module's path in the Hugging Face model, as `hf_model.named_modules()` has it; in front of it `model.` may stand
            once more, and indices may stand in brackets. An ending `.input` means what the module takes; `.output`, or none, what
            it returns. Names of TransformerLens's bridge (`blocks.0.attn.o.hook_in`) work too.

    Raises:
        UnknownNameError: if there is no such module, or no point holds that tensor; names the nearest that there are.

    Example:
        >>> model.hook_name_of("model.language_model.layers[3].mlp")
        'blocks.3.hook_mlp_out'
        >>> model.hook_name_of("model.language_model.layers.3.mlp.down_proj.input")
        'blocks.3.mlp.hook_post'
    """
    bridge_name = _of_bridge(model, path)
    if bridge_name is not None:
        return bridge_name
    match = _ENDING.search(path)
    side = "in" if match and match[1] in ("input", "inputs", "hook_in") else "out"
    plain = re.sub(r"\[(\d+)\]", r".\1", path[: match.start()] if match else path)
    module = _module(model, plain)
    names = _held(model)
    name = names.get((id(module), side))
    if name is not None:
        return name
    modules = {id(module): name for name, module in model.base.named_modules()}
    places = {
        f"{modules[number]}.{'input' if where == 'in' else 'output'}": point
        for (number, where), point in names.items()
        if number in modules
    }
    around = nearest(f"{plain}.{'input' if side == 'in' else 'output'}", places)
    words = "takes" if side == "in" else "returns"
    raise UnknownNameError(
        f"No hook point holds what {plain} ({type(module).__name__}) {words}. Nearest: "
        + "; ".join(f"{place} is {places[place]}" for place in around)
        + "."
    )


def _of_bridge(model: HookedModel, path: str) -> str | None:
    """The point that a name of TransformerLens's bridge, or of a point, means; None if it is neither."""
    name = path
    for bridge_prefix, replacement in _PREFIXES.items():
        if name.startswith(bridge_prefix):
            name = replacement + name.removeprefix(bridge_prefix)
            break
    if name in model.hook_dict:
        return name
    block = re.match(r"((?:vision\.)?blocks\.\d+\.)(.+)", name)
    prefix, rest = (block[1], block[2]) if block else ("", name)
    candidate = prefix + _OF_BRIDGE.get(rest, "")
    return candidate if candidate in model.hook_dict else None


def _module(model: HookedModel, path: str) -> nn.Module:
    """The module of a path, from the Hugging Face model or from what holds it."""
    modules: dict[str, nn.Module] = {name: module for name, module in model.base.named_modules() if name}
    for start in ("", "model.", "hf_model.", "model.model."):
        if path.startswith(start) and path.removeprefix(start) in modules:
            return modules[path.removeprefix(start)]
    close = nearest(path, modules)
    raise UnknownNameError(
        f"{path!r} is no module of {type(model.base).__name__}, and no hook point. Nearest: {', '.join(close) or 'none'}."
    )


def _held(model: HookedModel) -> dict[tuple[int, str], str]:
    """The point that holds what a module takes or returns, by the module's identity."""
    names: dict[tuple[int, str], str] = {}
    for name, point in model.hook_dict.items():
        if point.read_by is not None:
            names.setdefault((id(point.read_by), "in"), name)
        reach: Any = point.attachment
        if not isinstance(reach, AtSite):
            continue
        while reach is not None and not isinstance(reach, Site):
            reach = getattr(reach, "reach", None) or getattr(reach, "site", None)
        if reach is not None:
            names.setdefault((id(reach.module), reach.side), name)
    return names
