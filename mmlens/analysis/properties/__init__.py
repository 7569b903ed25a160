"""What the neurons of a word are like: readable, in place, steady, shared by pictures and words, specific, causal."""
