"""Looking at heads: the view of one sentence in the terminal, as a picture and as data."""
