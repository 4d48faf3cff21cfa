"""Adapters of every kind for the tiny models, saved by PEFT itself where PEFT has the kind."""

import json
import shutil

import torch
from peft import (CartridgeConfig, CPTConfig, MultitaskPromptTuningConfig, PrefixTuningConfig,
                  PromptEncoderConfig, PromptTuningConfig, get_peft_model)
from peft.tuners.cartridge.utils import initialize_kv_prefix_from_past_key_values
from safetensors.torch import save_file

from golden.files import ADAPTERS, write_plain

# model: {adapter: (kind, virtual tokens)}; the order gives each adapter its seed.
ADAPTER_SPECS = {
    "gqa": {"prompt_tuning": ("prompt", 5), "p_tuning_mlp": ("mlp", 16),
            "p_tuning_lstm": ("lstm", 1), "prefix_tuning": ("prefix", 17),
            "prefix_tuning_projection": ("projection", 5), "cartridge": ("cartridge", 40),
            "cpt": ("cpt", 16), "multitask": ("multitask", 5), "hidden_prefix": ("hidden", 17),
            "text": ("text", 0)},
    "wide": {"prompt_tuning": ("prompt", 17), "prefix_tuning": ("prefix", 1),
             "hidden_prefix": ("hidden", 40)},
    "mha": {"prompt_tuning": ("prompt", 40), "prefix_tuning": ("prefix", 16),
            "hidden_prefix": ("hidden", 1)},
    "llama3": {"prompt_tuning": ("prompt", 40), "prefix_tuning": ("prefix", 17)},
    "linear": {"prompt_tuning": ("prompt", 16)},
    "mixed": {"prompt_tuning": ("prompt", 16), "prefix_tuning": ("prefix", 5),
              "hidden_prefix": ("hidden", 17)},
}
TASKS = 3
TEXT = "The thing on the stand is an inner ring, 27 in all.\nLet it stand: "


def _config(kind, count, vocab):
    common = dict(task_type="CAUSAL_LM", num_virtual_tokens=count)
    if kind == "prompt":
        return PromptTuningConfig(**common)
    if kind in ("mlp", "lstm"):
        return PromptEncoderConfig(encoder_reparameterization_type=kind.upper(),
                                   encoder_hidden_size=48, **common)
    if kind in ("prefix", "projection"):
        return PrefixTuningConfig(prefix_projection=kind == "projection",
                                  encoder_hidden_size=24, **common)
    if kind == "cartridge":
        return CartridgeConfig(num_frozen_tokens=1, **common)
    if kind == "multitask":
        return MultitaskPromptTuningConfig(num_tasks=TASKS, num_ranks=2, **common)
    if kind == "cpt":
        # The default epsilons are so small that the learned part would not show.
        return CPTConfig(task_type="CAUSAL_LM", cpt_mask=[1] * count,
                         cpt_token_ids=[(7 * i + 65) % vocab for i in range(count)],
                         cpt_tokens_type_mask=[1 + i % 4 for i in range(count)],
                         opt_projection_epsilon=20.0, opt_projection_format_epsilon=10.0)
    raise SystemExit(f"no such kind: {kind}")


def _disturb(peft_model, kind, rng):
    """Moves what was just initialised to where training might have left it."""
    encoder = peft_model.prompt_encoder["default"]
    if kind == "cartridge":
        count = encoder.config.num_virtual_tokens
        ids = torch.randint(256, (1, count), generator=rng)
        cache = peft_model.get_base_model()(ids, use_cache=True).past_key_values
        initialize_kv_prefix_from_past_key_values(
            peft_model, past_key_values=cache, num_virtual_tokens=count)
        for weight in encoder.parameters():
            weight.add_(0.3 * torch.randn(weight.shape, generator=rng))
        return
    scale = {"prompt": 0.7, "multitask": 0.8, "prefix": 1.2}.get(kind)
    for name, weight in encoder.named_parameters():
        noise = torch.randn(weight.shape, generator=rng)
        if kind == "cpt":
            if name.startswith("delta"):
                weight.copy_(noise)
        elif scale:
            weight.copy_(scale * noise)
        elif weight.dim() == 1:
            weight.copy_(0.2 * noise)
        else:
            weight.copy_(1.5 * noise / (weight.shape[1] ** 0.5 if "embed" not in name else 1))


def _write_peft(folder, name, base, kind, count, rng):
    peft_model = get_peft_model(base, _config(kind, count, base.config.vocab_size))
    with torch.no_grad():
        _disturb(peft_model, kind, rng)
    # Otherwise the folder that this machine loaded the base from would be saved.
    peft_model.peft_config["default"].base_model_name_or_path = f"golden/{name}"
    peft_model.save_pretrained(folder)
    (folder / "README.md").unlink(missing_ok=True)


def _write_hidden_prefix(folder, base, count, rng):
    layers, width = base.config.num_hidden_layers, base.config.hidden_size
    folder.mkdir(parents=True)
    write_plain(folder / "adapter_config.json", {
        "peft_type": "HIDDEN_PREFIX", "num_virtual_tokens": count, "num_layers": layers,
        "token_dim": width})
    save_file({"hidden_prefix": torch.randn((layers, count, width), generator=rng)},
              folder / "adapter_model.safetensors", metadata={"format": "pt"})


def write_adapters(name, load_base):
    """All adapters of one model; load_base gives a fresh base for each."""
    for seed, (adapter, (kind, count)) in enumerate(ADAPTER_SPECS[name].items()):
        rng = torch.Generator().manual_seed(100 + seed)
        torch.manual_seed(200 + seed)
        folder = ADAPTERS / name / adapter
        shutil.rmtree(folder, ignore_errors=True)
        if kind == "text":
            write_plain(ADAPTERS / name / f"{adapter}.json", {"kind": "text", "text": TEXT})
        elif kind == "hidden":
            _write_hidden_prefix(folder, load_base(), count, rng)
        else:
            _write_peft(folder, name, load_base(), kind, count, rng)
        print(f"adapters/{name}/{adapter}: {kind}, {count} virtual tokens")


def list_adapters(folder):
    """[(name, path, task_id)] of a folder of adapters; each task of a multitask one by itself."""
    found = []
    for path in sorted(folder.iterdir()) if folder.is_dir() else []:
        if path.suffix == ".json" and json.loads(path.read_text()).get("kind") == "text":
            found.append((path.stem, path, None))
        elif (path / "adapter_config.json").is_file():
            config = json.loads((path / "adapter_config.json").read_text())
            tasks = [None]
            if config["peft_type"] == "MULTITASK_PROMPT_TUNING":
                tasks = range(config["num_tasks"])
            found += [(path.name, path, task) for task in tasks]
    return found
