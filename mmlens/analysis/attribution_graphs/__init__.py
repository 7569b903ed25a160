"""Attribution graphs: what a model says, traced through features of transcoders to patches of the picture and words."""
