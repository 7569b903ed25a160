"""What the standard sweeps cost on LLaVA-1.5-7B, counted from its shapes: `python -m benchmarks.patching_cost` writes the page.

The model is on the meta device, so that nothing runs and its 7 billion weights take no memory.
"""

import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

import torch
from transformers import LlavaConfig, LlavaForConditionalGeneration

import mmlens as mm
from mmlens.execution.affected_rows import AffectedRows, ChangeLocation
from mmlens.execution.cost import Costs, costs_of, weights_of
from mmlens.execution.recording import Attended
from mmlens.models.decoder import Decoder, decoder_of

PAGE = Path(__file__).parent.parent / "docs" / "patching_cost.md"
#: A prompt of LLaVA-1.5: text, 576 image tokens, text.
_BEFORE, _IMAGE, _AFTER = 5, 576, 24


def llava_7b() -> mm.HookedMultimodal:
    """LLaVA-1.5-7B without its weights."""
    vision = {"hidden_size": 1024, "intermediate_size": 4096, "num_hidden_layers": 24, "num_attention_heads": 16}
    config = LlavaConfig(
        vision_config={"model_type": "clip_vision_model", "image_size": 336, "patch_size": 14, **vision},
        text_config={"model_type": "llama", "vocab_size": 32064},
        image_token_index=32000,
        vision_feature_layer=-2,
        vision_feature_select_strategy="default",
    )
    with torch.device("meta"):
        return mm.HookedMultimodal.from_hf(LlavaForConditionalGeneration(config))


def counted(model: mm.HookedMultimodal) -> tuple[Decoder, Costs]:
    """Its language model, and what a sample costs."""
    decoder = decoder_of(model)
    base = model.hf_model.model
    # the class row passes the tower and is dropped in front of the projector
    tower = 2.0 * (_IMAGE + 1) * weights_of(base.vision_tower.encoder)
    front = tower + 2.0 * _IMAGE * weights_of(base.multi_modal_projector)
    return decoder, costs_of(decoder, _BEFORE + _IMAGE + _AFTER, front)


def sweeps(depth: int, heads: int) -> Iterator[tuple[str, list[tuple[ChangeLocation, torch.Tensor]]]]:
    """The standard sweeps: a name, and the place and rows of each cell."""
    text = [*range(_BEFORE), *range(_BEFORE + _IMAGE, _BEFORE + _IMAGE + _AFTER)]
    behind, last = text[_BEFORE:], text[-1:]
    side = 24
    blocks = [
        torch.tensor([_BEFORE + (4 * i + r) * side + 4 * j + c for r in range(4) for c in range(4)])
        for i in range(side // 4)
        for j in range(side // 4)
    ]

    def each(stage: str, rows: Sequence[int], times: int = 1) -> list[tuple[ChangeLocation, torch.Tensor]]:
        return [
            (ChangeLocation(layer, stage), torch.tensor([row]))
            for layer in range(depth)
            for row in rows
            for _ in range(times)
        ]

    everywhere = range(_BEFORE + _IMAGE + _AFTER)
    yield "residual stream, every text position", each("pre", text)
    yield "residual stream, text behind the picture", each("pre", behind)
    yield "residual stream, last position", each("pre", last)
    yield "residual stream, every position", each("pre", everywhere)
    yield (
        "residual stream, picture in blocks of 4 x 4",
        [(ChangeLocation(layer, "pre"), rows) for layer in range(depth) for rows in blocks],
    )
    yield "MLP outputs, every text position", each("rows", text)
    yield "single heads, text behind the picture", each("rows", behind, heads)
    yield "single heads, last position", each("rows", last, heads)


def page() -> str:
    """The page's text."""
    model = llava_7b()
    decoder, costs = counted(model)
    nothing = torch.empty(1, 1, costs.length, 1, device="meta")
    attended = [Attended(nothing, nothing, nothing, None, True, {}) for _ in decoder.blocks]
    cone = AffectedRows(attended, costs.length, [torch.tensor([costs.length - 1])])
    lines = [
        "# What patching sweeps cost",
        "",
        f"Counted from the shapes of LLaVA-1.5-7B: {len(decoder.blocks)} blocks, {costs.length} positions, {_IMAGE} of them "
        f"image tokens behind {_BEFORE} of text. A whole forward pass takes {costs.whole / 1e12:.2f} TFLOP of matrix products. "
        "Logits are read at the last position. Written by `python -m benchmarks.patching_cost`; nothing is run for it.",
        "",
        "| sweep | cells | whole passes, TFLOP | computed, TFLOP | fraction | times less |",
        "|---|---:|---:|---:|---:|---:|",
    ]
    for name, cells in sweeps(len(decoder.blocks), 32):
        computed = sum(costs.of(cone.schedule(0, [cell])) for cell in cells)
        whole = costs.whole * len(cells)
        lines.append(
            f"| {name} | {len(cells)} | {whole / 1e12:,.0f} | {computed / 1e12:,.2f} | {computed / whole:.2%} | "
            f"{whole / computed:,.1f} |"
        )
    lines += [
        "",
        "A patch at a position in front of the picture changes every row behind it: these few positions are most of the cost of "
        "a sweep over all text. `run.plan(cells)` counts the same for your model, batch and cells, and says what could not be "
        "served.",
        "",
        "Besides its cells a sweep takes the forward passes of its two runs, and little else: [measured at the real width]"
        "(real_size.md).",
        "",
    ]
    return "\n".join(lines)


if __name__ == "__main__":
    PAGE.write_text(page())
    sys.stdout.write(f"wrote {PAGE}\n")
