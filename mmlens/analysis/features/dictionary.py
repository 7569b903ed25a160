"""Sparse dictionaries: autoencoders and transcoders, whose codes say how much of each feature a state holds.

    codes = dictionary.encode(x)            # [... feature]
    x ~ dictionary.decode(codes)            # [... d_model]

    x  ->  normalise  ->  minus b_dec (if centred)  ->  p = x W_enc + b_enc  ->  codes  ->  codes W_dec + b_dec  ->  undo

A transcoder reads one point and says what is written at another: nothing is taken off what it reads, and nothing undone.

Source: SAELens, https://github.com/decoderesearch/SAELens (saes/*.py), whose arithmetic this is; sparsify for `groupmax`.
*Departs:* weights are at least float32, whatever `dtype` a configuration names. Norms of decoder rows by which codes are chosen
are folded into the encoder, so that the codes are the same and `p` is in their unit.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field, fields, replace
from math import sqrt
from typing import Any

import torch
from jaxtyping import Float

from mmlens.analysis.features.dictionary_form import Activation, Normalization, require_settings, require_shapes
from mmlens.core.contract import checked
from mmlens.core.errors import InputError
from mmlens.core.kinds import Count, Index
from mmlens.core.tensor_kinds import Device
from mmlens.interventions.steering_vector import SteeringVector

_EPSILON = 1e-5


@checked
@dataclass(frozen=True, eq=False, repr=False)
class SparseDictionary:
    """A sparse autoencoder or transcoder, and where in a model it belongs.

    Attributes:
        W_enc: the encoder.
        b_enc: its bias; of a gated one the bias of magnitudes.
        W_dec: what each feature writes, per unit of its code.
        b_dec: what is written besides.
        at: the hook point whose states it gives back, or `blocks.3.mlp.hook_out` (what the MLP returns: `hook_mlp_out`, where no
            norm stands behind it); empty where its files do not say.
        at_in: of a transcoder, what it reads: a hook point, or `blocks.3.mlp.hook_in` (what the MLP receives, behind its norm)
            or `blocks.3.hook_mlp_in` (the stream in front of that norm); None for an autoencoder.
        activation: how codes come about.
        k: of topk and groupmax.
        threshold: of jumprelu; a code is 0 unless p exceeds it.
        b_gate: of gated, the gate's bias.
        r_mag: of gated, the logarithm of the ratio of magnitudes to the gate's products.
        W_skip: of a transcoder, what goes past the features: `x W_skip^T` is added.
        centred: whether b_dec is taken off before encoding; never in a transcoder.
        normalization: what is done to each state.
        cfg: the configuration as its files give it.

    Raises:
        InputError: if the tensors do not fit each other, or settings contradict them.

    Example:
        >>> import torch
        >>> W, b = torch.eye(3), torch.zeros(3)
        >>> dictionary = SparseDictionary(W, b, W, b, "blocks.1.hook_resid_post", activation="topk", k=1)
        >>> dictionary.encode(torch.tensor([[1.0, 5.0, -9.0]]))
        tensor([[0., 5., 0.]])
    """

    W_enc: Float[torch.Tensor, "d_in feature"]
    b_enc: Float[torch.Tensor, "feature"]
    W_dec: Float[torch.Tensor, "feature d_out"]
    b_dec: Float[torch.Tensor, "d_out"]
    at: str = ""
    at_in: str | None = None
    activation: Activation = "relu"
    k: Count | None = None
    threshold: Float[torch.Tensor, "feature"] | None = None
    b_gate: Float[torch.Tensor, "feature"] | None = None
    r_mag: Float[torch.Tensor, "feature"] | None = None
    W_skip: Float[torch.Tensor, "d_out d_in"] | None = None
    centred: bool = True
    normalization: Normalization = "none"
    cfg: Mapping[str, Any] = field(default_factory=dict)
    _copies: dict[torch.device, "SparseDictionary"] = field(default_factory=dict, init=False, compare=False)

    def __post_init__(self) -> None:
        values = {entry.name: getattr(self, entry.name) for entry in fields(self)}
        tensors = {name: value.detach() for name, value in values.items() if isinstance(value, torch.Tensor)}
        for name, tensor in tensors.items():
            object.__setattr__(self, name, tensor.to(torch.promote_types(tensor.dtype, torch.float32)))
        require_shapes(tensors, self.is_transcoder)
        require_settings(self.activation, self.normalization, self.k, tensors)
        if self.is_transcoder:
            object.__setattr__(self, "centred", False)

    def __repr__(self) -> str:
        kind = "transcoder" if self.is_transcoder else "autoencoder"
        how = self.activation + (f", k={self.k}" if self.k else "")
        where = self.at or "a point that its files do not name"
        reads = f"{self.at_in} -> " if self.at_in else ""
        return f"SparseDictionary({len(self)} features of {self.d_out} by a {kind} ({how}) at {reads}{where})"

    def __len__(self) -> int:
        return len(self.W_dec)

    @property
    def is_transcoder(self) -> bool:
        """Whether it reads another point than it writes."""
        return self.at_in is not None

    @property
    def d_in(self) -> int:
        """Width of what it reads."""
        return self.W_enc.shape[0]

    @property
    def d_out(self) -> int:
        """Width of what it writes."""
        return self.W_dec.shape[1]

    @property
    def vectors(self) -> Float[torch.Tensor, "feature d_out"]:
        """What each feature writes, per unit of its code: `W_dec`."""
        return self.W_dec

    @property
    def scales(self) -> bool:
        """Whether what is decoded is scaled by a number of each state."""
        return self.normalization != "none" and not self.is_transcoder

    @checked
    def to(self, device: Device) -> "SparseDictionary":
        """The same on a device."""
        device = torch.device(device)
        if self.W_enc.device == device:
            return self
        if device not in self._copies:
            tensors: dict[str, Any] = {
                entry.name: value.to(device)
                for entry in fields(self)
                if isinstance(value := getattr(self, entry.name), torch.Tensor)
            }
            self._copies[device] = replace(self, **tensors)
        return self._copies[device]

    # -- the two ways --------------------------------------------------------------------------------------------------

    @checked
    def encode(self, x: torch.Tensor) -> Float[torch.Tensor, "... feature"]:
        """How much of each feature states hold.

        Args:
            x: states `[... d_in]`, or of heads `[... head d_head]` where d_in is that of all heads side by side.

        Raises:
            InputError: for states of another width.
        """
        states = self.flat(x, self.d_in).to(self.W_enc.dtype)
        here = self.to(states.device)
        return here.codes(here.pre_codes(states), states)

    @checked
    def decode(self, codes: torch.Tensor, x: torch.Tensor | None = None) -> Float[torch.Tensor, "... d_out"]:
        """The states that codes stand for.

        Args:
            codes: `[... feature]`.
            x: the states that were encoded, where these decide too: by their norms, or past the features.

        Raises:
            InputError: for codes of another number of features, or without states where they are needed.
        """
        if not codes.ndim or codes.shape[-1] != len(self):
            raise InputError(f"codes must be [... feature={len(self)}], found {list(codes.shape)}.")
        if x is None and (self.scales or self.W_skip is not None):
            why = "adds what goes past the features" if self.W_skip is not None else "gives each state its norm back"
            raise InputError(f"{self!r} {why}, so that codes alone do not decide: decode(codes, x).")
        here = self.to(codes.device)
        return here.written(codes.to(self.W_dec.dtype), None if x is None else self.flat(x, self.d_in).to(codes.device))

    @checked
    def activations(
        self, values: Float[torch.Tensor, "sample d_in"], codes: Float[torch.Tensor, "sample feature"] | None = None
    ) -> Float[torch.Tensor, "sample feature"]:
        """How strongly each feature is active: the codes; see `mmlens.analysis.concepts.coders.Coder`."""
        return self.encode(values) if codes is None else codes

    @checked
    def direction(self, feature: Index) -> SteeringVector:
        """What a feature writes, as a vector to steer with: `mm.Steer(dictionary.direction(7), alpha=4.0)`.

        Raises:
            InputError: for a feature that it does not have.
        """
        if feature >= len(self):
            raise InputError(f"There is no feature {feature}; features run from 0 to {len(self) - 1}.")
        return SteeringVector(self.W_dec[feature], self.at, {"method": f"feature {feature}"})

    # -- pieces that a splice is made of, all on one device and in the dictionary's dtype --------------------------------

    def flat(self, x: torch.Tensor, width: int) -> torch.Tensor:
        """States with heads side by side, as wide as they must be.

        Raises:
            InputError: for states of another width.
        """
        if x.ndim and x.shape[-1] == width:
            return x
        if x.ndim > 1 and x.shape[-2] * x.shape[-1] == width:
            return x.flatten(-2)
        raise InputError(f"States must be [... d={width}] for {self!r}, found {list(x.shape)}.")

    def pre_codes(self, x: torch.Tensor) -> torch.Tensor:
        """What codes are made of, `x W_enc + b_enc`; of gated ones the magnitudes."""
        products = self._centred(x) @ self.W_enc
        return products * self.r_mag.exp() + self.b_enc if self.r_mag is not None else products + self.b_enc

    def codes(self, pre_codes: torch.Tensor, x: torch.Tensor) -> torch.Tensor:
        """Codes of what they are made of; gates are those of the states."""
        active = pre_codes.relu()
        if self.threshold is not None:
            return active * (pre_codes > self.threshold)
        if self.b_gate is not None:
            return active * (self._centred(x) @ self.W_enc + self.b_gate > 0)
        if self.activation == "topk" and self.k is not None:
            best = pre_codes.topk(self.k, dim=-1, sorted=False)
            return torch.zeros_like(pre_codes).scatter(-1, best.indices, best.values.relu())
        if self.activation == "groupmax" and self.k is not None:
            groups = active.unflatten(-1, (self.k, -1))
            best = groups.max(-1, keepdim=True)
            return torch.zeros_like(groups).scatter(-1, best.indices, best.values).flatten(-2)
        return active

    def written(self, codes: torch.Tensor, x: torch.Tensor | None) -> torch.Tensor:
        """What codes write, in the unit of the point."""
        result = codes @ self.W_dec + self.b_dec
        if x is None:
            return result
        if self.scales:
            scale, shift = self._moments(x.to(result.dtype))
            result = result * (scale if self.normalization == "layer_norm" else 1 / scale) + shift
        return result if self.W_skip is None else result + x.to(result.dtype) @ self.W_skip.T

    def code_gradients(self, gradient: torch.Tensor, x: torch.Tensor) -> torch.Tensor:
        """What a derivative by the point's states, at states `x`, is by codes: `s (g . W_dec_i)`."""
        if self.scales:
            scale, _ = self._moments(x)
            gradient = gradient * (scale if self.normalization == "layer_norm" else 1 / scale)
        return gradient @ self.W_dec.T

    def _moments(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor | float]:
        """The factor to a norm of sqrt(d), and 0; or the standard deviation over n - 1, and the mean."""
        if self.normalization == "constant_norm_rescale":
            tiny = torch.finfo(x.dtype).tiny
            return sqrt(x.shape[-1]) / x.norm(dim=-1, keepdim=True).clamp_min(tiny * 1e8), 0.0
        return x.std(-1, keepdim=True), x.mean(-1, keepdim=True)

    def _centred(self, x: torch.Tensor) -> torch.Tensor:
        if self.normalization != "none":
            scale, shift = self._moments(x)
            x = (x - shift) / (scale + _EPSILON) if self.normalization == "layer_norm" else x * scale
        return x - self.b_dec if self.centred else x
