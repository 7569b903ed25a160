"""Counterfactual runs, each at the cost of what it can change.

A `Cell` is one question: what would the model have answered about one sample, had these activations been others? A
`CleanRun` answers many of them::

    run = CleanRun(model, batch)
    logits = run.logits(cells)                    # [cell vocab], in order
    logits = run.logits(cells, tokens=(3, 5))     # [cell token]: only what the metric reads
    print(run.plan(cells))                        # what is served from the clean run, what is computed, and why

Most cells need only the rows of the language model that they can change (`packed`); the others run in the whole model, with
blocks frozen that no change reaches (`frozen`). A way is taken once it is shown that it gives what whole forward passes give
(`verdicts`): by a proof on a short text and a check on this batch where all of a model's code is known, else by a trial.

A change takes the activation of one sample, without the batch axis, at the rows that it names:
`Change("blocks.3.hook_resid_pre", rows, lambda x: values)` with `x` `[row d_model]`; at `hook_z` `[row head d_head]`, at
`hook_pattern` `[head row key]`. `activation_rows` cuts the same piece out of a cached activation.
"""

from mmlens.execution.cells import Cell, Change, activation_rows
from mmlens.execution.clean_run import CleanRun

__all__ = ["Cell", "Change", "CleanRun", "activation_rows"]
