"""Sites: one tensor of one module, several taps in declared order, one torch hook while there is a tap."""

from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import nn

from mmlens.core.errors import MMLensError
from mmlens.hooks.attachment import RECORD_RANK, AtSite
from mmlens.hooks.head_streams import HeadInputs
from mmlens.hooks.indirect import BeforeGain, BetweenBranches, NormScale
from mmlens.hooks.point import Point, reads_only
from mmlens.hooks.site import MethodSite, Site, _in_place_of


class Module(nn.Module):
    """Two tensors in, a tuple out."""

    def forward(self, first: torch.Tensor, second: torch.Tensor, scale: float = 1.0) -> tuple[torch.Tensor, str]:
        return first * scale + 10 * second, "rest"


ONE = torch.ones(2)


def times(factor: float) -> Any:
    return lambda tensor: tensor * factor


@pytest.mark.parametrize(
    "call",
    [lambda m: m(ONE, ONE), lambda m: m(ONE, second=ONE), lambda m: m(first=ONE, second=ONE)],
    ids=["by position", "mixed", "by name"],
)
def test_an_argument_is_found_however_it_is_passed(call: Any) -> None:
    module = Module()
    for argument, expected in (("first", 13.0), ("second", 31.0)):
        site, tap = Site(module, "in", argument), times(3)
        site.attach(tap, 0)
        assert call(module)[0].tolist() == [expected] * 2
        site.detach(tap)
        assert call(module)[0].tolist() == [11.0] * 2


def test_a_tuple_keeps_its_rest() -> None:
    module = Module()
    site, tap = Site(module, "out"), times(2)
    site.attach(tap, 0)
    out, rest = module(ONE, ONE)
    assert (out.tolist(), rest) == ([22.0] * 2, "rest")
    site.detach(tap)


def test_taps_run_by_rank_whatever_the_order_of_arrival() -> None:
    for order in ([0, 1, 2], [2, 1, 0], [1, 2, 0]):
        module, calls = Module(), []
        site = Site(module, "out")

        def tap(rank: int, calls: list[int] = calls) -> Any:
            return lambda tensor: calls.append(rank) or tensor

        taps = [tap(rank) for rank in range(3)]
        for rank in order:
            site.attach(taps[rank], rank)
        assert len(module._forward_hooks) == 1
        module(ONE, ONE)
        assert calls == [0, 1, 2]
        for rank in order:
            site.detach(taps[rank])
        assert not module._forward_hooks


def test_bound_methods_can_be_detached() -> None:
    class Recorder:
        def record(self, tensor: torch.Tensor) -> torch.Tensor:
            return tensor

    module, recorder = Module(), Recorder()
    site = Site(module, "in", "first")
    site.attach(recorder.record, 0)
    site.detach(recorder.record)
    assert not module._forward_pre_hooks


def test_a_tensor_that_does_not_come_is_an_error() -> None:
    module = Module()
    Site(module, "in", "scale").attach(times(2), 0)
    with pytest.raises(
        MMLensError,
        match=r"^Module was called without the tensor 'scale' that a hook point reads there; "
        r"it got 2 positional arguments and no keywords\.$",
    ):
        module(ONE, ONE)


def test_a_point_shows_readers_the_tensor_and_editors_a_copy() -> None:
    linear = nn.Linear(2, 2)
    point = Point("hook_embed", AtSite(Site(linear, "in", "input")))
    seen: list[int] = []
    reader = point.add_hook(reads_only(lambda tensor, hook: seen.append(tensor.data_ptr())))
    linear(ONE)
    assert seen == [ONE.data_ptr()]

    def in_place(tensor: torch.Tensor, hook: Any) -> None:
        tensor.zero_()

    editor = point.add_hook(in_place)
    assert torch.equal(linear(ONE), linear.bias)
    assert ONE.tolist() == [1.0, 1.0]
    reader.hook.remove()
    editor.hook.remove()
    assert not point.attached
    assert not linear._forward_pre_hooks


def test_an_argument_that_the_module_calls_otherwise_is_its_first_by_name_too() -> None:
    module = Module()
    site, tap = Site(module, "in", "hidden_states"), times(3)
    site.attach(tap, 0)
    assert module(first=ONE, second=ONE)[0].tolist() == module(ONE, ONE)[0].tolist() == [13.0] * 2


class Pictures(nn.Module):
    """Features by a method: a tensor, or one per picture."""

    def __init__(self, pieces: Any):
        super().__init__()
        self.pieces = pieces

    def features(self, factor: float) -> SimpleNamespace:
        held = self.pieces
        return SimpleNamespace(
            held=held * factor if isinstance(held, torch.Tensor) else [piece * factor for piece in held], rest="rest"
        )

    def forward(self) -> Any:
        return self.features(factor=2.0)


def test_what_a_method_returns_per_picture_is_seen_and_edited_as_one() -> None:
    module = Pictures([torch.ones(2, 3), torch.ones(1, 3)])
    seen: list[torch.Tensor] = []

    def third_row(tensor: torch.Tensor) -> torch.Tensor:
        seen.append(tensor)
        return torch.cat([tensor[:2], tensor[2:] * 5])

    site = MethodSite(module, "features", "held")
    site.attach(third_row, 1)
    site.attach(times(10), 0)
    result = module()
    assert [tensor.tolist() for tensor in result.held] == [[[20.0] * 3] * 2, [[100.0] * 3]]
    assert seen[0].shape == (3, 3)
    assert result.rest == "rest"


def test_a_method_is_the_class_s_own_again_when_its_last_tap_goes() -> None:
    module = Pictures(torch.ones(2))
    site = MethodSite(module, "features", "held")
    first, second = times(3), times(5)
    site.attach(first, 0)
    site.attach(second, 0)
    assert module().held.tolist() == [30.0] * 2
    site.detach(first)
    assert module().held.tolist() == [10.0] * 2
    assert "features" in vars(module)
    site.detach(second)
    assert module().held.tolist() == [2.0] * 2
    assert "features" not in vars(module)


def test_what_a_method_shows_has_a_gradient() -> None:
    module = Pictures([torch.ones(2, 3, requires_grad=True), torch.ones(1, 3)])
    shown: list[torch.Tensor] = []

    def keep(tensor: torch.Tensor) -> torch.Tensor:
        shown.append(tensor)
        return tensor

    MethodSite(module, "features", "held").attach(keep, 0)
    total = sum(tensor.sum() for tensor in module().held)
    (gradient,) = torch.autograd.grad(total, shown)
    assert gradient.tolist() == [[1.0] * 3] * 3


def test_a_new_tensor_lies_in_memory_as_the_old_one_did() -> None:
    """The order decides how what follows rounds. What has another shape, or is spread from one entry, keeps its own."""
    old, new = torch.randn(4, 3).T, torch.randn(3, 4)
    found = _in_place_of(old, new)
    assert torch.equal(found, new)
    assert found.stride() == old.stride() != new.stride()
    alike = torch.randn(3, 4)
    assert _in_place_of(new, alike) is alike
    for other in (torch.randn(2, 4), torch.randn(3, 5), torch.randn(3, 4, 1)):
        assert _in_place_of(old, other) is other
    spread = torch.randn(1, 4).expand(3, 4)
    assert _in_place_of(spread, new) is new


def test_points_stand_in_the_order_of_what_is_made_of_what() -> None:
    """On one module: a head's stream, the norm's scale, what it makes before the gain, its output, the stream behind, notes."""
    ranks = [HeadInputs.RANK, NormScale.WRITE_RANK, BeforeGain.WRITE_RANK, AtSite(Site(nn.Identity(), "out")).rank]
    ranks += [BetweenBranches.WRITE_RANK, RECORD_RANK]
    assert ranks == sorted(set(ranks))
