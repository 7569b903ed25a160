"""`python -m benchmarks.discovery`: which of transformers' image-text-to-text classes are declared, and which are discovered.

Classes that no family covers are built from their own configuration class, shrunk to a few thousand weights; a picture and a
text that they run on are found by trying. Prints one line per class.
"""

import argparse
import inspect
import itertools
import os
import re
import warnings
from collections.abc import Iterator
from typing import Any

os.environ.setdefault("HF_HUB_OFFLINE", "1")

import torch
import transformers
from torch import nn
from transformers.models.auto.configuration_auto import CONFIG_MAPPING
from transformers.models.auto.modeling_auto import MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING_NAMES
from transformers.utils import logging

from mmlens.architectures import families as _declared  # noqa: F401 - importing registers the families
from mmlens.core.errors import MMLensError
from mmlens.declarations.family import Family
from mmlens.declarations.registry import families
from mmlens.discover import discover
from mmlens.models.hooked import HookedMultimodal
from mmlens.models.trial import Trial
from tests.families import FAMILIES
from tests.tiny import TINY, picture, redraw

#: Classes that do not decode text from a picture and a prompt, and why.
OUT_OF_SCOPE = {
    "EvollaForProteinText2Text": "reads proteins, not pictures",
    "PI0ForConditionalGeneration": "writes a robot's actions, not text",
    "FuyuForCausalLM": "has no vision encoder: patches enter the language model by one linear",
    "ChameleonForConditionalGeneration": "has no vision encoder: pictures become discrete tokens of the vocabulary",
    "Emu3ForConditionalGeneration": "has no vision encoder: pictures become discrete tokens of the vocabulary",
    "DiffusionGemmaForBlockDiffusion": "writes text by diffusion, not token by token",
    "Pix2StructForConditionalGeneration": "reads text as pixels; its decoder has no prompt with a picture in it",
    "PPFormulaNetForConditionalGeneration": "has no prompt: the decoder writes what it sees",
    "VisionEncoderDecoderModel": "has no prompt: the decoder writes what it sees",
    "Mistral4ForCausalLM": "a language model alone",
}
#: Largest number of weights of a model that is tried.
LARGEST = 30_000_000
VOCAB, IMAGE, SIDE = 96, 4, 32

_SMALL: dict[str, Any] = {
    **dict.fromkeys(("hidden_size", "embed_dim", "d_model", "width", "dim", "out_hidden_size", "projection_dim"), 32),
    **dict.fromkeys(
        ("encoder_hidden_size", "output_dim", "vision_output_dim", "projector_hidden_size", "mm_hidden_size"), 32
    ),
    **dict.fromkeys(
        ("text_hidden_size", "projection_hidden_size", "hidden_dim", "vision_hidden_size", "input_dim"), 32
    ),
    **dict.fromkeys(
        ("intermediate_size", "mlp_dim", "ffn_dim", "moe_intermediate_size", "d_ff", "encoder_ffn_dim"), 48
    ),
    **dict.fromkeys(("decoder_ffn_dim", "shared_expert_intermediate_size", "projector_intermediate_size"), 48),
    **dict.fromkeys(("num_hidden_layers", "depth", "num_layers", "encoder_layers", "decoder_layers", "n_layers"), 2),
    **dict.fromkeys(("num_attention_heads", "num_heads", "encoder_attention_heads", "decoder_attention_heads"), 4),
    **dict.fromkeys(("num_key_value_heads", "num_experts_per_tok", "moe_k", "n_group", "topk_group"), 2),
    **dict.fromkeys(("num_experts", "num_local_experts", "n_routed_experts", "moe_num_experts"), 4),
    **dict.fromkeys(("head_dim", "attention_head_dim", "patch_size"), 8),
    **dict.fromkeys(("vocab_size", "max_position_embeddings"), VOCAB),
    **dict.fromkeys(("image_size", "img_size", "resolution"), SIDE),
    **dict.fromkeys(("qk_rope_head_dim", "qk_nope_head_dim", "v_head_dim"), 8),
    **dict.fromkeys(("kv_lora_rank", "q_lora_rank", "sliding_window"), 16),
    "n_shared_experts": 1,
    "num_query_tokens": 4,
    "vocab_size_per_layer_input": VOCAB,
    "temporal_patch_size": 2,
}


def shrunk(held: dict[str, Any], tokens: Iterator[int]) -> dict[str, Any]:
    """A configuration's dictionary with small sizes, and special tokens within a small vocabulary."""
    made: dict[str, Any] = {}
    for key, value in held.items():
        if isinstance(value, dict) and key not in ("rope_parameters", "rope_scaling", "id2label", "label2id"):
            made[key] = shrunk(value, tokens)
        elif isinstance(value, dict) and "mrope_section" in value:
            made[key] = {**value, "mrope_section": [2, 1, 1]}
        elif key in ("image_token_id", "image_token_index", "image_patch_id"):
            made[key] = IMAGE
        elif key.endswith(("_token_id", "_token_index")) and isinstance(value, int):
            made[key] = 0 if key.startswith("pad") else next(tokens)
        elif key in _SMALL and isinstance(value, int) and not isinstance(value, bool):
            made[key] = _SMALL[key]
        elif key in _SMALL and isinstance(value, list | tuple) and key in ("image_size", "img_size", "patch_size"):
            made[key] = [_SMALL[key]] * len(value)
        elif key in _SMALL and isinstance(value, list) and len(value) > 4:  # one entry per block
            made[key] = [_SMALL[key]] * 2
        elif key in ("head_dim", "sliding_window") and value is None:
            made[key] = _SMALL[key]
        elif key == "per_layer_config":  # settings of blocks that a small model does not have
            continue
        elif key in ("layer_types", "mlp_layer_types") and isinstance(value, list):
            made[key] = value[-2:]
        elif key in ("deepstack_visual_indexes", "fullatt_block_indexes") and isinstance(value, list):
            made[key] = [0]
        else:
            made[key] = value
    return made


def tiny_model(model_type: str, class_name: str) -> Any:
    """A small random model of a class, from its shrunk default configuration.

    Raises:
        ValueError: if it stays large.
    """
    config_class, model_class = CONFIG_MAPPING[model_type], getattr(transformers, class_name)
    config = config_class.from_dict(shrunk(config_class().to_dict(), itertools.count(10)))
    with torch.device("meta"):
        size = sum(parameter.numel() for parameter in model_class(config).parameters())
    if size > LARGEST:
        raise ValueError(f"its smallest configuration found here still has {size / 1e6:.0f} million weights")
    return redraw(model_class(config))


def _pixels(arguments: set[str], channels: int = 3) -> Iterator[dict[str, torch.Tensor]]:
    """What a picture might look like to a model."""
    generator = torch.Generator().manual_seed(0)

    def noise(*shape: int) -> torch.Tensor:
        return torch.randn(*shape, generator=generator)

    for grid, size in (("image_grid_thw", [1, 4, 4]), ("grid_thw", [1, 4, 4]), ("image_grid_hw", [4, 4])):
        if grid in arguments:
            for width in (channels * 2 * 64, channels * 64):
                yield {"pixel_values": noise(16, width), grid: torch.tensor([size])}
            yield {"pixel_values": noise(16, channels, 8, 8), grid: torch.tensor([size])}
            yield {"pixel_values": noise(16, channels, 2, 8, 8), grid: torch.tensor([size])}
    if "target_sizes" in arguments:
        yield {"pixel_values": noise(1, channels, 8, 128), "target_sizes": torch.tensor([[4, 4]], dtype=torch.int32)}
    if "high_res_pixel_values" in arguments:
        for side in (SIDE, 2 * SIDE, 4 * SIDE):
            yield {
                "pixel_values": noise(1, channels, SIDE, SIDE),
                "high_res_pixel_values": noise(1, channels, side, side),
            }
    if "spatial_shapes" in arguments:
        masks = {"pixel_attention_mask": torch.ones(1, 16, dtype=torch.long), "spatial_shapes": torch.tensor([[4, 4]])}
        yield {"pixel_values": noise(1, 16, channels * 64), **masks}
    sizes = {"image_sizes": torch.tensor([[SIDE, SIDE]])} if "image_sizes" in arguments else {}
    for name in ("pixel_values", "pixel_values_images"):
        if name in arguments:
            for shape in ((1, channels, SIDE, SIDE), (1, 1, channels, SIDE, SIDE), (2, channels, SIDE, SIDE)):
                yield {name: noise(*shape), **sizes}


@torch.no_grad()
def example(model: Any) -> dict[str, torch.Tensor]:
    """Tensors that a model runs on, whose logits depend on the picture.

    Raises:
        ValueError: if none was found; says on what the last try failed.
    """
    arguments = set(inspect.signature(model.forward).parameters)
    kinds = {"mm_token_type_ids": torch.int32, "token_type_ids": torch.long}
    reasons: list[str] = []
    for pixels in _pixels(arguments):
        counts, tried, why = [16, 4, 1], set(), ""
        while counts:
            count = counts.pop()
            tried.add(count)
            ids = torch.tensor([[5, *[IMAGE] * count, 6, 7, 8, 9]])
            tensors = {"input_ids": ids, "attention_mask": torch.ones_like(ids), **pixels}
            tensors |= {name: (ids == IMAGE).to(dtype) for name, dtype in kinds.items() if name in arguments}
            try:
                logits = model(**tensors, use_cache=False).logits
                name = next(key for key in pixels if key.startswith("pixel_values"))
                other = model(**{**tensors, name: tensors[name] + 1}, use_cache=False).logits
            except Exception as error:  # noqa: BLE001 - any model may fail on a guess in any way
                text = str(error).strip()
                wanted = re.search(r"features:? (\d+)", text)
                if wanted is None or not why:
                    why = f"{type(error).__name__}: {text.splitlines()[0] if text else ''}"
                counts += [int(wanted[1])] if wanted and int(wanted[1]) not in tried else []
                continue
            if not torch.equal(logits, other):
                return tensors
            why = "it runs, but its logits do not depend on the picture"
        reasons.append(why)
    raise ValueError(reasons[0] if reasons else "no picture that it takes was found")


def discovered(model: nn.Module, example: dict[str, torch.Tensor]) -> Family:
    """The family that discovery finds, as if none were declared."""
    return discover(model, example, trial=Trial(HookedMultimodal, model, example, progress=False))


def outcome(model_type: str, class_name: str) -> str:
    """What becomes of one class."""
    if class_name in families():
        return "declared"
    if class_name in OUT_OF_SCOPE:
        return f"out of scope: {OUT_OF_SCOPE[class_name]}"
    try:
        model = tiny_model(model_type, class_name)
    except Exception as error:  # noqa: BLE001 - a configuration may refuse small sizes in any way
        return f"no tiny model was made: {type(error).__name__}: {str(error).strip().splitlines()[0][:160]}"
    try:
        tensors = example(model)
    except ValueError as error:
        return f"no example was found: {str(error)[:160]}"
    try:
        found = discovered(model, tensors)
    except MMLensError as error:
        return f"not discovered: {str(error).splitlines()[0].split('could not be discovered: ')[-1][:200]}"
    return f"discovered: {found.name}"


def hidden() -> Iterator[tuple[str, str]]:
    """Discover the tiny models of the declared families as if they were not declared: names, and what was found."""
    for tiny in [*TINY, *FAMILIES]:
        if tiny.missing:
            continue
        model = tiny.make()
        inputs = model.prepare("describe the image", images=picture(0, *tiny.sizes[0])).inputs
        declared = set(model.graph.names)
        try:
            found = set(HookedMultimodal(model.hf_model, family=discovered(model.hf_model, inputs)).graph.names)
        except MMLensError as error:
            yield (
                tiny.name,
                f"not discovered: {str(error).splitlines()[0].split('could not be discovered: ')[-1][:200]}",
            )
        else:
            yield (
                tiny.name,
                f"discovered: {len(found & declared)} of {len(declared)} points, {len(found - declared)} more",
            )


def main() -> int:
    """Print what becomes of every class."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.discovery", description=__doc__)
    parser.add_argument("--only", default="", help="part of the names of the classes to try")
    parser.add_argument("--hidden", action="store_true", help="discover the declared families instead")
    given = parser.parse_args()
    logging.set_verbosity_error()
    warnings.simplefilter("ignore")
    counts: dict[str, int] = {}
    if given.hidden:
        for name, found in hidden():
            print(f"{name:32} {found}", flush=True)
        return 0
    for model_type, class_name in MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING_NAMES.items():
        if given.only not in class_name:
            continue
        found = outcome(model_type, class_name)
        counts[found.split(":")[0]] = counts.get(found.split(":")[0], 0) + 1
        print(f"{class_name:48} {found}", flush=True)
    print(", ".join(f"{count} {what}" for what, count in sorted(counts.items())))
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
