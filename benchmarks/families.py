"""The newer families beside what one would otherwise use: time, memory and compile time.

Run it with `python benchmarks/families.py [name ...] [--rounds 15]`; it writes
`benchmarks/families.md`, and keeps the rows that were not measured and the text after the table.
Both functions are `value_and_grad` of the mean, compiled for the same arrays and run in turn.
scoringrules and dm_pix are measured where they are installed; else the peer is the usual form in
`jnp` of `textbook.py`.
"""

import argparse
import importlib.util
import pathlib
import platform

import jax
import jax.numpy as jnp
import numpy as np
import textbook
from timing import compile_all, interleaved, keep_memory, markdown, measured_before, ratio

import jaxloss as jl

MIB = 2**20
PATH = pathlib.Path(__file__).with_suffix(".md")
HEADINGS = ["loss", "beside", "arrays", "time", "memory, MiB (ours / theirs)", "compile time"]
ABOUT = """Value and gradient of the mean, in all floating arrays. Time and compile time are ratios
of ours to the other's, medians over alternating runs; below 1 is faster. Memory is the temporary
memory of the compiled programs. "jnp" is the usual form of `benchmarks/textbook.py`, or of this
script for reductions (`risk`), weights of noise levels and penalties on slopes.
"""


def normal(*shape, seed=0):
    return jnp.asarray(np.random.default_rng(seed + len(shape)).normal(size=shape), jnp.float32)


def ids(count, classes):
    return jnp.asarray(np.random.default_rng(1).integers(0, classes, count), jnp.int32)


def softmax(*shape):
    return jax.nn.softmax(normal(*shape))


def boxes(count, seed=0):
    corner, size = jnp.split(jnp.abs(normal(count, 4, seed=seed)), 2, axis=-1)
    return jnp.concatenate([corner, corner + size + 0.1], axis=-1)


def parametric(count=1 << 20):
    return normal(count), normal(count, seed=5), jnp.exp(0.3 * normal(count, seed=9))


def scoringrules_rows():
    import scoringrules as sr

    how = {"backend": "jax"}
    members, vectors = (
        (normal(1 << 16, 32), normal(1 << 16)),
        (normal(1024, 32, 8), normal(1024, 8)),
    )
    wide = (normal(512, 256), normal(512))
    location, target, scale = parametric()
    amounts = location, jnp.exp(target), scale
    degrees = 2 + jnp.abs(normal(1 << 17))
    few = tuple(x[: 1 << 17] for x in (location, target, scale))
    ends = -jnp.abs(location), jnp.abs(scale), target
    return {
        "scoring.crps_gaussian": (lambda m, y, s: sr.crps_normal(y, m, s, **how), parametric()),
        "scoring.crps_logistic": (lambda m, y, s: sr.crps_logistic(y, m, s, **how), parametric()),
        "scoring.crps_laplace": (lambda m, y, s: sr.crps_laplace(y, m, s, **how), parametric()),
        "scoring.crps_log_normal": (lambda m, y, s: sr.crps_lognormal(y, m, s, **how), amounts),
        "scoring.crps_student_t": (
            lambda m, y, s, n: sr.crps_t(y, jax.lax.stop_gradient(n), m, s, **how),
            (*few, degrees),
        ),
        "scoring.crps_ensemble": (
            lambda x, y: sr.crps_ensemble(y, x, estimator="fair", **how), members
        ),
        "scoring.crps_ensemble of 256": (
            lambda x, y: sr.crps_ensemble(y, x, estimator="fair", **how), wide
        ),
        "scoring.energy_score": (
            lambda x, y: sr.es_ensemble(y, x, estimator="fair", **how), vectors
        ),
        "scoring.variogram_score": (lambda x, y: sr.vs_ensemble(y, x, p=0.5, **how), vectors),
        "scoring.interval_score": (lambda a, b, y: sr.interval_score(y, a, b, 0.1, **how), ends),
    }  # fmt: skip


def dm_pix_rows():
    import dm_pix

    images = jax.nn.sigmoid(normal(8, 128, 128, 3)), jax.nn.sigmoid(normal(8, 128, 128, 3, seed=5))
    return {
        "image.ssim": (lambda x, y: 1 - dm_pix.ssim(x, y, filter_sigma=1.5), images),
        "image.psnr": (lambda x, y: -dm_pix.psnr(x, y), images),
    }


def textbook_rows():
    pair, views = (normal(1024, 256), normal(1024, 256, seed=5)), normal(256, 8, 1024)
    labels, prototypes = ids(1024, 100), normal(100, 256, seed=7)
    masks = softmax(8, 128, 128, 21), ids((8, 128, 128), 21)
    image = jax.nn.sigmoid(normal(8, 128, 128, 3))
    both = boxes(1 << 18), boxes(1 << 18, seed=5)
    arrays = {
        "scoring.brier ids": (softmax(1 << 16, 16), ids(1 << 16, 16)),
        "scoring.ranked_probability ids": (softmax(1 << 16, 16), ids(1 << 16, 16)),
        "contrastive.supervised_contrastive": (pair[0], labels),
        "contrastive.arcface": (pair[0], labels, prototypes),
        "contrastive.cosface": (pair[0], labels, prototypes),
        "contrastive.proxy_nca": (pair[0], labels, prototypes),
        "contrastive.proxy_anchor": (pair[0], labels, prototypes),
        "contrastive.multi_similarity": (pair[0], labels),
        "contrastive.batch_triplet": (pair[0], labels),
        "contrastive.hard_negative_info_nce": pair,
        "contrastive.binary_nce": pair,
        "contrastive.cosent": (normal(2048), jnp.round(normal(2048, seed=5), 1)),
        "self_supervised.negative_cosine": pair,
        "self_supervised.alignment": pair,
        "self_supervised.uniformity": (pair[0],),
        "self_supervised.koleo": (pair[0],),
        "self_supervised.barlow_twins": pair,
        "self_supervised.vicreg": pair,
        "self_supervised.dino": (views, normal(256, 2, 1024, seed=5)),
        "self_supervised.swav": (views[:, :2], softmax(256, 2, 1024)),
        "segmentation.dice ids": masks,
        "segmentation.jaccard ids": masks,
        "segmentation.tversky ids": masks,
        "segmentation.generalized_dice ids": masks,
        "box.iou": both,
        "box.giou": both,
        "box.diou": both,
        "box.ciou": both,
        "box.distribution_focal": (normal(1 << 16, 16), 14 * jax.nn.sigmoid(normal(1 << 16))),
        "image.total_variation": (image,),
    }
    pair, signs = (normal(1 << 20), normal(1 << 20, seed=5)), ids((64, 256), 2) == 1
    tokens, latents = (
        normal(64, 256, 1000),
        (normal(1 << 14, 64), 0.3 * normal(1 << 14, 64, seed=5)),
    )
    gan = ("non_saturating", "hinge", "least_squares", "wasserstein")
    arrays |= {f"generative.{name}_discriminator": pair for name in gan}
    arrays |= {f"generative.{name}_generator": pair[:1] for name in gan}
    arrays |= {
        "generative.gaussian_vae_kl": latents,
        "generative.vector_quantization": latents,
        "generative.masked_diffusion": (tokens, ids((64, 256), 1000), signs),
    }
    rows = {name: (textbook.FORMS[name], data) for name, data in arrays.items()}
    return rows | risk_rows() | diffusion_rows() | slope_rows()


def risk_rows():
    """The reductions take the place of the mean."""
    values = (jnp.square(normal(1 << 20)),)
    tenth = values[0].size // 10

    def group_dro(x, groups, log_weights):
        count = log_weights.shape[0]
        totals, sizes = (jax.ops.segment_sum(part, groups, count) for part in (x, jnp.ones_like(x)))
        means = totals / jnp.maximum(sizes, 1)
        weights = jax.nn.softmax(log_weights + 0.01 * means)
        return jnp.sum(jax.lax.stop_gradient(weights) * means)

    return {
        "risk.cvar": (lambda x: jnp.mean(jnp.sort(x)[-tenth:]), values),
        "risk.tilted": (lambda x: jax.nn.logsumexp(x) - jnp.log(x.size), values),
        "risk.top_k": (lambda x: jnp.mean(jax.lax.top_k(x, tenth)[0]), values),
        "risk.trimmed": (lambda x: jnp.mean(jnp.sort(x)[: x.size - tenth]), values),
        "risk.group_dro": (group_dro, (*values, ids(1 << 20, 8), jnp.zeros(8))),
    }


def diffusion_rows():
    prediction, noise = normal(256, 3072), normal(256, 3072, seed=5)

    def with_min_snr(x, y, log_snr):
        snr = jax.lax.stop_gradient(jnp.exp(log_snr))
        return jnp.minimum(snr, 5) / snr * jnp.mean(jnp.square(x - y), -1)

    return {
        "generative.denoising": (
            lambda x, y: jnp.mean(jnp.square(x - y), -1), (prediction, noise),
        ),
        "generative.denoising, min_snr": (with_min_snr, (prediction, noise, 3 * normal(256))),
    }  # fmt: skip


def network(first, second, x):
    return jnp.tanh(x @ first) @ second


def slope_rows():
    """Penalties on the slope of a network of two layers, one sample at a time."""
    weights = 0.05 * normal(784, 256), 0.1 * normal(256)
    real, fake = normal(256, 784), normal(256, 784, seed=5)
    slope = jax.vmap(jax.grad(network, 2), (None, None, 0))

    def wgan_gp(first, second, real, fake, share):
        between = share[:, None] * real + (1 - share)[:, None] * fake
        return jnp.square(jnp.linalg.norm(slope(first, second, between), axis=-1) - 1)

    def r1(first, second, real):
        return 0.5 * jnp.sum(jnp.square(slope(first, second, real)), -1)

    share = jax.nn.sigmoid(normal(256))
    return {
        "generative.wgan_gp": (wgan_gp, (*weights, real, fake, share)),
        "generative.r1": (r1, (*weights, real)),
    }


def min_snr(x, y, log_snr):
    weight = jl.generative.min_snr_weight(jax.lax.stop_gradient(log_snr))
    return jl.generative.denoising(x, y, weight=weight)


def of_network(penalty):
    return lambda first, second, *samples: penalty(lambda x: network(first, second, x), *samples)


# Ours of the same data, where that is not a call of the function of this name.
OURS = {
    "risk.cvar": lambda x: jl.risk.cvar(x, level=0.9),
    "risk.top_k": lambda x: jl.risk.top_k(x, k=x.size // 10),
    "risk.trimmed": lambda x: jl.risk.trimmed(x, upper=0.1),
    "risk.group_dro": lambda *data: jl.risk.group_dro(*data)[0],
    "generative.denoising, min_snr": min_snr,
    "generative.wgan_gp": of_network(jl.generative.wgan_gp),
    "generative.r1": of_network(jl.generative.r1),
}


def ours(name):
    if name in OURS:
        return OURS[name]
    family, function = name.split()[0].split(".")
    loss = getattr(getattr(jl, family), function)
    if function in ("arcface", "cosface", "proxy_nca", "proxy_anchor"):
        return lambda x, y, prototypes: loss(x, y, prototypes=prototypes)
    return loss


def compare(name, peer, theirs, data, rounds):
    floating = tuple(i for i, x in enumerate(data) if jnp.issubdtype(x.dtype, jnp.floating))
    total = lambda f: jax.value_and_grad(lambda *x: jnp.mean(f(*x)), floating)
    both = [total(f) for f in (ours(name), theirs)]
    programs, seconds = compile_all(both, *data, rounds=3)
    times = interleaved(programs, *data, rounds=rounds, calls=3)
    memory = [program.memory_analysis().temp_size_in_bytes / MIB for program in programs]
    values = [float(program(*data)[0]) for program in programs]
    if not np.isclose(*values, rtol=1e-3):
        print(f"{name}: the values differ: {values}", flush=True)
    row = [
        name, peer, ", ".join(" x ".join(map(str, x.shape)) for x in data), f"{ratio(*times):.2f}",
        " / ".join(f"{x:.0f}" for x in memory), f"{ratio(*seconds):.2f}",
    ]  # fmt: skip
    print(*row, sep=" | ", flush=True)
    return row


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("names", nargs="*", help="parts of names; all by default")
    parser.add_argument("--rounds", type=int, default=15)
    options = parser.parse_args()
    keep_memory()
    known, after = measured_before(PATH, HEADINGS, 2), ""
    if PATH.exists():
        after = (
            "\n## " + PATH.read_text().split("\n## ", 1)[-1] if "\n## " in PATH.read_text() else ""
        )
    peers = {"scoringrules": scoringrules_rows, "dm_pix": dm_pix_rows, "jnp": textbook_rows}
    for peer, rows_of in peers.items():
        if peer != "jnp" and importlib.util.find_spec(peer) is None:
            continue
        for name, (theirs, data) in rows_of().items():
            if not options.names or any(part in name for part in options.names):
                row = compare(name, peer, theirs, data, options.rounds)
                known[(name, peer)] = row
                write(known, after)


def write(known, after):
    where = f"{platform.machine()}, {jax.default_backend()}, jax {jax.__version__}."
    table = markdown(HEADINGS, known.values())
    PATH.write_text(f"# Newer families\n\n{ABOUT}\n{where}\n\n{table}\n{after}")


if __name__ == "__main__":
    main()
