"""What is inside of a block: attention with its linears, an MLP, and the norms in front of them."""

from collections.abc import Callable
from typing import Any, cast

import torch
from torch import nn

from mmlens.declarations.structure import Attention, Block, Norm
from mmlens.discover.attention_calls import AttentionCall
from mmlens.discover.branches import Branch, is_norm, residual_of
from mmlens.discover.mlps import feeds, mlp_branch
from mmlens.discover.pieces import NotFound, inside_of, linears_of, relative
from mmlens.discover.trace import Call, Trace, called_again, noisy, same


def block_of(model: nn.Module, trace: Trace, call: Call) -> tuple[Block, int]:
    """A block's declaration and its number of heads (1 where it has no attention that was seen).

    Raises:
        NotFound: if its output is not its input and two branches.
    """
    residual = residual_of(trace, call)
    if residual is None:
        raise NotFound(
            f"{call.path} ({type(call.module).__name__}) returns no sum of its input and the outputs of two of its modules"
        )
    attn, heads = _attention(model, trace, call, residual.first)
    mixer = None if attn is not None else relative(residual.first.call.path, call.path)
    mlp = mlp_branch(trace, call, residual.second)
    ln1 = _norm_in_front(trace, call, residual.first)
    ln2 = _norm_in_front(trace, call, residual.second)
    block = Block(
        mlp=mlp,
        attn=attn,
        mixer=mixer,
        ln1=ln1,
        ln2=None if residual.parallel else ln2,
        middle=None if residual.middle is None else relative(residual.middle.path, call.path),
        parallel=residual.parallel,
    )
    return block, heads


# -- attention -------------------------------------------------------------------------------------------------------


def _attention(model: nn.Module, trace: Trace, block: Call, branch: Branch) -> tuple[Attention | None, int]:
    """The attention of a branch, or None where it holds none that hooks could enter."""
    notes = [note for note in trace.attention if branch.start < note.when < branch.end]
    kernel_notes = [note for note in notes if note.registered]
    calls = inside_of(trace, branch.start, branch.end)
    path = relative(branch.call.path, block.path)
    scale = branch.factor
    if not kernel_notes:
        heads = {note.heads for note in notes}
        end = _output_linear(trace, calls, notes, branch) if len(heads) == 1 else None
        if end is None or end.linear.in_features % min(heads):
            return None, 1
        count, projections = heads.pop(), {}
        if len(notes) == 1 and notes[0].query is not None:
            width = end.linear.in_features
            projections = _projections(model, block, notes[0], calls, width)
        inside: dict[str, Any] = {name: relative(linear, block.path) for name, linear in projections.items()}
        last = relative(end.path, block.path)
        return Attention(None, branch=path, o=last, scale=scale, **inside), count
    modules = {id(note.module): note.module for note in kernel_notes}
    kernel = next((c for c in trace.calls if len(modules) == 1 and c.module is kernel_notes[0].module), None)
    o = _output_linear(trace, calls, kernel_notes, branch)
    if kernel is None or o is None or not kernel.path.startswith(block.path):
        return None, 1
    note = kernel_notes[0]
    count, d_value = note.heads, cast(torch.Tensor, note.output).shape[-1]
    if o.linear.in_features != count * d_value:
        return None, 1
    projections = _projections(model, kernel, note, calls, count * d_value)
    inside = {name: relative(linear, block.path) for name, linear in projections.items()}
    attention = Attention(
        kernel=relative(kernel.path, block.path),
        branch=path,
        o=relative(o.path, block.path),
        scale=scale,
        gated=_is_gated(projections, o, kernel_notes, calls),
        latent=note.inputs[0].shape[-1] != d_value,
        **inside,
    )
    return attention, count


def _output_linear(trace: Trace, calls: list[Call], notes: list[AttentionCall], branch: Branch) -> Call | None:
    """The linear that the heads' output goes into: bit by bit, or through a gate; then it is the one that ends the branch."""
    after = [call for call in linears_of(calls) if call.enter > notes[-1].when]
    outputs = [note.output for note in notes if note.output is not None]
    if outputs:
        z = torch.cat([output.flatten(-2).flatten(0, -2) for output in outputs])
        for call in after:
            inputs = next(iter(call.received.values()))
            if inputs.shape[-1] == z.shape[-1] and torch.equal(inputs.flatten(0, -2), z):
                return call
    last = branch.call
    return next((c for c in reversed(after) if same(c.returned, last.returned) or feeds(trace, c, last)), None)


def _projections(model: nn.Module, kernel: Call, note: AttentionCall, calls: list[Call], width: int) -> dict[str, str]:
    """Which linears make queries, keys and values: found by changing what each returns, and looking at what moves."""
    before = [c for c in linears_of(calls) if kernel.enter < c.enter and c.exit < note.when]
    reach: dict[str, set[str]] = {}
    for call in before:
        reach[call.path] = _moved(model, kernel, note, call.module, noisy)
    paths: dict[str, str] = {}
    for name in "qkv":
        matches = [call for call in before if reach[call.path] == {name}]
        widths = [call.module.out_features for call in matches]
        if matches and widths.count(widths[-1]) == 1:  # of two alike, each would hold for some rows alone
            paths[name] = matches[-1].path
    if set(paths) == set("qkv"):
        return paths
    for call in before:
        if reach[call.path] == set("qkv") and _is_in_thirds(model, kernel, note, call, width):
            return {"qkv": call.path}
    return {}


def _moved(
    model: nn.Module,
    kernel: Call,
    note: AttentionCall,
    module: nn.Module,
    function: Callable[[torch.Tensor], torch.Tensor],
) -> set[str]:
    try:
        again = called_again(model, kernel, module, function)
    except (RuntimeError, TypeError, ValueError):
        return set()  # a module that cannot be called twice in the same way says nothing about its linears
    if not again:
        return set()
    pairs = zip("qkv", note.inputs, again[0].inputs, strict=True)
    return {name for name, old, new in pairs if not torch.equal(old, new)}


def _is_in_thirds(model: nn.Module, kernel: Call, note: AttentionCall, call: Call, width: int) -> bool:
    """Whether a fused linear's output is laid out `[q; k; v]`."""
    out = call.linear.out_features
    if (out - width) % 2:
        return False
    bounds = [0, width, width + (out - width) // 2, out]
    for name, start, stop in zip("qkv", bounds, bounds[1:], strict=False):

        def change(tensor: torch.Tensor, start: int = start, stop: int = stop) -> torch.Tensor:
            new = tensor.clone()
            new[..., start:stop] = noisy(tensor)[..., start:stop]
            return new

        if _moved(model, kernel, note, call.module, change) != {name}:
            return False
    return True


def _is_gated(projections: dict[str, str], o: Call, notes: list[AttentionCall], calls: list[Call]) -> bool:
    """Whether the linear of the queries also gives every head a gate."""
    query = next((call for call in calls if call.path == projections.get("q")), None)
    if query is None or len(notes) != 1 or query.returned is None or notes[0].output is None:
        return False
    z = notes[0].output.flatten(-2)
    inputs = next(iter(o.received.values()))
    if (
        query.returned.shape[-1] != 2 * z.shape[-1]
        or inputs.numel() != z.numel()
        or query.returned.numel() != 2 * z.numel()
    ):
        return False
    _, gate = query.returned.unflatten(-1, (notes[0].heads, -1)).chunk(2, -1)
    return torch.allclose(inputs.reshape(z.shape), z * gate.flatten(-2).reshape(z.shape).sigmoid(), 1e-3, 1e-5)


# -- norms -----------------------------------------------------------------------------------------------------------


def _norm_in_front(trace: Trace, block: Call, branch: Branch) -> Norm | None:
    """The norm that reads the stream for a branch."""
    for call in sorted(inside_of(trace, branch.start, branch.end), key=lambda call: call.enter):
        inputs = next(iter(call.received.values()), None)
        if inputs is None or call.returned is None or not is_norm(call.module) or trace.count(call.module) > 1:
            continue
        if inputs.numel() == branch.reads.numel() and inputs.shape[-1] == branch.reads.shape[-1]:
            reads = branch.reads.reshape(inputs.shape)
            norm = norm_of(call, relative(call.path, block.path)) if torch.allclose(inputs, reads, 1e-4, 1e-5) else None
            # a norm of some rows alone is not what the branch reads
            if norm is not None and any(same(call.returned, x) for o in trace.calls for x in o.received.values()):
                return norm
    return None


def norm_of(call: Call, path: str) -> Norm | None:
    """A norm's declaration, if it computes what a layer norm or an RMS norm would."""
    inputs, outputs, module = next(iter(call.received.values())), call.returned, call.module
    if outputs is None or inputs.shape != outputs.shape or torch.equal(inputs, outputs):
        return None
    eps = next((getattr(module, key) for key in ("variance_epsilon", "eps") if hasattr(module, key)), 0.0)
    weight, bias = getattr(module, "weight", None), getattr(module, "bias", None)
    best: tuple[float, Norm] | None = None
    for is_centred in (False, True):
        x = inputs.float()
        x = x - x.mean(-1, keepdim=True) if is_centred else x
        x = x * torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + eps)
        for offset in (0.0, 1.0) if isinstance(weight, torch.Tensor) else (0.0,):
            out = x * (weight.float() + offset) if isinstance(weight, torch.Tensor) else x
            out = out + bias.float() if isinstance(bias, torch.Tensor) else out
            error = float((out - outputs.float()).norm() / outputs.float().norm().clamp(min=1e-12))
            if best is None or error < best[0]:
                best = error, Norm(path, centred=is_centred, offset=offset)
    tolerance = 1e-3 if inputs.dtype == torch.float32 else 3e-2
    return best[1] if best is not None and best[0] < tolerance else None
