"""GGUF files of architecture llama: one small mixed file written, any read as transformers."""

import hashlib
import json

import gguf
import numpy as np
import torch
from transformers import LlamaConfig, LlamaForCausalLM

from golden.files import MODELS

Q = gguf.GGMLQuantizationType
TYPES = [Q.Q4_0, Q.Q4_1, Q.Q8_0, Q.BF16, Q.F16, Q.F32]

LAYER_NAMES = {
    "attn_norm": "input_layernorm", "ffn_norm": "post_attention_layernorm",
    "attn_q": "self_attn.q_proj", "attn_k": "self_attn.k_proj", "attn_v": "self_attn.v_proj",
    "attn_output": "self_attn.o_proj", "ffn_gate": "mlp.gate_proj", "ffn_up": "mlp.up_proj",
    "ffn_down": "mlp.down_proj",
}
TOP_NAMES = {"token_embd.weight": "model.embed_tokens.weight",
             "output_norm.weight": "model.norm.weight", "output.weight": "lm_head.weight"}


def hf_name(name):
    if name in TOP_NAMES:
        return TOP_NAMES[name]
    _, layer, part, kind = name.split(".")
    return f"model.layers.{layer}.{LAYER_NAMES[part]}.{kind}"


def interleave(weight, heads):
    """Row order of a GGUF's q and k: each head's two rotation halves, row by row in turn."""
    return weight.reshape(heads, 2, -1, weight.shape[1]).swapaxes(1, 2).reshape(weight.shape)


def uninterleave(weight, heads):
    return weight.reshape(heads, -1, 2, weight.shape[1]).swapaxes(1, 2).reshape(weight.shape)


def _add_tokenizer(writer, tok):
    size = tok.get_vocab_size()
    special = {i for i, t in tok.get_added_tokens_decoder().items() if t.special}
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("smollm")
    writer.add_token_list([tok.id_to_token(i) for i in range(size)])
    writer.add_token_types([gguf.TokenType.CONTROL if i in special else gguf.TokenType.NORMAL
                            for i in range(size)])
    merges = json.loads(tok.to_str())["model"]["merges"]
    writer.add_token_merges([" ".join(pair) for pair in merges])
    writer.add_bos_token_id(tok.token_to_id("<|start|>"))
    writer.add_eos_token_id(tok.token_to_id("<|end|>"))
    writer.add_eot_token_id(tok.token_to_id("<|endoftext|>"))
    writer.add_add_bos_token(False)


def write_mixed(spec, model, tok):
    """mixed.gguf: every supported tensor type, in turn over the matrices."""
    path = MODELS / "mixed.gguf"
    path.parent.mkdir(parents=True, exist_ok=True)
    writer = gguf.GGUFWriter(path, "llama")
    writer.add_name("mixed")
    writer.add_block_count(spec["layers"])
    writer.add_context_length(256)
    writer.add_embedding_length(spec["d"])
    writer.add_feed_forward_length(spec["ffn"])
    writer.add_head_count(spec["h"])
    writer.add_head_count_kv(spec["kv"])
    writer.add_rope_freq_base(spec["rope"]["rope_theta"])
    writer.add_rope_dimension_count(spec["hd"])
    writer.add_layer_norm_rms_eps(1e-5)
    writer.add_vocab_size(spec["vocab"])
    _add_tokenizer(writer, tok)

    state = {k: v.numpy() for k, v in model.state_dict().items()}
    names = ["token_embd.weight", "output_norm.weight", "output.weight"]
    names += [f"blk.{i}.{part}.weight" for i in range(spec["layers"]) for part in LAYER_NAMES]
    turn = 0
    for name in names:
        weight = state[hf_name(name)]
        if "attn_q" in name or "attn_k" in name:
            weight = interleave(weight, spec["h"] if "attn_q" in name else spec["kv"])
        kind = Q.F32
        if weight.ndim == 2:
            kind = TYPES[turn % len(TYPES)]
            turn += 1
        data = gguf.quants.quantize(np.ascontiguousarray(weight), kind)
        writer.add_tensor(name, data, raw_dtype=kind)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    print(f"models/mixed.gguf: {path.stat().st_size} bytes")


def dequantise(tensor):
    """f32 values in the file's own row order, shape as numpy has it (rows first)."""
    values = gguf.quants.dequantize(tensor.data, tensor.tensor_type)
    return values.astype(np.float32).reshape([int(n) for n in reversed(tensor.shape)])


def dequant_digests(path):
    """[{name, type, shape, sha256}] over the little-endian f32 bytes of every tensor."""
    for tensor in gguf.GGUFReader(path).tensors:
        values = np.ascontiguousarray(dequantise(tensor), dtype="<f4")
        yield {"name": tensor.name, "type": tensor.tensor_type.name,
               "shape": list(values.shape), "sha256": hashlib.sha256(values.tobytes()).hexdigest()}


def load_gguf(path, dtype=torch.float32):
    """The file's model in transformers, dequantised, q and k rows back in their own order."""
    reader = gguf.GGUFReader(path)

    def meta(key):
        return reader.fields[key].contents()

    heads, kv = meta("llama.attention.head_count"), meta("llama.attention.head_count_kv")
    names = {t.name for t in reader.tensors}
    config = LlamaConfig(
        vocab_size=len(meta("tokenizer.ggml.tokens")), hidden_size=meta("llama.embedding_length"),
        intermediate_size=meta("llama.feed_forward_length"),
        num_hidden_layers=meta("llama.block_count"), num_attention_heads=heads,
        num_key_value_heads=kv, max_position_embeddings=meta("llama.context_length"),
        rms_norm_eps=meta("llama.attention.layer_norm_rms_epsilon"),
        rope_parameters=dict(rope_type="default", rope_theta=meta("llama.rope.freq_base")),
        tie_word_embeddings="output.weight" not in names,
        eos_token_id=meta("tokenizer.ggml.eos_token_id"), attn_implementation="eager")
    state = {}
    for tensor in reader.tensors:
        values = dequantise(tensor)
        if "attn_q" in tensor.name or "attn_k" in tensor.name:
            values = uninterleave(values, heads if "attn_q" in tensor.name else kv)
        state[hf_name(tensor.name)] = torch.from_numpy(np.array(values))
    if config.tie_word_embeddings:
        state["lm_head.weight"] = state["model.embed_tokens.weight"]
    model = LlamaForCausalLM(config)
    model.load_state_dict(state, strict=True)
    return model.to(dtype).eval()
