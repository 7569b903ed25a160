"""What a hook point costs, in microseconds: to attach and remove, and to pass through."""

import torch
from torch import nn

from benchmarks.measure import alternate, ratio
from benchmarks.models import Subject
from benchmarks.table import Row
from mmlens.hooks.attachment import AtSite
from mmlens.hooks.point import Point
from mmlens.hooks.site import Site

_COUNT = 100


def _look(*anything: object, **named: object) -> None:
    """A hook that does nothing, of any signature."""


def points(subject: Subject, *, repeats: int) -> list[Row]:
    """Rows of attaching 100 hooks and of calling 100 hooks, beside torch's own.

    Args:
        subject: the model whose points are used.
        repeats: timed rounds.
    """
    model = subject.hooked
    names = [name for name in model.hook_dict if not model.graph[name].on_request][:_COUNT]
    modules = [module for module in subject.bare.modules() if not list(module.children())][:_COUNT]
    return [*_attach(subject, names, modules, repeats), *_call(repeats)]


def _attach(subject: Subject, names: list[str], modules: list[nn.Module], repeats: int) -> list[Row]:
    held = [subject.hooked.hook_dict[name] for name in names]

    def one_by_one() -> None:
        handles = [point.add_hook(_look) for point in held]
        for handle in handles:
            handle.hook.remove()

    def session() -> None:
        with subject.hooked.hooks([(name, _look) for name in names]):
            pass

    def torch_hooks() -> None:
        handles = [module.register_forward_hook(_look) for module in modules]
        for handle in handles:
            handle.remove()

    timings = alternate(
        {"torch": torch_hooks, "point.add_hook": one_by_one, "with model.hooks(...)": session}, repeats=repeats
    )
    counts = {"torch": len(modules), "point.add_hook": len(held), "with model.hooks(...)": len(names)}
    benchmark = "attach and remove 100 hooks"
    return [
        Row(
            benchmark,
            name,
            timing.milliseconds,
            None if name == "torch" else ratio(timing, timings["torch"]),
            note=f"{1000 * timing.milliseconds / counts[name]:.1f} us per hook, {counts[name]} hooks",
        )
        for name, timing in timings.items()
    ]


def _call(repeats: int) -> list[Row]:
    bare, hooked = nn.Identity(), nn.Identity()
    bare.register_forward_hook(_look)
    Point("point", AtSite(Site(hooked, "out"))).add_hook(_look)
    tensor = torch.zeros(1)

    def passes(module: nn.Module) -> None:
        for _ in range(_COUNT):
            module(tensor)

    none = nn.Identity()
    runs = {"no hook": lambda: passes(none), "torch": lambda: passes(bare), "mmlens": lambda: passes(hooked)}
    timings = alternate(runs, repeats=repeats)
    return [
        Row(
            "call 100 hooks that do nothing",
            name,
            timing.milliseconds,
            None if name == "no hook" else ratio(timing, timings["torch"]),
            note=f"{1000 * (timing.milliseconds - timings['no hook'].milliseconds) / _COUNT:.2f} us per hook",
        )
        for name, timing in timings.items()
    ]
