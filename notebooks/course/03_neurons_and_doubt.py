# %% [markdown]
# # 3. Neurons and doubt
#
# **60 minutes, level 2.** You will be able to find the neurons that write a word, to take them away, and to say what chance
# would have done.

# %%
import torch

import mmlens as mm

model = mm.lab.load()
scene = mm.lab.scene(seed=30)
batch = model.prepare("what color is the moon", images=scene.image)
print(model.answer(scene.image, "what color is the moon"))

# %% [markdown]
# ## What one neuron adds
#
# A neuron of an MLP multiplies a row of the output matrix `W_out` by its activation, and adds that to the stream. Read by the
# unembedding of a word, its column of `model.W_U`, it is a number of logits: *activation × (output row · unembedding)* (Pan et
# al., ACL Findings 2024).
#
# **Exercise neurons.1** (★★) What does neuron 543 of layer 3 add to the logit of "red" at the last position?

# %%
### BEGIN SOLUTION
_, cache = model.run_with_cache(batch, names="blocks.3.mlp.hook_post")
word = model.W_U[:, model.to_single_token("red")]
answer = cache["post", 3][0, -1, 543] * (model.blocks[3].mlp.W_out[543] @ word)
### END SOLUTION
mm.lab.check("neurons.1", answer, model=model)

# %% [markdown]
# **Exercise neurons.2** (★) Which five neurons add the most? `mm.find_neurons` does this for all of them.

# %%
### BEGIN SOLUTION
answer = mm.find_neurons(model, batch, token="red").top(5)
### END SOLUTION
mm.lab.check("neurons.2", answer, model=model)

# %% [markdown]
# ## Is it they?
#
# That a neuron adds to a word does not say that the word needs it. Take the first 50 away (`with
# model.intervene(mm.Ablate(units))`), and see what becomes of the word's *log-odds*, log(p / (1 - p)), in double precision.

# %%
top = mm.find_neurons(model, batch, token="red").top(50)


def log_odds(units=()):
    """Log-odds of "red" at the last position with some neurons zeroed."""
    with torch.no_grad(), model.intervene(*[mm.Ablate(units)] if units else []):
        return model(batch)[0, -1].double().softmax(-1)[model.to_single_token("red")].logit().item()


# %% [markdown]
# **Exercise neurons.3** (★) By how much do the log-odds change?

# %%
### BEGIN SOLUTION
answer = log_odds(top) - log_odds()
### END SOLUTION
mm.lab.check("neurons.3", answer, model=model)

# %% [markdown]
# ## Doubt
#
# Fifty neurons of any kind might do that. `mm.random_units(model, like=top, draws=10, seed=0)` draws as many from the same
# layers, ten times.
#
# **Exercise neurons.4** (★★) What are the lowest and the highest change by these draws?

# %%
### BEGIN SOLUTION
changes = [log_odds(units) - log_odds() for units in mm.random_units(model, like=top, draws=10, seed=0)]
answer = [min(changes), max(changes)]
### END SOLUTION
mm.lab.check("neurons.4", answer, model=model)

# %% [markdown]
# The found neurons move the word far outside of what chance does. A stronger doubt: neurons that are *as active* in these
# layers, `mm.random_units(model, like=top, match="activation", batch=batch)`. Try it.
