"""Collecting hook points and edges: the pieces that every block and part is made of."""

from collections.abc import Iterable
from dataclasses import dataclass, field
from functools import partial
from typing import cast

import torch
from torch import nn

from mmlens.architectures.adapter_layers import base_layer
from mmlens.architectures.modules import in_features, submodule
from mmlens.architectures.tensor_parallel import SplitModules
from mmlens.architectures.weights import bias_of
from mmlens.core.errors import UnsupportedModelError
from mmlens.core.names import HookName
from mmlens.declarations.projector import FeatureMethod
from mmlens.declarations.rows import Form, Rows
from mmlens.declarations.structure import Mlp, Norm, Scale
from mmlens.hooks.attachment import AtSite, Attachment, TensorAccess
from mmlens.hooks.attention import Tower
from mmlens.hooks.indirect import NormScale
from mmlens.hooks.mixture import RouterLogits, Unflattened
from mmlens.hooks.nodes import Node, Role, node_kind
from mmlens.hooks.point import Point
from mmlens.hooks.raster import OutOfWindows
from mmlens.hooks.site import MethodSite, Site
from mmlens.hooks.split import Split, WholeOf
from mmlens.hooks.views import Factored, OneRow, OneRowAxis, OneStream, RowsFirst, RowsOfMap, WithoutAxis


@dataclass
class Collector:
    """Points, nodes and edges, in execution order.

    Attributes:
        model: the bare Hugging Face model.
        family: the family's name, for messages.
        dead: why the points added now cannot reach the logits; None if they can.
        form: the form in which the modules read now hold rows.
        windows: the block whose modules, read now, see windows of its raster; hooks see the raster's rows.
        split: the modules whose tensors are split over processes.
        towers: the switches of the towers whose attention has points, by the identity of their configuration.
    """

    model: nn.Module
    family: str
    points: dict[str, Point] = field(default_factory=dict)
    nodes: list[Node] = field(default_factory=list)
    edges: list[tuple[str, str]] = field(default_factory=list)
    dead: str | None = None
    form: Form = field(default_factory=Form)
    windows: nn.Module | None = None
    split: SplitModules = field(default_factory=SplitModules)
    _sites: dict[tuple[int, str, str], Site] = field(default_factory=dict)
    _reaches: dict[tuple[int, str, str], TensorAccess] = field(default_factory=dict)
    towers: dict[int, Tower] = field(default_factory=dict)

    def module(self, path: str, root: nn.Module | None = None) -> nn.Module:
        """A module of the model, or of a block."""
        return submodule(self.model if root is None else root, path, self.family)

    def entering(self, module: nn.Module, argument: str = "hidden_states") -> TensorAccess:
        """The tensor that a module receives."""
        return self._shown(_whole(self._received(module, argument), self.split.received.get(id(module))))

    def leaving(self, module: nn.Module) -> TensorAccess:
        """The tensor that a module returns."""
        site = self._sites.setdefault((id(module), "out", ""), Site(module, "out"))
        return self._shown(_whole(site, self.split.returned.get(id(module))))

    def _received(self, module: nn.Module, argument: str = "hidden_states") -> Site:
        return self._sites.setdefault((id(module), "in", argument), Site(module, "in", argument))

    def _shown(self, reach: TensorAccess) -> TensorAccess:
        """A tensor as hooks see it: one axis of rows, in the order of the stream."""
        if self.windows is not None:
            reach = OutOfWindows(reach, self._received(self.windows), self.windows)
        if self.form.lone_axis is not None:
            reach = WithoutAxis(reach, self.form.lone_axis)
        if self.form.channels_first:
            return RowsOfMap(reach)
        if self.form.active is not None:
            return OneStream(reach, self.form.active)
        if self.form.rows_first:
            return RowsFirst(reach)
        if self.form.one_row:
            return OneRow(reach)
        return OneRowAxis(reach) if self.form.nested else reach

    def returned(self, output: str | FeatureMethod) -> TensorAccess:
        """What a declared module or method of the model returns."""
        if isinstance(output, str):
            return self.leaving(self.module(output))
        return self._shown(MethodSite(self.module(output.path), output.name, output.field))

    def branch(self, path: str | None, block: nn.Module, scale: Scale | None) -> AtSite:
        """What a branch adds to the stream: a module's output, times a gate or layer scale if there is one."""
        if path is None:
            raise UnsupportedModelError(
                "A block's declaration lacks the module that returns its branch (Attention.branch, Mlp.branch)."
            )
        module = self.module(path, block)
        site = self.leaving(module)
        if scale is None:
            return AtSite(site)
        key = (id(module), "scaled", "")
        reach = self._reaches.setdefault(key, Factored(site, partial(scale, block)))
        return AtSite(reach)

    def add(
        self,
        name: str,
        attachment: Attachment,
        rows: Rows,
        *,
        axes: str | None = None,
        width: int | None = -1,
        after: Iterable[str] = (),
        role: Role | None = None,
        on_request: bool = False,
        units: int | None = None,
        read_by: nn.Module | None = None,
    ) -> str:
        """Add one point and the edges into it; returns its name.

        Args:
            name: full hook name.
            attachment: how it reaches its tensor.
            rows: the stream it lives on.
            axes, width: if they differ from the stream's.
            after: the points it is computed from.
            role: what it is to the residual stream.
            on_request: left out of a default cache.
            units: how many neurons or heads it holds, at the points that hold a branch's units.
            read_by: the linear that reads these units.
        """
        parts = HookName.parse(name)
        self.points[name] = Point(name, attachment, read_by=read_by)
        self.nodes.append(
            Node(
                name,
                parts.part,
                parts.layer,
                node_kind(name),
                axes or rows.axes,
                rows.width if width == -1 else width,
                rows.sequence,
                role,
                self.dead,
                on_request,
                parts.stack,
                units,
            )
        )
        self.edges += [(source, name) for source in after]
        return name

    def norm_scale(
        self, name: str, norm: Norm, root: nn.Module | None, rows: Rows, after: str, *, flat: TensorAccess | None = None
    ) -> str:
        """The divisor of a norm; `flat` as for `mlp`."""
        module = self.module(norm.path, root)
        base = base_layer(module)
        eps = next((getattr(base, key) for key in ("variance_epsilon", "eps") if hasattr(base, key)), 0.0)
        inputs: TensorAccess = self.entering(module)
        outputs: TensorAccess = self.leaving(module)
        if flat is not None:
            inputs, outputs = Unflattened(inputs, flat), Unflattened(outputs, flat)
        bias = partial(bias_of, module, "A norm")
        attachment = NormScale(
            base, is_centred=norm.is_centred(base), eps=eps, bias=bias, inputs=inputs, outputs=outputs
        )
        return self.add(name, attachment, rows, axes=rows.inner("one"), width=1, after=[after])

    def mlp(
        self,
        prefix: str,
        mlp: Mlp,
        root: nn.Module | None,
        rows: Rows,
        after: list[str],
        *,
        flat: TensorAccess | None = None,
    ) -> list[str]:
        """The inner points of an MLP; returns the names that its output is computed from.

        Args:
            prefix: of their names.
            mlp: where things are.
            root: the block; None for a projector's MLP.
            rows: the stream it reads.
            after: the points it is computed from.
            flat: where it may run on the rows of all samples in one sequence, the stream whose rows they are.
        """
        if mlp.down is None:
            return self._mixture(prefix, mlp, root, rows, after)

        def at(site: TensorAccess) -> AtSite:
            return AtSite(site if flat is None else Unflattened(site, flat))

        down = self.module(mlp.down, root)
        width, axes = in_features(down), rows.inner("neuron")
        hidden = list(after)
        if mlp.act is not None:
            act, split = self.module(mlp.act, root), self.split.received.get(id(base_layer(down)))
            into, out = _whole(self.entering(act), split), _whole(self.leaving(act), split)
            pre = self.add(f"{prefix}.hook_pre", at(into), rows, axes=axes, width=width, after=after)
            active = self.add(f"{prefix}.hook_act", at(out), rows, axes=axes, width=width, after=[pre])
            hidden = [active, *after] if mlp.gate or mlp.gate_up else [active]
        post, site = f"{prefix}.hook_post", at(self.entering(down))
        return [self.add(post, site, rows, axes=axes, width=width, after=hidden, units=width, read_by=down)]

    def _mixture(self, prefix: str, mlp: Mlp, root: nn.Module | None, rows: Rows, after: list[str]) -> list[str]:
        """A mixture of experts: the router's logits, where a module returns them, and the expert that all rows share."""
        stream = self.entering(self.model if root is None else root)
        names = list(after)
        if mlp.router is not None:
            router = self.module(mlp.router, root)
            reach = self.leaving(router) if mlp.router_item is None else RouterLogits(router, mlp.router_item)
            width = int(cast(torch.Tensor, router.weight).shape[0])
            site = AtSite(Unflattened(reach, stream))
            axes = rows.inner("expert")
            names.append(self.add(f"{prefix}.hook_router", site, rows, axes=axes, width=width, after=after))
        if mlp.shared is not None:
            names += self.mlp(f"{prefix}.shared", mlp.shared, root, rows, after, flat=stream)
        return names


def _whole(site: TensorAccess, split: Split | None) -> TensorAccess:
    """A site whose taps see the whole of its tensor."""
    return site if split is None else WholeOf(site, split)
