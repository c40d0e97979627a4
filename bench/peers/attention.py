"""The sub-layers of the stacks: self-attention with three position schemes, reading another sequence, feed-forward.

All pre-LayerNorm; each returns what is added to the residual stream. Letters: B batch, T tokens of a segment,
M memory slots, D width, H heads, E = D/H, F feed-forward width, R longest segment.
"""

import math

import torch
from torch import nn
from torch.nn import functional as F

BUCKETS, MAX_DISTANCE = 32, 128


def split_heads(x, heads):
    """(B, N, D) -> (B, H, N, E), a view."""
    return x.unflatten(-1, (heads, -1)).transpose(1, 2)


def join_heads(x):
    """(B, H, N, E) -> (B, N, D)."""
    return x.transpose(1, 2).flatten(2)


def rotary_table(longest, size):
    """cos and sin, stacked (2, R, E/2), of position * 10000^(-2i/E); angles in fp64 whatever the model's dtype."""
    frequency = 10000.0 ** (-2.0 * torch.arange(size // 2, dtype=torch.float64) / size)
    angle = torch.arange(longest, dtype=torch.float64)[:, None] * frequency
    return torch.stack([angle.cos(), angle.sin()]).to(torch.get_default_dtype())


def rotate(x, cos, sin):
    """Pairs (first half, second half) of the last dimension, each turned by its position's angle."""
    x1, x2 = x.chunk(2, -1)
    return torch.cat([x1 * cos - x2 * sin, x2 * cos + x1 * sin], -1)


def t5_buckets(longest, causal):
    """(R, R) bucket of query i, key j, as T5: half of the buckets exact, the rest logarithmic up to MAX_DISTANCE."""
    distance = torch.arange(longest)[:, None] - torch.arange(longest)[None, :]
    buckets = BUCKETS if causal else BUCKETS // 2
    exact = buckets // 2
    side = torch.zeros_like(distance) if causal else (distance < 0) * buckets
    near = distance.clamp(min=0) if causal else distance.abs()
    ratio = (near.clamp(min=exact).double() / exact).log() / math.log(MAX_DISTANCE / exact)
    far = (exact + (ratio * (buckets - exact)).long()).clamp(max=buckets - 1)
    return side + torch.where(near < exact, near, far)


class SelfAttention(nn.Module):
    def __init__(self, config):
        super().__init__()
        self.heads = config.heads
        self.norm = nn.LayerNorm(config.width)
        self.qkv = nn.Linear(config.width, 3 * config.width)
        self.out = nn.Linear(config.width, config.width)
        if config.position == "relative":
            self.relative = nn.Parameter(torch.empty(2 * config.segmentLength - 1, config.width))

    def forward(self, x, places):
        q, k, v = (split_heads(part, self.heads) for part in self.qkv(self.norm(x)).chunk(3, -1))
        if places.rotary is not None:
            cos, sin = places.rotary.to(q.dtype).unbind(0)
            q, k = rotate(q, cos, sin), rotate(k, cos, sin)
        if places.offsets is not None:
            y = self.attend_relative(q, k, v, places)
        else:
            y = F.scaled_dot_product_attention(q, k, v, attn_mask=places.mask, is_causal=places.is_causal)
        return self.out(join_heads(y))

    def attend_relative(self, q, k, v, places):
        """score_ij = q_i (k_j + r_{i-j}) / sqrt(E); y_i = sum_j a_ij (v_j + r_{i-j}). The r of a head is (2R-1, E)."""
        r = self.relative.unflatten(-1, (self.heads, -1)).transpose(0, 1)
        offsets = places.offsets.expand(*q.shape[:2], -1, -1)
        q = q * q.shape[-1] ** -0.5
        r = r.to(q.dtype)
        by_offset = q @ r.mT  # (B, H, T, 2R-1)
        scores = q @ k.mT + by_offset.gather(-1, offsets)
        if places.mask is not None:
            scores = scores.masked_fill(~places.mask, -math.inf)
        a = scores.softmax(-1)
        a_by_offset = torch.zeros_like(by_offset, dtype=a.dtype).scatter_add(-1, offsets, a)
        return a.to(v.dtype) @ v + a_by_offset.to(v.dtype) @ r


class Read(nn.Module):
    """Attention over another sequence, without positions; `memory_read` norms it first if memoryNorm, `cross_attention` does not."""

    def __init__(self, config, norms_memory):
        super().__init__()
        self.heads = config.heads
        self.norm = nn.LayerNorm(config.width)
        self.memory_norm = nn.LayerNorm(config.width) if norms_memory and config.memoryNorm else nn.Identity()
        self.query = nn.Linear(config.width, config.width)
        self.key_value = nn.Linear(config.width, 2 * config.width)
        self.out = nn.Linear(config.width, config.width)

    def forward(self, x, memory, mask=None):
        q = split_heads(self.query(self.norm(x)), self.heads)
        k, v = (split_heads(part, self.heads) for part in self.key_value(self.memory_norm(memory)).chunk(2, -1))
        return self.out(join_heads(F.scaled_dot_product_attention(q, k, v, attn_mask=mask)))


class FeedForward(nn.Module):
    def __init__(self, config):
        super().__init__()
        self.dropout = config.dropout
        self.norm = nn.LayerNorm(config.width)
        self.up = nn.Linear(config.width, config.feedForward)
        self.down = nn.Linear(config.feedForward, config.width)

    def forward(self, x, drop=True):
        return self.down(F.dropout(F.gelu(self.up(self.norm(x))), self.dropout if drop else 0.0, self.training))
