"""Goldens of bf16, int8 and int4, over the project's own trained model: random ones make of every rounding error a
different answer.

bf16 is transformers in bf16. The others are transformers in f32 over weights and activations that were quantised
here, written in torch from the description of the types alone (core/model/quant_panel.h, core/kernels/quant.h), with
keys and values rounded to bf16.
"""

import torch
from tokenizers import Tokenizer
from transformers import LlamaForCausalLM
from transformers.models.llama import modeling_llama

from golden import reference
from golden.files import GOLDEN, ROOT, how, write_json

MODEL = ROOT / "demo" / "tiny" / "model"
BLOCK = 64  # int8: inputs that are rotated, and share a scale
GROUP = 32  # int4: inputs that share a scale
HALF = 16  # those of a row
NEW_TOKENS = 24
MARGIN = 0.15
SAMPLES = 16
NOISE = 1e-6
PROMPTS = [
    "ROMEO:\n",
    "First Citizen:\nBefore we proceed any further, hear me speak.\n\nAll:\n",
    "KING RICHARD III:\nNow is the winter of our discontent\nMade glorious summer by this sun of York;\nAnd all the "
    "clouds that lour'd upon our house\nIn the deep bosom of the ocean buried.\n\nQUEEN MARGARET:\nMy lord, ",
]


def groups(x, size):
    """[..., n] to [..., groups, size], padded with zeros."""
    padded = torch.nn.functional.pad(x, (0, -x.shape[-1] % size))
    return padded.unflatten(-1, (-1, size))


def scaled(x, scale, size, low, high):
    """The nearest multiples of each group's scale, in the shape of x."""
    codes = torch.where(scale == 0, 0, groups(x, size) / scale).round().clamp(low, high)
    return (codes * scale).flatten(-2)[..., :x.shape[-1]]


def rotated(blocks):
    """8 Hx, added up in the order of the description: another order makes other codes of some weights, and scores
    that differ by as much as the tolerance of the test."""
    for distance in (1, 2, 4, 8, 16, 32):
        a, b = blocks.unflatten(-1, (-1, 2, distance)).unbind(-2)
        blocks = torch.stack((a + b, a - b), -2).flatten(-3)
    return blocks


def in_rotation(x):
    """x after its blocks were rotated, rounded to whole multiples of their scales, and rotated back."""
    blocks = rotated(groups(x, BLOCK))
    scale = blocks.abs().amax(-1, keepdim=True) / 127
    codes = torch.where(scale == 0, 0, blocks / scale).round()
    return (rotated(codes * (scale / 8)) / 8).flatten(-2)[..., :x.shape[-1]]


def int4_weights(w):
    """The largest of a group becomes -8 or 7, whichever has the smaller squares of errors."""
    g = groups(w, GROUP)
    largest = g.gather(-1, g.abs().argmax(-1, keepdim=True))
    eight, seven = ((largest / code).bfloat16().float() for code in (-8, 7))

    def errors(scale):
        return (groups(scaled(w, scale, GROUP, -8, 7), GROUP) - g).double().square().sum(-1, keepdim=True)
    return scaled(w, torch.where(errors(seven) < errors(eight), seven, eight), GROUP, -8, 7)


def int4_activations(x):
    return scaled(x, groups(x, HALF).abs().amax(-1, keepdim=True) / 127, HALF, -127, 127)


def noisy(x):
    """What f32 sums in another order would be."""
    return x * (1 + NOISE * torch.randn_like(x))


def keep_values_in_bf16(module):
    module.register_forward_hook(lambda _, args, out: out.bfloat16().float())


def keep_keys_in_bf16():
    rotate = modeling_llama.apply_rotary_pos_emb

    def rotated(*args, **kwargs):
        q, k = rotate(*args, **kwargs)
        return q, k.bfloat16().float()
    modeling_llama.apply_rotary_pos_emb = rotated


@torch.no_grad()
def quantise(model, weights, activations):
    """Embedding and head are int8 in both types."""
    tied = model.lm_head.weight is model.model.embed_tokens.weight
    for name, module in model.named_modules():
        if isinstance(module, torch.nn.Embedding):
            module.weight.copy_(in_rotation(module.weight))
        elif isinstance(module, torch.nn.Linear):
            of_weights, of_rows = (in_rotation, in_rotation) if name == "lm_head" else (weights, activations)
            module.register_forward_pre_hook(lambda _, args, of=of_rows: (of(noisy(args[0])), *args[1:]))
            if name != "lm_head" or not tied:
                module.weight.copy_(of_weights(module.weight))
        if name.endswith("v_proj"):
            keep_values_in_bf16(module)
    return model


class InFloat(reference.Base):
    """Logits of a bf16 model are bf16; what is made of them is not."""

    def logits(self, ids):
        return super().logits(ids).float()


class Sampled(reference.Base):
    """A code that lies between two whole numbers is the one or the other by the last bit of a sum, and what follows
    differs by hundredths: the mean over many such sums."""

    def logits(self, ids):
        torch.manual_seed(1)
        return self.model(input_ids=torch.tensor([ids] * SAMPLES)).logits.log_softmax(-1).mean(0)


def cases_of(ref):
    """An answer to each prompt, as far as the two likeliest tokens of a step are apart."""
    tokenizer, cases = Tokenizer.from_file(str(MODEL / "tokenizer.json")), []
    for text in PROMPTS:
        prompt, new = tokenizer.encode(text, add_special_tokens=False).ids, []
        for count in range(1, NEW_TOKENS + 1):
            longer = reference.greedy(ref, prompt, count, MARGIN)
            if longer is None:
                break
            new = longer
        print(f"  {len(prompt)} tokens, then {len(new)}")
        if new:
            cases.append(reference.case(ref, None, None, prompt, new))
    return cases


def write(dtype, ref, note):
    head = {"how": how("make_golden.py dtypes", "torch", "transformers"), "note": note, "margin": MARGIN}
    write_json(GOLDEN / f"tiny_{dtype}.json", head, "cases", cases_of(ref))


def load(dtype):
    return LlamaForCausalLM.from_pretrained(MODEL, dtype=dtype, attn_implementation="eager").eval()


def write_all():
    write("bf16", InFloat(load(torch.bfloat16)), "computed in bfloat16")
    keep_keys_in_bf16()
    for dtype, *kinds in (("int8", in_rotation, in_rotation), ("int4", int4_weights, int4_activations)):
        write(dtype, Sampled(quantise(load(torch.float32), *kinds)),
              f"weights and activations as of --dtype {dtype}, keys and values bfloat16, computed in float32")
