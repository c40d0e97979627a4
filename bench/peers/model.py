"""The careful PyTorch Memformer: the peer that the native core is held against, for gradients and for speed.

Fused QKV, scaled_dot_product_attention, masks only where there is padding. Parameter names and shapes are those of
docs/checkpoint.md. A model is a recurrence: forward(segment, memory) -> (loss, next memory).
"""

import math
from typing import NamedTuple, Optional

import torch
from torch import nn
from torch.nn import functional as F

from attention import BUCKETS, FeedForward, Read, SelfAttention, rotary_table, t5_buckets
from config import PADDING
from safetensors_io import read_safetensors
from writer import Writer


class Places(NamedTuple):
    """What all self-attentions of a stack share: one of rotary, offsets or a bias in the mask; built once a segment."""

    rotary: Optional[torch.Tensor]  # (2, T, E/2)
    offsets: Optional[torch.Tensor]  # (T, T) rows of the `relative` tables
    mask: Optional[torch.Tensor]  # bool, True is seen; or the t5 bias
    is_causal: bool  # the mask is the causal one alone


class Layer(nn.Module):
    """Self-attention, then a read of the memory and / or of the encoder's output, then feed-forward."""

    def __init__(self, config, reads_memory, reads_encoder):
        super().__init__()
        self.dropout = config.dropout
        self.self_attention = SelfAttention(config)
        self.memory_read = Read(config, norms_memory=True) if reads_memory else None
        self.cross_attention = Read(config, norms_memory=False) if reads_encoder else None
        self.feed_forward = FeedForward(config)

    def forward(self, x, places, memory, hidden, hidden_mask):
        drop = lambda y: F.dropout(y, self.dropout, self.training)
        x = x + drop(self.self_attention(x, places))
        if self.memory_read is not None:
            x = x + drop(self.memory_read(x, memory))
        if self.cross_attention is not None:
            x = x + drop(self.cross_attention(x, hidden, hidden_mask))
        return x + drop(self.feed_forward(x))


class Stack(nn.Module):
    """Layers `0`, `1`, … and a last norm."""

    def __init__(self, config, layers, causal, reads_memory, reads_encoder):
        super().__init__()
        self.layers, self.causal, self.position = layers, causal, config.position
        for i in range(layers):
            self.add_module(str(i), Layer(config, reads_memory, reads_encoder))
        self.norm = nn.LayerNorm(config.width)
        R = config.segmentLength
        tables = {
            "rotary": rotary_table(R, config.width // config.heads) if config.position == "rotary" else None,
            "buckets": t5_buckets(R, causal != (config.positionBuckets == "lucidrains"))
            if config.position == "t5"
            else None,
            "offsets": torch.arange(R)[:, None] - torch.arange(R) + R - 1 if config.position == "relative" else None,
            "triangle": torch.ones(R, R, dtype=torch.bool).tril() if causal else None,
            "diagonal": torch.eye(R, dtype=torch.bool) if causal else None,
        }
        for name, table in tables.items():
            self.register_buffer(name, table, persistent=False)
        if config.position == "t5":
            self.relative_bias = nn.Parameter(torch.empty(BUCKETS, config.heads))

    def places(self, T, keys):
        """`keys` (B, T) is True where a key may be seen, None for all of them."""
        mask = None if keys is None else keys[:, None, None, :]
        if self.causal and (mask is not None or self.position != "rotary"):
            triangle, diagonal = self.triangle[:T, :T], self.diagonal[:T, :T]
            # The diagonal stays, so that a padded query has a key; nobody looks at what it finds.
            mask = triangle if mask is None else (mask & triangle) | diagonal
        if self.position == "t5":
            bias = self.relative_bias[self.buckets[:T, :T]].permute(2, 0, 1)[None]  # (1, H, T, T)
            mask = bias if mask is None else bias.masked_fill(~mask, -math.inf)
        return Places(
            rotary=self.rotary[:, :T] if self.rotary is not None else None,
            offsets=self.offsets[:T, :T] if self.offsets is not None else None,
            mask=mask,
            is_causal=self.causal and mask is None,
        )

    def forward(self, x, keys, memory=None, hidden=None, hidden_mask=None):
        places = self.places(x.shape[1], keys)
        for i in range(self.layers):
            x = self.get_submodule(str(i))(x, places, memory, hidden, hidden_mask)
        return self.norm(x)


class Memformer(nn.Module):
    """Built in torch's default dtype, to which position tables are rounded once; weights by `load` or `initialize`."""

    def __init__(self, config):
        super().__init__()
        self.config = config
        self.embedding = nn.Embedding(config.vocabulary, config.width)
        has_encoder = config.architecture != "decoder"
        if has_encoder:
            self.encoder = Stack(config, config.encoderLayers, causal=False, reads_memory=True, reads_encoder=False)
        if config.architecture != "encoder":
            self.decoder = Stack(
                config, config.decoderLayers, causal=True, reads_memory=not has_encoder, reads_encoder=has_encoder
            )
        if not config.shareEmbedding:
            self.decoder.embedding = nn.Embedding(config.vocabulary, config.width)
        self.writer = Writer(config)
        if not config.tieEmbedding:
            self.output = nn.Linear(config.width, config.vocabulary, bias=config.outputBias)
        elif config.outputBias:
            self.output = nn.Module()
            self.output.bias = nn.Parameter(torch.empty(config.vocabulary))
        self.register_parameter("output_copy", None)

    def output_weight(self):
        """(V, D); a narrow copy of it where there is one."""
        if self.output_copy is not None:
            return self.output_copy
        return self.target_embedding().weight if self.config.tieEmbedding else self.output.weight

    def target_embedding(self):
        """What embeds the decoder's tokens."""
        return self.embedding if self.config.shareEmbedding else self.decoder.embedding

    def initial_memory(self, batch):
        """(B, M, D)."""
        return self.writer.initial_memory().expand(batch, -1, -1)

    def advance(self, segment, memory):
        """The critical path alone: the next memory, without the decoder and the loss."""
        return self.encode(segment, memory)[0]

    def forward(self, segment, memory):
        """-> the segment's loss (mean over scored targets), the next memory. A `memory` of None is the initial one."""
        memory, hidden, keys = self.encode(segment, memory)
        if self.config.architecture == "encoder-decoder":
            bos = torch.full_like(segment.target[:, :1], self.config.bos)
            inputs = torch.cat([bos, segment.target[:, :-1]], 1)
            mask = None if keys is None else keys[:, None, None, :]
            target_keys = visible(segment.target != PADDING) if segment.padded else None
            hidden = self.decoder(
                self.embed(inputs, self.target_embedding()), target_keys, hidden=hidden, hidden_mask=mask
            )
        logits = F.linear(hidden, self.output_weight(), self.output.bias if self.config.outputBias else None)
        total = F.cross_entropy(logits.flatten(0, 1), segment.target.flatten(), ignore_index=PADDING, reduction="sum")
        return total / (segment.target != PADDING).sum().clamp(min=1), memory

    def encode(self, segment, memory):
        """The stack that reads memory, and the writer -> next memory, last hidden states (B, T, D), visible keys."""
        memory = self.begin(segment, memory)
        is_decoder = self.config.architecture == "decoder"
        tokens = self.continuation(segment) if is_decoder else segment.source
        valid = (segment.target if is_decoder else segment.source) != PADDING if segment.padded else None
        keys = None if valid is None else visible(valid)
        hidden = (self.decoder if is_decoder else self.encoder)(self.embed(tokens, self.embedding), keys, memory=memory)
        return self.writer(memory, hidden, valid), hidden, keys

    def begin(self, segment, memory):
        initial = self.initial_memory(len(segment.source))
        if memory is None:
            return initial
        return memory if segment.reset is None else torch.where(segment.reset[:, None, None], initial, memory)

    def continuation(self, segment):
        """[last token of the source, or BOS; target shifted right]: the input of the architecture `decoder`."""
        is_token = segment.source != PADDING
        position = torch.arange(1, segment.source.shape[1] + 1, device=is_token.device)
        last = (is_token * position).amax(1, keepdim=True)  # counted from 1; 0 is none
        first = segment.source.gather(1, (last - 1).clamp(min=0)).where(last > 0, self.config.bos)
        return torch.cat([first, segment.target[:, :-1]], 1)

    def embed(self, tokens, embedding):
        return F.dropout(embedding(tokens.clamp(min=0)), self.config.dropout, self.training)

    def load(self, path):
        tensors = read_safetensors(path)
        expected = dict(self.named_parameters())
        if set(tensors) != set(expected):
            raise ValueError(
                f"{path}: missing {sorted(set(expected) - set(tensors))}, "
                f"unexpected {sorted(set(tensors) - set(expected))}"
            )
        self.load_state_dict(tensors)

    @torch.no_grad()
    def initialize(self, seed):
        """Every tensor random, biases and norms too, so that a parity run sees an error in any of them."""
        generator = torch.Generator().manual_seed(seed)
        for name, parameter in self.named_parameters():
            if name.endswith(("v_bias", "initial")):
                mean, deviation = 0.0, self.config.width**-0.5
            else:
                mean = 1.0 if name.endswith("norm.weight") else 0.0
                deviation = 0.1 if parameter.dim() == 1 else 0.05
            values = torch.randn(parameter.shape, generator=generator, dtype=torch.float64) * deviation + mean
            parameter.copy_(values)


def visible(valid):
    """Keys that may be seen: the valid ones; the first one where a row has none, lest its softmax be empty."""
    first = valid[:, :1] | ~valid.any(1, keepdim=True)
    return torch.cat([first, valid[:, 1:]], 1)
