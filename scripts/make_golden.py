#!/usr/bin/env python3
"""Makes the golden files under tests/golden with torch, transformers, PEFT and gguf.

Development only: the tests read what is committed and need no Python for it.

  make_golden.py models [NAME...]     tiny random models; make adapters and cases anew after it
  make_golden.py adapters [NAME...]   their adapters
  make_golden.py cases [NAME...]      their answers, from the committed models and adapters
  make_golden.py all                  the three above, for every tiny model, dtypes and dequant
  make_golden.py dtypes               answers of bf16, int8 and int4
  make_golden.py dequant              digests of dequantised GGUF tensors
  make_golden.py smollm2 [--adapters DIR] [--gguf FILE] [--out FILE]
                                      the demo model, bare and with the adapters of a folder
"""

import argparse
import os
import pathlib
import sys

os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")
os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")


def arguments():
    parser = argparse.ArgumentParser(description=__doc__,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=["models", "adapters", "cases", "all", "dtypes",
                                         "dequant", "smollm2"])
    parser.add_argument("names", nargs="*", help="tiny models; all when none is named")
    parser.add_argument("--adapters", type=pathlib.Path, help="folder of SmolLM2 adapters")
    parser.add_argument("--gguf", type=pathlib.Path, help="SmolLM2 file, else the cached one")
    parser.add_argument("--out", type=pathlib.Path, help="where the SmolLM2 cases go")
    return parser.parse_args()


def main():
    args = arguments()
    import torch
    from transformers.utils import logging
    logging.disable_progress_bar()
    torch.set_num_threads(1)
    from golden import adapters, models, quant, smollm2, tiny

    names = args.names or list(models.SPECS)
    for name in names:
        if name not in models.SPECS:
            sys.exit(f"no tiny model {name}; there are {', '.join(models.SPECS)}")
    for name in names:
        if args.what in ("models", "all"):
            tiny.write_model(name)
        if args.what in ("adapters", "all"):
            adapters.write_adapters(name, lambda: tiny.load_base(name))
        if args.what in ("cases", "all"):
            tiny.write_cases(name)
    if args.what in ("dtypes", "all"):
        quant.write_all()
    if args.what in ("dequant", "all"):
        smollm2.write_dequant(args.gguf)
    if args.what == "smollm2":
        smollm2.write_cases(args.gguf, args.adapters, args.out)


if __name__ == "__main__":
    main()
