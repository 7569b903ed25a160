# %% [markdown]
# # 8. Concepts
#
# **60 minutes, level 2.** You will be able to group states into concepts, to say what they have in common, and to ask whether
# that is more than chance.

# %%
from collections import Counter

import torch

import mmlens as mm

model = mm.lab.load()
scenes = mm.lab.scenes(40, seed=4)
at = "blocks.4.hook_resid_post"

# %% [markdown]
# `mm.collect` runs the model over the scenes and keeps the states at the words that you name, in its own captions.
#
# **Exercise concepts.1** (★) How many states are there at the nouns of shapes (`mm.lab.SHAPES`)?

# %%
states = mm.collect(model, scenes, at=at, token=mm.lab.SHAPES, batch_size=20, dtype="float32", progress=False).at()
### BEGIN SOLUTION
answer = len(states)
### END SOLUTION
mm.lab.check("concepts.1", answer, model=model)

# %% [markdown]
# ## Eight concepts
#
# A concept bank writes each state as a sum of a few vectors, its *concepts*; how much of each goes into a state is the state's
# *code*. By k-means each state belongs to one concept, that of its largest code.

# %%
bank = mm.extract_concepts(states, 8, method="kmeans")
concept_of = bank.codes.abs().argmax(dim=1).tolist()
bank

# %% [markdown]
# **Exercise concepts.2** (★★) Which share of the states stands at the most frequent noun of its concept?

# %%
### BEGIN SOLUTION
nouns = {concept: Counter() for concept in concept_of}
for noun, concept in zip(states.tokens, concept_of):
    nouns[concept][noun] += 1
answer = sum(counter.most_common(1)[0][1] for counter in nouns.values()) / len(states)
### END SOLUTION
mm.lab.check("concepts.2", answer, model=model)

# %% [markdown]
# **Exercise concepts.3** (★★★) How much do the concepts leave: the squared distances of states to the mean of their concept,
# over those to the mean of all?

# %%
### BEGIN SOLUTION
values, groups = states.values.double(), torch.tensor(concept_of)
rest = sum(((values[groups == g] - values[groups == g].mean(0)) ** 2).sum() for g in set(concept_of))
answer = rest / ((values - values.mean(0)) ** 2).sum()
### END SOLUTION
mm.lab.check("concepts.3", answer, model=model)

# %% [markdown]
# **Exercise concepts.4** (★) Which concept is the moon's: the one that most states at "moon" belong to?

# %%
### BEGIN SOLUTION
answer = Counter(concept for noun, concept in zip(states.tokens, concept_of) if noun == "moon").most_common(1)[0][0]
### END SOLUTION
mm.lab.check("concepts.4", answer, model=model)

# %%
mm.concepts.ground_concepts(model, bank, scenes, k=3, words=5, progress=False).plot(concepts=range(4), pictures=3)
