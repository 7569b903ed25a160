"""The page "Coming from TransformerLens", made of the contract."""

from collections.abc import Sequence
from pathlib import Path

from tests.contracts.transformer_lens.call import NOTEBOOKS, TOLERANCE, Call
from tests.contracts.transformer_lens.contract import CALLS, TOPICS, Counts, of_notebooks
from tests.contracts.transformer_lens.subjects import MODELS

PAGE = Path(__file__).parents[3] / "docs" / "coming_from_transformer_lens.md"

_HEAD = """# Coming from TransformerLens

<!-- Made by `python -m tests.contracts.transformer_lens` from the contract in tests/contracts/transformer_lens; do not edit. -->

A cell of a TransformerLens notebook runs on a model that is bound to a batch, with the picture in every run:

<!-- python
import mmlens as mm

model, scene = mm.lab.load(), mm.lab.scene(seed=30)
-->

```python
batch = model.prepare("what color is the moon", images=scene.image)
bound = model.bind(batch)  # TransformerLens's signatures, tokens and weights; use it as `model` in your cells
logits, cache = bound.run_with_cache(bound.to_tokens())
```

| TransformerLens | mmlens |
|---|---|
| `TransformerBridge.boot_transformers(name)` | `HookedMultimodal.from_pretrained(name)` or `.from_hf(hf_model, processor)`; the model stays itself |
| `model(tokens, pixel_values=pixels)` | `model(batch)`, or `bound(tokens)`: the picture cannot be forgotten |
| `model.run_with_cache(tokens)[1]["resid_post", 3]` | the same; `cache.part("vision")["resid_post", 3]` for the tower |
| `model.run_with_hooks(tokens, fwd_hooks=[(name, fn)])` | the same; names may be globs |
| `patching.get_act_patch_resid_pre(model, tokens, cache, metric)` | the same; `mm.patch(model, clean, corrupted, at="blocks.*.hook_resid_pre")` computes only what a patch can change |
| `model.generate(text)` | `bound.generate(text)` goes on from the prompt with its picture; `model.generate(batch)` is Hugging Face's |
| `vision_encoder.encoder_layers.2.hook_out` | `vision.blocks.2.hook_resid_post`; `model.hook_name_of(path)` translates the bridge's names and module paths |
| a position is a number | a number, or `"image"`, a word, a box: `mm.positions` |
"""


def page() -> str:
    """The page's text."""
    counts, notebooks = Counts.of(CALLS), Counts.of(of_notebooks())
    models = ", ".join(MODELS)
    parts = [
        _HEAD,
        "## What the contract holds\n",
        f"{counts.calls} public calls run on a bound model and on TransformerLens's bridge around the same weights, with the same "
        f"tokens and picture, on tiny models ({models}). Of the {counts.calls - counts.nowhere} that the bridge or the bare model "
        f"gives a value for, {counts.running} run here: {counts.equal} give the bridge's value to {TOLERANCE:g}, {counts.right} "
        f"another one that is right by the bare model (below, with figures), and {counts.refused} are refused (below, with what to "
        f"write). {counts.nowhere} are refused by the bridge too.\n",
        _table(
            ("topic", "calls", "as the bridge", "otherwise, and right", "refused", "refused there too"),
            [(topic, *_numbers(Counts.of(calls))) for topic, calls in TOPICS.items()],
        ),
        f"Of TransformerLens's notebooks, {notebooks.running} of {notebooks.calls} different calls run:\n",
        _table(
            ("notebook", "calls", "run"),
            [
                (name, str(found.calls), str(found.running))
                for letter, name in NOTEBOOKS.items()
                for found in [Counts.of(of_notebooks(letter))]
            ],
        ),
        "## What gives another value\n",
        "The figure is how far the bridge's value lies from ours, which is the bare model's; a dash where the bridge gives none.\n",
        _differences(),
        "## What is refused\n",
        _table(
            ("TransformerLens", "why", "instead"),
            [(_code(c), c.refused, f"`{c.instead}`" if c.instead else "") for c in CALLS if c.refused],
        ),
        "Refused by the bridge too: " + ", ".join(_code(c) for c in CALLS if c.both_refuse) + ".\n",
        "## What gives the same\n",
        *(_same(topic, calls) for topic, calls in TOPICS.items()),
    ]
    return "\n".join(parts)


def _numbers(counts: Counts) -> tuple[str, ...]:
    return tuple(map(str, (counts.calls, counts.equal, counts.right, counts.refused, counts.nowhere)))


def _code(call: Call) -> str:
    """A call as code in a table."""
    return f"`{call.name}`".replace("|", "\\|")


def _table(heads: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [heads, ["---"] * len(heads), *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines) + "\n"


def _differences() -> str:
    """One row per reason, with its calls and its largest figure."""
    reasons: dict[str, list[Call]] = {}
    for call in CALLS:
        if call.differs and not call.refused:
            reasons.setdefault(call.differs, []).append(call)
    rows = []
    for reason, calls in reasons.items():
        gaps = [call.gap for call in calls if call.gap is not None]
        rows.append(("<br>".join(map(_code, calls)), reason, f"{max(gaps):g}" if gaps else "-"))
    return _table(("TransformerLens", "here", "figure"), rows)


def _same(topic: str, calls: Sequence[Call]) -> str:
    same = [call for call in calls if not (call.differs or call.refused or call.both_refuse)]
    return f"**{topic}.** " + ", ".join(map(_code, same)) + ".\n" if same else ""
