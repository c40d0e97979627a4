"""Memory replay back-propagation from four CUDA graphs, captured by hand: a launch a step, whatever is in it.

  advance       the step without gradient: the next memory
  replay last   forward and backward of the window's last segment, which no later loss depends on
  replay        the same for the others, with the gradient of their next memory
  finish        clipping, fused AdamW, zeroed gradients
The graphs share one pool of memory, read static inputs and add into static gradients. In bfloat16 the weights of the
matrix products are copied once a window and not, as autocast does inside a graph, once a segment.
"""

import torch
from torch import nn

from config import Segment
from training import make_optimizer

WARM_UP = 3


def narrow(model):
    """Puts bf16 copies in the places of the linear layers' parameters -> the masters, the copies."""
    masters, copies = [], []

    def copy_of(master):
        masters.append(master)
        copies.append(nn.Parameter(master.detach().bfloat16()))
        return copies[-1]

    output = model.output_weight()
    for module in list(model.modules()):
        if isinstance(module, nn.Linear):
            for name, master in list(module.named_parameters(recurse=False)):
                setattr(module, name, copy_of(master))
    if model.config.tieEmbedding:
        model.output_copy = copy_of(output)
    return masters, copies


class Captured:
    """step(window, memory, seed), as training.Eager; dropout is refused, for the graphs would draw it anew."""

    def __init__(self, model, args, precision, window, memory):
        if model.config.dropout > 0 or args.method != "mrbp" or args.device != "cuda":
            raise ValueError("graphs are for mrbp without dropout, on a GPU")
        self.model, self.precision, self.horizon = model, precision, len(window)
        self.parameters = list(model.parameters())
        self.rate = torch.zeros((), device="cuda")
        self.optimizer = make_optimizer(model, self.rate, capturable=True)
        for parameter in self.parameters:
            parameter.grad = torch.zeros_like(parameter)
        self.masters, self.copies = narrow(model) if precision.autocasts else ([], [])
        if any(segment.reset is not None or segment.padded for segment in window):
            raise ValueError("graphs are captured for windows without resets and padding")
        self.segment = Segment(*(x.clone() for x in window[0][:2]), None, padded=False)
        self.memory, self.gradient = memory.clone(), torch.zeros_like(memory)
        self.graphs, self.outputs, self.stream = {}, {}, torch.cuda.Stream()
        self.capture(
            {"advance": self.advance, "replay last": self.replay_last, "replay": self.replay, "finish": self.finish}
        )
        self.rate.fill_(args.rate)

    def capture(self, steps):
        # At a rate of 0 the warm-up leaves the weights as they are; what the optimizer has gathered is dropped.
        self.stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(self.stream):
            for _ in range(WARM_UP):
                for step in steps.values():
                    step()
            for state in self.optimizer.state.values():
                for tensor in state.values():
                    tensor.zero_()
        torch.cuda.synchronize()
        torch.cuda.empty_cache()
        # Capturing allocates what the replays will use; later the allocator does not count it.
        torch.cuda.reset_peak_memory_stats()
        pool = torch.cuda.graph_pool_handle()
        for name, step in steps.items():
            self.graphs[name] = torch.cuda.CUDAGraph()
            with torch.cuda.graph(self.graphs[name], pool=pool, stream=self.stream):
                self.outputs[name] = step()

    def advance(self):
        with torch.no_grad(), self.precision.on():
            return self.model.advance(self.segment, self.memory)

    def replay_last(self):
        return self.replay(last=True)

    def replay(self, last=False):
        memory = self.memory.detach().requires_grad_()
        with self.precision.on():
            loss, following = self.model(self.segment, memory)
        if last:
            (loss / self.horizon).backward()
        else:
            torch.autograd.backward([loss / self.horizon, following], [None, self.gradient])
        reached = [(master, copy) for master, copy in zip(self.masters, self.copies) if copy.grad is not None]
        if reached:
            torch._foreach_add_([master.grad for master, _ in reached], [copy.grad for _, copy in reached])
        for _, copy in reached:
            copy.grad = None
        return loss.detach(), following.detach(), memory.grad

    def finish(self):
        gradients = [parameter.grad for parameter in self.parameters]
        norm = nn.utils.clip_grad_norm_(self.parameters, 1.0, foreach=True)
        self.optimizer.step()
        torch._foreach_zero_(gradients)
        if self.copies:
            with torch.no_grad():
                torch._foreach_copy_(self.copies, self.masters)
        return norm

    def run(self, name, segment=None, memory=None):
        if segment is not None:
            self.segment.source.copy_(segment.source)
            self.segment.target.copy_(segment.target)
            self.memory.copy_(memory)
        self.graphs[name].replay()
        return self.outputs[name]

    @torch.no_grad()
    def __call__(self, window, memory, seed):
        buffer, losses = [memory], []
        for segment in window[:-1]:
            buffer.append(self.run("advance", segment, buffer[-1]).clone())
        for t in reversed(range(len(window))):
            last = t == len(window) - 1
            loss, following, gradient = self.run("replay last" if last else "replay", window[t], buffer.pop())
            losses.append(loss.clone())
            if last:
                carried = following.clone()
            self.gradient.copy_(gradient)
        return torch.stack(losses[::-1]), self.run("finish").clone(), carried
