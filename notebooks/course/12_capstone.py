# %% [markdown]
# # 12. Capstone: a model that nobody has told anything about
#
# **75 minutes, level 4.** You will be able to say what the answer of an unknown model hangs on, how that gets to where it is
# said, and what turns it into the answer. Its weights were set by hand, so there is a truth; it knows one question and pictures
# of nine patches.

# %%
import mmlens as mm

mystery = mm.lab.unknown()  # other seeds, other models
model = mystery.model
for seed in range(4):
    print(seed, model.answer(mystery.image(seed), mystery.prompt))
one, other = (model.prepare(mystery.prompt, images=mystery.image(seed)) for seed in (0, 1))
mystery.image(0).resize((192, 192), resample=0)

# %% [markdown]
# **Exercise capstone.1** (★★) Which patch does the answer hang on, counted row by row from 0?

# %%
words = [model.to_string(model(batch)[0, -1].argmax()) for batch in (one, other)]
metric = mm.metrics.logit_difference(*words)
### BEGIN SOLUTION
sweep = mm.patch(model, one, other, at="hook_embed", positions=mm.positions.grid(1), metric=metric, progress=False)
answer = sweep.effect.flatten().argmax()
### END SOLUTION
mm.lab.check("capstone.1", answer, model=model)

# %% [markdown]
# **Exercise capstone.2** (★★) Which head brings it to the last position?

# %%
### BEGIN SOLUTION
heads = mm.patch(
    model, one, other, at="blocks.*.attn.hook_z", units="head", positions="last", metric=metric, progress=False
)
answer = heads.cells(1)[0].units
### END SOLUTION
mm.lab.check("capstone.2", answer, model=model)

# %% [markdown]
# **Exercise capstone.3** (★★★) What turns the colour, once it is at the last position, into the answer: `"a neuron writes the
# answer"`, `"a direction decides"` or `"the colour itself is the answer"`?

# %%
### BEGIN SOLUTION
neuron = mm.find_neurons(model, one, token=words[0]).top(1)
with model.intervene(mm.Ablate(neuron)):
    without = model.to_string(model(one)[0, -1].argmax())
answer = "a neuron writes the answer" if without != words[0] else "a direction decides"
### END SOLUTION
mm.lab.check("capstone.3", answer, model=model)

# %% [markdown]
# **Exercise capstone.4** (★★★) If a neuron does: which? If none does, answer `[]`.

# %%
### BEGIN SOLUTION
answer = neuron
### END SOLUTION
mm.lab.check("capstone.4", answer, model=model)

# %% [markdown]
# `mm.lab.unknown(seed=1)`, `2`, ... are others; the checks judge the model that they are given. What would have convinced you
# that you are wrong? That question is the course.
