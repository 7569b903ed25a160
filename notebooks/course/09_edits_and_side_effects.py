# %% [markdown]
# # 9. Edits and their side effects
#
# **75 minutes, level 3.** You will be able to change what a model says by changing a few rows of its weights, and to find out
# what else has changed.

# %%
import mmlens as mm

model = mm.lab.load()
scene = mm.lab.scene(seed=30)
batch = model.prepare("what color is the moon", images=scene.image)
neurons = mm.find_neurons(model, batch, token="red").top(20)
edit = mm.edits.replace_token(model, batch, source="red", target="blue", neurons=neurons, progress=False)
with model.edited(edit):  # afterwards the weights are what they were, to the bit
    print(model.answer(scene.image, "what color is the moon"))
edit

# %% [markdown]
# The moon is said to be blue. Is it *thought* to be blue?
#
# **Exercise edits.1** (★) What does the edited model answer to "is there a red moon"?

# %%
### BEGIN SOLUTION
with model.edited(edit):
    answer = model.answer(scene.image, "is there a red moon")
### END SOLUTION
mm.lab.check("edits.1", answer, model=model)

# %% [markdown]
# ## Other pictures
#
# The edit was taught on one question. Here are twelve others about red things, and twelve about things that are not red.


# %%
def questions(red):
    """Scenes with a question about a colour that is red, or is not."""
    pairs = []
    for held_out in mm.lab.scenes(80, seed=2):
        texts = [q.text for q in held_out.questions if q.kind == "color" and (q.answer == "red") == red]
        pairs += [(held_out.image, texts[0])] if texts else []
    return pairs[:12]


def answers(pairs):
    """What the model says to each."""
    return [model.answer(image, text) for image, text in pairs]


# %% [markdown]
# **Exercise edits.2** (★★) How many of the twelve questions about red things are answered "blue" now?

# %%
### BEGIN SOLUTION
with model.edited(edit):
    answer = answers(questions(red=True)).count("blue")
### END SOLUTION
mm.lab.check("edits.2", answer, model=model)

# %% [markdown]
# **Exercise edits.3** (★★) And how many of the other twelve answers change?

# %%
### BEGIN SOLUTION
before = answers(questions(red=False))
with model.edited(edit):
    after = answers(questions(red=False))
answer = sum(old != new for old, new in zip(before, after))
### END SOLUTION
mm.lab.check("edits.3", answer, model=model)

# %% [markdown]
# **Exercise edits.4** (★★★) How large is the edit: the length of the change of all edited rows of `W_out`, over the length of
# these rows before?

# %%
### BEGIN SOLUTION
rows = [(unit.layer, unit.index) for unit in neurons]
old = [model.blocks[layer].mlp.W_out[index].clone() for layer, index in rows]
with model.edited(edit):
    change = [model.blocks[layer].mlp.W_out[index] - row for (layer, index), row in zip(rows, old)]
answer = sum(row.norm() ** 2 for row in change) ** 0.5 / sum(row.norm() ** 2 for row in old) ** 0.5
### END SOLUTION
mm.lab.check("edits.4", answer, model=model)

# %% [markdown]
# A change longer than the rows themselves, for one word: and the model answers both "blue" and "there is a red moon".
# `mm.edits.Belief()` teaches the answers that have to agree, and `mm.edits.edit_report` asks all of this in one call.
