"""Hidden states of many samples: collected in one pass, kept on disk, read as they are needed."""
