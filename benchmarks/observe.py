"""What observing costs: the encoder of a base Transformer of ours and models of transformers at 512 tokens, on and off in turn,
in one run.

python benchmarks/observe.py prints for each the ratio of the least time with hw.observe to the least without, and the quartiles
of the ratios of neighbours.
"""

import statistics
import time
from collections.abc import Callable

import torch
from torch import nn

import headwise as hw
from headwise.models.transformer import Transformer, TransformerConfig

PAIRS = 20
SIZES = {"vocab_size": 6000, "hidden_size": 512, "num_hidden_layers": 6, "num_attention_heads": 8, "intermediate_size": 2048}


@torch.no_grad()
def compare(name: str, model: nn.Module, run: Callable[[], object]) -> None:
    def seconds(watch: bool) -> float:
        start = time.perf_counter()
        if watch:
            with hw.observe(model):
                run()
        else:
            run()
        return time.perf_counter() - start

    for watch in (True, False):
        seconds(watch)
    pairs = [(seconds(True), seconds(False)) for _ in range(PAIRS)]
    least = min(on for on, _ in pairs) / min(off for _, off in pairs)
    low, middle, high = statistics.quantiles([on / off for on, off in pairs], n=4)
    print(f"{name}: least {least:.3f}, median {middle:.3f}, quartiles {low:.3f} to {high:.3f}, {PAIRS} pairs")


def main() -> None:
    import transformers

    torch.manual_seed(0)
    ids = torch.randint(3, 6000, (1, 512))
    ours = Transformer(TransformerConfig(vocab_size=6000)).eval()
    compare("Transformer of ours", ours, lambda: ours.encode(ids))
    for kind, more in (("BertModel", {}), ("LlamaModel", {"num_key_value_heads": 2}), ("T5EncoderModel", {})):
        sizes = {"vocab_size": 6000} if kind.startswith("T5") else SIZES | more
        model = getattr(transformers, kind)(getattr(transformers, kind).config_class(**sizes)).eval()
        compare(kind, model, lambda model=model: model(ids))


if __name__ == "__main__":
    main()
