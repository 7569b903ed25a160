"""Verbs on a random LLaVA-1.5 of the real width: operations and time in forward passes, and peak memory above the weights.

Operations do not depend on what else the machine does, so that targets are set on them. With 2 of the 32 layers the model takes
3.4 GB in float32; sweeps are counted for all 32 by `python -m benchmarks.patching_cost`.
"""

import tempfile
import time
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any, TypeAlias

import torch
from PIL import Image
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from tokenizers.pre_tokenizers import WhitespaceSplit
from transformers import LlavaProcessor, PreTrainedTokenizerFast
from transformers.models.clip.image_processing_pil_clip import CLIPImageProcessorPil

import mmlens as mm
from benchmarks.measure import Ratio
from benchmarks.models import Subject, llava_1_5
from benchmarks.operations import operations
from benchmarks.peak_memory import peak_memory
from benchmarks.table import Row

#: How many times more than what has to be carried out may be, and the forward passes that a circuit may take.
_MOST, _CIRCUIT = 1.3, 8
_QUIET: dict[str, Any] = {"progress": False}
#: A model, the clean batch and the corrupted one.
_Pair: TypeAlias = tuple[mm.HookedMultimodal, mm.MultimodalBatch, mm.MultimodalBatch]


def with_words(subject: Subject, image_token: int) -> mm.HookedMultimodal:
    """A subject's model with a processor whose words are `w3`, `w4`, ..."""
    words = {f"w{number}": number for number in range(3, 400)}
    special = {"<pad>": 0, "<s>": 1, "<unk>": 2, "<image>": image_token}
    tokens = Tokenizer(WordLevel({**special, **words}, unk_token="<unk>"))
    tokens.pre_tokenizer = WhitespaceSplit()
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=tokens, pad_token="<pad>", unk_token="<unk>", additional_special_tokens=["<image>"]
    )
    tokenizer.image_token, tokenizer.image_token_id = "<image>", image_token
    pictures = CLIPImageProcessorPil(size={"shortest_edge": 336}, crop_size={"height": 336, "width": 336})
    processor = LlavaProcessor(
        image_processor=pictures,
        tokenizer=tokenizer,
        patch_size=14,
        vision_feature_select_strategy="default",
        num_additional_image_tokens=1,
    )
    return mm.HookedMultimodal.from_hf(subject.bare, processor)


def real_size(
    *, layers: int = 2, width: int = 4096, dtype: torch.dtype = torch.float32, device: str = "cpu"
) -> Iterator[list[Row]]:
    """Rows of every verb, each as soon as it is measured.

    Args:
        layers: of the language model.
        width: of its stream.
        dtype: of the weights.
        device: where it runs.
    """
    subject = llava_1_5(layers, width=width, dtype=dtype)
    subject.bare.to(device)
    subject.inputs.update({name: tensor.to(device) for name, tensor in subject.inputs.items()})
    model, batch = with_words(subject, subject.bare.config.image_token_index), subject.batch
    pixels = torch.randn(subject.inputs["pixel_values"].shape, generator=torch.Generator().manual_seed(7))
    corrupted = model.batch({**subject.inputs, "pixel_values": pixels.to(subject.inputs["pixel_values"])})
    metric = mm.metrics.log_probability(5)
    weights = sum(weight.numel() * weight.element_size() for weight in subject.bare.parameters()) / 2**20
    measured = _Measured(subject, model, f"{subject.name}, {str(dtype).removeprefix('torch.')}, {device}")
    yield measured.forward(weights)
    pair = (model, batch, corrupted)
    yield from _readings(measured, pair, metric)
    yield from _circuits(measured, pair, metric)
    yield from _changes(measured, batch, width)


def _readings(measured: "_Measured", pair: _Pair, metric: mm.metrics.Metric) -> Iterator[list[Row]]:
    """Caches, neurons, maps, lenses, sweeps and estimates."""
    model, batch, _ = pair
    text = [*range(5), *range(581, 605)]
    rows = {f"row {row}": mm.positions.row(row) for row in text}
    sweeps: dict[str, dict[str, Any]] = {
        "patch: heads at the last position": {"at": "blocks.*.attn.hook_z", "units": "head", "positions": ["last"]},
        "patch: residual, every text position": {"at": "blocks.*.hook_resid_pre", "positions": rows},
        "patch: residual, picture in blocks of 4 x 4": {
            "at": "blocks.*.hook_resid_pre",
            "positions": mm.positions.grid(6),
        },
        "patch: vision blocks": {"at": "vision.blocks.*.hook_resid_pre"},
    }
    yield measured.verb("cache", lambda: model.run_with_cache(batch), 1)
    yield measured.verb("find_neurons", lambda: mm.find_neurons(model, batch, token=5, **_QUIET), 1)
    yield measured.verb("attention_map", lambda: mm.attention_map(model, batch), 1)
    yield measured.verb("logit_lens", lambda: mm.logit_lens(model, batch, positions="image", **_QUIET), None)
    for name, options in sweeps.items():
        yield measured.verb(name, partial(mm.patch, *pair, metric=metric, **options, **_QUIET), 2)
    yield measured.verb(
        "knock_out", lambda: mm.knock_out(model, batch, queries="last", keys="image", metric=metric, **_QUIET), 1
    )
    yield measured.verb(
        "attribute", lambda: mm.attribute(*pair, at="blocks.*.attn.hook_z", units="head", metric=metric, **_QUIET), None
    )


def _circuits(measured: "_Measured", pair: _Pair, metric: mm.metrics.Metric) -> Iterator[list[Row]]:
    model = pair[0]
    for nodes, steps in (("attention", 5), ("attention", 3), ("head", 3)):
        method = mm.circuits.EAPIG(steps=steps)
        yield measured.verb(
            f"find_circuit, {nodes}, {steps} steps",
            partial(mm.find_circuit, model, pair[1:], metric=metric, nodes=nodes, method=method, **_QUIET),
            _CIRCUIT / _MOST if nodes == "attention" else None,
        )


def _changes(measured: "_Measured", batch: mm.MultimodalBatch, width: int) -> Iterator[list[Row]]:
    """Stores, edits and steering."""
    model = measured.model
    pictures = [(Image.new("RGB", (336, 336), (40 * i, 90, 200)), "<image> w5 w6 w7") for i in range(2)]
    with tempfile.TemporaryDirectory() as folder:
        yield measured.verb(
            "collect, 2 samples",
            lambda: mm.collect(
                model, pictures, at="blocks.*.hook_resid_post", positions="image", into=folder, **_QUIET
            ),
            2,
        )
    said = int(model(batch)[0, -1].argmax())
    neurons = mm.find_neurons(model, batch, token=said, **_QUIET).top(5)
    through = mm.edits.Through(n_steps=2)
    yield measured.verb(
        "edit through the network, 2 steps",
        lambda: mm.edits.replace_token(
            model, [batch], source=said, target=5, neurons=neurons, method=through, max_new_tokens=2, **_QUIET
        ),
        None,
    )
    vector = mm.steering_vector(torch.randn(4, width), torch.randn(4, width), at="blocks.1.hook_resid_post")

    def steered() -> torch.Tensor:
        with torch.no_grad(), model.intervene(mm.Steer(vector)):
            return model(batch)

    yield measured.verb("steering, one pass", steered, 1)


class _Measured:
    """Measures verbs beside a forward pass.

    Args:
        subject: the model and its input.
        model: the same, hooked, with a processor.
        name: of the model, for the table.
    """

    def __init__(self, subject: Subject, model: mm.HookedMultimodal, name: str):
        self.subject, self.model, self.name = subject, model, name
        self.operations = self.seconds = 0.0

    @torch.no_grad()
    def forward(self, weights: float) -> list[Row]:
        """The row of a bare forward pass, which all others are measured by."""
        bare, inputs = self.subject.bare, self.subject.inputs
        bare(**inputs, use_cache=False)
        peak, (count, seconds, _) = self._run(lambda: bare(**inputs, use_cache=False).logits)
        self.operations, self.seconds = count, seconds
        note = f"{count / 1e12:.2f} TFLOP; peak {_mib(peak)} above {weights:,.0f} MiB of weights"
        return [Row(f"forward pass ({self.name})", "bare Hugging Face", 1000 * seconds, note=note)]

    def verb(self, name: str, run: Callable[[], Any], passes: float | None) -> list[Row]:
        """The row of a verb.

        Args:
            name: for the table.
            run: calls it.
            passes: forward passes that it has to take; the cells of a sweep come on top. None for orientation only.
        """
        peak, (count, seconds, result) = self._run(run)
        plan = getattr(result, "plan", None)
        cells = 0.0 if plan is None else plan.fraction * plan.cells
        floor = None if passes is None else passes + cells
        ratio = count / self.operations
        beside = "" if plan is None else f"; {plan.cells} cells count {cells:.2f}"
        note = f"{seconds / self.seconds:.2f} forward passes of time; peak {_mib(peak)} above the weights{beside}"
        target = None if floor is None else _MOST * floor
        return [Row(f"{name} ({self.name})", "mmlens", 1000 * seconds, Ratio(ratio, ratio, ratio), target, note=note)]

    def _run(self, run: Callable[[], Any]) -> tuple[float | None, tuple[float, float, Any]]:
        """Peak memory, operations, seconds and the result."""

        def timed() -> tuple[float, float, Any]:
            synchronise = torch.cuda.synchronize if self.model.device.type == "cuda" else lambda: None
            synchronise()
            start = time.perf_counter()
            count, result = operations(run)
            synchronise()
            return count, time.perf_counter() - start, result

        return peak_memory(timed, self.model.device)


def _mib(peak: float | None) -> str:
    return "unknown" if peak is None else f"{peak:,.0f} MiB"
