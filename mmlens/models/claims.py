"""Claims on a model: runs under way and changes in force, each of one thread or task, so that none gets into another's.

Hooks, edits and adapters act on the real modules, which all threads share. While one thread (or one asyncio task) has
something in force, or runs, the model is its own. A run of another waits until that is over; where waiting is no use,
because nothing moves or the other one is a task of the same thread, it is refused by name.
"""

import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field
from typing import cast
from weakref import WeakKeyDictionary

from torch import nn

from mmlens.core.errors import InputError
from mmlens.hooks.session import HookPair
from mmlens.models.protocol import HookedModel
from mmlens.models.run import PassChoice, Run, Watching

#: Seconds to wait for a thread that has something in force and runs nothing.
PATIENCE = 5.0


@dataclass(eq=False)
class Claim:
    """One run under way, or one change in force.

    Attributes:
        what: in words, for messages.
        model: the hooked model that it was put in force on.
        run: the run; None for a change.
        watching: interventions that are told of every run before it starts.
        acts: the interventions; hooks as pairs of names and function.
        functions: the functions that were attached for it.
        changes_weights: whether weights are others while it is open: an edit, or an adapter that was switched.
        passes: in which passes of a generation it acts.
        closed: whether it is over.
        thread: where it was put in force.
    """

    what: str
    model: object
    run: Run | None = None
    watching: tuple[Watching, ...] = ()
    acts: tuple[object, ...] = ()
    functions: tuple[object, ...] = ()
    changes_weights: bool = False
    passes: PassChoice = "conditional"
    closed: bool = False
    thread: threading.Thread = field(default_factory=threading.current_thread)


#: The claims of this thread or task, outermost first; those that were closed elsewhere may still be among them.
_OWN: ContextVar[tuple[Claim, ...]] = ContextVar("mmlens_claims", default=())


class Claims:
    """The claims on one Hugging Face model, whichever wrapper made them; see `claims_of`."""

    def __init__(self) -> None:
        self._open: list[Claim] = []
        self._changed = threading.Condition()
        self._last_change = 0.0

    @contextmanager
    def claimed(self, claim: Claim) -> Iterator[None]:
        """Have the model to this thread or task inside the `with`.

        Raises:
            InputError: if another one has it and does not come to an end; names it.
        """
        try:
            self._enter(claim)
            yield
        finally:
            self._leave(claim)

    def await_weights(self) -> None:
        """Wait until the weights are not changed by another thread or task.

        Raises:
            InputError: if that does not come to an end; names it.
        """
        if self._open:
            with self._changed:
                while others := [other for other in self._open if other.changes_weights and other not in _OWN.get()]:
                    self._wait_for(others, "Reading weights")

    def _enter(self, claim: Claim) -> None:
        around = _OWN.get()
        with self._changed:
            while others := [other for other in self._open if other not in around]:
                self._wait_for(others, claim.what)
            self._open.append(claim)
            self._last_change = time.monotonic()
        _OWN.set((*(other for other in around if not other.closed), claim))

    def _leave(self, claim: Claim) -> None:
        claim.closed = True
        with self._changed:
            self._open = [other for other in self._open if other is not claim]
            self._last_change = time.monotonic()
            self._changed.notify_all()
        # by identity and not by a token: claims may be closed in any order, and where the garbage collector runs
        _OWN.set(tuple(other for other in _OWN.get() if other is not claim))

    def _wait_for(self, others: list[Claim], what: str) -> None:
        """Wait until a claim of others is closed.

        Raises:
            InputError: if that will not happen.
        """
        here = threading.current_thread()
        is_stuck = any(other.thread is here or not other.thread.is_alive() for other in others)
        idle = not any(other.run for other in others) and time.monotonic() - self._last_change > PATIENCE
        if is_stuck or idle:
            other = others[-1]
            where = "another task of this thread" if other.thread is here else f"the thread {other.thread.name!r}"
            note = "" if other.thread.is_alive() else ", which has ended without leaving it"
            raise InputError(
                f"{what} in the thread {here.name!r} cannot begin: {other.what} is in force on the same weights in "
                f"{where}{note}, and would be part of it. Leave that `with` first; or, if it is meant to hold here too, hand "
                "its context over: threading.Thread(target=contextvars.copy_context().run, args=(function,)); or give each "
                "thread a model of its own: copy.deepcopy(model)."
            )
        self._changed.wait(PATIENCE)


_CLAIMS: "WeakKeyDictionary[nn.Module, Claims]" = WeakKeyDictionary()
_MAKING = threading.Lock()


def claims_of(base: nn.Module) -> Claims:
    """The claims on a Hugging Face model; its wrappers share them, and they go with the model."""
    with _MAKING:
        return _CLAIMS.setdefault(base, Claims())


def current_run(model: object) -> Run | None:
    """The run of a hooked model that is under way in this thread or task, the innermost one."""
    return next((c.run for c in reversed(_OWN.get()) if c.run is not None and c.model is model and not c.closed), None)


def watching(model: object, passes: PassChoice | None = None) -> list[Watching]:
    """The interventions in force on a hooked model in this thread or task that are told of every run, first to last.

    Args:
        model: the hooked model.
        passes: only those that act in these passes of a generation.
    """
    claims = [c for c in _OWN.get() if c.model is model and not c.closed and passes in (None, c.passes)]
    return [watcher for c in claims for watcher in c.watching]


def acting_in_all_passes(model: HookedModel) -> set[int]:
    """The ids of the functions that were attached for all passes of a generation."""
    return {id(function) for c in _claims_on(model) if c.passes == "all" for function in c.functions}


def wrappers_in_force(model: HookedModel) -> list[HookedModel]:
    """The wrappers of a Hugging Face model on which something may be in force, this one among them."""
    wrappers = {id(c.model): c.model for c in _claims_on(model) if c.acts or c.functions}
    return cast("list[HookedModel]", list({**wrappers, id(model): model}.values()))


@contextmanager
def unwatched(model: HookedModel) -> Iterator[None]:
    """Have no intervention be told of the runs inside the `with`."""
    before = [(c, c.watching) for c in _claims_on(model)]
    for claim, _ in before:
        claim.watching = ()
    try:
        yield
    finally:
        for claim, watchers in before:
            claim.watching = watchers


def _claims_on(model: HookedModel) -> list[Claim]:
    return [c for c in _OWN.get() if not c.closed and getattr(c.model, "base", None) is model.base]


def in_force(model: HookedModel) -> list[object]:
    """What acts in every run of a model in this thread or task, first to last: interventions, and hooks with their names.

    Whichever wrapper of the Hugging Face model put it in force.
    """
    claims = _claims_on(model)
    functions = {id(function) for claim in claims for function in claim.functions}
    hooks = [
        (name, handle.user_hook)
        for name, point in model.hook_dict.items()
        for handle in (*point.fwd_hooks, *point.bwd_hooks)
        if id(handle.user_hook) not in functions
    ]
    acts = [act if claim.passes == "conditional" else ("all passes", act) for claim in claims for act in claim.acts]
    return [*acts, *hooks]


@contextmanager
def claimed(
    model: HookedModel,
    task: str,
    pairs: Sequence[HookPair] = (),
    *,
    acts: tuple[object, ...] = (),
    watching: tuple[Watching, ...] = (),
    changes_weights: bool = False,
    passes: PassChoice = "conditional",
) -> Iterator[None]:
    """Have a model to this thread or task while something is in force on it.

    Args:
        model: the hooked model.
        task: what is in force, in words.
        pairs: what is attached for it.
        acts: the interventions, or the same pairs.
        watching: interventions that are told of every run.
        changes_weights: whether weights are others meanwhile.
        passes: in which passes of a generation it acts.

    Raises:
        InputError: if another one has it and does not come to an end; names it.
    """
    functions = tuple(pair[1] for pair in pairs if isinstance(pair, tuple) and len(pair) == 2)
    claim = Claim(task, model, None, watching, acts, functions, changes_weights, passes)
    with claims_of(model.base).claimed(claim):
        yield
