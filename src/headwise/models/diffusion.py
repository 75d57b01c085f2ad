"""Diffusion: a model learns to tell noise from a picture (``loss``), and draws by taking noise away (``sample``).

    x_t = sqrt(a_t) x_0 + sqrt(1 - a_t) noise,   a_t = (1 - beta_0) ... (1 - beta_t)        Ho et al. 2020
    the model reads x_t, t and a class and says the noise; steps from x_t to a less noisy x_s begin at pure noise

hw.diffusion.sample(model, labels, seed=0)                                          250 steps, guided by the classes
hw.diffusion.sample(model, labels, sampler=hw.diffusion.DDIM(steps=50))             fewer, and no noise on the way

Training, here on pictures of pixels, from -1 to 1, drawn with clip=1.0 (the blocks of a DiT drop classes each for itself, as
in diffusers; guidance wants them dropped everywhere at once, as ``loss`` does it, and nowhere besides):

    model.label_dropout = 0
    hw.diffusion.loss(model, pictures, labels).backward()
    drawn = hw.diffusion.sample(model.eval(), labels, sampler=hw.diffusion.DDPM(clip=1.0))

Where the model works on latents, so do both: an autoencoder is yours to bring, headwise has none. With those of diffusers,
``scale`` being the autoencoder's config.scaling_factor (0.18215 for the published DiT):

    pictures = vae.decode(hw.diffusion.sample(model, labels) / scale).sample             in [-1, 1]
    loss = hw.diffusion.loss(model, vae.encode(pictures).latent_dist.sample() * scale, labels)
"""

from __future__ import annotations

import math
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from headwise.models.interface import described
from headwise.models.samplers import DDIM, DDPM, Prediction, Sampler, Schedule

__all__ = ["DDIM", "DDPM", "Sampler", "Schedule", "loss", "sample"]

Pictures = Float[Tensor, "batch channels height width"]
INTEGERS = (torch.int32, torch.int64)
PIXEL = 2 / 255  # the width of one of 256 levels between -1 and 1


@torch.no_grad()
def sample(
    model: nn.Module,
    class_labels: Int[Tensor, " batch"],
    *,
    sampler: Sampler | None = None,
    guidance_scale: float = 4.0,
    seed: int | None = None,
    schedule: Schedule | None = None,
) -> Pictures:
    """Pictures (or latents) of those classes: (batch, in_channels, height, width), in the numbers the model was trained on.

    model: a ``DiTTransformer2DModel``, or what is called as it and has its config, in eval mode. class_labels: (batch,), from 0
    to num_embeds_ada_norm, which is the null class. sampler: ``DDPM()`` (None) or ``DDIM()``. guidance_scale: s in
    u + s (c - u), where the model says the noise c for the class and u for the null class (Ho and Salimans 2022, whose w is
    s - 1), both in one batch, the classes first; 1.0 asks for c alone, in half the time. A learned variance stays that of c.
    seed: of the random numbers; None = torch's own. schedule: the one of the training. Raises ValueError for what none of these
    can be.
    """
    sampler, schedule = DDPM() if sampler is None else sampler, Schedule() if schedule is None else schedule
    if not isinstance(sampler, Sampler):
        raise ValueError(f"sampler: expected hw.diffusion.DDPM() or DDIM(); got {sampler!r}")
    if sampler.steps > schedule.steps:
        raise ValueError(f"steps: expected at most the {schedule.steps} of the schedule; got {sampler.steps}")
    if not isinstance(guidance_scale, int | float) or not 0 <= guidance_scale < math.inf:
        raise ValueError(f"guidance_scale: expected a number of at least 0, 1.0 = not guided; got {guidance_scale!r}")
    if model.training:
        raise ValueError("model: expected in eval mode, model.eval(): in training it drops classes")
    config = _config(model)
    _check_labels(class_labels, config.num_embeds_ada_norm)
    device, dtype = class_labels.device, next((x.dtype for x in model.parameters()), torch.float32)
    shape = (len(class_labels), config.in_channels, config.sample_size, config.sample_size)
    generator = None if seed is None else torch.Generator(device).manual_seed(seed)

    def draw() -> Tensor:
        return torch.randn(shape, generator=generator, device=device, dtype=torch.promote_types(dtype, torch.float32))

    x, signal, steps = draw(), schedule.signal().tolist(), sampler.timesteps(schedule.steps)
    for t, after in zip(steps, [*(signal[t] for t in steps[1:]), 1.0], strict=True):
        x = sampler.step(x, _guided(model, x.to(dtype), t, class_labels, guidance_scale), signal[t], after, draw)
    return x


def loss(
    model: nn.Module,
    clean: Pictures,
    class_labels: Int[Tensor, " batch"],
    *,
    timestep: Int[Tensor, " batch"] | None = None,
    noise: Pictures | None = None,
    label_dropout: float = 0.1,
    schedule: Schedule | None = None,
) -> Float[Tensor, ""]:
    """What DiT is trained on: the mean of (noise - predicted noise)^2 and, where the model has twice as many channels, the
    variational bound in bits per number, which teaches it the variance alone (Nichol and Dhariwal 2021: the predicted noise is
    detached there).

        bound_t = KL(q(x_t-1 | x_t, x_0) || p(x_t-1 | x_t)),   bound_0 = -log2 p(x_0 | x_1), of the 256 levels of [-1, 1]

    clean: (batch, in_channels, height, width), pictures in [-1, 1] or latents (taken for levels just so, as in the paper's
    program). timestep (batch,), noise (as clean): drawn where not given, evenly and from N(0, 1). label_dropout: in training,
    how often the null class stands in for a class, which guidance needs; the blocks of a DiT drop besides, each for itself,
    unless its own label_dropout is 0. Raises ValueError for what does not fit.
    """
    config, schedule = _config(model), schedule or Schedule()
    _check_labels(class_labels, config.num_embeds_ada_norm)
    if not 0 <= label_dropout <= 1:
        raise ValueError(f"label_dropout: expected a number in [0, 1]; got {label_dropout}")
    fits = isinstance(clean, Tensor) and clean.is_floating_point() and clean.dim() == 4
    if not fits or clean.shape[:2] != (len(class_labels), config.in_channels):
        wanted = f"floats ({len(class_labels)} as class_labels, {config.in_channels} channels, height, width)"
        raise ValueError(f"clean: expected {wanted}; got {described(clean)}")
    if timestep is None:
        timestep = torch.randint(schedule.steps, class_labels.shape, device=clean.device)
    elif not isinstance(timestep, Tensor) or timestep.dtype not in INTEGERS or not _within(timestep, schedule.steps):
        raise ValueError(f"timestep: expected a tensor of integers from 0 to {schedule.steps - 1}; got {timestep}")
    start = clean.to(torch.promote_types(clean.dtype, torch.float32))
    noise = torch.randn_like(start) if noise is None else noise.to(start.dtype)
    for name, x, shape in (("timestep", timestep, class_labels.shape), ("noise", noise, clean.shape)):
        if x.shape != shape:
            raise ValueError(f"{name}: expected {tuple(shape)}; got {tuple(x.shape)}")
    if model.training and label_dropout > 0:
        dropped = torch.rand(class_labels.shape, device=class_labels.device) < label_dropout
        class_labels = class_labels.masked_fill(dropped, config.num_embeds_ada_norm)
    signal = schedule.signal().to(start)[timestep][:, None, None, None]
    x = signal.sqrt() * start + (1 - signal).sqrt() * noise
    prediction = _split(model(x.to(clean.dtype), timestep, class_labels).sample.to(start.dtype), config.in_channels)
    squares = (prediction.noise - noise).square().mean()
    return squares if prediction.between is None else squares + _bound(prediction, start, x, timestep, schedule).mean()


def _bound(prediction: Prediction, clean: Tensor, x: Tensor, timestep: Tensor, schedule: Schedule) -> Tensor:
    """The variational bound of every number, in bits."""
    signal = schedule.signal()
    before = torch.cat([signal.new_ones(1), signal[:-1]])
    beta, rest = 1 - signal / before, (1 - before) / (1 - signal)
    least = (beta * rest).log()
    least[0] = least[1]  # nothing is left to vary before the first step: -inf
    of_clean, of_x = before.sqrt() * beta / (1 - signal), (1 - beta).sqrt() * rest
    table = torch.stack([signal, beta.log(), least, of_clean, of_x]).to(clean)
    signal, most, least, of_clean, of_x = table[:, timestep, None, None, None]
    guess = Prediction(prediction.noise.detach(), None).clean(x, signal)
    v = (prediction.between + 1) / 2  # type: ignore[operator]
    log_variance = v * most + (1 - v) * least
    mean, true = of_clean * guess + of_x * x, of_clean * clean + of_x * x
    divergence = log_variance - least + (least - log_variance).exp() - 1 + (true - mean).square() * (-log_variance).exp()
    first = (timestep == 0)[:, None, None, None]
    return torch.where(first, -_log_level(clean, mean, log_variance), divergence / 2) / math.log(2)


def _log_level(x: Tensor, mean: Tensor, log_variance: Tensor) -> Tensor:
    """log P of the level that x is on, under a normal distribution: the mass within half a level on either side, and all that
    lies beyond for the first and the last (Ho et al. 2020, equation 13). From log-masses of tails: no P is rounded to 0."""
    scale, distance = (-log_variance / 2).exp(), (x - mean).abs()
    nearer, farther = (_log_tail((half - distance) * scale) for half in (PIXEL / 2, -PIXEL / 2))
    inner = nearer + (-torch.expm1((farther - nearer).clamp(max=-torch.finfo(x.dtype).eps))).log()
    first, last = (_log_tail((PIXEL / 2 + way * (x - mean)) * scale) for way in (1, -1))
    return torch.where(x < -0.999, first, torch.where(x > 0.999, last, inner))


def _log_tail(z: Tensor) -> Tensor:
    """The logarithm of the normal distribution below z; from 1000 deviations on constant, where torch's gradient is wrong."""
    return torch.special.log_ndtr(z.clamp(min=-1000.0))


def _guided(model: nn.Module, x: Tensor, t: int, labels: Tensor, scale: float) -> Prediction:
    """What the model says, carried past the class by the scale; in at least float32."""
    config: Any = model.config
    if scale != 1:
        x, labels = torch.cat([x, x]), torch.cat([labels, torch.full_like(labels, config.num_embeds_ada_norm)])
    output = model(x, torch.full((len(x),), t, device=x.device), labels).sample
    said = _split(output.to(torch.promote_types(output.dtype, torch.float32)), config.in_channels)
    if scale == 1:
        return said
    of_class, of_none = said.noise.chunk(2)
    between = None if said.between is None else said.between.chunk(2)[0]
    return Prediction(of_none + scale * (of_class - of_none), between)


def _split(output: Tensor, channels: int) -> Prediction:
    if output.shape[1] not in (channels, 2 * channels):
        raise ValueError(f"model: expected {channels} or {2 * channels} channels out of it; got {tuple(output.shape)}")
    return Prediction(output[:, :channels], output[:, channels:] if output.shape[1] > channels else None)


def _config(model: Any) -> Any:
    if not hasattr(getattr(model, "config", None), "num_embeds_ada_norm"):
        raise ValueError(f"model: expected one that says the noise in a picture of a class; got {type(model).__name__}")
    return model.config


def _check_labels(labels: Tensor, null: int) -> None:
    sound = isinstance(labels, Tensor) and labels.dim() == 1 and len(labels) > 0 and labels.dtype in INTEGERS
    if not sound or not _within(labels, null + 1):
        got = labels.tolist() if sound else described(labels)
        raise ValueError(f"class_labels: expected integers (batch,) from 0 to {null}, which is the null class; got {got}")


def _within(numbers: Tensor, end: int) -> bool:
    # A compiled graph cannot look at values, and takes them as they are.
    return torch.compiler.is_compiling() or bool(((numbers >= 0) & (numbers < end)).all())
