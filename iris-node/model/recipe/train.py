"""Trains Iris Tiny: a Llama-architecture model of about 0.8 million parameters, in JAX on a CPU."""
import argparse
import json
import multiprocessing as mp
import os
import random
import time

import jax
import jax.numpy as jnp
import numpy as np

import tokenizer as tk
from tasks import SYSTEMS, example
from train_config import CFG


def init(seed=0, c=CFG):
    r = np.random.default_rng(seed)
    n = lambda i, o, s=1.0: (r.standard_normal((c["layers"], i, o)) * s / np.sqrt(i)).astype(np.float32)
    d, q, kv, f = c["dim"], c["heads"] * c["head_dim"], c["kv_heads"] * c["head_dim"], c["ffn"]
    return {
        "emb": (r.standard_normal((c["vocab"], d)) * 0.05).astype(np.float32),
        "norm": np.ones(d, np.float32),
        "n1": np.ones((c["layers"], d), np.float32), "n2": np.ones((c["layers"], d), np.float32),
        "q": n(d, q), "k": n(d, kv), "v": n(d, kv), "o": n(q, d, 0.3),
        "gate": n(d, f), "up": n(d, f), "down": n(f, d, 0.3),
    }


def rms(x, g, eps):
    return x * jax.lax.rsqrt(jnp.mean(x * x, -1, keepdims=True) + eps) * g


def rope(x, cos, sin):  # adjacent pairs, as GGUF "llama" expects
    a, b = x[..., 0::2], x[..., 1::2]
    return jnp.stack([a * cos - b * sin, a * sin + b * cos], -1).reshape(x.shape)


def forward(p, ids, seg, c=CFG):
    b, t = ids.shape
    h, kvh, hd = c["heads"], c["kv_heads"], c["head_dim"]
    x = p["emb"][ids]
    ang = jnp.arange(t)[:, None] * (c["theta"] ** (-jnp.arange(0, hd, 2) / hd))[None]
    cos, sin = jnp.cos(ang)[None, :, None], jnp.sin(ang)[None, :, None]
    mask = (jnp.tril(jnp.ones((t, t), bool))[None] & (seg[:, :, None] == seg[:, None, :]))[:, None, None]
    bias = jnp.where(mask, 0.0, -1e9)

    def layer(x, w):
        y = rms(x, w["n1"], c["eps"])
        q = rope((y @ w["q"]).reshape(b, t, h, hd), cos, sin).reshape(b, t, kvh, h // kvh, hd)
        k = rope((y @ w["k"]).reshape(b, t, kvh, hd), cos, sin)
        v = (y @ w["v"]).reshape(b, t, kvh, hd)
        s = jnp.einsum("btkgd,bskd->bkgts", q, k) / np.sqrt(hd) + bias
        o = jnp.einsum("bkgts,bskd->btkgd", jax.nn.softmax(s, -1), v).reshape(b, t, h * hd)
        x = x + o @ w["o"]
        y = rms(x, w["n2"], c["eps"])
        return x + (jax.nn.silu(y @ w["gate"]) * (y @ w["up"])) @ w["down"]

    for i in range(c["layers"]):
        x = layer(x, {k: p[k][i] for k in ("n1", "n2", "q", "k", "v", "o", "gate", "up", "down")})
    return rms(x, p["norm"], c["eps"]) @ p["emb"].T


def loss_fn(p, ids, seg, w):
    lg = forward(p, ids[:, :-1], seg[:, :-1])
    y = ids[:, 1:]
    lse = jax.nn.logsumexp(lg, -1)
    nll = lse - jnp.take_along_axis(lg, y[..., None], -1)[..., 0]
    m = w[:, 1:]
    return jnp.sum(nll * m) / jnp.maximum(m.sum(), 1)


MUON = ("q", "k", "v", "o", "gate", "up", "down")


def orthogonalize(g):
    x = g / (jnp.linalg.norm(g, axis=(-2, -1), keepdims=True) + 1e-7)
    tr = x.shape[-2] > x.shape[-1]
    x = jnp.swapaxes(x, -1, -2) if tr else x
    for _ in range(5):
        a = x @ jnp.swapaxes(x, -1, -2)
        x = 3.4445 * x + (-4.7750 * a + 2.0315 * a @ a) @ x
    return jnp.swapaxes(x, -1, -2) if tr else x


@jax.jit
def step(p, m, v, ids, seg, w, lr, i):
    """One update: Muon for the matrices, Adam for embedding and norms. lr is relative (0..1)."""
    loss, g = jax.value_and_grad(loss_fn)(p, ids, seg, w)
    np_, nm, nv = {}, {}, {}
    for k in p:
        if k in MUON:
            nm[k] = 0.95 * m[k] + g[k]
            u = orthogonalize(g[k] + 0.95 * nm[k]) * np.sqrt(max(1.0, p[k].shape[-1] / p[k].shape[-2]))
            nv[k] = v[k]
            np_[k] = p[k] * (1 - 0.02 * lr * 0.05) - 0.02 * lr * u
        else:
            nm[k] = 0.9 * m[k] + 0.1 * g[k]
            nv[k] = 0.98 * v[k] + 0.02 * g[k] * g[k]
            u = (nm[k] / (1 - 0.9 ** i)) / (jnp.sqrt(nv[k] / (1 - 0.98 ** i)) + 1e-8)
            np_[k] = p[k] - 4e-3 * lr * u
    return np_, nm, nv, loss


def conversation(r, t):
    """ids and loss weights of one chat with one to three turns"""
    ids, w = [], []
    if r.random() < .25:
        h, b, e = t.turn("system", r.choice(SYSTEMS))
        ids += h + b + e
        w += [0.] * len(h + b + e)
    for _ in range(r.choices([1, 2, 3], [75, 17, 8])[0]):
        _, p, a = example(r)
        h, b, e = t.turn("user", p)
        ids += h + b + e
        w += [0.] * len(h + b + e)
        h, b, e = t.turn("assistant", a)
        ids += h + b + e
        w += [0.] * len(h) + [1.] * (len(b) + 1) + [0.]
    return ids, w


def make_rows(r, t, rows, length):
    I, S, W = np.zeros((rows, length), np.int32), np.zeros((rows, length), np.int32), np.zeros((rows, length), np.float32)
    for i in range(rows):
        n, s = 0, 1
        while True:
            ids, w = conversation(r, t)
            if n + len(ids) > length:
                break
            I[i, n:n + len(ids)], S[i, n:n + len(ids)], W[i, n:n + len(ids)] = ids, s, w
            n, s = n + len(ids), s + 1
    return I, S, W


def producer(queue, seed, rows, length):
    r, t = random.Random(seed), tk.load()
    while True:
        queue.put(make_rows(r, t, rows, length))


def share(a, p):
    """Writes this worker's weights, returns the mean over all workers, which rank 0 also writes to --out."""
    name = lambda r: f"{a.out}.{r}.npz"
    np.savez(name(a.rank) + ".tmp.npz", **{k: np.asarray(x) for k, x in p.items()})
    os.replace(name(a.rank) + ".tmp.npz", name(a.rank))
    ws = [dict(np.load(name(r))) for r in range(a.workers) if os.path.exists(name(r))]
    mean = {k: sum(w[k] for w in ws) / len(ws) for k in p}
    if a.rank == 0:
        np.savez(a.out, **mean)
    return {k: jnp.asarray(x) for k, x in mean.items()}


if __name__ == "__main__":
    ap = argparse.ArgumentParser()
    ap.add_argument("--steps", type=int, default=6000, help="constant rate for the first 60 %%, then linear decay")
    ap.add_argument("--decay-file", default="", help="instead of --steps: decay starts when this file appears; it holds the minutes the decay takes")
    ap.add_argument("--rows", type=int, default=16)
    ap.add_argument("--length", type=int, default=256)
    ap.add_argument("--out", default="model.npz")
    ap.add_argument("--seed", type=int, default=1)
    ap.add_argument("--init", default="")
    ap.add_argument("--peak", type=float, default=1.0)
    ap.add_argument("--log", default="train.log")
    ap.add_argument("--rank", type=int, default=0)
    ap.add_argument("--workers", type=int, default=1, help="processes that average their weights every --sync seconds")
    ap.add_argument("--sync", type=float, default=40)
    a = ap.parse_args()
    a.seed += 1000 * a.rank
    jax.config.update("jax_compilation_cache_dir", os.path.abspath("jax-cache"))
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0)
    ctx = mp.get_context("spawn")
    q = ctx.Queue(8)
    w = ctx.Process(target=producer, args=(q, a.seed, a.rows, a.length + 1), daemon=True)
    w.start()
    p = dict(np.load(a.init)) if a.init else init()
    p = {k: jnp.asarray(v) for k, v in p.items()}
    m = {k: jnp.zeros_like(v) for k, v in p.items()}
    v = {k: jnp.zeros_like(x) for k, x in p.items()}
    print(f"{sum(x.size for x in p.values())} parameters", flush=True)
    t0, i, tokens, answers, saved, avg, decay, log = time.time(), 0, 0, 0, time.time(), None, None, open(a.log, "a")
    while True:
        if a.decay_file:
            if decay is None and i % 5 == 0 and os.path.exists(a.decay_file):
                decay = (time.time(), 60 * float(open(a.decay_file).read()))
            left = 1.0 if decay is None else 1 - (time.time() - decay[0]) / decay[1]
        else:
            left = min(1.0, (a.steps - i) / (0.4 * a.steps))
        if left <= 0:
            break
        i += 1
        lr = a.peak * min(1.0, i / 60) * max(0.02, left)
        I, S, W = q.get()
        p, m, v, loss = step(p, m, v, I, S, W, lr, float(i))
        tokens += int((S > 0).sum())
        answers += int(W.sum())
        avg = float(loss) if avg is None else .97 * avg + .03 * float(loss)
        if i % 25 == 0:
            line = f"step {i} minutes {(time.time()-t0)/60:.1f} loss {avg:.4f} tokens {tokens} answer tokens {answers} tokens/s {tokens/(time.time()-t0):.0f}"
            print(line, flush=True)
            log.write(line + "\n"), log.flush()
        if time.time() - saved > a.sync:
            p = share(a, p)
            saved = time.time()
    share(a, p)
    w.terminate()
