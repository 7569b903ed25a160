"""The configurations of a model's parts, and which vision blocks they say are read."""

from collections.abc import Sequence

from mmlens.core.errors import InputError
from mmlens.declarations.structure import Config


def vision_config(config: Config) -> Config:
    """The vision tower's configuration."""
    return config.vision_config


def text_config(config: Config) -> Config:
    """The language model's configuration."""
    return config.text_config


def last_block(config: Config) -> Sequence[int]:
    """The last vision block alone."""
    return [config.vision_config.num_hidden_layers - 1]


def layer_index(index: int, depth: int, setting: str) -> int:
    """A block number from a Hugging Face `hidden_states` index, where 0 is the embedding and k the output of block k-1.

    Args:
        index: possibly negative index into the `depth + 1` hidden states.
        depth: number of blocks.
        setting: its name, for the message.

    Raises:
        InputError: if the index is out of range or names the embedding itself.
    """
    state = index + depth + 1 if index < 0 else index
    if not 1 <= state <= depth:
        raise InputError(
            f"{setting}={index} is not the output of a block: with {depth} blocks it must be in 1..{depth} or -{depth}..-1."
        )
    return state - 1


def feature_layers(config: Config) -> Sequence[int]:
    """The vision blocks whose output is handed on, from `vision_feature_layer`: one, or several side by side."""
    layers = config.vision_feature_layer
    depth = config.vision_config.num_hidden_layers
    return [layer_index(i, depth, "vision_feature_layer") for i in ([layers] if isinstance(layers, int) else layers)]
