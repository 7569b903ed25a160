"""The fuzz of the public functions' arguments: valid examples, values that are wrong, and what becomes of a call with one."""
