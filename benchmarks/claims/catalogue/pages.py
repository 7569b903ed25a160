"""Claims of the other pages: verbs at the real width, what can be brought, methods, samples alone."""

from benchmarks.claims import measures
from benchmarks.claims.claim import Claim, Cost, Printed

_REAL, _INPUTS, _VIEWER = "docs/real_size.md", "docs/inputs.md", "docs/viewer.md"
_FEATURES = "docs/features.md"
_GRAPHS, _GRAPH_SCENES = "docs/attribution_graphs.md", "12 scenes with a question for a colour or shape, seed 900"
_COMMAND = "python -m benchmarks --real"


def _real(name: str, text: str, command: str = _COMMAND, cost: Cost = "slow") -> Claim:
    """A figure of the real width, counted or timed."""
    return Claim(name, _REAL, text, command, cost, control="the runs that a verb is made of", model="LLaVA-1.5, random")


CLAIMS = (
    _real(
        "real width, sizes",
        "({width:,d}; {heads:d} heads; {positions:d} positions, {image:d} of them image tokens): {layers:d} of "
        "the {all:d} layers and "
        "{blocks:d} of the {towers:d} vision blocks, float32, {weights:,d} MiB of weights. A forward pass takes "
        "{tera:.2f} TFLOP and "
        "{memory:d} MiB above the weights",
    ),
    _real("real width, a pass", "(one thread, AMD EPYC; {seconds:d} s a forward pass)"),
    _real(
        "real width, others",
        "was counted at a width of 512 alone: {circuit:.1f}, {collect:.1f} for two samples, {edit:.1f} for two "
        "steps, and {steer:.1f} "
        "forward passes",
        "python -m benchmarks --real --width 512",
    ),
    _real(
        "real width, before",
        "Before, with {layers:d} layers (time, in forward passes; in brackets what was counted as needed): "
        "heads at the last position "
        "{heads:.1f} ({heads_needed:.1f}), residual at {positions:d} text positions {text:.1f} "
        "({text_needed:.1f}), blocks of the "
        "picture {picture:.1f} ({picture_needed:.1f}), `find_circuit` {circuit:.1f}. Four forward passes",
        "python -m benchmarks --real --layers 4, at an earlier commit",
    ),
    _real(
        "real width, circuits",
        "`find_circuit` of {steps:d} steps takes {taken:d} forward passes' worth of operations, not {asked:d}: EAP-IG "
        "needs {forward:d} forward and {backward:d} backward "
        "passes at the {points:d} points of its path",
    ),
    _real(
        "points of the path",
        "Its default is {default:d} Gauss-Legendre points since, which take {takes:d}. On the "
        "lab model {few:d} of them are off by {few_off:d}% of the scores (median of {scenes} scenes, against "
        "{reference:d} midpoints), {more:d} "
        "midpoints by {more_off:d}%, {same:d} midpoints by {same_off:d}%".replace("{scenes}", "six"),
        "by hand, at an earlier commit",
    ),
    _real("real width, memory", "not {passes:.1f} forward passes'"),
    _real("real width, trial", "on a text of {words:d} of the batch's own words"),
    Claim(
        "processes",
        _INPUTS,
        "Held to {bound:.0e} of the whole model with two processes",
        "python -m pytest tests/contracts/test_tensor_parallel.py",
        "slow",
        control="the model in one process",
        model="tiny, random",
    ),
    Claim(
        "features, files",
        _FEATURES,
        "none is further off than {bound:.0e} of what it is compared with",
        "python -m pytest tests/analysis/features/test_formats.py",
        "slow",
        control="formulas written out",
        model="random dictionaries",
    ),
    Claim(
        "features, path",
        _FEATURES,
        "(difference {difference:d} in all {cases:d}); edits move the logits as the formula by hand does, "
        "within {within:.0e}",
        "python -m pytest tests/analysis/features",
        "slow",
        control="the model without a dictionary; the formula by hand",
        model="tiny, random; random dictionaries",
    ),
    Claim(
        "features, scores",
        _FEATURES,
        "Checked against bare torch to {bound:.0e} of the largest score",
        "python -m pytest tests/analysis/features",
        "slow",
        control="bare torch",
        model="tiny, random; random dictionaries",
    ),
    Claim(
        "features, planted",
        _FEATURES,
        "comes first ({first:.1f} logits, the next one {next:.1f}); without the colour, and in the unplanted "
        "twin, it scores {twin:.2f}",
        "python -m pytest tests/analysis/features",
        "slow",
        control="the unplanted twin; 20 draws of features that fire as often",
        model="planted",
    ),
    Claim(
        "graphs, of a sure answer",
        _GRAPHS,
        "(400 features of {active:,d} active ones followed back",
        "python -m benchmarks.attribution_graphs",
        "slow",
        judged=_GRAPH_SCENES,
    ),
    Claim(
        "graphs, what is off",
        _GRAPHS,
        "Direct effects are off by {off:.1e} of the largest edge at most. With the held divisor's predictions, effects with "
        "nothing held correlate at {r:.2f} [{low:.2f}, {high:.2f}] alone",
        "python -m benchmarks.attribution_graphs",
        "slow",
        judged=_GRAPH_SCENES,
    ),
    Claim(
        "graphs, seconds",
        _GRAPHS,
        "A graph takes {graph:.1f} seconds of one core, a check {check:.1f}",
        "python -m benchmarks.attribution_graphs",
        "slow",
    ),
    Claim(
        "masks of data sets",
        "docs/data.md",
        "(compared on {masks:,d} random polygons and run lengths)",
        "python -m pytest tests/analysis/readers",
        "slow",
        control="COCO's own API",
        model="",
    ),
    Claim(
        "viewer, bytes",
        _VIEWER,
        "Up to {exact:,d} numbers of an array are exact; of more, each is kept in a byte, off by at most "
        "{off:.1f}% of its row's largest",
        "python -m pytest tests/viz/page",
        "slow",
        model="",
    ),
    Claim(
        "viewer, size",
        _VIEWER,
        "A lens of 32 layers on {patches:d} patches weighs less than {megabytes:d} MB",
        "python -m pytest tests/viz/page",
        "slow",
        model="",
    ),
    Claim(
        "overlays",
        _INPUTS,
        "draws at most {pixels:d} pixels a side",
        "python -m benchmarks.claims --only overlays",
        "cheap",
        measures.overlays,
        model="",
    ),
    Claim(
        "layouts of checkpoints",
        _INPUTS,
        ": {layouts:d} layouts, each with a question",
        "python -m pytest tests/checkpoints",
        "slow",
        control="transformers' own processors",
        model="tiny, random",
    ),
)
PRINTED = (
    Printed(
        "graphs, checks",
        _GRAPHS,
        "## Does the model do what it says",
        "python -m benchmarks.attribution_graphs",
        judged=_GRAPH_SCENES,
        control="predictions swapped with those of random nodes that write as much",
    ),
    Printed("mutants, page", "docs/mutation.md", None, "python -m benchmarks.mutation", model="", whole=True),
    Printed(
        "circuits, tables",
        "docs/circuits.md",
        None,
        "python -m benchmarks.circuits; python -m tests.analysis.circuits.laws",
        chosen="circuits, on 4 pairs of scenes of the training stream",
        judged="12 pairs of scenes of the test stream (place: 12, two hops: 12)",
        control="random circuits of the same sizes, and scores dealt out anew",
        model="lab, narrator-tuned",
    ),
    Printed(
        "TransformerLens's calls, page",
        "docs/coming_from_transformer_lens.md",
        None,
        "python -m tests.contracts.transformer_lens",
        control="TransformerLens's bridge on the same model",
        model="tiny, random",
        whole=True,
    ),
    Printed(
        "data sets and scores, tables",
        "docs/data.md",
        None,
        "python -m pytest tests/analysis/readers",
        control="the challenges' own programs",
        model="",
    ),
    Printed(
        "studies, tables",
        "docs/reproduce.md",
        None,
        "mmlens reproduce pan --limit 8; mmlens reproduce parekh --published; "
        "mmlens reproduce khayatan --limit 48, --only safety of seed 7",
        chosen="where to steer to refusals, on requests of seed 0",
        judged="scenes of the test stream, seeds 0 to 2000",
        control="random neurons, random words, other concepts' shifts, no steering",
    ),
    Printed(
        "features, tables",
        _FEATURES,
        None,
        "python -m pytest tests/analysis/features; python -m mmlens.lab.training.dictionary_card --out card.json",
        chosen="features and thresholds, on 120 scenes",
        judged="120 scenes of another seed",
        control="neurons, components and clusters of the same states; the truth of other scenes",
        model="random dictionaries; lab",
    ),
    Printed(
        "real width, verbs", _REAL, None, _COMMAND, control="the runs that a verb is made of", model="LLaVA-1.5, random"
    ),
    Printed(
        "samples alone, page",
        "docs/alone.md",
        None,
        "python -m benchmarks.alone",
        control="the sample alone",
        model="tiny, random",
        whole=True,
    ),
    Printed(
        "methods, page",
        "docs/methods.md",
        None,
        "mmlens methods",
        model="",
        text=measures.method_page_tables,
        whole=True,
    ),
    Printed(
        "lab models, phenomena",
        "docs/lab_models.md",
        None,
        "python -m mmlens.lab.phenomena --model narrator --out card.json",
        chosen="layers, windows and heads, on half of the scenes",
        judged="scenes of the test stream, drawn anew for every phenomenon; what was chosen, on the other half",
        control="the column beside each figure",
        model="lab, narrator",
    ),
    Printed("course, units", "docs/course.md", None, "python notebooks/course/build.py", model="", whole=True),
    Printed(
        "what can be brought", _INPUTS, None, "python -m pytest tests/checkpoints tests/inputs tests/models", model=""
    ),
)
