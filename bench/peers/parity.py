"""Losses, final memory and every gradient of one window, by plain back-propagation through time, to a file.

  python bench/peers/parity.py --config config.json --weights model.safetensors --batch batch.safetensors \\
    --out out.safetensors

batch: source (S, B, T), target (S, B, T) of integers, reset (S, B). The window starts from the learned initial memory.
out: losses (S), memory (B, M, D), grad.<name> of the mean loss for every parameter.
"""

import argparse

import torch

from config import PADDING, Config, Segment
from methods import METHODS, Precision
from model import Memformer
from safetensors_io import read_safetensors, write_safetensors


def read_window(path, config):
    batch = read_safetensors(path)
    source, target, reset = batch["source"].long(), batch["target"].long(), batch["reset"].bool()
    if source.shape != target.shape or source.dim() != 3 or reset.shape != source.shape[:2]:
        raise ValueError(
            f"{path}: expected source and target (S, B, T), reset (S, B), got "
            f"{tuple(source.shape)}, {tuple(target.shape)}, {tuple(reset.shape)}"
        )
    if source.shape[2] > config.segmentLength:
        raise ValueError(
            f"{path}: expected at most config.segmentLength = {config.segmentLength} tokens, got {source.shape[2]}"
        )
    for name, tokens in (("source", source), ("target", target)):
        if tokens.numel() and (tokens.min() < PADDING or tokens.max() >= config.vocabulary):
            raise ValueError(f"{path}: {name} holds tokens outside -1 to {config.vocabulary - 1}")
    padded = bool((source == PADDING).any() or (target == PADDING).any())
    return [Segment(s, t, r if r.any() else None, padded) for s, t, r in zip(source, target, reset)]


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name in ("config", "weights", "batch", "out"):
        parser.add_argument(f"--{name}", required=True)
    parser.add_argument("--dtype", choices=("float32", "float64"), default="float64")
    parser.add_argument("--method", choices=METHODS, default="bptt")
    parser.add_argument("--seed", type=int, default=0, help="of the dropout, segment t draws from seed + t")
    parser.add_argument("--threads", type=int, default=1)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    torch.set_default_dtype(getattr(torch, args.dtype))

    config = Config.read(args.config)
    model = Memformer(config)
    model.load(args.weights)
    window = read_window(args.batch, config)
    losses, memory = METHODS[args.method](model, window, None, args.seed, Precision())
    out = {"losses": losses, "memory": memory}
    for name, parameter in model.named_parameters():
        out[f"grad.{name}"] = torch.zeros_like(parameter) if parameter.grad is None else parameter.grad
    write_safetensors(args.out, out)
    print("losses " + " ".join(f"{loss:.6f}" for loss in losses.tolist()))


if __name__ == "__main__":
    main()
