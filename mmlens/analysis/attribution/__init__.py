"""Attribution patching: the effects of all patches of a sweep at once, to first order."""
