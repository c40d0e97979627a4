"""Checks the peer against itself and against docs/checkpoint.md, in fp64; a line a check, exit 1 if one fails.

  python bench/peers/selfcheck.py
  python bench/peers/selfcheck.py --init 1 --config config.json --save model.safetensors [--save-batch b.safetensors]

The second form makes random weights, and a window with padded rows and resets, for parity.py.
"""

import argparse
import itertools
import sys

import torch

from attention import t5_buckets
from checkpoint_page import disagreements, namespace
from config import PADDING, Config, Segment
from methods import METHODS, Precision
from model import Memformer
from safetensors_io import write_safetensors

SMALL = dict(
    vocabulary=11,
    bos=10,
    width=16,
    heads=2,
    feedForward=24,
    encoderLayers=2,
    decoderLayers=2,
    memorySlots=3,
    segmentLength=6,
)
ARCHITECTURES, WRITERS, POSITIONS = Config.CHOICES["architecture"], Config.CHOICES["writer"], Config.CHOICES["position"]


def small(architecture, writer, position, forgetting="bmn", **more):
    return Config(
        architecture=architecture, writer=writer, position=position, forgetting=forgetting, **{**SMALL, **more}
    )


def every_model():
    """Every architecture, writer and position, with and without dropout, and with the options that lucidrains' port needs;
    forgettings and tied embeddings take turns."""
    forgettings = Config.CHOICES["forgetting"]
    for n, (architecture, writer, position) in enumerate(itertools.product(ARCHITECTURES, WRITERS, POSITIONS)):
        turn = n + n // len(POSITIONS)
        yield small(architecture, writer, position, forgettings[turn % 3], tieEmbedding=n % 2 == 0)
        yield small(architecture, writer, position, forgettings[(turn + 1) % 3], tieEmbedding=n % 2 == 1, dropout=0.1)
        others = dict(
            writerHeads=4,
            writerSteps=2,
            writerBias=True,
            memoryNorm=False,
            positionBuckets="lucidrains",
            outputBias=True,
        )
        yield small(
            architecture,
            writer,
            position,
            forgettings[turn % 3],
            tieEmbedding=n % 2 == 0,
            shareEmbedding=architecture != "encoder-decoder",
            **others,
        )


def random_batch(config, S, B, seed):
    """source, target (S, B, T) with rows cut short, one all padding, a document's start; reset (S, B)."""
    generator = torch.Generator().manual_seed(seed)
    T = config.segmentLength
    tokens = torch.randint(config.vocabulary, (S + 1, B, T), generator=generator)
    lengths = torch.randint(1, T + 1, (S + 1, B), generator=generator)
    lengths[:, 0] = T
    lengths[min(2, S), -1] = 0
    tokens[torch.arange(T) >= lengths[..., None]] = PADDING
    source, target = tokens[:-1].clone(), tokens[1:].clone()
    reset = torch.zeros(S, B, dtype=torch.bool)
    reset[0] = True
    if S > 1 and B > 1:
        reset[S // 2, 1] = True
        source[S // 2, 1] = PADDING
        source[S // 2, 1, 0] = config.bos
    return source, target, reset


def make(config, seed=0):
    model = Memformer(config)
    model.initialize(seed)
    return model


def relative_error(a, b):
    return ((a - b).norm() / b.norm().clamp(min=1e-300)).item()


def gradient(model, method, window):
    model.zero_grad(set_to_none=True)
    losses, memory = METHODS[method](model, window, None, 7, Precision())
    grads = [torch.zeros_like(p) if p.grad is None else p.grad.clone() for p in model.parameters()]
    return [losses, memory, *grads]


def check_methods(config, method):
    """The largest error of losses, memory and any one parameter's gradient, each relative to itself.

    A bias that all keys share changes no softmax: its gradient is rounding alone, and counts by a thousandth of the largest."""
    model = make(config)
    window = [Segment(*rows) for rows in zip(*random_batch(config, S=5, B=4, seed=3))]
    expected, found = gradient(model, "bptt", window), gradient(model, method, window)
    least = 1e-3 * max(b.norm().item() for b in expected)
    return max(
        (a - b).norm().item() / max(b.norm().item(), least if config.writerBias else 0.0)
        for a, b in zip(found, expected)
    )


def check_padding(config):
    """A padded segment leaves the memory that the shorter one leaves; a row of padding keeps its own, to the bit."""
    model = make(config)
    generator = torch.Generator().manual_seed(5)
    T, shorter = config.segmentLength, config.segmentLength - 2
    source, target = torch.randint(config.vocabulary, (2, 2, T), generator=generator).unbind(0)
    padded = [torch.cat([x[:, :shorter], torch.full((2, T - shorter), PADDING)], 1) for x in (source, target)]
    nothing = torch.full((2, T), PADDING)
    with torch.no_grad():
        memory = model.advance(Segment(source, target, padded=False), None)
        cut = model.advance(Segment(source[:, :shorter], target[:, :shorter], padded=False), memory)
        kept = model.advance(Segment(nothing, nothing), memory)
        long = model.advance(Segment(*padded), memory)
        masked, unmasked = (model.advance(Segment(source, target, padded=p), memory) for p in (True, False))
    if not torch.equal(kept, memory):
        return float("inf")
    return max(relative_error(long, cut), relative_error(masked, unmasked))


def check_page(config):
    """The page's reading, on the same weights, finds the same losses and memory; its table names the same tensors."""
    model = make(config)
    named = dict(model.named_parameters())
    problems = disagreements(config, {name: tuple(p.shape) for name, p in named.items()})
    if problems:
        print("\n".join(f"  docs/checkpoint.md: {problem}" for problem in problems))
        return float("inf")
    memory = theirs = None
    error, forward = 0.0, namespace()["forward"]
    with torch.no_grad():
        for rows in zip(*random_batch(config, S=5, B=4, seed=3)):
            loss, memory = model(Segment(*rows), memory)
            loss_read, theirs = forward(named, vars(config), *rows, theirs)
            error = max(error, relative_error(loss_read, loss), relative_error(theirs, memory))
    return error


def check_buckets(both_ways):
    """The T5 buckets of the page, from a list of starts, against the peer's, from logarithms: how many differ."""
    i = torch.arange(300)
    return float((namespace()["t5_bucket"](i[:, None], i, both_ways) != t5_buckets(300, not both_ways)).sum())


def run_checks():
    failures = 0

    def report(name, error, limit=1e-12):
        nonlocal failures
        failures += not error <= limit
        print(f"{'ok  ' if error <= limit else 'FAIL'} {name}: relative error {error:.1e}, at most {limit:.0e}")

    for config in every_model():
        name = (
            f"{config.architecture}, {config.writer}, {config.forgetting}, {config.position}, dropout {config.dropout}"
        )
        report(f"mrbp equals bptt: {name}", check_methods(config, "mrbp"))
        if config.dropout == 0:
            report(f"padding leaves the memory: {name}", check_padding(config))
            report(f"docs/checkpoint.md reads it: {name}", check_page(config))
    with_dropout = small("encoder-decoder", "slot-attention", "rotary", dropout=0.1)
    report("checkpointing equals bptt", check_methods(with_dropout, "checkpointing"))
    for both_ways in (False, True):
        report(f"docs/checkpoint.md has the t5 buckets, looking ahead {both_ways}", check_buckets(both_ways))
    print(f"{failures} failed" if failures else "all passed")
    return failures


def save(args):
    config = Config.read(args.config)
    model = make(config, args.init)
    write_safetensors(args.save, {name: p.float() for name, p in model.named_parameters()})
    if args.save_batch:
        source, target, reset = random_batch(config, args.horizon, args.batch, args.init)
        write_safetensors(args.save_batch, {"source": source.int(), "target": target.int(), "reset": reset.byte()})


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--init", type=int, help="seed of the weights to write")
    parser.add_argument("--config")
    parser.add_argument("--save")
    parser.add_argument("--save-batch")
    parser.add_argument("--batch", type=int, default=4)
    parser.add_argument("--horizon", type=int, default=5)
    args = parser.parse_args()
    torch.set_num_threads(1)
    torch.set_default_dtype(torch.float64)
    if args.init is None:
        sys.exit(1 if run_checks() else 0)
    if not (args.config and args.save):
        parser.error("--init needs --config and --save")
    save(args)


if __name__ == "__main__":
    main()
