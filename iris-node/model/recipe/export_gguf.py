"""Writes model.npz + tokenizer.json as GGUF (architecture "llama"): export_gguf.py [F32|F16|Q8_0] OUT"""
import json
import sys

import gguf
import numpy as np

from tokenizer import END, SPECIAL
from train_config import CFG

TEMPLATE = ("{% for message in messages %}{% if message['role'] == 'system' %}{{ '<|system|>\\n' + message['content'] + '<|end|>\\n' }}"
            "{% elif message['role'] == 'user' %}{{ '<|user|>\\n' + message['content'] + '<|end|>\\n' }}"
            "{% elif message['role'] == 'assistant' %}{{ '<|assistant|>\\n' + message['content'] + '<|end|>\\n' }}{% endif %}{% endfor %}"
            "{% if add_generation_prompt %}{{ '<|assistant|>\\n' }}{% endif %}")


def main(kind, out, weights="model.npz"):
    p, spec, c = np.load(weights), json.load(open("tokenizer.json")), CFG
    w = gguf.GGUFWriter(out, "llama")
    w.add_name("Iris Tiny")
    w.add_description("A very small demonstration model trained on synthetic instruction data.")
    w.add_license("Apache-2.0")
    w.add_size_label("0.8M")
    w.add_context_length(c["context"])
    w.add_embedding_length(c["dim"])
    w.add_block_count(c["layers"])
    w.add_feed_forward_length(c["ffn"])
    w.add_head_count(c["heads"])
    w.add_head_count_kv(c["kv_heads"])
    w.add_rope_dimension_count(c["head_dim"])
    w.add_rope_freq_base(c["theta"])
    w.add_layer_norm_rms_eps(c["eps"])
    w.add_vocab_size(c["vocab"])
    w.add_file_type({"F32": gguf.LlamaFileType.ALL_F32, "F16": gguf.LlamaFileType.MOSTLY_F16, "Q8_0": gguf.LlamaFileType.MOSTLY_Q8_0}[kind])
    w.add_tokenizer_model("gpt2")
    w.add_tokenizer_pre("qwen2")
    w.add_token_list(spec["tokens"])
    w.add_token_types([gguf.TokenType.CONTROL if i < len(SPECIAL) else gguf.TokenType.NORMAL for i in range(len(spec["tokens"]))])
    w.add_token_merges(spec["merges"])
    w.add_bos_token_id(0)
    w.add_eos_token_id(END)
    w.add_eot_token_id(END)
    w.add_pad_token_id(0)
    w.add_add_bos_token(False)
    w.add_chat_template(TEMPLATE)

    def put(name, x):
        x = np.ascontiguousarray(x, np.float32)
        if x.ndim == 1 or kind == "F32":
            w.add_tensor(name, x)
        elif kind == "F16":
            w.add_tensor(name, x.astype(np.float16))
        else:
            q = gguf.GGMLQuantizationType.Q8_0
            w.add_tensor(name, gguf.quants.quantize(x, q), raw_dtype=q)

    put("token_embd.weight", p["emb"])  # also the output matrix (tied)
    put("output_norm.weight", p["norm"])
    names = {"n1": "attn_norm", "n2": "ffn_norm", "q": "attn_q", "k": "attn_k", "v": "attn_v", "o": "attn_output",
             "gate": "ffn_gate", "up": "ffn_up", "down": "ffn_down"}
    for i in range(c["layers"]):
        for k, n in names.items():
            put(f"blk.{i}.{n}.weight", p[k][i].T if p[k][i].ndim == 2 else p[k][i])
    w.write_header_to_file()
    w.write_kv_data_to_file()
    w.write_tensors_to_file()
    w.close()


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2])
