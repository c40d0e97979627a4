"""The memory writers: once a segment, memory (B, M, D) and encoder output x (B, T, D) -> the next memory (B, M, D).

Slot i attends to itself and to the tokens, never to another slot:
  logits_i = [q_i . k_i, q_i . K_x] / sqrt(E) / tau ;  m'_i = a_i0 * own_i + sum_j a_ij V_xj
`slot-attention` (the paper): own_i is the raw slot. `gru`: own_i is projected; a GRU cell and a feed-forward follow.
Forgetting: `bmn` (m' + v) / ||m' + v||, `normalize-only` m' / ||m'||, `none`.
"""

import math

import torch
from torch import nn
from torch.nn import functional as F

from attention import FeedForward, join_heads, split_heads

EPSILON = 1e-6


def on_sphere(memory):
    """memory / max(||memory||, eps) over D."""
    return F.normalize(memory, dim=-1, eps=EPSILON)


class Writer(nn.Module):
    def __init__(self, config):
        super().__init__()
        D, M = config.width, config.memorySlots
        self.heads, self.steps = config.writerHeads or config.heads, config.writerSteps
        self.forgetting, self.is_gru = config.forgetting, config.writer == "gru"
        self.scale = 1 / math.sqrt(D // self.heads) / config.writerTemperature
        self.norm = nn.LayerNorm(D) if config.memoryNorm else nn.Identity()
        self.query, self.key, self.value = (nn.Linear(D, D, bias=config.writerBias) for _ in range(3))
        if config.forgetting == "bmn":
            self.v_bias = nn.Parameter(torch.empty(M, D))
        else:
            self.initial = nn.Parameter(torch.empty(M, D))
        if self.is_gru:
            self.out = nn.Linear(D, D)
            self.gru = nn.GRUCell(D, D)
            self.feed_forward = FeedForward(config)

    def initial_memory(self):
        """(M, D), differentiable."""
        if self.forgetting == "bmn":
            return on_sphere(self.v_bias)
        return on_sphere(self.initial) if self.forgetting == "normalize-only" else self.initial

    def forward(self, memory, x, valid):
        """`valid` (B, T) is True where x is a token, None without padding; a row without tokens keeps its memory."""
        written = memory
        for _ in range(self.steps):
            attended = self.attend(written, x, valid)
            if self.is_gru:
                attended = self.out(attended)
                attended = self.gru(attended.flatten(0, 1), written.to(attended.dtype).flatten(0, 1)).view_as(memory)
                attended = attended + self.feed_forward(attended, drop=False)
            # The state stays in the parameters' dtype, also under autocast.
            written = self.forget(attended.to(memory.dtype))
        return written if valid is None else torch.where(valid.any(1)[:, None, None], written, memory)

    def attend(self, memory, x, valid):
        u = self.norm(memory)
        q = split_heads(self.query(u), self.heads) * self.scale  # (B, H, M, E)
        k_self, k_x, v_x = (split_heads(y, self.heads) for y in (self.key(u), self.key(x), self.value(x)))
        own = split_heads(self.value(u) if self.is_gru else memory, self.heads)
        self_logit = (q * k_self).sum(-1, keepdim=True)  # (B, H, M, 1)
        token_logits = q @ k_x.mT  # (B, H, M, T)
        if valid is not None:
            token_logits = token_logits.masked_fill(~valid[:, None, None, :], -math.inf)
        a = torch.cat([self_logit.to(token_logits.dtype), token_logits], -1).softmax(-1)
        return join_heads(a[..., :1] * own + a[..., 1:].to(v_x.dtype) @ v_x)

    def forget(self, memory):
        if self.forgetting == "bmn":
            return on_sphere(memory + self.v_bias)
        return on_sphere(memory) if self.forgetting == "normalize-only" else memory
