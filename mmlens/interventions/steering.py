"""Steering: add a direction to the stream, or take one out of it, at chosen positions and steps of a generation.

    x  ->  x + alpha * direction                            (Steer)
    x  ->  |x| unit( unit(x) + alpha * unit(direction) )    (Steer, scale="relative")
    x  ->  x - (x . unit) unit                              (ProjectOut)

Source: Khayatan et al., "Analyzing Fine-tuning Representation Shift for Multimodal LLMs Steering Alignment", ICCV 2025
(https://arxiv.org/abs/2501.03012), section on steering; directional ablation: Arditi et al., "Refusal in Language Models
Is Mediated by a Single Direction", NeurIPS 2024 (https://arxiv.org/abs/2406.11717), equation 4.
"""

from dataclasses import dataclass, field
from typing import Literal, TypeAlias

import torch
from jaxtyping import Float

from mmlens.core.contract import checked
from mmlens.core.errors import InputError
from mmlens.hooks.nodes import Node
from mmlens.hooks.session import HookPair
from mmlens.interventions.directed import DirectedIntervention
from mmlens.interventions.positioned import RowMask, per_entry
from mmlens.interventions.steering_table import SteeringTable
from mmlens.interventions.steering_vector import SteeringVector
from mmlens.interventions.vector_predictor import VectorPredictor, predict_apart, reader_of
from mmlens.models.hooked import HookedMultimodal
from mmlens.models.run import Run

#: How strong a steering vector acts. `"absolute"`: as it is, times alpha. `"relative"`: along its direction, alpha times the
#: length of the state, which keeps its length (VTI). `"adaptive"`: the same, alpha times `1 + max(0, -cos(state, direction))`,
#: up to twice as strong where a state points the other way (VISTA).
SteeringScale: TypeAlias = Literal["absolute", "relative", "adaptive"]


@checked
@dataclass(frozen=True)
class Steer(DirectedIntervention):
    """Add `alpha` times a vector to the states at its point.

    Args:
        vector: the direction and its point; or one per sample of the batch, or per row of a tower (`mm.steering.SteeringTable`);
            or what predicts each sample's from a state of its prompt (`mm.steering.learn_predictor`).
        alpha: strength; 1 adds the vector as it is.
        scale: what alpha is counted in, the vector's own length or the state's; see `SteeringScale`.
        keep_norm: give each state its own norm back, so that only its direction changes.
        positions: which positions (see `mm.positions`): `positions.last | positions.generated` steers all that predicts a
            new token, `"prompt"` leaves the answer's own tokens alone.
        at: other points than the vector's own.
        gate: act only where it says so, e.g. where a concept is active.

    Attributes:
        touched: how many steps and positions the last run changed.

    Example:
        >>> from mmlens.steering import SteeringVector
        >>> from mmlens import positions
        >>> vector = SteeringVector(model.W_U[:, 5], "blocks.3.hook_resid_post")
        >>> steer = Steer(vector, alpha=2.0, positions=positions.last | positions.generated)
        >>> with model.intervene(steer):
        ...     logits = model(batch)
        >>> print(steer.touched)
        1 positions in 1 steps

    Source of the relative scale: Liu, Ye and Zou, "Reducing Hallucinations in Vision-Language Models via Latent Space Steering",
    ICLR 2025 (https://arxiv.org/abs/2410.15778), whose code has a further factor of 0.1; of the adaptive one: Li et al., "The
    Hidden Life of Tokens: Reducing Hallucination of Large Vision-Language Models via Visual Information Steering", ICML 2025
    (https://arxiv.org/abs/2502.03628). Both write to `blocks.*.hook_mlp_out` what they measured in the residual stream: pass
    `at=`.
    """

    vector: SteeringVector | SteeringTable | VectorPredictor
    alpha: float = 1.0
    scale: SteeringScale = field(default="absolute", kw_only=True)
    keep_norm: bool = field(default=False, kw_only=True)

    def hooks(self, model: HookedMultimodal) -> list[HookPair]:
        """One hook per point, behind the one that reads what a predictor needs.

        Raises:
            InputError: as for every intervention; for rows that the points of a table do not have.
        """
        pairs = super().hooks(model)
        if isinstance(self.vector, SteeringTable):
            for node in self.points(model):
                self.vector.check(node)
        if isinstance(self.vector, VectorPredictor):
            self.vector.check(model, self.points(model))
            if self.vector.precedes(model, self.points(model)):
                pairs.insert(0, (self.vector.read_at, reader_of(model, self.vector)))
        return pairs

    def starts(self, run: Run) -> None:
        """Resolve the positions; have a predictor whose state lies behind what is steered read it in a pass of its own.

        Raises:
            InputError: for positions that name nothing, or a table for other samples than those that run.
        """
        super().starts(run)
        if isinstance(self.vector, SteeringTable):
            self.vector.require_samples(run.batch)
        if isinstance(self.vector, VectorPredictor) and not self.vector.precedes(run.model, self.points(run.model)):
            predict_apart(run, self.vector)

    def everywhere(self, node: Node) -> bool:
        """As of every steering; directions that differ from row to row need the run."""
        return isinstance(self.vector, SteeringVector) and super().everywhere(node)

    def acting(self) -> Float[torch.Tensor, "d_model"]:
        """The vector: as strong as asked for, or of length 1 where alpha counts the states' length."""
        vector = self.common_vector
        return self.alpha * vector.direction if self.scale == "absolute" else vector.direction / vector.norm

    def change(self, states: Float[torch.Tensor, "*rows d_model"]) -> Float[torch.Tensor, "*rows d_model"]:
        """The states with the vector added."""
        return self._moved_by(states, self.direction(states))

    def changed(self, activation: torch.Tensor, found: RowMask, node: Node) -> torch.Tensor:
        """The states with each row's own vector added."""
        if isinstance(self.vector, SteeringVector):
            return self.change(activation)
        run = found.run
        if run is None:
            raise InputError(
                f"{self.vector!r} belongs to the samples of a run, and there is none; call the hooked model."
            )
        if isinstance(self.vector, SteeringTable):
            directions = self.vector.directions(run, node, activation)
        else:
            by_sample = self.vector.directions(run)
            directions = per_entry(by_sample, len(activation), node, run)[:, None].to(activation.device)
        if self.scale == "absolute":
            return self._moved_by(activation, self.alpha * directions.to(activation.dtype))
        lengths = directions.norm(dim=-1, keepdim=True)
        return self._moved_by(activation, directions / lengths.clamp_min(1e-12))

    def _moved_by(self, states: torch.Tensor, directions: torch.Tensor) -> torch.Tensor:
        """States moved by directions: as they are, or of length 1 by as much as the scale says."""
        if self.scale == "absolute":
            result = states + directions
            if not self.keep_norm:
                return result
            return result * (states.norm(dim=-1, keepdim=True) / result.norm(dim=-1, keepdim=True).clamp_min(1e-12))
        if not self.alpha:
            return states
        exact, lengths = states.float(), states.float().norm(dim=-1, keepdim=True)
        units, directions = exact / lengths.clamp_min(1e-12), directions.float()
        strength: float | torch.Tensor = self.alpha
        if self.scale == "adaptive":
            strength = self.alpha * (1 - (units * directions).sum(-1, keepdim=True).clamp(max=0))
        turned = units + strength * directions
        return (turned * (lengths / turned.norm(dim=-1, keepdim=True).clamp_min(1e-12))).to(states.dtype)


@checked
@dataclass(frozen=True)
class ProjectOut(DirectedIntervention):
    """Take a direction out of the states: what is left is orthogonal to it.

    Args:
        vector: the direction and its point.
        positions, at, gate: as for `Steer`; `at="blocks.*.hook_resid_post"` keeps the direction from being written anew.

    Attributes:
        touched: how many steps and positions the last run changed.
    """

    vector: SteeringVector

    def acting(self) -> Float[torch.Tensor, "d_model"]:
        """The direction, of length 1."""
        return self.vector.direction / self.vector.norm

    def change(self, states: Float[torch.Tensor, "*rows d_model"]) -> Float[torch.Tensor, "*rows d_model"]:
        """The states without their part along the direction."""
        unit = self.direction(states)
        return states - (states @ unit)[..., None] * unit
