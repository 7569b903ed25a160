"""Tensors split over processes: taps see the whole. Here two processes of which the second holds what the first does.

The real ones are in `tests/contracts/test_tensor_parallel.py`; this group answers itself (torch's own, for its tests), so that a
gathered tensor is this process's part, once for each process.
"""

from collections.abc import Iterator

import pytest
import torch
import torch.distributed as dist
from torch.distributed.device_mesh import DeviceMesh, init_device_mesh
from torch.testing._internal.distributed.fake_pg import FakeStore

from mmlens.hooks.attention import ATTENTION_KINDS, InAttention, Tower, hooked_attention
from mmlens.hooks.site import Tap
from mmlens.hooks.split import Split, WholeOf


@pytest.fixture(scope="module")
def mesh() -> Iterator[DeviceMesh]:
    dist.init_process_group("fake", rank=0, world_size=2, store=FakeStore())
    yield init_device_mesh("cpu", (2,))
    dist.destroy_process_group()


@pytest.mark.parametrize(("axis", "size"), [(-1, None), (-2, None), (-3, None), (-1, 5), (-2, 3), (-3, 3)])
def test_a_tap_sees_the_whole_and_the_process_goes_on_with_its_part(
    mesh: DeviceMesh, axis: int, size: int | None
) -> None:
    """An uneven whole leaves the last process fewer: of 5 entries 3 and 2."""
    part = torch.randn(2, 2, 2)
    if size == 5:
        part = torch.randn(2, 2, 3)
    expected = torch.cat([part, part.narrow(axis, 0, (size or 4) - part.shape[axis])], axis)
    seen = []

    def double(whole: torch.Tensor) -> torch.Tensor:
        seen.append(whole)
        return whole * 2

    new = Split(lambda: mesh, size).through(double, axis, part)
    assert torch.equal(seen[0], expected)
    assert torch.equal(new, part * 2)


def test_what_a_tap_leaves_alone_stays_the_very_tensor_unless_gradients_flow(mesh: DeviceMesh) -> None:
    split, part = Split(lambda: mesh), torch.randn(2, 3)
    assert split.through(lambda whole: whole, -1, part) is part
    leaf = torch.randn(2, 3, requires_grad=True)
    wholes = []

    def keep(whole: torch.Tensor) -> torch.Tensor:
        whole.retain_grad()
        wholes.append(whole)
        return whole

    split.through(keep, -1, leaf).sum().backward()
    assert wholes[0].grad is not None
    assert leaf.grad is not None


class Passage:
    """A site that hands a tensor to its taps."""

    def __init__(self) -> None:
        self.taps: list[Tap] = []

    def attach(self, tap: Tap, rank: int) -> None:
        self.taps.append(tap)

    def detach(self, tap: Tap) -> None:
        self.taps.remove(tap)


def test_the_whole_of_a_site_is_put_together_along_its_last_axis(mesh: DeviceMesh) -> None:
    site, seen = Passage(), []

    def tap(whole: torch.Tensor) -> torch.Tensor:
        seen.append(whole.shape)
        return whole + 1

    view = WholeOf(site, Split(lambda: mesh))
    view.attach(tap, 0)
    part = torch.randn(1, 2, 3)
    assert torch.equal(site.taps[0](part), part + 1)
    assert seen == [(1, 2, 6)]
    view.detach(tap)
    assert not site.taps


def test_split_attention_shows_all_heads_where_each_tensor_has_them(mesh: DeviceMesh) -> None:
    """Heads are the last axis but one of q, k, v and z, and come in front of the two of positions in scores and pattern."""
    module, shapes = torch.nn.Identity(), {}
    taps = {kind: lambda whole, kind=kind: shapes.setdefault(kind, whole.shape) and whole for kind in ATTENTION_KINDS}
    points = [(InAttention(module, kind, Tower(bool), Split(lambda: mesh)), taps[kind]) for kind in ATTENTION_KINDS]
    for point, tap in points:
        point.attach(tap)
    q, k, v = torch.randn(3, 1, 2, 5, 4).unbind()
    hooked_attention(lambda *_: (torch.zeros(0), None), module, q, k, v, None)
    for point, tap in points:
        point.detach(tap)
    assert {shapes[kind] for kind in ("q", "k", "v", "z")} == {(1, 5, 4, 4)}
    assert shapes["attn_scores"] == shapes["pattern"] == (1, 4, 5, 5)
