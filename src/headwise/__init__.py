"""Multi-head attention you can train with, look into and teach from.

    import headwise as hw

ATTENTION ON TENSORS
    y_i = sum_j p_ij v_j,   p_i = softmax_j(scale q_i . k_j + bias_ij)   over the keys j that the mask allows

    attend(query, key, value, ...)            y; query (*batch, heads, query_len, head_dim), any number of batch dimensions
    attend_with_lse(query, key, value, ...)   y, and the log-sum-exp of every row
    attention_weights(query, key, ...)        p, or the scores on their way to it; some rows and columns, if you like
    which_backend(query, key, value, ...)     what attend would run, and for each faster backend why not
    backends                                  "formula" (the definition), "sdpa" (torch's fused kernels), "blocks" (windows
                                              and documents in O(length x window)), "flex" (torch's FlexAttention)

THE MODULE
    MultiHeadAttention(embed_dim, num_heads, ...)   project, split into heads, attend, concatenate, project
    Scores(scale, softcap, sinks)                   how its scores are formed

RULES: small immutable objects that see positions. Key j has position j, query i position key_len - query_len + i.
    masks       causal(), window(before, after), padding(lengths or keep), documents(ids), prefix(lengths), dense(tensor);
                combined with & | ~; True = may attend
    positions   Rotary (with Linear, NTK, YaRN, Llama3 scaling), Alibi, T5Buckets, Shaw, TransformerXL
    cache       Growing(), Fixed(max_len), Cross(): keys and values between the steps of decoding

LOOKING INTO HEADS
    observe(model)       a context that records every call of its attention modules, of ours and of transformers' models
    Keep(heads=, last=, folder=, ...)   how much of a long run is kept, and where; open_record(folder): what lies there
    statistics(record)   entropy, distance, shares and top keys of every head, exact (the names of the numbers:
                         python -m pydoc headwise.insight.measuring.statistics); with tokens=, groups=, places= more of them
    places               Line, Grid: what a distance is: in seconds, or between patches of a picture
    bootstrap(measured)  their means over a data set, with intervals
    similarity           weights(record), outputs(record): every head with every head
    rollout(record)      how much of every position reaches chosen rows through all layers
    flow(record, row)    the most that could reach a row from every position, up to 512 tokens

OPERATING ON HEADS
    gates(model, ...)           a context that scales or silences single heads; differentiable
    ablate(model, ..., how)     a context that puts something else in their place; ablation: Zero, Mean, Resample, Patch
    importance(model, batches)  how much the loss depends on each head, by gradients, with intervals; leave_one_out: by what
                                its absence costs
    prune(model, heads)         takes heads out for good: fewer weights, the same outputs as with their gates at 0
    group_heads(model, n)       n key-value heads, means of those there are: from multi-head to grouped-query attention
    LearnedGates(model)         gates that learn to close (L0): which heads a task can do without

IN ANYONE'S MODEL
    replace_attention(model)   every torch.nn.MultiheadAttention in a model of torch becomes a compat.MultiheadAttention
    compat                     MultiheadAttention: torch's arguments, parameters and returns, right on empty rows
    weights                    read(layer, library), write(attention, library): the weights of one layer between torch,
                               transformers, flash-attn, Keras, flax and x-transformers

MODELS
    load(folder)                    a published checkpoint (the command "headwise models" lists them), ready to run
    save(model, folder)             and back, in the format it came from
    tokenizer(folder)               the checkpoint's own tokenizer: model(**tokenizer(texts), and labels or not)
    image_processor(folder)         the checkpoint's way with pictures and films: model(**images(pictures))
    feature_extractor(folder)       the checkpoint's way with sounds: model(**extractor(sounds))
    generate(model, input_ids)      what a model goes on with, or hears; generation: Greedy, Beam, Sample
    ctc                             decode(model, **extractor(sounds)) is what was said, of models with labels at frames; loss
    synthesise(model, input_ids)    what a model says aloud: spectrograms, or, with a vocoder, waveforms
    speech                          griffin_lim(spectrogram, mel) makes it audible without a vocoder; Mel: from waveform to
                                    log-mel, SPEECHT5 and FASTSPEECH2 those of published models; save(waveform, path, rate)
    diffusion                       sample(model, class_labels) draws, loss(model, pictures, class_labels) trains a model that
                                    does; DDPM, DDIM: how noise is taken away; Schedule: how much of it there is

What always holds: a query that may attend to nothing gives zero output and zero gradients; scores, softmax and sums are
computed in at least float32; query head h uses key-value head h // (num_heads // num_kv_heads); a wrong call raises
ValueError with what was expected and what came. The documentation of each name is its docstring:
python -m pydoc headwise.attend, headwise.masks.window, headwise.positions.T5Buckets, ... What a picture or a film may be:
headwise.models.inputs.images; a sound: headwise.models.inputs.sounds; what is found in pictures, and how detectors are told:
headwise.models.detection; regions of pictures beside text: headwise.models.oscar.
"""

from headwise.attention import cache, masks, positions
from headwise.attention.backends import backends
from headwise.attention.functional import attend, attend_with_lse, attention_weights, which_backend
from headwise.attention.module import MultiHeadAttention, Scores
from headwise.insight.converting import compat, weights
from headwise.insight.converting.replacing import replace_attention
from headwise.insight.measuring import places, similarity
from headwise.insight.measuring.bootstrap import bootstrap
from headwise.insight.measuring.rollout import flow, rollout
from headwise.insight.measuring.statistics import statistics
from headwise.insight.observing.keep import Keep, open_record
from headwise.insight.observing.observe import observe
from headwise.insight.operating import ablation
from headwise.insight.operating.ablation import ablate
from headwise.insight.operating.gates import gates
from headwise.insight.operating.grouping import group_heads
from headwise.insight.operating.importance import importance, leave_one_out
from headwise.insight.operating.learned_gates import LearnedGates
from headwise.insight.operating.pruning import prune
from headwise.models import ctc, diffusion, generation, speech
from headwise.models.generation import generate
from headwise.models.inputs.images import image_processor
from headwise.models.inputs.sounds import feature_extractor
from headwise.models.inputs.text import tokenizer
from headwise.models.registry import load, save
from headwise.models.synthesis import synthesise

__all__ = [
    "Keep",
    "LearnedGates",
    "MultiHeadAttention",
    "Scores",
    "ablate",
    "ablation",
    "attend",
    "attend_with_lse",
    "attention_weights",
    "backends",
    "bootstrap",
    "cache",
    "compat",
    "ctc",
    "diffusion",
    "feature_extractor",
    "flow",
    "gates",
    "generate",
    "generation",
    "group_heads",
    "image_processor",
    "importance",
    "leave_one_out",
    "load",
    "masks",
    "observe",
    "open_record",
    "places",
    "positions",
    "prune",
    "replace_attention",
    "rollout",
    "save",
    "similarity",
    "speech",
    "statistics",
    "synthesise",
    "tokenizer",
    "weights",
    "which_backend",
]
