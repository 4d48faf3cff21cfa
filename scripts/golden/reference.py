"""What a base with an adapter answers, by transformers, PEFT and the literal definition.

Nothing here is shared with the daemon's way: there is no KV cache between steps; each new
token is one more whole pass over virtual and real tokens, one sequence, no padding.
"""

import json

import torch
from peft import PeftModel
from safetensors.torch import load_file


class Base:
    """The bare base model."""

    def __init__(self, model):
        self.model = model

    def logits(self, ids):
        """Logits [T, V] at the real tokens alone."""
        return self.model(input_ids=torch.tensor([ids])).logits[0]


class Text(Base):
    """A text in front: plain tokens, positions simply go on."""

    def __init__(self, model, text_ids):
        super().__init__(model)
        self.text_ids = text_ids

    def logits(self, ids):
        return super().logits(self.text_ids + ids)[len(self.text_ids):]


class HiddenPrefix(Base):
    """Vectors put over the first P rows before every layer; outputs at those rows dropped."""

    def __init__(self, model, folder):
        super().__init__(model)
        vectors = load_file(folder / "adapter_model.safetensors")["hidden_prefix"]
        self.vectors = vectors.to(model.dtype)
        self.count = vectors.shape[1]
        for layer, block in enumerate(model.model.layers):
            block.register_forward_pre_hook(self._overwrite(layer))

    def _overwrite(self, layer):
        def hook(_, args):
            hidden = args[0].clone()
            hidden[:, :self.count] = self.vectors[layer]
            return (hidden, *args[1:])
        return hook

    def logits(self, ids):
        real = self.model.model.embed_tokens(torch.tensor([ids]))
        # What stands here is overwritten before the first layer; NaN proves it.
        room = torch.full((1, self.count, real.shape[2]), float("nan"), dtype=real.dtype)
        out = self.model(inputs_embeds=torch.cat([room, real], 1), use_cache=False)
        return out.logits[0, self.count:]


class Peft(Base):
    """PEFT's own forward over the saved files."""

    def __init__(self, model, folder, task):
        super().__init__(PeftModel.from_pretrained(model, folder).eval())
        self.task = {} if task is None else {"task_ids": torch.tensor([task])}

    def logits(self, ids):
        out = self.model(input_ids=torch.tensor([ids]), **self.task)
        return out.logits[0, -len(ids):]

    def generate(self, ids, count):
        """The same answer by PEFT's generate, which keeps a cache: a check of ours."""
        out = self.model.generate(input_ids=torch.tensor([ids]), do_sample=False,
                                  attention_mask=torch.ones(1, len(ids), dtype=torch.long),
                                  max_new_tokens=count, eos_token_id=-1, pad_token_id=0,
                                  **self.task)
        return out[0, -count:].tolist()


def open_reference(model, path, task, encode):
    """The reference of one adapter over a fresh model; path None is the base itself."""
    if path is None:
        return Base(model)
    if path.suffix == ".json":
        return Text(model, encode(json.loads(path.read_text())["text"]))
    config = json.loads((path / "adapter_config.json").read_text())
    if config["peft_type"] == "HIDDEN_PREFIX":
        return HiddenPrefix(model, path)
    return Peft(model, path, task)


@torch.no_grad()
def greedy(reference, prompt, count, margin):
    """count greedy ids, the end ignored; None as soon as two tokens are closer than margin."""
    ids = list(prompt)
    for _ in range(count):
        best = reference.logits(ids)[-1].topk(2)
        if best.values[0] - best.values[1] <= margin:
            return None
        ids.append(int(best.indices[0]))
    return ids[len(prompt):]


@torch.no_grad()
def case(reference, adapter, task, prompt, new):
    """The golden record of one answer."""
    logprobs = torch.log_softmax(reference.logits(prompt + new), -1)
    steps = logprobs[len(prompt) - 1:-1]
    best = steps.topk(5)
    top = [[[int(i), float(v)] for i, v in zip(*row)]
           for row in zip(best.indices.tolist(), best.values.tolist())]
    if [row[0][0] for row in top] != new:
        raise SystemExit("one pass over the whole answer does not choose what the steps chose")
    return {
        "adapter": adapter, "task_id": task, "prompt_ids": prompt, "ids": new,
        "logprobs": [float(row[i]) for row, i in zip(steps, new)], "top": top,
        "prompt_logprobs": [None] + [float(logprobs[i - 1, prompt[i]])
                                     for i in range(1, len(prompt))]}
