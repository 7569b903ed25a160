"""What stands between the vision encoder and the language model, found by how rows change when the pixels do."""

import torch

from mmlens.declarations.projector import FeatureMethod, Projector
from mmlens.declarations.structure import Mlp
from mmlens.discover.branches import is_norm
from mmlens.discover.features import feature_method
from mmlens.discover.mlps import mlp_in
from mmlens.discover.pieces import NotFound
from mmlens.discover.runs import ExampleRuns, Seen, likeness, matched
from mmlens.discover.search import Fixed
from mmlens.discover.trace import Call, noisy, same, traced


def connector_of(
    runs: ExampleRuns, vision: list[Seen], language: Seen, rows: torch.Tensor
) -> tuple[Projector, list[int]]:
    """The projector, and the blocks of the last vision stack that it reads.

    Args:
        runs: of the model.
        vision: the stacks of the vision encoder.
        language: the stack of the language model.
        rows: how the stream changes at the image positions when the pixels do.

    Raises:
        NotFound: if no module returns these rows, or what it receives has no name.
    """
    try:
        connector = _returning(runs, vision, language, rows)
    except NotFound:
        method = feature_method(runs, rows)
        if method is None:
            raise
        return _by_method(runs, vision[-1], language, method)
    queries = [s for s in runs.stacks if s.role.startswith("learned") and vision[-1].last.exit < s.blocks[0].enter]
    entrance = next((candidate for stack in queries for candidate in _around(runs, stack, vision[-1])), connector)
    entrance = entrance if entrance.enter < connector.enter else connector
    argument, features = _features(runs, entrance)
    reads = _reads(runs, vision[-1], entrance, argument, features)
    tower_width, output_rows, input_rows = (
        vision[-1].width * len(reads),
        connector.output,
        entrance.received[argument],
    )
    receives: tuple[str, str | None] = (entrance.path, argument)
    is_packed, is_nested = output_rows.ndim == 2, output_rows.ndim == 4
    axes = min(2 if is_packed else 4 if is_nested else 3, vision[-1].last.output.ndim)
    if input_rows.shape[-1] % tower_width or input_rows.ndim > axes:
        # something between them changes the rows: hand on what the tower returns
        end = _end(runs, vision[-1].blocks[reads[-1]])
        receives, input_rows = (end.path, None), end.output
    beside = input_rows.shape[-1] // tower_width
    n_in, n_out = (x.numel() // x.shape[-1] for x in (input_rows, output_rows))
    asks = bool(queries) or (n_in != n_out and entrance is connector and _mixes(entrance, argument))
    projector = Projector(
        receives=receives,
        returns=connector.path,
        mlp=_mlp(runs, connector),
        queries=asks,
        receives_rows="projector" if n_in == n_out and not asks else "vision",
        side_by_side=Fixed(beside, str(beside)),
        packed=is_packed,
        nested=is_nested,
    )
    return projector, reads


def _by_method(runs: ExampleRuns, vision: Seen, language: Seen, method: FeatureMethod) -> tuple[Projector, list[int]]:
    """A projector whose features a method returns: nothing is said of what is inside."""
    read = _last_that_reaches(runs, vision, language.blocks[0], "")
    end = _end(runs, vision.blocks[read])
    projector = Projector(receives=(end.path, None), returns=method, receives_rows="vision", packed=True)
    return projector, [read]


def _returning(runs: ExampleRuns, vision: list[Seen], language: Seen, rows: torch.Tensor) -> Call:
    """The outermost module outside of the tower whose rows the language model holds at the image positions."""
    first = language.blocks[0].enter
    towers = [stack.blocks[0] for stack in vision]
    calls_found = []
    for call in runs.own.calls:
        if call.exit > first or call.returned is None or call.returned.shape[-1:] != rows.shape[-1:]:
            continue
        if any(call.enter < tower.enter and tower.exit < call.exit for tower in towers) or call.enter < towers[-1].exit:
            continue
        if not any(True for _ in call.module.parameters()):
            continue
        if matched(rows, runs.change(call)) >= 0.5:
            calls_found.append(call)
    outermost = [c for c in calls_found if not any(o.enter < c.enter and c.exit < o.exit for o in calls_found)]
    if not outermost:
        raise NotFound("no module returns the rows that the language model holds at the image positions")
    last = outermost[-1]
    if runs.own.count(last.module) > 1:
        raise NotFound(
            f"{last.path} runs {runs.own.count(last.module)} times in one forward (once per picture or tile)"
        )
    return last


def _around(runs: ExampleRuns, queries: Seen, vision: Seen) -> list[Call]:
    """Modules that hold a stack of queries and receive what the picture gave, outermost first."""
    first = queries.blocks[0]
    around = [c for c in runs.own.calls if c.enter < first.enter and queries.last.exit < c.exit]
    around = [c for c in around if c.enter > vision.last.exit]
    return sorted((c for c in around if _moving(runs, c)), key=lambda c: c.enter)


def _moving(runs: ExampleRuns, call: Call) -> dict[str, torch.Tensor]:
    """The arguments of a call that change with the pixels, and how."""
    changes = {name: runs.change_in(call, name) for name in call.received}
    return {name: change for name, change in changes.items() if change is not None and bool(change.any())}


def _features(runs: ExampleRuns, entrance: Call) -> tuple[str, torch.Tensor]:
    """The argument by which the vision features come in, and how it changes with the pixels."""
    changes = _moving(runs, entrance)
    if not changes:
        raise NotFound(f"{entrance.path} receives no tensor that depends on the pixels")
    return next(iter(changes.items()))


def _reads(runs: ExampleRuns, vision: Seen, entrance: Call, argument: str, features: torch.Tensor) -> list[int]:
    """The blocks whose output is handed on: by their rows, side by side or through a norm; else the last with an effect."""
    width = vision.width
    outputs = [runs.change(block) for block in vision.blocks]
    if features.shape[-1] % width == 0:
        pieces = features.split(width, dim=-1)
        read = []
        for piece in pieces:
            alike = [float(likeness(piece, out).mean()) for out in outputs]
            best = max(range(len(alike)), key=alike.__getitem__)
            if matched(piece, outputs[best]) > 0.9:
                read.append(best)
        if len(read) == len(pieces):
            return list(dict.fromkeys(read))
        for call in runs.own.calls:
            if call.enter < vision.blocks[0].exit or call.enter > entrance.enter or not is_norm(call.module):
                continue
            inputs = next(iter(call.received.values()), None)
            if matched(features, runs.change(call)) > 0.9:
                through = [n for n, block in enumerate(vision.blocks) if same(block.returned, inputs)]
                if through:
                    return through
    return [_last_that_reaches(runs, vision, entrance, argument)]


def _last_that_reaches(runs: ExampleRuns, vision: Seen, call: Call, argument: str) -> int:
    """The last vision block that a call's argument (its stream, if that has no name) depends on."""
    for number in reversed(range(len(vision.blocks))):
        again = traced(
            runs.model, runs.inputs, only=call.path.__eq__, change=(vision.blocks[number].module, noisy)
        ).calls[0]
        before, after = (run_call.received[argument] if argument else run_call.stream for run_call in (call, again))
        if not same(before, after):
            return number
    raise NotFound(f"no block of {vision.path} reaches {call.path}")


def _end(runs: ExampleRuns, block: Call) -> Call:
    """The tower's last call on the stream of its blocks: its norm, or the block itself."""
    for call in runs.own.calls:
        inputs = next(iter(call.received.values()), None)
        if inputs is None or call.enter < block.exit or not is_norm(call.module):
            continue
        if same(inputs, block.returned) and inputs.ndim == block.output.ndim:
            return call
    return block


@torch.no_grad()
def _mixes(call: Call, argument: str) -> bool:
    """Whether every row that a call returns depends on every row that it received; said of the first one."""
    args, kwargs = call.arguments
    rows = call.received[argument]
    new = rows.clone()
    new.flatten(0, -2)[0] = noisy(rows).flatten(0, -2)[0]

    def swap(value: object) -> object:
        return new if value is rows else value

    again = call.module(*map(swap, args), **{name: swap(value) for name, value in kwargs.items()})
    again = again[0] if isinstance(again, tuple) else again
    return bool((again != call.returned).flatten(0, -2).any(-1).all())


def _mlp(runs: ExampleRuns, connector: Call) -> Mlp | None:
    """The hidden layer of a connector, outside of the blocks that it may hold."""
    inside = [stack for stack in runs.stacks if stack.path.startswith(f"{connector.path}.")]
    calls = [
        call
        for call in runs.own.within(connector)
        if not any(call.path.startswith(f"{stack.path}.") for stack in inside)
    ]
    mlp = mlp_in(runs.own, calls, connector, "")
    if mlp is None or not {"up", "gate", "gate_up"} & set(mlp) or "act" not in mlp:
        return None
    return Mlp(**mlp)
