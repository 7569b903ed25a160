"""The pretended device refuses what an accelerator refuses, and computes the rest: else the contract on it says nothing."""

from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
from torch.nn.functional import embedding, one_hot

from tests.devices import DEVICE, SECOND, DeviceError, pretend_devices


@pytest.fixture(autouse=True)
def _pretended() -> Iterator[None]:
    with pretend_devices():
        yield


def far(*shape: int) -> torch.Tensor:
    return torch.ones(shape, device=DEVICE)


REFUSED: dict[str, Callable[[], Any]] = {
    "arithmetic": lambda: far(2) + torch.ones(2),
    "in place": lambda: far(2).add_(torch.ones(2)),
    "in place on the CPU": lambda: torch.ones(2).add_(far(2)),
    "a far number into a CPU one": lambda: torch.tensor(1.0).add_(far()),
    "two devices": lambda: far(2) + torch.ones(2, device=SECOND),
    "matrices": lambda: far(2, 2) @ torch.ones(2, 2),
    "a CPU tensor by a far index": lambda: torch.ones(3)[torch.tensor([0], device=DEVICE)],
    "index_select by a CPU index": lambda: far(3).index_select(0, torch.tensor([0])),
    "gather by a CPU index": lambda: far(3).gather(0, torch.tensor([0])),
    "a CPU mask": lambda: far(2).masked_fill(torch.tensor([True, False]), 0.0),
    "CPU values put in": lambda: far(3).index_put_((torch.tensor([0, 1]),), torch.ones(2)),
    "embedding": lambda: embedding(torch.tensor([0]), far(3, 2)),
    "stacked numbers": lambda: torch.stack([far(), torch.tensor(1.0)]),
    "cat": lambda: torch.cat([far(2), torch.ones(2)]),
    "comparison": lambda: torch.equal(far(2), torch.ones(2)),
    "where": lambda: torch.where(torch.tensor([True, False]), far(2), far(2)),
    "search": lambda: torch.searchsorted(far(3), torch.ones(2)),
    "a CPU generator": lambda: torch.rand(2, device=DEVICE, generator=torch.Generator()),
}


@pytest.mark.parametrize("what", REFUSED)
def test_what_mixes_devices_is_refused(what: str) -> None:
    with pytest.raises(DeviceError):
        REFUSED[what]()


def test_what_is_on_a_device_is_no_array() -> None:
    with pytest.raises(TypeError, match=r"Use Tensor\.cpu\(\)"):
        far(2).numpy()


ALLOWED: dict[str, Callable[[torch.device], torch.Tensor]] = {
    "a CPU number": lambda at: torch.arange(3.0, device=at) * torch.tensor(2.0),
    "a CPU index": lambda at: torch.arange(3.0, device=at)[torch.tensor([2, 0])],
    "a CPU mask as index": lambda at: torch.arange(3.0, device=at)[torch.tensor([True, False, True])],
    "a list as index": lambda at: torch.arange(3.0, device=at)[[2, 0]],
    "a number put in": lambda at: torch.zeros(3, device=at).index_put_((torch.tensor([1]),), torch.tensor(5.0)),
    "copies": lambda at: torch.zeros(2, device=at).copy_(torch.ones(2)),
    "a list of its own": lambda at: torch.tensor([torch.tensor(1.0, device=at), 2.0], device=at),
    "views": lambda at: torch.zeros(2, 3, device=at).index_fill_(0, torch.tensor([1], device=at), 2.0)[1, 1:].add_(1),
    "classes": lambda at: one_hot(torch.tensor([0, 2], device=at), 3),
}


@pytest.mark.parametrize("mode", [torch.enable_grad, torch.no_grad, torch.inference_mode])
@pytest.mark.parametrize("what", ALLOWED)
def test_the_rest_is_computed_and_stays_where_it_is(what: str, mode: Any) -> None:
    with mode():
        found, expected = ALLOWED[what](DEVICE), ALLOWED[what](torch.device("cpu"))
        assert found.device == DEVICE
        assert found.cpu().tolist() == found.tolist() == expected.tolist()


def test_gradients_flow_on_the_device_and_across() -> None:
    x = torch.arange(4.0, requires_grad=True)
    y = x.to(DEVICE) * 3
    y[1:3].mul_(2)
    (y.to(SECOND) ** 2).sum().backward()
    scale = torch.tensor([3.0, 6, 6, 3])
    assert torch.equal(x.grad, 2 * scale**2 * x.detach())


def test_what_modules_share_they_share_after_a_move() -> None:
    module = torch.nn.ModuleDict({"a": torch.nn.Linear(2, 2), "b": torch.nn.Linear(2, 2)})
    module["b"].weight = module["a"].weight
    expected = module["a"].weight.tolist()
    module.to(DEVICE).double()
    assert module["a"].weight is module["b"].weight
    assert (module["a"].weight.device, module["a"].weight.dtype) == (DEVICE, torch.float64)
    assert module["a"].weight.tolist() == expected
