"""Which tensor holds a neuron's activation."""

from typing import Literal

#: `"down_in"`: the input of the down projection, the exact multiplier of the neuron's row; `"act"`: the activation
#: function's output, as in the published code.
Activation = Literal["down_in", "act"]
POINTS: dict[str, str] = {"down_in": "mlp.hook_post", "act": "mlp.hook_act"}
