"""What the lecture's claims are judged by: experiments, which need the extra "train", and the results that they leave."""
