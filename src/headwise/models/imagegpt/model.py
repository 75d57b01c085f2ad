"""ImageGPT (Chen et al. 2020): GPT-2 over the pixels of a picture, row by row, each one of 512 colours."""

from __future__ import annotations

from torch import nn

from headwise.models.gpt2.model import GPT2LMHeadModel


class ImageGPTForCausalImageModeling(GPT2LMHeadModel):
    """Colours so far -> decoder -> logits of the next colour.

    GPT-2 with norms x / sqrt(mean x^2 + eps) * w and logits of their own, W y, over the colours alone: the token that starts a
    picture, the vocabulary's last, is read and never said. A picture:

    start = torch.full((1, 1), model.config.vocab_size - 1)
    found = hw.generate(model, start, search=hw.generation.Sample(top_k=40), max_new_tokens=model.config.n_positions)

    Training on all pixels of pictures, ids (batch, n_positions), from the start token on (there is no place for the last one to
    be read, so that labels= would not ask for it):

    read = torch.cat([torch.full_like(ids[:, :1], model.config.vocab_size - 1), ids[:, :-1]], dim=1)
    torch.nn.functional.cross_entropy(model(read).logits.flatten(0, 1), ids.flatten()).backward()
    """

    norm = nn.RMSNorm
