#!/usr/bin/env python3
"""Makes small models of random weights, one for each family, and asks llama.cpp about them.

    pip install gguf==0.19.0 numpy==2.4.6
    python make.py models                       # FAMILY.gguf beside this file
    python make.py answers path/to/llama-server # FAMILY.json: what llama.cpp makes of each
    python make.py large model.gguf             # a model of half a billion weights, for benches
    python make.py large-k model.gguf           # the same, stored nearly as Q4_K_M

The same versions write the same files. What is committed comes from these versions, and its
answers from the llama-server that they name, which computed with caches of 32-bit floats.
"""

import json
import re
import socket
import subprocess
import sys
import time
import urllib.request
from pathlib import Path

import gguf
import numpy as np
from gguf import GGMLQuantizationType as Kind

HERE = Path(__file__).parent

CORPUS = """A node is a machine that joins the network, and the network is made of nodes. The model
writes the answer, the answer is read by the caller, and the caller pays for what was written. In
this house there are three rooms; the first is small, the second is smaller, the third is the
smallest of them all. Nobody knows whether the other machines are there, but they're working, it's
said, and we've seen that they'll answer. Die Maschine antwortet, und der Rechner schreibt. fn
main() { let answer = 42; return answer; } for i in range(100): print(i, "answer")\n\n    if the
answer is 2024 or 1999, then 3.14 is not. Straße, naïve, café, señor, Привет, 你好.
"""

PROMPTS = [
    "The answer",
    "A node is a machine that",
    "What's there? They're working, it's said; WE'LL SEE.",
    "1 12 123 1234 12345 3.14159 2024-01-31",
    "for i in range(10):\n    print(i)\n\n\n    return  answer\t\t;\n",
    "  two spaces before, and after  ",
    "Straße naïve café — “señor” Привет 你好 🙂👩‍👩‍👧 ﷽",
    "networks networked networking machines' machine's",
    "!!! ... ??? (a+b)*c == {x: [y, z]} // <b>bold</b> & <s>",
    "a\r\nb\n \n  c\u00a0d\u3000e\u200bf",
]

CONVERSATIONS = [
    [{"role": "user", "content": "What is a node?"}],
    [
        {"role": "user", "content": " Are they there? "},
        {"role": "assistant", "content": "They're working."},
        {"role": "user", "content": "42\n\nand more"},
    ],
]

LLAMA_TEMPLATE = (
    "{{ bos_token }}{% for message in messages %}{{ '<|start_header_id|>' + message['role'] "
    "+ '<|end_header_id|>\\n\\n' + message['content'] | trim + '<|eot_id|>' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|start_header_id|>assistant<|end_header_id|>\\n\\n' }}{% endif %}"
)
QWEN_TEMPLATE = (
    "{% for message in messages %}{{ '<|im_start|>' + message['role'] + '\\n' "
    "+ message['content'] + '<|im_end|>' + '\\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}"
)
MISTRAL_TEMPLATE = (
    "{{ bos_token }}{% for message in messages %}{% if message['role'] == 'user' %}"
    "{{ '[INST] ' + message['content'] + '[/INST]' }}{% else %}"
    "{{ ' ' + message['content'] + eos_token }}{% endif %}{% endfor %}"
)


class Family:
    """The shape of one model."""

    def __init__(self, architecture, seed, **shape):
        self.architecture, self.seed = architecture, seed
        self.width, self.layers, self.heads, self.kv_heads = 64, 2, 4, 2
        self.head_dim, self.feed_forward, self.context, self.rows = None, 128, 256, 0
        self.merges, self.rope_base, self.biases, self.head_norms = 160, 10_000.0, False, False
        self.tied, self.window, self.rope_factors = False, None, False
        self.vocabulary, self.template, self.pre, self.specials = "bpe", QWEN_TEMPLATE, "qwen2", []
        self.kinds = {}
        self.__dict__.update(shape)
        self.head_dim = self.head_dim or self.width // self.heads

    def kind(self, tensor):
        """Returns how a matrix is stored."""
        for end, kind in self.kinds.items():
            if tensor.endswith(end):
                return kind
        return self.kinds.get("", Kind.F16)


LLAMA_SPECIALS = [
    "<|begin_of_text|>", "<|end_of_text|>", "<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>",
]
QWEN_SPECIALS = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]

FAMILIES = {
    "llama3": Family(
        "llama", 1, pre="llama-bpe", template=LLAMA_TEMPLATE, specials=LLAMA_SPECIALS,
        rope_base=500_000.0, rope_factors=True, context=512,
    ),
    "llama3-k": Family(
        "llama", 2, pre="llama-bpe", template=LLAMA_TEMPLATE, specials=LLAMA_SPECIALS,
        rope_base=500_000.0, width=256, layers=1, feed_forward=256, heads=4, kv_heads=1,
        merges=100, tied=True, kinds={
            "": Kind.Q4_K, "attn_v.weight": Kind.Q6_K, "ffn_down.weight": Kind.Q6_K,
            "attn_output.weight": Kind.Q5_K, "token_embd.weight": Kind.Q6_K,
        },
    ),
    "qwen2": Family(
        "qwen2", 3, specials=QWEN_SPECIALS, rope_base=1_000_000.0, biases=True, tied=True,
        kinds={"": Kind.Q8_0},
    ),
    "qwen3": Family(
        "qwen3", 4, specials=QWEN_SPECIALS, rope_base=1_000_000.0, head_norms=True, head_dim=24,
    ),
    "mistral": Family(
        "llama", 5, vocabulary="spm", template=MISTRAL_TEMPLATE, window=128,
        specials=["[INST]", "[/INST]"], kinds={"": Kind.Q4_0, "ffn_down.weight": Kind.Q5_0},
    ),
}


# ------------------------------------------------------------------ vocabularies


def merges_of(words, count):
    """Learns the commonest pairs, as byte-pair encoding does."""
    words, merges = [list(word) for word in words], []
    while len(merges) < count:
        pairs = {}
        for word in words:
            for pair in zip(word, word[1:]):
                pairs[pair] = pairs.get(pair, 0) + 1
        best = max(pairs, key=lambda pair: (pairs[pair], pair))
        merges.append(best)
        for word in words:
            at = 0
            while at + 1 < len(word):
                if (word[at], word[at + 1]) == best:
                    word[at : at + 2] = [best[0] + best[1]]
                at += 1
    return merges


def letters():
    """Returns the letter by which byte-level vocabularies write each byte."""
    plain = [*range(33, 127), *range(161, 173), *range(174, 256)]
    others = [byte for byte in range(256) if byte not in plain]
    return {byte: chr(byte) for byte in plain} | {byte: chr(256 + n) for n, byte in enumerate(others)}


def byte_pairs(family):
    letter = letters()
    words = re.findall(r" ?\w+| ?[^\w\s]+|\s+", CORPUS)
    words = ["".join(letter[byte] for byte in word.encode()) for word in words]
    merges = merges_of(words, family.merges)
    tokens = list(dict.fromkeys([*letter.values(), *(a + b for a, b in merges)]))
    # A word that no merge leads to: only some families read it as one token.
    tokens.append("Ġnetworked")
    types = [1] * len(tokens) + [3] * len(family.specials)
    return tokens + family.specials, types, None, [f"{a} {b}" for a, b in merges]


def sentence_pieces(family):
    words = [word.replace(" ", "▁") for word in re.findall(r" ?[^\s]+|\s+", CORPUS)]
    merges = merges_of(words, family.merges)
    pieces = [a + b for a, b in merges]
    singles = sorted(set("".join(words)) - {"\n"})
    tokens = ["<unk>", "<s>", "</s>", *family.specials]
    types = [2, 3, 3] + [3] * len(family.specials)
    scores = [0.0] * len(tokens)
    tokens += [f"<0x{byte:02X}>" for byte in range(256)]
    types += [6] * 256
    scores += [0.0] * 256
    for number, piece in enumerate(dict.fromkeys([*pieces, *singles])):
        tokens.append(piece)
        types.append(1)
        scores.append(-float(number))
    return tokens, types, scores, None


# ------------------------------------------------------------------ weights


class Draw:
    """Random weights in any type of storage."""

    def __init__(self, seed):
        self.random = np.random.Generator(np.random.PCG64(seed))

    def floats(self, shape, spread, mean=0.0):
        return (self.random.standard_normal(shape) * spread + mean).astype(np.float32)

    def matrix(self, shape, spread, kind):
        if kind in (Kind.Q4_K, Kind.Q5_K, Kind.Q6_K):
            return self.blocks(shape, spread, kind)
        return gguf.quants.quantize(self.floats(shape, spread), kind)

    def blocks(self, shape, spread, kind):
        """Draws the bits of blocks of 256 weights; any bits are weights."""
        count, half = shape[0] * shape[1] // 256, np.float16
        bits = lambda bytes: self.random.integers(0, 256, (count, bytes), dtype=np.uint8)
        scale = lambda size: np.full((count, 1), size, half).view(np.uint8).reshape(count, 2)
        if kind == Kind.Q6_K:
            # A signed scale of a byte, times 6 bits around zero.
            blocks = [bits(128), bits(64), bits(16), scale(spread / 74 / 18.5)]
        else:
            high = 31 if kind == Kind.Q5_K else 15
            # Scales and offsets have 6 bits each; the offset takes away the mean.
            step = spread / (32 * high / 3.4)
            blocks = [scale(step), scale(step * high / 2), bits(12)]
            blocks += [bits(32)] * (kind == Kind.Q5_K) + [bits(128)]
        return np.concatenate(blocks, axis=1).reshape(shape[0], -1)


def write(family, path):
    draw = Draw(family.seed)
    writer = gguf.GGUFWriter(path, family.architecture)
    writer.add_context_length(family.context)
    writer.add_embedding_length(family.width)
    writer.add_block_count(family.layers)
    writer.add_feed_forward_length(family.feed_forward)
    writer.add_head_count(family.heads)
    writer.add_head_count_kv(family.kv_heads)
    writer.add_layer_norm_rms_eps(1e-6)
    writer.add_rope_freq_base(family.rope_base)
    writer.add_rope_dimension_count(family.head_dim)
    if family.head_dim * family.heads != family.width:
        writer.add_key_length(family.head_dim)
        writer.add_value_length(family.head_dim)
    if family.window:
        writer.add_sliding_window(family.window)
    tokens = write_vocabulary(writer, family)

    def matrix(name, rows, columns, spread):
        kind = family.kind(name)
        writer.add_tensor(name, draw.matrix((rows, columns), spread, kind), raw_dtype=kind)

    def vector(name, length, spread, mean=0.0):
        writer.add_tensor(name, draw.floats(length, spread, mean))

    width, q, kv = family.width, family.heads * family.head_dim, family.kv_heads * family.head_dim
    # What is predicted should be clear: scores spread by about 4.
    clear = 4 / width**0.5
    matrix("token_embd.weight", len(tokens), width, clear if family.tied else 1.0)
    vector("output_norm.weight", width, 0.1, 1.0)
    if not family.tied:
        matrix("output.weight", len(tokens), width, clear)
    if family.rope_factors:
        writer.add_tensor("rope_freqs.weight", llama_factors(family))
    for layer in range(family.layers):
        name = f"blk.{layer}.".__add__
        vector(name("attn_norm.weight"), width, 0.1, 1.0)
        vector(name("ffn_norm.weight"), width, 0.1, 1.0)
        for part, rows in (("attn_q", q), ("attn_k", kv), ("attn_v", kv)):
            matrix(name(f"{part}.weight"), rows, width, 1.3 / width**0.5)
            if family.biases:
                vector(name(f"{part}.bias"), rows, 0.3)
        if family.head_norms:
            vector(name("attn_q_norm.weight"), family.head_dim, 0.2, 1.2)
            vector(name("attn_k_norm.weight"), family.head_dim, 0.2, 1.2)
        matrix(name("attn_output.weight"), width, q, 1 / q**0.5)
        matrix(name("ffn_gate.weight"), family.feed_forward, width, 1 / width**0.5)
        matrix(name("ffn_up.weight"), family.feed_forward, width, 1 / width**0.5)
        matrix(name("ffn_down.weight"), width, family.feed_forward, 2 / family.feed_forward**0.5)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def write_vocabulary(writer, family):
    spm = family.vocabulary == "spm"
    tokens, types, scores, merges = (sentence_pieces if spm else byte_pairs)(family)
    for number in range(len(tokens), family.rows):
        tokens.append(f"[PAD{number}]")
        types.append(5)
    writer.add_tokenizer_model("llama" if spm else "gpt2")
    writer.add_token_list(tokens)
    writer.add_token_types(types)
    if spm:
        writer.add_token_scores(scores)
        start, end = 1, 2
    else:
        writer.add_tokenizer_pre(family.pre)
        writer.add_token_merges(merges)
        start, end = tokens.index(family.specials[0]), tokens.index(family.specials[-1])
    writer.add_bos_token_id(start)
    writer.add_eos_token_id(end)
    writer.add_add_bos_token(family.architecture == "llama")
    writer.add_chat_template(family.template)
    return tokens


def llama_factors(family):
    """Stretches the slow turns eightfold, as Llama 3.1 does to read further than it was trained."""
    frequencies = family.rope_base ** (-np.arange(0, family.head_dim, 2) / family.head_dim)
    lengths = 2 * np.pi / frequencies
    low, high, old = 1.0, 4.0, 64
    smooth = np.clip((old / lengths - low) / (high - low), 0, 1)
    return (1 / ((1 - smooth) / 8 + smooth)).astype(np.float32)


# ------------------------------------------------------------------ answers


def answers(server, name):
    port = free_port()
    model = HERE / f"{name}.gguf"
    command = [server, "-m", model, "--host", "127.0.0.1", "--port", str(port), "-c", "256", "-np", "1"]
    command += ["-ctk", "f32", "-ctv", "f32", "-fa", "off", "--jinja", "-t", "1", "--no-warmup"]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    ask = lambda path, body: request(port, path, body)
    try:
        await_health(port)
        tokenize = lambda text: ask(
            "/tokenize", {"content": text, "add_special": True, "parse_special": True}
        )["tokens"]
        found = {"llama.cpp": version(server), "prompts": [], "conversations": []}
        for text in PROMPTS:
            found["prompts"].append({"text": text, "ids": tokenize(text)} | greedy(ask, tokenize(text)))
        for messages in CONVERSATIONS:
            prompt = ask("/apply-template", {"messages": messages})["prompt"]
            found["conversations"].append({"messages": messages, "ids": tokenize(prompt)})
    finally:
        process.kill()
        process.wait()
    lines = json.dumps(found, ensure_ascii=False, separators=(",", ":"))
    # A line for each prompt keeps differences readable.
    lines = lines.replace('{"text"', '\n{"text"').replace('{"messages"', '\n{"messages"')
    (HERE / f"{name}.json").write_text(lines + "\n", encoding="utf-8")


def greedy(ask, ids):
    body = {"temperature": 0, "cache_prompt": False, "samplers": ["temperature"]}
    whole = ask("/completion", body | {"prompt": ids, "n_predict": 40, "return_tokens": True})
    tokens, best = whole["tokens"], []
    for count in range(len(tokens)):
        # One step at a time: of an answer that ends inside of a character, the server leaves out
        # what was likely.
        asked = {"prompt": ids + tokens[:count], "n_predict": 1, "n_probs": 5}
        steps = ask("/completion", body | asked).get("completion_probabilities")
        likely = steps[0]["top_logprobs"] if steps else []
        best.append([[it["id"], round(it["logprob"], 4)] for it in likely])
    return {"greedy": tokens, "best": best}


def request(port, path, body):
    data = json.dumps(body).encode()
    sent = urllib.request.Request(
        f"http://127.0.0.1:{port}{path}", data, {"Content-Type": "application/json"}
    )
    with urllib.request.urlopen(sent, timeout=120) as answer:
        return json.load(answer)


def await_health(port):
    for _ in range(300):
        try:
            urllib.request.urlopen(f"http://127.0.0.1:{port}/health", timeout=5)
            return
        except OSError:
            time.sleep(0.1)
    raise SystemExit("llama-server did not start")


def free_port():
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return found.getsockname()[1]


def version(server):
    found = subprocess.run([server, "--version"], capture_output=True, text=True, check=True)
    return re.search(r"version: (.*)", found.stdout + found.stderr)[1]


# ------------------------------------------------------------------ the large model


def large(path, kinds):
    """Writes the shape of Qwen2.5-0.5B in random weights."""
    family = Family(
        "qwen2", 6, specials=QWEN_SPECIALS, rope_base=1_000_000.0, biases=True, tied=True,
        width=896, layers=24, heads=14, kv_heads=2, feed_forward=4864, context=4096, merges=160,
        rows=151_936, kinds={"token_embd.weight": Kind.Q8_0, **kinds},
    )
    write(family, path)


def main():
    match sys.argv[1:]:
        case ["models"]:
            for name, family in FAMILIES.items():
                write(family, HERE / f"{name}.gguf")
        case ["answers", server]:
            for name in FAMILIES:
                answers(server, name)
        case ["large", path]:
            large(Path(path), {"": Kind.Q4_0})
        case ["large-k", path]:
            # What llama.cpp makes of Q4_K_M where rows are no multiple of 256; half of its
            # `ffn_down` would be Q6_K.
            large(Path(path), {"": Kind.Q5_0, "attn_v.weight": Kind.Q8_0, "ffn_down.weight": Kind.Q4_K})
        case _:
            raise SystemExit(__doc__)


main()
