"""`python -m benchmarks.alone`: how far what is read of a sample depends on what it runs with, for every family."""

import argparse
import os
from pathlib import Path
from typing import get_args

os.environ.setdefault("HF_HUB_OFFLINE", "1")

from transformers.utils import logging

from mmlens.core.files import whole_file
from mmlens.models.alone import AloneCheck, Variant, check_alone
from mmlens.models.rounding import ROUNDING_FACTOR
from tests.contracts.test_alone import ALL, model_of, prepared

_PAGE = Path(__file__).parent.parent / "docs" / "alone.md"
_TEXT = """# A sample alone is the truth

What is measured of a sample does not depend on what it was batched, padded, cached or ordered with. For every family, two
samples with questions of different length are read beside each other and compared with each alone, in float32 on a tiny random
model of the real transformers class: logits, and states at every point of the language model.

Numbers are the largest difference, in units of the model's own rounding: the largest difference of a logit between Hugging
Face's fused and step-by-step attention on the sample alone, and at least eight steps of the type at the largest logit
(*rounding*). A contract bounds them by {bound}; `verify` tries the same on a checkpoint of yours.
`python -m benchmarks.alone` writes this page.

*left*, *right*: padded on that side. *shuffled*: in another order. *extended*: with tokens put behind the prompt
(`model.extend`), whatever they are. *cached*, *uncached*: while tokens are written, beside the other sample. "refused": the
family cannot be right there, and says why.

{table}

What mmlens does for it: positions are counted by the mask where a model takes `position_ids` (also where transformers' forward
pass counts padding, as in mistral_large4 and the cached decoding of Kosmos-2, or a batch-mate's pictures, as in HunyuanVL);
Florence-2 and MiniMax M3 are padded on the right; what is written behind a prompt is text for the model, picture tokens too.
Prompts are read in chunks (`prefill_chunk_size`) where positions look back alone, and refused where they do not. The same
law holds for `patch`, `attribute`, `find_neurons`, `collect` and interventions, in families of every kind (`tests/contracts/`).
"""


def table(checks: dict[str, AloneCheck]) -> str:
    """Family x variant."""
    variants = get_args(Variant)
    lines = [f"| model | {' | '.join(variants)} | rounding |", "|---" * (len(variants) + 2) + "|"]
    for name, check in checks.items():
        cells = [f"{check.differences[v]:.2f}" if v in check.differences else "refused" for v in variants]
        lines.append(f"| {name} | {' | '.join(cells)} | {check.rounding:.1e} |")
    return "\n".join(lines)


def main() -> None:
    """Check every family and write the page."""
    argparse.ArgumentParser(prog="python -m benchmarks.alone", description=__doc__).parse_args()
    logging.set_verbosity_error()
    checks = {}
    for tiny in ALL:
        name = tiny.name
        checks[name] = check_alone(
            model_of(name), lambda samples, padding_side=None, n=name: prepared(n, samples, padding_side)
        )
        print(f"{name}: {checks[name]!r}", flush=True)
        model_of.cache_clear()
    with whole_file(_PAGE) as temporary:
        temporary.write_text(_TEXT.format(table=table(checks), bound=ROUNDING_FACTOR), encoding="utf-8")


if __name__ == "__main__":
    main()
