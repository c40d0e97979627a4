"""Three ways to get a window's gradient, one signature: back-propagation through time, checkpointing, memory replay.

window: list of Segment; memory: (B, M, D) detached, or None for the learned initial one; adds into .grad the gradient
of the mean of the segments' losses; returns the losses (S) and the memory for the next window, both detached.
Randomness is replayed by a seed a segment, so all three draw the same dropout.
"""

import torch
from torch.utils.checkpoint import checkpoint


class Precision:
    """float32 / float64 as the parameters are, or bfloat16 autocast with parameters, memory and gradients in fp32."""

    def __init__(self, device="cpu", name="float32"):
        self.device, self.autocasts = device, name == "bfloat16"

    def on(self):
        return torch.autocast(self.device, torch.bfloat16, enabled=self.autocasts)

    def off(self):
        return torch.autocast(self.device, enabled=False)


def step(model, segment, memory, seed):
    torch.manual_seed(seed)
    return model(segment, memory)


def bptt(model, window, memory, seed, precision):
    losses = []
    with precision.on():
        for t, segment in enumerate(window):
            loss, memory = step(model, segment, memory, seed + t)
            losses.append(loss)
    losses = torch.stack(losses)
    losses.mean().backward()
    return losses.detach(), memory.detach()


def checkpointing(model, window, memory, seed, precision):
    losses = []
    with precision.on():
        for t, segment in enumerate(window):
            # The seed is set inside, so there is no generator state to keep.
            loss, memory = checkpoint(
                step, model, segment, memory, seed + t, use_reentrant=False, preserve_rng_state=False
            )
            losses.append(loss)
    losses = torch.stack(losses)
    losses.mean().backward()
    return losses.detach(), memory.detach()


def mrbp(model, window, memory, seed, precision):
    buffer, losses, grad, last = [memory], [], None, None
    # One autocast region a sweep: it keeps the bf16 weights it casts. Those of the first have no graph, hence two.
    with torch.no_grad(), precision.on():
        for t, segment in enumerate(window[:-1]):
            torch.manual_seed(seed + t)
            buffer.append(model.advance(segment, buffer[-1]))
    with precision.on():
        for t in reversed(range(len(window))):
            memory = buffer.pop()
            memory = None if memory is None else memory.detach().requires_grad_()
            loss, following = step(model, window[t], memory, seed + t)
            with precision.off():
                if grad is None:
                    last = following.detach()
                    (loss / len(window)).backward()
                else:
                    torch.autograd.backward([loss / len(window), following], [None, grad])
            losses.append(loss.detach())
            grad = None if memory is None else memory.grad
            # Names would hold the graph's outputs through the next forward.
            del loss, following
    return torch.stack(losses[::-1]), last


METHODS = {"mrbp": mrbp, "bptt": bptt, "checkpointing": checkpointing}
