# %% [markdown]
# # 6. The logit lens and its control
#
# **60 minutes, level 2.** You will be able to read a state as words, and to say how much of the reading is there without the
# thing.

# %%

import mmlens as mm

model = mm.lab.load()
scene = mm.lab.scene(seed=30)
number = [thing.shape for thing in scene.objects].index("moon")
moon = scene.objects[number]
batch = model.prepare("what color is the moon", images=scene.image)
rows = batch.layout.patches(box=moon.box)

# %% [markdown]
# The lens reads a state inside the model as if it were the last one: final norm, unembedding (the matrix that turns states into
# logits), softmax. `mm.logit_lens` does it for many states and words at once; `lens.word_probabilities` is `[sample point row
# word]`.
#
# **Exercise lens.1** (★★) Which probability of "red" does the lens read at the last position behind block 0?

# %%
### BEGIN SOLUTION
lens = mm.logit_lens(model, batch, at="blocks.0.hook_resid_post", positions="last", words=["red"], progress=False)
answer = lens.word_probabilities.flatten()
### END SOLUTION
mm.lab.check("lens.1", answer, model=model)

# %% [markdown]
# ## Over the picture
#
# Image tokens are rows like others, so they can be read too (Neo et al., ICLR 2025).
#
# **Exercise lens.2** (★) How probable is "moon" at the moon's rows behind block 3, on average?


# %%
### BEGIN SOLUTION
def reading(batch):
    """Mean probability of "moon" at the moon's rows."""
    at = mm.positions.row(rows)
    lens = mm.logit_lens(model, batch, at="blocks.3.hook_resid_post", positions=at, words=["moon"], progress=False)
    return lens.word_probabilities.mean()


answer = reading(batch)
### END SOLUTION
mm.lab.check("lens.2", answer, model=model)

# %% [markdown]
# A lens always says something. The control: the same rows of the picture with its patches shuffled, `mm.corrupt.shuffle(model,
# batch, seed=0)`, where other patches stand at the moon's place.
#
# **Exercise lens.3** (★★) By how much is the reading above its control?

# %%
### BEGIN SOLUTION
answer = reading(batch) - reading(mm.corrupt.shuffle(model, batch, seed=0))
### END SOLUTION
mm.lab.check("lens.3", answer, model=model)

# %% [markdown]
# ## What it does not say
#
# At the moon's rows the lens says "moon", and hardly ever "red". Does the colour stand elsewhere?
#
# **Exercise lens.4** (★★) Which rows hold it in front of layer 2: `"moon"`, `"rest of the picture"`, `"words"` or `"last"`?
# Patch each group from the run about the red moon into the run about a blue one.

# %%
### BEGIN SOLUTION
clean, corrupted = batch, mm.corrupt.twin(model, batch, [scene.twin(object=number, color="blue").image])
here = mm.positions
thing = here.box(moon.box)
groups = {"moon": thing, "rest of the picture": here.image - thing, "words": here.text - here.last, "last": here.last}
sweep = mm.patch(
    model,
    clean,
    corrupted,
    at="blocks.2.hook_resid_pre",
    positions=groups,
    metric=mm.metrics.logit_difference("red", "blue"),
    progress=False,
)
answer = list(groups)[int(sweep.effect.flatten().argmax())]
### END SOLUTION
mm.lab.check("lens.4", answer, model=model)

# %% [markdown]
# A lens shows what happens to be written in the language of the output. What it does not show may be there all the same.
