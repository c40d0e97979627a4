"""A training run of the peer: its optimizer, its windows, its clock, and a step that runs operator by operator."""

import time

import torch

from config import Segment
from methods import METHODS
from parity import read_window

WITHOUT_DECAY = ("bias", "norm.weight", "initial", "embedding.weight", "bias_ih", "bias_hh", "relative")


def make_optimizer(model, rate, **settings):
    groups = {True: [], False: []}
    for name, parameter in model.named_parameters():
        groups[not name.endswith(WITHOUT_DECAY)].append(parameter)
    decays = [{"params": groups[True], "weight_decay": 0.01}, {"params": groups[False], "weight_decay": 0.0}]
    return torch.optim.AdamW(decays, lr=rate, betas=(0.9, 0.95), fused=True, **settings)


def make_window(args, config):
    """That of the file, or of random tokens; on the device."""
    if args.window is None:
        tokens = torch.randint(
            config.vocabulary, (args.horizon + 1, args.batch, config.segmentLength), device=args.device
        )
        return [Segment(tokens[t], tokens[t + 1], None, padded=False) for t in range(args.horizon)]
    moved = lambda x: x if x is None else x.to(args.device)
    return [
        Segment(moved(s.source), moved(s.target), moved(s.reset), s.padded) for s in read_window(args.window, config)
    ]


def compile_model(model):
    """Compiles both entry points; with dropout, with eager's random numbers, so that the replay draws the sweep's."""
    torch._dynamo.reset()
    if model.config.dropout > 0:
        import torch._inductor.config as inductor

        inductor.fallback_random = True
    model.advance = torch.compile(model.advance, dynamic=False)
    model.forward = torch.compile(model.forward, dynamic=False)


class Eager:
    """step(window, memory, seed) -> losses (S), the gradient's norm before clipping, the memory to go on with."""

    def __init__(self, model, args, precision):
        self.model, self.method, self.precision = model, METHODS[args.method], precision
        self.optimizer = make_optimizer(model, args.rate)

    def __call__(self, window, memory, seed):
        losses, memory = self.method(self.model, window, memory, seed, self.precision)
        norm = torch.nn.utils.clip_grad_norm_(self.model.parameters(), 1.0, foreach=True)
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        return losses, norm, memory


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
