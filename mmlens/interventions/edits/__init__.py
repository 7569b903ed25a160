"""Edits of weights: rows of MLP output weights scaled, zeroed, made to say another word. Values first, applied later.

edit = mm.edits.replace_token(model, batch, source="red", target="blue", neurons=neurons)
with model.edited(edit): ...
"""

from mmlens.interventions.edits.edit import Edit as Edit
from mmlens.interventions.edits.edit import Provenance as Provenance
from mmlens.interventions.edits.methods.belief import Belief as Belief
from mmlens.interventions.edits.methods.direct import Direct as Direct
from mmlens.interventions.edits.methods.through import Through as Through
from mmlens.interventions.edits.rank_one import rank_one as rank_one
from mmlens.interventions.edits.rows import noise_neurons as noise_neurons
from mmlens.interventions.edits.rows import scale_neurons as scale_neurons
from mmlens.interventions.edits.rows import zero_neurons as zero_neurons
from mmlens.interventions.edits.words import remove_word as remove_word
from mmlens.interventions.edits.words import replace_token as replace_token
