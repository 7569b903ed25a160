"""The contract of arguments: what is accepted as it is, what is converted, what is refused, and in which words."""

import inspect
from collections.abc import Callable, Iterable, Mapping, Sequence
from copy import copy
from dataclasses import dataclass
from fractions import Fraction as Ratio
from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np
import pytest
import torch
from jaxtyping import Float

from mmlens.core.contract import checked, checked_result
from mmlens.core.errors import ArgumentError, InputError
from mmlens.core.kinds import (
    Accepts,
    Count,
    Distinct,
    Fraction,
    Index,
    Level,
    Named,
    PathLike,
    Percentile,
    Positive,
    Seed,
    Several,
    Text,
    With,
)
from mmlens.core.tensor_kinds import Device

NAN, INF = float("nan"), float("inf")
ONES = torch.ones(3)


def takes(hint: Any) -> Callable[[Any], Any]:
    """A checked function of one argument, which it gives back."""

    def function(value: Any) -> Any:
        return value

    function.__annotations__["value"] = hint
    return checked(function)


@pytest.mark.parametrize(
    ("hint", "value", "right"),
    [
        (int, np.int64(3), 3),
        (int, torch.tensor(3), 3),
        (float, np.float32(0.5), 0.5),
        (float, torch.tensor(0.5), 0.5),
        (float, 2, 2),
        (float, np.int64(2), 2),
        (bool, np.bool_(True), True),
        (Sequence[int], np.arange(3), [0, 1, 2]),
        (Sequence[int], range(3), range(3)),
        (Sequence[int], (np.int64(1), 2), (1, 2)),
        (Sequence[float] | None, torch.tensor([0.5]), [0.5]),
        (tuple[int, int], [1, np.int32(2)], (1, 2)),
        (Mapping[str, Sequence[int]], {"a": [np.int64(1)]}, {"a": (1,)}),
        (float | Sequence[float], [np.float32(1.0)], (1.0,)),
        (PathLike, Path("a"), Path("a")),
        (Seed, 2**62, 2**62),
        (Device, "cpu:0", "cpu:0"),
    ],
)
def test_what_is_harmless_is_converted(hint: Any, value: Any, right: Any) -> None:
    found = takes(hint)(value)
    assert found == right
    assert type(found) is type(right)


@pytest.mark.parametrize(
    ("hint", "value", "words"),
    [
        (int, 1.0, "value=1.0 must be a whole number."),
        (int, True, "value=True must be a whole number."),
        (int, np.bool_(True), "value=np.True_ must be a whole number."),
        (int, torch.tensor(True), "value=<tensor bool []> must be a whole number."),
        (int, torch.tensor([3]), "value=<tensor int64 [1]> must be a whole number."),
        (Count, 0, "value=0 must be at least 1."),
        (Count, "3", "value='3' must be a whole number, at least 1."),
        (Index, -1, "value=-1 must be at least 0."),
        (Seed, -1, "value=-1 must be from 0 to 2**63 - 1."),
        (float, NAN, "value=nan must be a finite number."),
        (float, np.float64("inf"), "value=np.float64(inf) must be a finite number."),
        (float, 1e39, "value=1e+39 must be a finite number."),
        (float, 10**400, "must be a finite number."),
        (float, 1j, "value=1j must be a finite number."),
        (float, True, "value=True must be a finite number."),
        (float, torch.tensor(1.0, requires_grad=True), "value=<tensor float32 []> must be a finite number."),
        (Positive, 0, "value=0 must be above 0."),
        (Fraction, 1.01, "value=1.01 must be from 0 to 1."),
        (Level, 1.0, "value=1.0 must be between 0 and 1, both excluded."),
        (Percentile, 101, "value=101 must be from 0 to 100."),
        (bool, 1, "value=1 must be True or False."),
        (str, None, "value=None must be a string."),
        (Text, " ", "value=' ' must be a non-empty string."),
        (PathLike, "", "value='' must be a path."),
        (Device, "cuda:99", "value='cuda:99' must be a device of this machine, e.g. 'cpu' or 'cuda:0'."),
        (Device, "gpu:0", "value='gpu:0' must be a device of this machine, e.g. 'cpu' or 'cuda:0'."),
        (Literal["denoise", "noise"], "denoize", "value='denoize' must be 'denoise' or 'noise'; nearest: 'denoise'."),
        (Literal["denoise", "noise"], "Magnitude", "value='Magnitude' must be 'denoise' or 'noise'."),
        (Literal["a", "b"] | None, "c", "value='c' must be 'a' or 'b'"),
        (Sequence[int], [0] * 20 + [1.5], "value[20]=1.5 must be a whole number."),
        (Sequence[int] | None, [0, "a", None], "value[1]='a' must be a whole number; value[2]=None must be a whole"),
        (Sequence[str], "moon", "value='moon' must be a list whose items are each a string."),
        (Iterable[str], "moon", "value='moon' must be a list (or iterable) whose items are each a string."),
        (Several[int], [], "value=[] must be non-empty."),
        (Distinct[int], [1, 1], "value=[1, 1] must be without repetition."),
        (Named[str, int], {}, "must be non-empty."),
        (Mapping[str, int], {"a": 1.5, 3: 1}, "a key of value=3 must be a string; value['a']=1.5 must be a whole number."),
        (tuple[int, int], (1, 2, 3), "value=(1, 2, 3) must be 2 items, each a whole number."),
        (Float[torch.Tensor, "d_model"], ONES[None], "value=<tensor float32 [1, 3]> must be a floating tensor [d_model]."),
        (Float[torch.Tensor, "d_model"], ONES.long(), "must be a floating tensor [d_model]."),
        (Float[torch.Tensor, "d_model"], ONES * NAN, "value=<tensor float32 [3]> holds NaN or infinity; all its values must"),
        (torch.Tensor, ONES * 1j, "value=<tensor complex64 [3]> is complex; take its real part or its size."),
        (np.ndarray, np.array([INF]), "value=<array float64 [1]> holds NaN or infinity"),
        (Callable[[int], int], 3, "value=3 must be a function."),
        ("Figure | None", 3, "value=3 must be a Figure or None."),
    ],
)  # fmt: skip
def test_what_cannot_be_used_is_refused_in_words(hint: Any, value: Any, words: str) -> None:
    with pytest.raises(ArgumentError) as refusal:
        takes(hint)(value)
    assert words in str(refusal.value)


@checked
def example(at: str, k: Count = 3, *, alpha: float = 1.0, mode: Literal["a", "b"] = "a") -> tuple[Any, ...]:
    """A function."""
    return at, k, alpha, mode


def test_all_problems_of_a_call_are_said_at_once() -> None:
    with pytest.raises(ArgumentError) as refusal:
        example(3, 0, alhpa=1.0, mode="c", alpha=NAN)  # type: ignore[arg-type, call-arg]
    assert str(refusal.value) == (
        "example: 5 arguments cannot be used.\n"
        "  at=3 must be a string.\n"
        "  k=0 must be at least 1.\n"
        "  there is no argument 'alhpa'; nearest: 'alpha'.\n"
        "  mode='c' must be 'a' or 'b'.\n"
        "  alpha=nan must be a finite number."
    )


@pytest.mark.parametrize(
    ("args", "kwargs", "words"),
    [
        ((), {}, "example: at is missing."),
        (("a", 1, 2), {}, "example: it takes 2 arguments by position, found 3; name the others."),
        (("a",), {"at": "b"}, "example: at was given twice, by position and by name."),
        (("a",), {"zzz": 1}, "example: there is no argument 'zzz'; it takes at, k, alpha, mode."),
    ],
)
def test_arguments_that_do_not_fit_the_signature(args: Any, kwargs: Any, words: str) -> None:
    with pytest.raises(ArgumentError) as refusal:
        example(*args, **kwargs)
    assert str(refusal.value) == words


def test_the_constructor_of_a_class_is_checked_and_that_of_its_subclasses_left_alone() -> None:
    @checked
    @dataclass(frozen=True)
    class Unit:
        layer: Index
        index: Index = 0

    @dataclass(frozen=True)
    class Free(Unit):
        index: int = 0

    assert Unit(np.int64(2)).layer == 2
    assert type(Unit(np.int64(2)).layer) is int
    with pytest.raises(InputError, match=r"^Unit: layer=-1 must be at least 0\.$"):
        Unit(-1)
    assert Free(-1, "a").layer == -1  # type: ignore[arg-type]

    @checked_result
    @dataclass(frozen=True)
    class Result:
        values: Float[torch.Tensor, "sample"]
        mean: float

    assert np.isnan(Result(ONES * NAN, NAN).mean)
    with pytest.raises(InputError, match=r"mean='a' must be a number\.$"):
        Result(ONES, "a")  # type: ignore[arg-type]


def test_calls_inside_a_checked_call_are_not_checked_again_and_calls_after_it_are() -> None:
    seen = []

    @checked
    def inner(k: Count) -> None:
        seen.append(k)

    @checked
    def outer(k: Count, fail: bool = False) -> None:
        inner(-k)
        if fail:
            raise RuntimeError

    outer(3)
    assert seen == [-3]
    with pytest.raises(RuntimeError):
        outer(3, fail=True)
    with pytest.raises(InputError):
        inner(-3)


def test_what_other_arguments_decide_comes_after_the_kinds_and_may_convert() -> None:
    from typing import Annotated

    def below(arguments: Mapping[str, Any], value: int, name: str) -> int:
        if value >= arguments["size"]:
            raise InputError(f"{name}={value} must lie below size={arguments['size']}.")
        return value + 100

    @checked
    def pick(size: int, one: Annotated[int, With(below)], *, other: Annotated[int, With(below)] = 0) -> tuple[int, int]:
        return one, other

    assert pick(3, 1, other=2) == (101, 102)
    with pytest.raises(InputError, match=r"^one=3 must lie below size=3\.$"):
        pick(3, 3)
    with pytest.raises(InputError, match=r"pick: 2 arguments cannot be used.\n  one=3 must .*\n  other=4 must"):
        pick(3, 3, other=4)
    with pytest.raises(InputError, match=r"^pick: one='a' must be a whole number\.$"):
        pick(3, "a", other=9)  # type: ignore[arg-type]


def test_wrong_items_are_found_each_time_not_by_chance() -> None:
    function = takes(Sequence[int])
    for place in range(50):
        with pytest.raises(InputError, match=rf"value\[{place}\]=1.5"):
            function([*range(place), 1.5, *range(50 - place)])


def test_a_ratio_is_no_float_and_says_so() -> None:
    with pytest.raises(InputError, match="must be a finite number"):
        takes(float)(Ratio(1, 2))


def test_help_shows_annotations_by_their_names() -> None:
    import mmlens as mm

    shown = str(inspect.signature(mm.patch))
    assert shown.startswith("(model: HookedMultimodal, clean: BatchLike, corrupted: BatchLike, *, metric: MetricLike,")
    assert shown.endswith("checkpoint: PathLike | None = None, progress: bool = True) -> PatchSweep")
    assert "alpha: float = 1.0" in str(inspect.signature(mm.Steer))
    for module in (mm, mm.patching, mm.neurons, mm.steering, mm.edits, mm.positions, mm.store):
        for name in module.__all__:
            thing = getattr(module, name)
            texts = [str(inspect.signature(thing))] if inspect.isfunction(thing) else []
            if isinstance(thing, type):
                methods = (
                    method for key, method in vars(thing).items() if key[0] != "_" and inspect.isfunction(method)
                )
                texts = [str(inspect.signature(method)) for method in methods]
            assert not [text for text in texts if "Annotated" in text or " at 0x" in text], name


def test_signatures_are_those_of_what_is_called() -> None:
    @checked
    def find(scores: list[float], *more: int, k: Annotated[int, Accepts(object)] = 3, **options: str) -> "list[int]":
        return []

    assert str(inspect.signature(find)) == "(scores: list[float], *more: int, k: int = 3, **options: str) -> list[int]"
    assert inspect.signature(find).bind([1.0], k=2).arguments == {"scores": [1.0], "k": 2}
    assert str(copy(inspect.signature(find))) == str(inspect.signature(find))

    @checked
    class Settings:
        def __init__(self, size: int | None, mode: Literal["a", "b"] = "a"):
            self.size = size

        @checked
        def scaled(self, factor: Callable[[int], float] = float) -> "Settings":
            return self

    assert str(inspect.signature(Settings)) == "(size: int | None, mode: 'a' | 'b' = 'a')"
    assert str(inspect.signature(Settings(3).scaled)).startswith("(factor: Callable[[int], float] = <class 'float'>)")
