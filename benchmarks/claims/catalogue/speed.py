"""Claims about time, memory and counted operations."""

from benchmarks.claims import measures
from benchmarks.claims.claim import Claim, Cost, Printed

_README, _BENCHMARKS = "README.md", "python -m benchmarks --threads 1 --clock cpu --only"
_HUGGING = "bare Hugging Face, in turns"
_COUNTED = "docs/patching_cost.md"


def _timed(
    name: str, text: str, only: str, control: str, model: str = "48M LLaVA, random", cost: Cost = "slow"
) -> Claim:
    """A ratio of times, which nothing was chosen for."""
    return Claim(name, _README, text, f"{_BENCHMARKS} {only}", cost, control=control, model=model)


CLAIMS = (
    _timed(
        "forward without hooks",
        "forward without hooks, 48M LLaVA with 256 image tokens | {ratio:.3f}x bare Hugging Face [{low:.3f}, {high:.3f}]; "
        "TransformerLens 4.3 {lens:.2f}x, nnsight 0.8 {nnsight:.2f}x",
        "forward --model llava",
        _HUGGING,
    ),
    _timed(
        "caching",
        "caching all residual streams and MLP neurons, same model | {ratio:.3f}x bare torch hooks [{low:.3f}, {high:.3f}]; "
        "TransformerLens {lens:.2f}x, nnsight {nnsight:.2f}x",
        "cache --model llava",
        "bare torch hooks, in turns",
    ),
    _timed(
        "caching, lab model",
        "the same on the lab model ({forward:d} ms a forward) | {ratio:.2f}x [{low:.2f}, {high:.2f}] "
        "(TransformerLens {lens:.2f}x, "
        "nnsight {nnsight:.2f}x): about {point:d} us a point more than a bare hook; over the {target:.2f}x asked",
        "cache --model lab",
        "bare torch hooks, in turns",
        "lab",
    ),
    Claim(
        "contrast, time",
        _README,
        "contrastive decoding, lab model, 12 tokens | {low:.1f}x to {high:.1f}x plain generation: two prompts are run "
        "({uncached:.1f}x without a cache)",
        "python -m benchmarks.claims --only 'contrast, time'",
        "cheap",
        measures.contrast,
        control="plain generation, in turns",
    ),
    _timed(
        "sweep, residual stream, text",
        "residual stream, text positions | {ratio:.1f}x [{low:.1f}, {high:.1f}] | {asked:d}x, missed: text in front of the "
        "picture changes all that follows | {limit:.1f}x |",
        "patching --model llava",
        "one hooked forward pass per cell; equal to 1e-6",
    ),
    *(
        _timed(
            f"sweep, {what}",
            f"{what} | {{ratio:.1f}}x [{{low:.1f}}, {{high:.1f}}] | {{asked:d}}x | {{limit:.1f}}x",
            "patching --model llava",
            "one hooked forward pass per cell; equal to 1e-6",
        )
        for what in ("residual stream, all positions", "single heads, text positions", "single heads, all positions")
    ),
    _timed(
        "sweeps, again",
        "In another hour of the same machine: {first:.1f}x, {second:.1f}x, {third:.1f}x, {fourth:.1f}x",
        "patching --model llava",
        "one hooked forward pass per cell",
    ),
    _timed(
        "sweeps, equal", "answers equal to {equal:.0e}", "patching --model llava", "one hooked forward pass per cell"
    ),
    _timed(
        "sweeps of others",
        "The loop takes TransformerLens {lens_low:.2f} to {lens_high:.2f} and nnsight {nnsight_low:.2f} to "
        "{nnsight_high:.2f} "
        "times as long as bare Hugging Face",
        "patching --model llava",
        _HUGGING,
    ),
    Claim(
        "attribution",
        _README,
        "attribution patching agrees with exact head patches at r = {heads:.3f}, and of queries at {queries:.3f} as it is, "
        "{fixed:.3f} with the QK fix",
        "python -m benchmarks.claims --only attribution",
        "cheap",
        measures.attribution,
        control="exact patches",
        judged="6 pairs of scenes of the fresh seed",
    ),
    Claim(
        "circuit",
        _README,
        "A circuit of {chosen:d} of {edges:,d} edges has faithfulness {mean:.2f} [{low:.2f}, {high:.2f}], "
        "random ones {random:.2f}",
        "python -m benchmarks.claims --only circuit",
        "cheap",
        measures.circuit,
        chosen="the circuit, on 3 pairs of scenes of the training stream (seed 91)",
        judged="6 pairs of scenes of the fresh seed",
        control="random circuits of equal size",
    ),
    Claim(
        "edges of the lab model",
        _README,
        "of {edges:,d} edges",
        "python -m benchmarks.claims --only 'edges of the lab model'",
        "cheap",
        measures.edges,
    ),
    _timed(
        "semi-NMF",
        "takes {low:.1f} to {high:.1f} s, scikit-learn's dictionary learning at least {least:d} to {most:d} "
        "times as long for "
        "the same objective or a worse one ({lab:d} times on 2,000 states of the lab model)",
        "concepts",
        "scikit-learn's DictionaryLearning",
        "random states; lab",
    ),
    _timed("semi-NMF, size", "Semi-NMF of {states:,d} x {width:,d} states", "concepts", "", "random states"),
    _timed(
        "collecting",
        "Collecting states takes {low:.2f}x to {high:.2f}x bare generation in four runs and {least:.2f}x to "
        "{most:.2f}x bare "
        "forwards ({asked:.2f}x asked)",
        "collect",
        _HUGGING,
        "lab",
    ),
    _timed(
        "steering, time",
        "Steering costs {ratio:.3f}x [{low:.3f}, {high:.3f}] per token",
        "steering",
        "a hand-written torch hook, and a generation without",
    ),
    Claim(
        "edits, time",
        _README,
        "Applied and reverted in {milliseconds:.1f} ms, bit-equal a thousand times",
        "python -m benchmarks.edits",
        "cheap",
        measures.applied,
    ),
)
PRINTED = (
    Printed(
        "cost of sweeps, page",
        _COUNTED,
        None,
        "python -m benchmarks.patching_cost",
        model="LLaVA-1.5-7B's shapes",
        control="whole forward passes",
        text=measures.patching_cost_tables,
        whole=True,
    ),
)
