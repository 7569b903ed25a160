"""What attribution graphs of the lab model are worth: `python -m benchmarks.attribution_graphs` prints the table of the page."""

import time
from collections.abc import Iterator
from itertools import islice

import torch

import mmlens as mm
from mmlens.analysis.attribution_graphs.check_result import GraphCheck
from mmlens.analysis.attribution_graphs.graph import AttributionGraph
from mmlens.analysis.statistics.intervals import mean_interval

#: Scenes that dictionaries and model were not trained on; features followed back, and features taken out of each.
SEED, SCENES, NODES, TAKEN_OUT = 900, 12, 400, 10


def graphs() -> Iterator[tuple[AttributionGraph, GraphCheck, float, float]]:
    """Graphs of questions for a colour, what checks find, and the seconds that both take."""
    model, transcoders = mm.lab.load(), mm.lab.dictionaries("transcoders")
    for scene in mm.lab.scenes(40, seed=SEED):
        question = next((q for q in scene.questions if q.kind in ("color", "shape")), None)
        if question is None:
            continue
        batch, start = model.prepare(question.text, images=scene.image), time.process_time()
        graph = mm.attribution_graph(model, batch, transcoders, max_nodes=NODES, progress=False)
        drawn = time.process_time()
        check = graph.check(model, batch, transcoders, nodes=TAKEN_OUT)
        yield graph, check, drawn - start, time.process_time() - drawn


def _mean(values: list[float]) -> str:
    interval = mean_interval(values)
    return f"{interval.mean:.2f} [{interval.low:.2f}, {interval.high:.2f}]"


def _from_picture(graph: AttributionGraph) -> float:
    patches = torch.tensor([node.kind == "source" and node.box is not None for node in graph.members])
    return float(graph.influence[patches].sum())


def main() -> None:
    """Print the table."""
    found = list(islice(graphs(), SCENES))
    checks, scores = [entry[1] for entry in found], [entry[0].scores for entry in found]
    held, free = (_mean([getattr(check, name) for check in checks]) for name in ("r", "r_free"))
    swapped, swapped_free = (_mean([getattr(c, name) for c in checks]) for name in ("r_control", "r_free_control"))
    effects = [_mean([getattr(check, name) for check in checks]) for name in ("effect", "effect_control")]
    both = [_mean([getattr(score, name) for score in scores]) for name in ("replacement", "completeness")]
    print("| | nodes of the graph | with predictions swapped |\n|---|---|---|")
    print(f"| r, final norm's divisor held | {held} | {swapped} |\n| r, nothing held | {free} | {swapped_free} |")
    print(f"| mean size of effects, logits | {effects[0]} | {effects[1]} (the controls) |")
    print(f"| replacement, completeness | {', '.join(both)} | |")
    print(f"| share of the answer's influence from patches | {_mean([_from_picture(entry[0]) for entry in found])} | |")
    pairs = [torch.stack([check.predicted, check.free]).flatten(1) for check in checks]
    print("held predictions, nothing held:", _mean([float(torch.corrcoef(pair)[0, 1]) for pair in pairs]))
    print(f"direct effects: {max(check.direct for check in checks):.1e}", "active features:", found[0][0].n_active)
    print("seconds of a graph, of a check:", _mean([entry[2] for entry in found]), _mean([entry[3] for entry in found]))


if __name__ == "__main__":
    main()
