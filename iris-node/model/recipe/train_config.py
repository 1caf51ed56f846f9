"""The sizes of Iris Tiny."""
CFG = dict(vocab=768, dim=128, layers=4, heads=4, kv_heads=2, head_dim=32, ffn=320, theta=10000.0, eps=1e-5, context=512)
