"""What observing costs: the encoder of a base Transformer at 512 tokens, on and off in turn, in one run.

python benchmarks/observe.py prints the median ratio of time with hw.observe to time without, and its quartiles.
"""

import statistics
import time

import torch

import headwise as hw
from headwise.models.transformer import Transformer, TransformerConfig

PAIRS = 40


@torch.no_grad()
def main() -> None:
    torch.manual_seed(0)
    model = Transformer(TransformerConfig(vocab_size=6000)).eval()
    ids = torch.randint(3, 6000, (1, 512))

    def seconds(watch: bool) -> float:
        start = time.perf_counter()
        if watch:
            with hw.observe(model):
                model.encode(ids)
        else:
            model.encode(ids)
        return time.perf_counter() - start

    for watch in (True, False):
        seconds(watch)
    ratios = [seconds(True) / seconds(False) for _ in range(PAIRS)]
    low, middle, high = statistics.quantiles(ratios, n=4)
    print(f"observe on / off at 512 tokens: median {middle:.3f}, quartiles {low:.3f} to {high:.3f}, {PAIRS} pairs")


if __name__ == "__main__":
    main()
