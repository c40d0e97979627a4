"""The careful PyTorch decode that ours is held against: preallocated key/value caches, the encoder's output projected
once a segment, inference mode, greedy; segments end and begin on the way. Variant "encoder-decoder", rotary positions.

    decode.py --config config.json --batches 1,8 --tokens 512 --threads 2     one JSON row a batch
"""

import argparse
import json
import time

import torch
from torch.nn import functional as F

from attention import join_heads, rotate, split_heads
from config import Config
from model import Memformer


class Caches:
    """Of one batch: self-attention's keys and values (L, 2, B, H, T, E); the encoder's are made anew each segment."""

    def __init__(self, config, batch):
        shape = (config.decoderLayers, 2, batch, config.heads, config.segmentLength, config.width // config.heads)
        self.own = torch.zeros(shape)
        self.encoded = [None] * config.decoderLayers


def layers(model):
    return [model.decoder.get_submodule(str(i)) for i in range(model.config.decoderLayers)]


def begin(model, caches, source, memory):
    """Reads the source -> the next memory."""
    hidden = model.encoder(model.embed(source, model.embedding), None, memory=memory)
    for i, layer in enumerate(layers(model)):
        read = layer.cross_attention
        kv_projection = read.key_value(hidden).chunk(2, -1)
        caches.encoded[i] = [split_heads(part, read.heads).contiguous() for part in kv_projection]
    return model.writer(memory, hidden, None)


def step(model, caches, tokens, position):
    """tokens (B, 1) at `position` -> logits (B, V)."""
    x = model.target_embedding()(tokens)
    cos, sin = model.decoder.rotary[:, position : position + 1].unbind(0)
    for i, layer in enumerate(layers(model)):
        attention, read = layer.self_attention, layer.cross_attention
        q, k, v = (split_heads(part, attention.heads) for part in attention.qkv(attention.norm(x)).chunk(3, -1))
        own = caches.own[i]
        own[0][:, :, position] = rotate(k, cos, sin)[:, :, 0]
        own[1][:, :, position] = v[:, :, 0]
        y = F.scaled_dot_product_attention(
            rotate(q, cos, sin), own[0][:, :, : position + 1], own[1][:, :, : position + 1]
        )
        x = x + attention.out(join_heads(y))
        q = split_heads(read.query(read.norm(x)), read.heads)
        x = x + read.out(join_heads(F.scaled_dot_product_attention(q, *caches.encoded[i])))
        x = x + layer.feed_forward(x)
    bias = model.output.bias if model.config.outputBias else None
    return F.linear(model.decoder.norm(x)[:, 0], model.output_weight(), bias)


@torch.inference_mode()
def seconds(model, batch, tokens):
    """Of `tokens` greedy tokens of each row."""
    config = model.config
    T = config.segmentLength
    caches = Caches(config, batch)
    memory = model.initial_memory(batch)
    segment = torch.full((batch, T), config.bos)
    start = time.perf_counter()
    for made in range(tokens):
        position = made % T
        if position == 0:
            memory = begin(model, caches, segment, memory)
            segment = torch.empty((batch, T), dtype=torch.int64)
            token = torch.full((batch, 1), config.bos)
        token = step(model, caches, token, position).argmax(-1, keepdim=True)
        segment[:, position] = token[:, 0]
        token.tolist()  # a caller sees every token
    return time.perf_counter() - start


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--config", required=True)
    parser.add_argument("--batches", default="1")
    parser.add_argument("--tokens", type=int, default=512)
    parser.add_argument("--threads", type=int, default=2)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    model = Memformer(Config.read(args.config)).eval()
    model.initialize(0)
    for batch in map(int, args.batches.split(",")):
        seconds(model, batch, model.config.segmentLength)
        times = sorted(seconds(model, batch, args.tokens) for _ in range(3))
        print(json.dumps({"batch": batch, "seconds": times[1], "torch": torch.__version__}), flush=True)


if __name__ == "__main__":
    main()
