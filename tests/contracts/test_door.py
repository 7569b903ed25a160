"""Contract: a call with a wrong argument is refused by a clear error before any forward pass, whatever is called.

The calls are generated over everything that is public: each parameter of each callable gets values that are wrong for what the
parameter means, beside right values for all others. `python -m tests.contracts.door 0` makes all of them and prints the rest.
"""

import inspect
from collections.abc import Iterable, Iterator
from random import Random
from typing import Any

import numpy as np
import pytest
import torch

import mmlens as mm
from mmlens.core.annotations import Compiler
from mmlens.core.compound_judges import Constrained, Either, Fields, Items, Table
from mmlens.core.contract import argument_names
from mmlens.core.errors import ArgumentError, InputError
from mmlens.core.judges import REFUSED, Anything, Judge
from tests.contracts.door.accepted import ACCEPTED, is_accepted
from tests.contracts.door.callables import LEFT_OUT, Public, every_callable, public
from tests.contracts.door.calls import Call, Fuzz, Result
from tests.contracts.door.world import World

#: Wrong values of each parameter that are tried here; the command tries all.
VALUES = 2
#: Arguments that take whatever comes, and why: annotations do not bound them.
ANYTHING = {
    "HookedMultimodal.from_pretrained.options": "transformers reads them",
    "HookedMultimodal.generate.options": "transformers reads them",
    **{f"HookedMultimodal.{run}.tensors": "the model's inputs by name, which the batch is made of" for run in (
        "batch", "forward", "run_with_cache", "run_with_hooks", "trace_generation",
    )},
    **{f"{name}.images": "the reader of pictures says what is wrong with which" for name in (
        "HookedMultimodal.answer", "HookedMultimodal.batch", "HookedMultimodal.caption", "HookedMultimodal.prepare",
    )},
    "ActivationCache.__getitem__.key": "a name or a short form of one, as TransformerLens has them",
    "HookedMultimodal.prepare.text": "the reader of chats says what is wrong with which message",
    "HookedMultimodal.prepare.videos": "the reader of videos says what is wrong with which",
    "data.from_rows.rows": "items of any data set; the mapping of their fields says what is missing",
    "lab.check.answer": "whatever is answered is judged",
    "positions.object.object": "objects with a box or a mask, from any library",
    "edits.Edit.rows": "units and their names",
    "compare.clean": "a result of any kind that has numbers", "compare.edited": "the same", "compare.control": "the same",
    "save_sae.metadata": "what the user writes into the file",
}  # fmt: skip


@pytest.fixture(scope="module")
def fuzz() -> Fuzz:
    return Fuzz(World())


def test_nothing_that_is_public_escapes(fuzz: Fuzz) -> None:
    """A new callable, a new class and a new parameter need an example, or a reason why nobody calls them."""
    assert not fuzz.without_example()
    assert set(LEFT_OUT) <= {item.name for item in every_callable()}
    places = {f"{item.name}.{name}" for item in fuzz.public for name in item.parameters}
    assert set(ACCEPTED) <= places
    assert set(ANYTHING) <= places


def test_right_arguments_are_not_refused(fuzz: Fuzz) -> None:
    refused = []
    for item in fuzz.public:
        result = fuzz.attempt(Call(item, "", "", None), fuzz.arguments(item))
        if result.outcome in ("clear", "unclear") and item.name not in NEED_MORE:
            refused.append(f"{item.name}: {result.text}")
    assert not refused, "\n".join(refused)


#: What is refused with the arguments of the other calls, and what it needs.
NEED_MORE = {
    "ContextualIndex.from_latentlens": "files of that package",
    "HookedMultimodal.revert": "an edit that is in force",
    "metrics.image_text_score": "a dual encoder",
    "metrics.kl_divergence": "the clean run's logits, where it meets a model",
}


def test_wrong_arguments_are_refused_before_any_forward_pass(fuzz: Fuzz) -> None:
    calls = []
    for item, name, kind in fuzz.places():
        values = fuzz.bad(item, name, kind)
        chosen = Random(f"{item.name} {name}").sample(values, min(VALUES, len(values)))
        calls += [Call(item, name, kind, value) for value in chosen]
    _require_clear(fuzz.run(call) for call in calls)


def test_unknown_points_positions_words_and_layers_are_refused_before_any_forward_pass(fuzz: Fuzz) -> None:
    kinds = ("point", "positions", "indices", "token", "units")
    _require_clear(fuzz.run(call) for call in fuzz.calls() if call.kind in kinds and not call.public.is_class)


def _require_clear(results: Iterable[Result]) -> None:
    wrong = [result for result in results if result.outcome != "clear" and not is_accepted(result)]
    lines = [f"{result.outcome:9} {result.call!r}: {result.text[:110]}" for result in wrong]
    assert not lines, f"{len(lines)} calls were not refused clearly:\n" + "\n".join(lines)


def test_harmless_variants_of_right_arguments_are_taken(fuzz: Fuzz) -> None:
    """Numbers of numpy and torch, lists for tuples and tuples for lists, where the judge takes the plain value."""
    refused = []
    for item in fuzz.public:
        for name, judge, _ in _judges(item):
            example = fuzz.example(item, name)
            if judge.accepts(example) or judge.convert(example) is not REFUSED:
                wrong = [v for v in _variants(example) if not judge.accepts(v) and judge.convert(v) is REFUSED]
                refused += [f"{item.name}.{name} refuses {variant!r}" for variant in wrong]
    assert not refused, "\n".join(refused)


def _variants(value: Any) -> list[Any]:
    if isinstance(value, bool):
        return [np.bool_(value)]
    if isinstance(value, int):
        return [np.int64(value), torch.tensor(value)]
    if isinstance(value, float):
        return [np.float64(value)]
    if type(value) is tuple and value:
        return [list(value)]
    if type(value) is list and value:
        return [tuple(value)]
    return []


def test_annotations_alone_say_what_is_right() -> None:
    """No argument of a checked callable takes anything, but those that are listed with a reason."""
    open_to_all = []
    for item in public():
        for name, judge, is_conditioned in _judges(item):
            if not is_conditioned and any(isinstance(leaf, Anything) for leaf in _leaves(judge)):
                open_to_all.append(f"{item.name}.{name}")
    results = {place for place in open_to_all if place.rpartition(".")[2] in _ABOUT}
    assert sorted(set(open_to_all) - results - set(ANYTHING)) == []


#: What results hold of how they were made: whatever a file of JSON may hold.
_ABOUT = {"about", "carried", "cfg", "identity", "provenance", "settings", "tokenizer", "image"}


def _judges(item: Public) -> Iterator[tuple[str, Judge, bool]]:
    """The judge of each argument, and whether other arguments decide about it."""
    owner: Any = item.function if item.is_class else None
    function = owner.__init__ if item.is_class else getattr(item.function, "__func__", item.function)
    for name, parameter in item.parameters.items():
        if parameter.annotation is not parameter.empty:
            compiler = Compiler(True, argument_names(inspect.unwrap(function), owner, name))
            judge = compiler.judge(parameter.annotation)
            yield name, judge, bool(compiler.conditions)


def _leaves(judge: Judge) -> Iterator[Judge]:
    """What a judge is made of; a condition on anything says what is right itself."""
    if isinstance(judge, Constrained) and (isinstance(judge.inner, Anything) or judge.conditions[-1].instead):
        return
    inner = {
        Constrained: lambda: [judge.inner],  # type: ignore[attr-defined]
        Either: lambda: judge.judges,  # type: ignore[attr-defined]
        Fields: lambda: judge.items,  # type: ignore[attr-defined]
        Items: lambda: [judge.item],  # type: ignore[attr-defined]
        Table: lambda: [judge.key, judge.item],  # type: ignore[attr-defined]
    }.get(type(judge))
    if inner is None:
        yield judge
    else:
        for part in inner():
            yield from _leaves(part)


def test_settings_are_judged_whoever_makes_them() -> None:
    """A setting made inside another call is looked at as well."""

    def metric(logits: torch.Tensor) -> torch.Tensor:
        mm.decoding.PAI(alpha=float("nan"))
        return logits[:, 0]

    model = mm.lab.load()
    batch = model.prepare("describe the image", images=mm.lab.scene(seed=1).image)
    with pytest.raises(ArgumentError, match="PAI: alpha=nan must be a finite number"):
        mm.metrics.measure(model, batch, metric=metric)
    with pytest.raises(ArgumentError, match=r"interventions\[0\].*must be"):
        mm.mitigation.Intervened([object()])
    with pytest.raises(ArgumentError, match=r"point='hook_resid_psot' must be .* or 'hook_mlp_out'; nearest"):
        mm.mitigation.VisuallySteered(point="hook_resid_psot")
    with pytest.raises(InputError, match="contrast=None must be one of"):
        mm.mitigation.Contrasted(contrast=None)
