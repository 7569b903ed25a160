"""Where attention looks, as maps of pictures and as shares of tokens."""
