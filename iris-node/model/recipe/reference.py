"""A second, independent forward pass in numpy, to measure a GGUF file without any engine.

  reference.py prompts > prompts.jsonl                      100 prompts with their right answers, all tasks
  reference.py answer FILE.gguf prompts.jsonl > out.jsonl   adds "reference": what the file answers, greedily

`../../tests/data/prompts.jsonl` is the second command's output for the bundled file.
"""
import json
import sys

import gguf
import numpy as np

import tokenizer as tk
from evaluate import prompts
from train_config import CFG


def fixture():
    """Five prompts of every task, and a sixth of the first five tasks."""
    seen = {}
    for p in prompts(6):
        n = seen[p["task"]] = seen.get(p["task"], 0) + 1
        if n <= 5 or list(seen).index(p["task"]) < 5:
            yield p


def rms(x, g, eps):
    return x / np.sqrt((x * x).mean(-1, keepdims=True) + eps) * g


def rope(x, position, c):
    angle = position * c["theta"] ** (-np.arange(0, c["head_dim"], 2) / c["head_dim"])
    a, b, cos, sin = x[..., 0::2], x[..., 1::2], np.cos(angle), np.sin(angle)
    return np.stack([a * cos - b * sin, a * sin + b * cos], -1).reshape(x.shape)


class Model:
    def __init__(self, path, c=CFG):
        r = gguf.GGUFReader(path)
        self.c = c
        self.w = {t.name: gguf.quants.dequantize(t.data, t.tensor_type).astype(np.float32) for t in r.tensors}
        self.reset()

    def reset(self):
        self.k = [[] for _ in range(self.c["layers"])]
        self.v = [[] for _ in range(self.c["layers"])]

    def step(self, token):
        c, w = self.c, self.w
        h, kvh, hd, position = c["heads"], c["kv_heads"], c["head_dim"], len(self.k[0])
        x = w["token_embd.weight"][token]
        for i in range(c["layers"]):
            b = f"blk.{i}."
            y = rms(x, w[b + "attn_norm.weight"], c["eps"])
            q = rope((w[b + "attn_q.weight"] @ y).reshape(h, hd), position, c)
            self.k[i].append(rope((w[b + "attn_k.weight"] @ y).reshape(kvh, hd), position, c))
            self.v[i].append((w[b + "attn_v.weight"] @ y).reshape(kvh, hd))
            k, v = np.stack(self.k[i]), np.stack(self.v[i])
            s = np.einsum("gjd,tgd->gjt", q.reshape(kvh, h // kvh, hd), k) / np.sqrt(hd)
            s = np.exp(s - s.max(-1, keepdims=True))
            o = np.einsum("gjt,tgd->gjd", s / s.sum(-1, keepdims=True), v).reshape(h * hd)
            x = x + w[b + "attn_output.weight"] @ o
            y = rms(x, w[b + "ffn_norm.weight"], c["eps"])
            gate = w[b + "ffn_gate.weight"] @ y
            x = x + w[b + "ffn_down.weight"] @ (gate / (1 + np.exp(-gate)) * (w[b + "ffn_up.weight"] @ y))
        return w["token_embd.weight"] @ rms(x, w["output_norm.weight"], c["eps"])

    def answer(self, t, prompt, limit=160):
        self.reset()
        head, body, tail = t.turn("user", prompt)
        for token in head + body + tail + t.turn("assistant", "")[0]:
            logits = self.step(token)
        out = []
        while len(out) < limit and (token := int(logits.argmax())) != tk.END:
            out.append(token)
            logits = self.step(token)
        return t.decode(out)


if __name__ == "__main__":
    if sys.argv[1] == "prompts":
        for p in fixture():
            print(json.dumps(p, ensure_ascii=False))
    else:
        m, t = Model(sys.argv[2]), tk.load()
        for p in map(json.loads, open(sys.argv[3])):
            p["reference"] = m.answer(t, p["messages"][0]["content"])
            print(json.dumps(p, ensure_ascii=False), flush=True)
