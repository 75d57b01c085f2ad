"""Diffusion: every step is the reference's, every formula the papers', and what is drawn is distributed as it should be."""

import math
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from scipy import stats
from test_dit import SIZES, reference
from torch import nn

import headwise as hw
from headwise.models.diffusion import Prediction
from headwise.models.dit import DiTConfig, DiTTransformer2DModel

SIGNAL = hw.diffusion.Schedule().signal()
SHAPE = (2, 3, 5, 5)


class Says(nn.Module):
    """A model that says what it is told to, and notes what it was asked."""

    def __init__(self, say, channels=3, size=5, classes=7):
        super().__init__()
        self.say, self.asked = say, []
        self.config = SimpleNamespace(in_channels=channels, sample_size=size, num_embeds_ada_norm=classes)

    def forward(self, hidden_states, timestep, class_labels):
        self.asked.append((hidden_states, timestep, class_labels))
        return SimpleNamespace(sample=self.say(hidden_states, timestep, class_labels))


def ddpm(steps, **settings):
    """The reference's scheduler, on a table in float64."""
    from diffusers import DDPMScheduler

    scheduler = DDPMScheduler(**{"clip_sample": False, "timestep_spacing": "linspace"} | settings)
    torch.testing.assert_close(scheduler.alphas_cumprod, SIGNAL.float(), atol=1e-6, rtol=1e-5)
    scheduler.set_timesteps(steps)
    scheduler.alphas_cumprod, scheduler.one = SIGNAL, torch.ones((), dtype=torch.float64)
    return scheduler


def ddim(steps, **settings):
    from diffusers import DDIMScheduler

    scheduler = DDIMScheduler(**{"clip_sample": False} | settings)
    scheduler.set_timesteps(steps)
    scheduler.alphas_cumprod, scheduler.final_alpha_cumprod = SIGNAL, torch.ones((), dtype=torch.float64)
    return scheduler


def test_the_schedule():
    assert SIGNAL[0].item() == pytest.approx(1 - 1e-4, abs=1e-15)
    assert SIGNAL[1].item() == pytest.approx((1 - 1e-4) * (1 - 1e-4 - (0.02 - 1e-4) / 999), abs=1e-15)
    assert SIGNAL[999].item() == pytest.approx(4.0358e-5, rel=1e-4)


@pytest.mark.parametrize("steps", [2, 3, 7, 250, 1000])
def test_steps_of_ddpm_are_the_references(steps):
    assert hw.diffusion.DDPM(steps).timesteps(1000) == ddpm(steps).timesteps.tolist()


@pytest.mark.parametrize("steps", [1, 8, 50, 250, 1000])
def test_steps_of_ddim_are_the_references(steps):
    assert hw.diffusion.DDIM(steps).timesteps(1000) == ddim(steps).timesteps.tolist()


def test_steps_that_do_not_divide_the_schedules():
    assert hw.diffusion.DDPM(1).timesteps(1000) == [999]
    assert hw.diffusion.DDPM(4).timesteps(1000) == [999, 666, 333, 0]
    assert hw.diffusion.DDIM(3).timesteps(1000) == [666, 333, 0]
    most = hw.diffusion.DDIM(600).timesteps(1000)
    assert (most[0], len(set(most))) == (998, 600)


def walk(sampler, scheduler, channels, **how):
    """Each of the reference's steps beside ours, from the same place, with the same noise."""
    steps = sampler.timesteps(1000)
    assert steps == scheduler.timesteps.tolist()
    x = torch.randn(SHAPE, dtype=torch.float64)
    for number, (t, after) in enumerate(zip(steps, [*SIGNAL[steps[1:]].tolist(), 1.0], strict=True)):
        said = torch.randn(2, channels, 5, 5, dtype=torch.float64)
        generators = [torch.Generator().manual_seed(number) for _ in range(2)]
        prediction = Prediction(said[:, :3], said[:, 3:] if channels == 6 else None)

        def draw(generator=generators[0]):
            return torch.randn(SHAPE, generator=generator, dtype=torch.float64)

        got = sampler.step(x, prediction, SIGNAL[t].item(), after, draw)
        given = said if isinstance(sampler, hw.diffusion.DDPM) else said[:, :3]
        x = scheduler.step(given, t, x, generator=generators[1], **how).prev_sample
        torch.testing.assert_close(got, x, atol=1e-9, rtol=1e-9)


@pytest.mark.parametrize("clip", [None, 1.5])
@pytest.mark.parametrize("steps", [7, 50, 1000])
@pytest.mark.parametrize(("channels", "variance"), [(6, "learned_range"), (3, "fixed_small")])
def test_every_step_of_ddpm_is_the_references(channels, variance, steps, clip):
    clipped = {} if clip is None else {"clip_sample": True, "clip_sample_range": clip}
    walk(hw.diffusion.DDPM(steps, clip), ddpm(steps, variance_type=variance, **clipped), channels)


@pytest.mark.parametrize("clip", [None, 1.5])
@pytest.mark.parametrize("steps", [8, 50])
@pytest.mark.parametrize("eta", [0.0, 0.4, 1.0])
def test_every_step_of_ddim_is_the_references(steps, eta, clip):
    """What is clipped has another noise in it, as in the papers' programs."""
    clipped = {} if clip is None else {"clip_sample": True, "clip_sample_range": clip}
    walk(hw.diffusion.DDIM(steps, eta, clip), ddim(steps, **clipped), 6, eta=eta, use_clipped_model_output=True)


def test_a_table_in_float32_is_near():
    """The reference as it comes: its table's rounding is seen where almost no noise is left."""
    scheduler = ddim(50)
    scheduler.alphas_cumprod = type(scheduler)().alphas_cumprod
    x, said = torch.randn(2, *SHAPE)
    for t in (0, 500, 980):
        got = hw.diffusion.DDIM(50).step(x, Prediction(said, None), SIGNAL[t].item(), SIGNAL[t - 20].item() if t else 1.0, list)
        torch.testing.assert_close(got, scheduler.step(said, t, x).prev_sample, atol=1e-3, rtol=1e-3)


@pytest.mark.parametrize("after", [0.71, 0.97])
def test_rounding_leaves_no_less_noise_than_none(after):
    """With eta = 1 next to pure noise: 1 - a_s - sigma^2 is 0, and rounded less, which has no real root."""
    nothing = torch.zeros(SHAPE)
    got = hw.diffusion.DDIM(1, eta=1.0).step(nothing, Prediction(nothing, None), 1e-30, after, lambda: nothing)
    torch.testing.assert_close(got, nothing)  # of the same dtype: no complex numbers


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    """The reference's model and ours, in float64, calm enough not to blow up noise."""
    folder, theirs = tmp_path_factory.mktemp("dit"), reference()
    with torch.no_grad():
        for part in theirs.proj_out_2.parameters():
            part.mul_(0.05)
    theirs.save_pretrained(folder)
    return theirs.double(), hw.load(folder).double()


@torch.no_grad()
def drawn_by_reference(model, scheduler, labels, scale, x, generator, learned):
    """The loop of diffusers' DiTPipeline, with the variance going on to a scheduler that takes it."""
    for t in scheduler.timesteps:
        both, classes = torch.cat([x, x]), torch.cat([labels, torch.full_like(labels, 7)])
        if scale == 1:
            both, classes = x, labels
        said = model(both, timestep=t[None].expand(len(both)), class_labels=classes).sample
        if scale != 1:
            noise, rest = said[:, :3], said[:, 3:]
            of_class, of_none = noise.chunk(2)
            said = torch.cat([of_none + scale * (of_class - of_none), rest.chunk(2)[0]], dim=1)
        x = scheduler.step(said if learned else said[:, :3], t, x, generator=generator).prev_sample
    return x


@pytest.mark.parametrize("scale", [1.0, 4.0])
@pytest.mark.parametrize("learned", [True, False])
def test_what_is_drawn_is_what_the_reference_draws(models, scale, learned):
    theirs, ours = models
    labels, generator = torch.tensor([6, 0, 7, 3]), torch.Generator().manual_seed(5)
    start = torch.randn(4, 3, 10, 10, generator=generator, dtype=torch.float64)
    scheduler = ddpm(12, variance_type="learned_range") if learned else ddim(10)
    want = drawn_by_reference(theirs, scheduler, labels, scale, start, generator, learned)
    sampler = hw.diffusion.DDPM(12) if learned else hw.diffusion.DDIM(10)
    got = hw.diffusion.sample(ours, labels, sampler=sampler, guidance_scale=scale, seed=5)
    assert got.shape == start.shape
    torch.testing.assert_close(got, want, atol=1e-7, rtol=1e-7)


@torch.no_grad()
def test_the_references_pipeline_draws_the_same(models, monkeypatch):
    """DiTPipeline itself, with nothing for an autoencoder. Its null class is 1000 whatever the model: told ours."""
    from diffusers import DiTPipeline

    theirs, ours = models
    autoencoder = SimpleNamespace(config=SimpleNamespace(scaling_factor=1.0), decode=lambda x: SimpleNamespace(sample=x))
    pipeline = SimpleNamespace(transformer=theirs, scheduler=ddim(10), vae=autoencoder, _execution_device=torch.device("cpu"))
    pipeline.progress_bar, pipeline.maybe_free_model_hooks = iter, lambda: None
    forward = theirs.forward
    monkeypatch.setattr(
        theirs, "forward", lambda x, class_labels, **more: forward(x, class_labels=class_labels.clamp(max=7), **more)
    )
    call = DiTPipeline.__call__
    generator = torch.Generator().manual_seed(5)
    want = call(pipeline, [6, 0, 3], generator=generator, num_inference_steps=10, output_type="pt", return_dict=False)[0]
    got = hw.diffusion.sample(ours, torch.tensor([6, 0, 3]), sampler=hw.diffusion.DDIM(10), seed=5)
    torch.testing.assert_close((got / 2 + 0.5).clamp(0, 1), want, atol=1e-7, rtol=1e-7)
    assert 0.1 < want.mean() < 0.9


def test_seeds():
    model, labels = Says(lambda x, t, y: 0.1 * x).eval(), torch.tensor([1, 2])
    before = torch.get_rng_state()
    one, again, other = (hw.diffusion.sample(model, labels, sampler=hw.diffusion.DDPM(5), seed=seed) for seed in (3, 3, 4))
    assert torch.equal(one, again)
    assert not torch.allclose(one, other)
    assert torch.equal(torch.get_rng_state(), before)
    drawn = [hw.diffusion.sample(model, labels, sampler=hw.diffusion.DDPM(5)) for _ in range(2)]
    assert not torch.allclose(*drawn)
    assert not one.requires_grad


def test_one_pass_where_nothing_guides():
    model, labels = Says(lambda x, t, y: 0.1 * x).eval(), torch.tensor([1, 2])
    hw.diffusion.sample(model, labels, sampler=hw.diffusion.DDIM(4), guidance_scale=1.0)
    assert [(t.tolist(), y.tolist()) for _, t, y in model.asked] == [([t, t], [1, 2]) for t in (750, 500, 250, 0)]
    model.asked.clear()
    hw.diffusion.sample(model, labels, sampler=hw.diffusion.DDIM(1), guidance_scale=1.5)
    assert [(t.tolist(), y.tolist()) for _, t, y in model.asked] == [([0] * 4, [1, 2, 7, 7])]


def test_the_most_steps_and_the_fewest():
    model, labels = Says(lambda x, t, y: 0.1 * x).eval(), torch.tensor([1])
    for sampler in (hw.diffusion.DDPM(1), hw.diffusion.DDIM(1, eta=1.0), hw.diffusion.DDIM(10)):
        assert hw.diffusion.sample(model, labels, sampler=sampler, schedule=hw.diffusion.Schedule(10)).isfinite().all()


def test_guidance_moves_the_noise_and_leaves_the_variance():
    """u + s (c - u) with c = class / 10, u = 0: told so, step by step, by a model that says nothing else."""

    def say(x, t, y):
        noise = torch.where(y == 7, 0.0, y / 10)[:, None, None, None].expand_as(x)
        return torch.cat([noise, torch.where(y == 7, 100.0, 0.5)[:, None, None, None].expand_as(x)], dim=1)

    got = hw.diffusion.sample(Says(say).eval(), torch.tensor([1, 2]), sampler=hw.diffusion.DDPM(20), guidance_scale=3.0, seed=0)

    def sure(x, t, y):
        return torch.cat([(0.3 * y)[:, None, None, None].expand_as(x), torch.full_like(x, 0.5)], dim=1)

    want = hw.diffusion.sample(
        Says(sure).eval(), torch.tensor([1, 2]), sampler=hw.diffusion.DDPM(20), guidance_scale=1.0, seed=0
    )
    torch.testing.assert_close(got, want.to(got), atol=1e-3, rtol=1e-4)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_in_half_precision_is_the_model_alone(dtype):
    """Noise, guidance and loss are float32's: what guidance adds up here is too large for float16."""
    results = []
    for precision in (torch.float32, dtype):
        model = Says(lambda x, t, y: torch.where(y == 7, -1000.0, 1000.0)[:, None, None, None].expand_as(x).to(x))
        model.weight = nn.Parameter(torch.zeros((), dtype=precision))
        drawn = hw.diffusion.sample(model.eval(), LABELS, sampler=hw.diffusion.DDIM(2), guidance_scale=60.0, seed=0)
        clean, noise = torch.zeros(SHAPE, dtype=precision), torch.ones(SHAPE, dtype=precision)
        loss = hw.diffusion.loss(model, clean, LABELS, timestep=torch.tensor([5, 500]), noise=noise)
        assert {asked[0].dtype for asked in model.asked} == {precision}
        results.append((drawn, loss))
    torch.testing.assert_close(results[1], results[0], rtol=0, atol=0)
    assert results[1][0].isfinite().all()


MEANS, DEVIATIONS = torch.tensor([-0.5, 0.7]), torch.tensor([0.3, 0.1])


def best(learned):
    """The best prediction there is where x_0 is normal, of a mean and deviation for each class; and, if asked, the variance of
    the step back, which is then exact: q(x_t-1 | x_t) is normal."""
    before = torch.cat([torch.ones(1, dtype=torch.float64), SIGNAL[:-1]])
    beta, rest = 1 - SIGNAL / before, (1 - before) / (1 - SIGNAL)

    def say(x, t, y):
        a, mean, deviation = (x[:, None, None, None] for x in (SIGNAL[t], MEANS[y], DEVIATIONS[y]))
        spread = a * deviation**2 + 1 - a
        noise = (1 - a).sqrt() * (x - a.sqrt() * mean) / spread
        if not learned:
            return noise.float()
        b, r, p = (x[t][:, None, None, None] for x in (beta, rest, before))
        variance = b * r + p * (b / (1 - a)) ** 2 * deviation**2 * (1 - a) / spread
        between = 2 * (variance / (b * r)).log() / (1 / r).log() - 1
        return torch.cat([noise, between.nan_to_num().expand_as(x)], dim=1).float()

    return Says(say, channels=1, size=16, classes=2).eval()


@pytest.mark.parametrize(
    ("sampler", "learned", "near"),
    [
        (hw.diffusion.DDPM(1000), True, 0.02),
        (hw.diffusion.DDPM(1000), False, 0.04),
        (hw.diffusion.DDPM(250), False, 0.13),
        (hw.diffusion.DDIM(1000), False, 0.03),
        (hw.diffusion.DDIM(250), False, 0.07),
        (hw.diffusion.DDIM(1000, eta=1.0), False, 0.04),
    ],
    ids=str,
)
def test_what_is_drawn_has_the_right_distribution(sampler, learned, near):
    """16,384 numbers a class: their deviation is known to half a percent. With every step and its own variance nothing is left
    but chance; with fewer steps, or the least variance, what is drawn varies too little, the narrower class more so."""
    labels = torch.arange(2).repeat_interleave(64)
    drawn = hw.diffusion.sample(best(learned), labels, sampler=sampler, guidance_scale=1.0, seed=0).view(2, -1)
    for row, mean, deviation in zip(drawn, MEANS, DEVIATIONS, strict=True):
        assert abs(row.mean() - mean) < 5 * deviation / len(row) ** 0.5 + 0.1 * near * deviation
        assert row.std() / deviation == pytest.approx(1, abs=near)
        assert stats.kstest(((row - row.mean()) / row.std()).numpy()[:2000], "norm").pvalue > 1e-3


def bound(clean, x, t, predicted, v):
    """The variational bound of every number in bits, from Bayes' rule on Gaussians and scipy's normal distribution."""
    betas = np.linspace(1e-4, 0.02, 1000)
    a = np.cumprod(1 - betas)

    def back(step):
        """Precision of q(x_t-1 | x_t, x_0), and its parts."""
        return (1 - betas[step]) / betas[step] + 1 / (1 - a[step - 1])

    bits = np.zeros(clean.shape)
    for place in np.ndindex(*clean.shape):
        step = t[place[0]]
        guess = (x[place] - math.sqrt(1 - a[step]) * predicted[place]) / math.sqrt(a[step])
        share = (v[place] + 1) / 2
        spread = math.exp(share * math.log(betas[step]) + (1 - share) * -math.log(back(max(step, 1))))
        if step == 0:
            model = stats.norm(guess, math.sqrt(spread))
            low, high = model.cdf(clean[place] - 1 / 255), model.cdf(clean[place] + 1 / 255)
            mass = high if clean[place] <= -1 else 1 - low if clean[place] >= 1 else high - low
            bits[place] = -math.log2(mass)
            continue
        means = [
            (math.sqrt(1 - betas[step]) * x[place] / betas[step] + math.sqrt(a[step - 1]) * start / (1 - a[step - 1]))
            / back(step)
            for start in (clean[place], guess)
        ]
        true = torch.distributions.Normal(torch.tensor(means[0]).double(), back(step) ** -0.5)
        said = torch.distributions.Normal(torch.tensor(means[1]).double(), spread**0.5)
        bits[place] = torch.distributions.kl_divergence(true, said).item() / math.log(2)
    return bits


def asked():
    """Two pictures of every kind of step, edges of the levels among them."""
    clean = (torch.randint(0, 256, (6, 3, 2, 2)) / 127.5 - 1).double()
    clean[:2, 0, 0], clean[:2, 1, 0] = 1.0, -1.0
    noise, said = torch.randn(6, 3, 2, 2).double(), torch.randn(6, 6, 2, 2).double()
    t = torch.tensor([0, 0, 1, 2, 500, 999])
    said[:, :3] = noise + 0.3 * said[:, :3]  # not so far off that scipy's masses run out of digits
    a = SIGNAL[t][:, None, None, None]
    return clean, a.sqrt() * clean + (1 - a).sqrt() * noise, t, noise, nn.Parameter(said)


def test_the_loss_is_the_papers():
    clean, x, t, noise, said = asked()
    model = Says(lambda x, t, y: said, size=2)
    got = hw.diffusion.loss(model, clean, torch.arange(6), timestep=t, noise=noise)
    predicted, v = (part.detach().numpy() for part in (said[:, :3], said[:, 3:]))
    bits = bound(clean.numpy(), x.numpy(), t.tolist(), predicted, v)
    squares = ((predicted - noise.numpy()) ** 2).mean()
    assert got.item() == pytest.approx(squares + bits.mean(), rel=1e-9)
    assert got.dtype == torch.float64
    torch.testing.assert_close(model.asked[0][0], x)
    assert torch.equal(model.asked[0][1], t)
    for i in range(6):  # each kind of step for itself
        model.say = lambda *_, i=i: said[i : i + 1]
        one = hw.diffusion.loss(model, clean[i : i + 1], torch.zeros(1).long(), timestep=t[i : i + 1], noise=noise[i : i + 1])
        alone = ((predicted[i] - noise[i].numpy()) ** 2).mean()
        assert one.item() - alone == pytest.approx(bits[i].mean(), rel=1e-8, abs=1e-11)


def test_gradients_go_where_they_should():
    """The bound teaches the variance and nothing else."""
    clean, x, t, noise, said = asked()
    hw.diffusion.loss(Says(lambda *_: said, size=2), clean, torch.arange(6), timestep=t, noise=noise).backward()
    torch.testing.assert_close(said.grad[:, :3], 2 * (said - torch.cat([noise, noise], dim=1))[:, :3].detach() / noise.numel())
    predicted, v, step = said[:, :3].detach().numpy(), said[:, 3:].detach().numpy(), 1e-5
    sides = [bound(clean.numpy(), x.numpy(), t.tolist(), predicted, v + way) for way in (step, -step)]
    slope = torch.from_numpy((sides[0] - sides[1]) / (2 * step) / noise.numel())
    assert (slope.abs().amax((1, 2, 3))[:3] > 1e-3).all()
    torch.testing.assert_close(said.grad[:, 3:], slope, atol=1e-8, rtol=1e-5)


def test_the_bound_is_least_at_the_true_variance():
    """Where the noise is known, the best variance is the least that it can be: v = -1."""
    clean, _, _, noise, _ = asked()
    t = torch.full((6,), 300)
    found = []
    for v in (-2.0, -1.0, 0.0):
        said = torch.cat([noise, torch.full_like(noise, v)], dim=1)
        model = Says(lambda *_, said=said: said, size=2)
        found.append(hw.diffusion.loss(model, clean, torch.arange(6), timestep=t, noise=noise).item())
    assert found[1] == pytest.approx(0, abs=1e-12)
    assert min(found[0], found[2]) > 1e-9


def test_far_off_the_loss_stays_finite():
    """In float32, where a mass would be rounded to 0 and its logarithm to -inf."""
    clean = torch.tensor([-1.0, 0.0, 1.0, 0.5]).view(1, 1, 2, 2).expand(4, 3, 2, 2)
    for v in (-30.0, 0.0, 30.0):
        said = nn.Parameter(torch.cat([torch.full((4, 3, 2, 2), 300.0), torch.full((4, 3, 2, 2), v)], dim=1))
        t = torch.tensor([0, 0, 1, 999])
        loss = hw.diffusion.loss(Says(lambda *_, said=said: said, size=2), clean, torch.arange(4), timestep=t)
        loss.backward()
        assert loss.isfinite()
        assert said.grad.isfinite().all()


def test_without_a_learned_variance_the_loss_is_the_mean_square():
    clean, noise, said = torch.randn(3, *SHAPE)
    model = Says(lambda *_: said)
    got = hw.diffusion.loss(model, clean, torch.tensor([1, 2]), timestep=torch.tensor([0, 999]), noise=noise)
    torch.testing.assert_close(got, (said - noise).square().mean())


def test_what_is_drawn_for_the_loss():
    clean, labels = torch.zeros(4000, 3, 1, 1), torch.zeros(4000).long()
    model = Says(lambda x, *_: x, size=1)
    hw.diffusion.loss(model.train(), clean, labels, label_dropout=0.25)
    x, t, y = model.asked[-1]
    assert 0.2 < (y == 7).float().mean() < 0.3
    assert set(y.tolist()) == {0, 7}
    assert stats.kstest(t.numpy() / 1000, "uniform").pvalue > 1e-3
    assert stats.kstest((x[:, :, 0, 0] / (1 - SIGNAL[t].float()).sqrt()[:, None]).flatten().numpy(), "norm").pvalue > 1e-3
    hw.diffusion.loss(model.eval(), clean, labels, label_dropout=0.25)
    assert not model.asked[-1][2].any()
    hw.diffusion.loss(model.train(), clean, labels, label_dropout=0.0, schedule=hw.diffusion.Schedule(3))
    assert not model.asked[-1][2].any()
    assert set(model.asked[-1][1].tolist()) == {0, 1, 2}


def test_training_draws_what_it_was_shown():
    """Two pictures, each the other's negative; after a few hundred steps they are drawn from noise."""
    torch.manual_seed(0)
    shown = torch.randn(1, 1, 4, 4).sign() * torch.tensor([1.0, -1.0])[:, None, None, None] * 0.5
    sizes = {"num_attention_heads": 2, "attention_head_dim": 16, "in_channels": 1, "out_channels": 2, "num_layers": 1}
    model = DiTTransformer2DModel(DiTConfig(**sizes, sample_size=4, num_embeds_ada_norm=2)).train()
    model.label_dropout = 0  # the loss drops classes
    optimizer, labels, losses = torch.optim.AdamW(model.parameters(), lr=3e-3), torch.arange(2).repeat(32), []
    for _ in range(400):
        optimizer.zero_grad()
        loss = hw.diffusion.loss(model, shown[labels], labels)
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert sum(losses[-40:]) / 40 < 0.1 * losses[0]
    for sampler in (hw.diffusion.DDPM(50, clip=1.0), hw.diffusion.DDIM(20, clip=1.0)):
        drawn = hw.diffusion.sample(model.eval(), labels[:16], sampler=sampler, guidance_scale=1.5, seed=0)
        assert (drawn - shown[labels[:16]]).abs().mean() < 0.15
    none = torch.full((32,), 2)  # the null class is either
    drawn = hw.diffusion.sample(model, none, sampler=hw.diffusion.DDPM(50, clip=1.0), guidance_scale=1.0, seed=0)
    distances = (drawn - shown[:, None]).abs().mean((2, 3, 4))
    assert 4 < (distances[0] < distances[1]).sum() < 28


@pytest.mark.nohook
def test_the_loss_compiles_to_one_graph():
    torch.manual_seed(0)
    model = DiTTransformer2DModel(DiTConfig(**SIZES | {"num_layers": 1})).train()
    clean, labels = torch.randn(2, 3, 10, 10), torch.tensor([1, 2])
    given = {"timestep": torch.tensor([0, 3]), "noise": torch.randn(2, 3, 10, 10), "label_dropout": 0.0}
    model.label_dropout = 0
    compiled = torch.compile(hw.diffusion.loss, fullgraph=True, backend="aot_eager")
    got = compiled(model, clean, labels, **given)
    got.backward()
    torch.testing.assert_close(got, hw.diffusion.loss(model, clean, labels, **given))
    assert compiled(model, clean, labels).isfinite()


BAD = {
    "steps": (lambda: hw.diffusion.DDPM(0), "steps: expected an integer from 1; got 0"),
    "clip": (lambda: hw.diffusion.DDPM(clip=0.0), "clip: expected a number above 0, or None; got 0.0"),
    "clip of DDIM": (lambda: hw.diffusion.DDIM(clip=-1.0), "clip: expected a number above 0"),
    "eta": (lambda: hw.diffusion.DDIM(eta=1.5), r"eta: expected a number in \[0, 1\]; got 1.5"),
    "no schedule": (lambda: hw.diffusion.Schedule(1), "steps: expected an integer from 2 to 1,000,000; got 1"),
    "betas": (lambda: hw.diffusion.Schedule(beta_start=0.1), "expected 0 < beta_start <= beta_end < 1; got 0.1 and 0.02"),
    "more steps": (
        lambda: hw.diffusion.sample(EVAL, LABELS, sampler=hw.diffusion.DDPM(1001)),
        "steps: expected at most the 1000 of the schedule; got 1001",
    ),
    "guidance": (
        lambda: hw.diffusion.sample(EVAL, LABELS, guidance_scale=-1.0),
        "guidance_scale: expected a number of at least 0",
    ),
    "guidance nan": (lambda: hw.diffusion.sample(EVAL, LABELS, guidance_scale=math.nan), "guidance_scale: .*; got nan"),
    "training": (lambda: hw.diffusion.sample(TRAIN, LABELS), r"model: expected in eval mode, model\.eval\(\)"),
    "class": (
        lambda: hw.diffusion.sample(EVAL, torch.tensor([3, 8])),
        r"class_labels: expected integers .batch,. from 0 to 7, which is the null class; got \[3, 8\]",
    ),
    "negative class": (lambda: hw.diffusion.sample(EVAL, torch.tensor([-1])), r"null class; got \[-1\]"),
    "no class": (
        lambda: hw.diffusion.sample(EVAL, LABELS[:0]),
        r"class_labels: expected integers \(batch,\) from 0 to 7, which is the null class; got torch.int64 \(0,\)",
    ),
    "channels out": (
        lambda: hw.diffusion.sample(Says(lambda x, t, y: x[:, :1]).eval(), LABELS),
        r"model: expected 3 or 6 channels out of it; got \(4, 1, 5, 5\)",
    ),
    "label_dropout": (
        lambda: hw.diffusion.loss(TRAIN, torch.zeros(SHAPE), LABELS, label_dropout=1.5),
        r"label_dropout: expected a number in \[0, 1\]; got 1.5",
    ),
    "channels": (
        lambda: hw.diffusion.loss(TRAIN, torch.zeros(2, 4, 5, 5), LABELS),
        r"clean: expected floats \(2 as class_labels, 3 channels, .* \(2, 4, 5, 5\)",
    ),
}
BAD_SHAPES = {
    "sampler": (
        lambda: hw.diffusion.sample(EVAL, LABELS, sampler="ddim"),
        r"sampler: expected hw.diffusion.DDPM\(\) or DDIM\(\)",
    ),
    "a list": (
        lambda: hw.diffusion.sample(EVAL, [1, 2]),
        r"class_labels: expected integers \(batch,\) from 0 to 7, which is the null class; got a list",
    ),
    "labels (2, 1)": (lambda: hw.diffusion.sample(EVAL, LABELS[:, None]), r"null class; got torch.int64 \(2, 1\)"),
    "floats": (lambda: hw.diffusion.sample(EVAL, LABELS.float()), "class_labels: expected integers"),
    "batches": (
        lambda: hw.diffusion.loss(TRAIN, torch.zeros(3, 3, 5, 5), LABELS),
        r"clean: expected floats \(2 as class_labels, 3 channels, height, width\); got torch.float32 \(3, 3, 5, 5\)",
    ),
    "flat": (lambda: hw.diffusion.loss(TRAIN, torch.zeros(2, 3, 25), LABELS), r"clean: expected .* got .*\(2, 3, 25\)"),
    "timestep": (
        lambda: hw.diffusion.loss(TRAIN, torch.zeros(SHAPE), LABELS, timestep=torch.tensor([1])),
        r"timestep: expected \(2,\); got \(1,\)",
    ),
    "noise": (
        lambda: hw.diffusion.loss(TRAIN, torch.zeros(SHAPE), LABELS, noise=torch.zeros(1, 3, 5, 5)),
        r"noise: expected \(2, 3, 5, 5\); got \(1, 3, 5, 5\)",
    ),
}
LABELS = torch.tensor([1, 2])
EVAL, TRAIN = Says(lambda x, t, y: x).eval(), Says(lambda x, t, y: x).train()


@pytest.mark.parametrize("name", BAD)
def test_bad_arguments_are_refused(name):
    call, problem = BAD[name]
    with pytest.raises(ValueError, match=problem):
        call()


@pytest.mark.nohook
@pytest.mark.parametrize("name", BAD_SHAPES)
def test_bad_shapes_are_refused(name):
    call, problem = BAD_SHAPES[name]
    with pytest.raises(ValueError, match=problem):
        call()
