"""Training speed and peak memory of the careful PyTorch Memformer: windows of tokens, clipping, fused AdamW.

  python bench/peers/train.py --config config.json --batch 8 --horizon 8 --windows 20 --threads 2 --device cpu \
    --precision float32 --method mrbp --json
  python bench/peers/train.py --device cuda --plan plan.json

Inputs are on the device before the clock starts; the memory is carried from window to window; no value is read back
inside a timed window. Tokens/s = batch * segment * horizon / seconds of the whole step, optimizer included. A plan is a
list of objects whose keys are the flags; each prints its row, in JSON, as it ends.
"""

import argparse
import gc
import json
import platform
import resource
import statistics

import torch

from config import Config
from graphs import Captured
from methods import METHODS, Precision
from model import Memformer
from training import Clock, Eager, compile_model, make_window


def peak_bytes(device):
    """The device's peak allocation; on a CPU the process's peak resident set, start to now."""
    if device == "cuda":
        return torch.cuda.max_memory_allocated()
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def train(args, config):
    """-> seconds of every timed window; losses and gradient norm of the first window; the last window's mean loss."""
    torch.manual_seed(0)
    with torch.device(args.device):
        model = Memformer(config)
    model.initialize(0) if args.weights is None else model.load(args.weights)
    window, precision, clock = make_window(args, config), Precision(args.device, args.precision), Clock(args.device)
    memory = model.initial_memory(args.batch).detach().clone()
    if args.compile:
        compile_model(model)
    step = Captured(model, args, precision, window, memory) if args.graphs else Eager(model, args, precision)
    for i in range(args.warmup + args.windows):
        if i == args.warmup:
            if args.device == "cuda":
                torch.cuda.synchronize()
                if not args.graphs:
                    torch.cuda.reset_peak_memory_stats()
            clock.mark()
        losses, norm, memory = step(window, memory, i * args.horizon)
        if i == 0:
            first = losses, norm
        if i >= args.warmup:
            clock.mark()
    return clock.seconds(), first[0].tolist(), first[1].item(), losses.mean().item()


def measure(args):
    config = Config.read(args.config)
    seconds, losses, norm, loss = train(args, config)
    tokens = args.batch * config.segmentLength * args.horizon
    rates = sorted(tokens / s for s in seconds)
    quartiles = statistics.quantiles(rates, n=4, method="inclusive") if len(rates) > 1 else rates * 3
    name = torch.cuda.get_device_name() if args.device == "cuda" else platform.processor() or platform.machine()
    return {
        "peer": "pytorch",
        "method": args.method,
        "architecture": config.architecture,
        "batch": args.batch,
        "segmentLength": config.segmentLength,
        "horizon": args.horizon,
        "windows": args.windows,
        "precision": args.precision,
        "tf32": args.tf32,
        "compile": args.compile,
        "graphs": args.graphs,
        "dropout": config.dropout,
        "device": args.device,
        "deviceName": name,
        "threads": args.threads,
        "torch": torch.__version__,
        "cuda": torch.version.cuda,
        "python": platform.python_version(),
        "tokensPerSecond": quartiles[1],
        "tokensPerSecondIqr": [quartiles[0], quartiles[2]],
        "secondsPerWindow": statistics.median(seconds),
        "peakBytes": peak_bytes(args.device),
        "loss": loss,
        "losses": losses,
        "norm": norm,
    }


def run_plan(args):
    with open(args.plan, encoding="utf-8") as file:
        entries = json.load(file)
    for entry in entries:
        try:
            row = measure(argparse.Namespace(**{**vars(args), **entry}))
        except torch.OutOfMemoryError:
            row = {"error": "out of memory"}
        except Exception as error:
            row = {"error": f"{type(error).__name__}: {error}"}
        print(json.dumps(row), flush=True)
        gc.collect()
        if args.device == "cuda":
            torch.cuda.empty_cache()


def parse():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--config")
    parser.add_argument("--plan", help="a file of many rows")
    parser.add_argument("--weights", help="model.safetensors to begin with; without it random ones")
    parser.add_argument(
        "--window", help="safetensors of the window to train on, as for parity.py; without it random tokens"
    )
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
    parser.add_argument("--graphs", action="store_true", help="CUDA graphs, captured by hand; for mrbp")
    parser.add_argument("--json", action="store_true")
    args = parser.parse_args()
    if (args.config is None) == (args.plan is None):
        parser.error("one of --config and --plan is needed")
    return args


def main():
    args = parse()
    torch.set_num_threads(args.threads)
    torch.set_float32_matmul_precision("high" if args.tf32 else "highest")
    if args.plan is not None:
        return run_plan(args)
    row = measure(args)
    if args.json:
        print(json.dumps(row))
    else:
        low, high = row["tokensPerSecondIqr"]
        print(
            f"{args.method} {args.device} {args.precision}: {row['tokensPerSecond']:.0f} tokens/s (IQR {low:.0f} to "
            f"{high:.0f}), peak {row['peakBytes'] / 2**20:.0f} MiB, torch {row['torch']}"
        )


if __name__ == "__main__":
    main()
