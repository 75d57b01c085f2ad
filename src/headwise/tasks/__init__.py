"""Tasks: input and output processing, model, decoding, metric and training recipe."""
