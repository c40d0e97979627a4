"""Training speed and peak memory of the careful PyTorch Memformer: windows of random tokens, clipping, fused AdamW.

  python bench/peers/train.py --config config.json --batch 8 --horizon 8 --windows 20 --threads 2 --device cpu \
    --precision float32 --method mrbp --json

Inputs are on the device before the clock starts; the memory is carried from window to window; no value is read back
inside a timed window. Tokens/s = batch * segment * horizon / seconds of the whole step, optimizer included.
"""

import argparse
import json
import platform
import resource
import statistics
import time

import torch

from config import Config, Segment
from methods import METHODS, Precision
from model import Memformer

WITHOUT_DECAY = ("bias", "norm.weight", "initial", "embedding.weight", "bias_ih", "bias_hh", "relative")


def make_optimizer(model, rate):
    groups = {True: [], False: []}
    for name, parameter in model.named_parameters():
        groups[not name.endswith(WITHOUT_DECAY)].append(parameter)
    settings = [{"params": groups[True], "weight_decay": 0.01}, {"params": groups[False], "weight_decay": 0.0}]
    return torch.optim.AdamW(settings, lr=rate, betas=(0.9, 0.95), fused=True)


def random_window(config, batch, horizon, device):
    tokens = torch.randint(config.vocabulary, (horizon + 1, batch, config.segment), device=device)
    return [Segment(tokens[t], tokens[t + 1], None, padded=False) for t in range(horizon)]


class Clock:
    """CUDA events, read once at the end, or the wall clock."""

    def __init__(self, device):
        self.is_cuda, self.marks = device == "cuda", []

    def mark(self):
        if self.is_cuda:
            event = torch.cuda.Event(enable_timing=True)
            event.record()
            self.marks.append(event)
        else:
            self.marks.append(time.perf_counter())

    def seconds(self):
        if not self.is_cuda:
            return [b - a for a, b in zip(self.marks, self.marks[1:])]
        torch.cuda.synchronize()
        return [a.elapsed_time(b) / 1000 for a, b in zip(self.marks, self.marks[1:])]


def peak_bytes(device):
    """The device's peak allocation since the warm-up; on a CPU the process's peak resident set, start to now."""
    if device == "cuda":
        return torch.cuda.max_memory_allocated()
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def compile_model(model):
    """Compiles both entry points; with dropout, with eager's random numbers, so that the replay draws the sweep's."""
    if model.config.dropout > 0:
        import torch._inductor.config as inductor
        inductor.fallback_random = True
    model.advance = torch.compile(model.advance, dynamic=False)
    model.forward = torch.compile(model.forward, dynamic=False)


def train(args, config):
    torch.manual_seed(0)
    with torch.device(args.device):
        model = Memformer(config)
    model.initialize(0)
    window = random_window(config, args.batch, args.horizon, args.device)
    if args.compile:
        compile_model(model)
    optimizer, precision = make_optimizer(model, args.rate), Precision(args.device, args.precision)
    clock, method, memory = Clock(args.device), METHODS[args.method], None
    if args.device == "cuda":
        torch.cuda.reset_peak_memory_stats()
    for step in range(args.warmup + args.windows):
        if step == args.warmup:
            if args.device == "cuda":
                torch.cuda.synchronize()
                torch.cuda.reset_peak_memory_stats()
            clock.mark()
        losses, memory = method(model, window, memory, step * args.horizon, precision)
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0, foreach=True)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        if step >= args.warmup:
            clock.mark()
    seconds = clock.seconds()
    return seconds, losses.mean().item(), sum(p.numel() for p in model.parameters())


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--config", required=True)
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--horizon", type=int, default=8, help="segments of a window")
    parser.add_argument("--windows", type=int, default=20, help="timed, after the warm-up")
    parser.add_argument("--warmup", type=int, default=5)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    parser.add_argument("--precision", choices=("float32", "bfloat16"), default="float32")
    parser.add_argument("--method", choices=METHODS, default="mrbp")
    parser.add_argument("--rate", type=float, default=3e-4, help="learning rate")
    parser.add_argument("--tf32", action="store_true", help="TF32 in fp32 matrix products on a GPU")
    parser.add_argument("--compile", action="store_true", help="torch.compile of both entry points")
    parser.add_argument("--json", action="store_true")
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    torch.set_float32_matmul_precision("high" if args.tf32 else "highest")
    config = Config.read(args.config)

    seconds, loss, parameters = train(args, config)
    tokens = args.batch * config.segment * args.horizon
    rates = sorted(tokens / s for s in seconds)
    quartiles = statistics.quantiles(rates, n=4, method="inclusive") if len(rates) > 1 else rates * 3
    name = torch.cuda.get_device_name() if args.device == "cuda" else platform.processor() or platform.machine()
    row = {
        "peer": "pytorch", "method": args.method, "variant": config.variant, "parameters": parameters,
        "batch": args.batch, "segment": config.segment, "horizon": args.horizon, "windows": args.windows,
        "precision": args.precision, "tf32": args.tf32, "compile": args.compile, "dropout": config.dropout,
        "device": args.device, "deviceName": name, "threads": args.threads, "torch": torch.__version__,
        "cuda": torch.version.cuda, "python": platform.python_version(),
        "tokensPerSecond": quartiles[1], "tokensPerSecondIqr": [quartiles[0], quartiles[2]],
        "secondsPerWindow": statistics.median(seconds),
        "peakBytes": peak_bytes(args.device), "loss": loss,
    }
    if args.json:
        print(json.dumps(row))
    else:
        print(f"{args.method} {args.device} {args.precision}: {quartiles[1]:.0f} tokens/s (IQR {quartiles[0]:.0f} to "
              f"{quartiles[2]:.0f}), peak {row['peakBytes'] / 2**20:.0f} MiB, torch {row['torch']}")


if __name__ == "__main__":
    main()
