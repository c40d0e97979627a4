"""The careful PyTorch decode that ours is held against: preallocated key/value caches, the encoder's output projected
once a segment, inference mode, greedy; segments end and begin on the way. Architecture "encoder-decoder", rotary
positions. On a GPU in bfloat16, each step one recorded CUDA graph ("eager": none).

    decode.py --config config.json --batches 1,8 --tokens 512 --threads 2     one JSON row a batch
    decode.py … --device cuda [--eager]
    decode.py … --device cuda --full-cache 20,16384     a decoder of so many layers of the same width that keeps the keys
                                                        and values of so many tokens: seconds and bytes of its cache
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

    def __init__(self, config, batch, like):
        shape = (config.decoderLayers, 2, batch, config.heads, config.segmentLength, config.width // config.heads)
        self.own, self.encoded = like.new_zeros(shape), like.new_zeros(shape)
        self.places = torch.arange(config.segmentLength, device=like.device)


def layers(model):
    return [model.decoder.get_submodule(str(i)) for i in range(model.config.decoderLayers)]


def begin(model, caches, source, memory):
    """Reads the source -> the next memory."""
    hidden = model.encoder(model.embed(source, model.embedding), None, memory=memory)
    for i, layer in enumerate(layers(model)):
        read = layer.cross_attention
        kv_projection = read.key_value(hidden).chunk(2, -1)
        for cache, part in zip(caches.encoded[i], kv_projection):
            cache.copy_(split_heads(part, read.heads))
    return model.writer(memory, hidden, None)


def step(model, caches, tokens, position):
    """tokens (B, 1) at `position`, a number, or (1) on the device -> logits (B, V)."""
    x = model.target_embedding()(tokens)
    recorded = isinstance(position, torch.Tensor)
    if recorded:
        cos, sin = model.decoder.rotary.index_select(1, position).unbind(0)
        seen = (caches.places <= position)[None, None, None]
    else:
        cos, sin = model.decoder.rotary[:, position : position + 1].unbind(0)
    for i, layer in enumerate(layers(model)):
        attention, read = layer.self_attention, layer.cross_attention
        q, k, v = (split_heads(part, attention.heads) for part in attention.qkv(attention.norm(x)).chunk(3, -1))
        own = caches.own[i]
        if recorded:
            own[0].index_copy_(2, position, rotate(k, cos, sin))
            own[1].index_copy_(2, position, v)
            y = F.scaled_dot_product_attention(rotate(q, cos, sin), own[0], own[1], attn_mask=seen)
        else:
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


class Stepper:
    """tokens (B, 1) and a position -> the next tokens (B, 1); on a GPU by replaying one graph."""

    def __init__(self, run, tokens, graphed):
        self.run, self.graph = run, None
        if not graphed:
            return
        self.tokens, self.position = tokens.clone(), torch.zeros(1, dtype=torch.int64, device=tokens.device)
        stream = torch.cuda.Stream()
        stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(stream):
            for _ in range(3):
                self.run(self.tokens, self.position)
        torch.cuda.current_stream().wait_stream(stream)
        self.graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(self.graph):
            self.next = self.run(self.tokens, self.position)

    def __call__(self, tokens, position):
        if self.graph is None:
            return self.run(tokens, position)
        self.tokens.copy_(tokens)
        self.position.fill_(position)
        self.graph.replay()
        return self.next


@torch.inference_mode()
def seconds(model, batch, tokens, eager):
    """Of `tokens` greedy tokens of each row."""
    config = model.config
    T = config.segmentLength
    weight = model.embedding.weight
    caches = Caches(config, batch, weight)
    memory = model.initial_memory(batch)
    segment = torch.full((batch, T), config.bos, device=weight.device)
    first = torch.full((batch, 1), config.bos, device=weight.device)
    graphed = weight.is_cuda and not eager
    stepper = Stepper(lambda x, p: step(model, caches, x, p).argmax(-1, keepdim=True), first, graphed)
    if weight.is_cuda:
        torch.cuda.synchronize()
    start = time.perf_counter()
    for made in range(tokens):
        position = made % T
        if position == 0:
            memory = begin(model, caches, segment, memory)
            segment = torch.empty((batch, T), dtype=torch.int64, device=weight.device)
            token = first
        token = stepper(token, position)
        segment[:, position] = token[:, 0]
        token.tolist()  # a caller sees every token
    return time.perf_counter() - start


@torch.inference_mode()
def full_cache(config, batch, tokens, layers, history, device):
    """Seconds and bytes of a decoder that keeps all keys and values, in the middle of `history` tokens and more."""
    D, H, F_ = config.width, config.heads, config.feedForward
    dtype = torch.bfloat16
    E, N = D // H, history + tokens
    made = lambda *shape: torch.randn(*shape, device=device, dtype=dtype) / shape[-1] ** 0.5
    weights = [(made(3 * D, D), made(D, D), made(F_, D), made(D, F_)) for _ in range(layers)]
    embedding, norm = made(config.vocabulary, D), torch.ones(D, device=device, dtype=dtype)
    cache = torch.zeros(layers, 2, batch, H, N, E, device=device, dtype=dtype)
    places = torch.arange(N, device=device)

    def run(token, position):
        x = embedding[token]
        mask = torch.where(places <= position, 0.0, -float("inf")).to(dtype)[None, None, None]
        for (qkv, out, up, down), (keys, values) in zip(weights, cache):
            q, k, v = (split_heads(part, H) for part in F.linear(F.layer_norm(x, (D,), norm), qkv).chunk(3, -1))
            keys.index_copy_(2, position, k)
            values.index_copy_(2, position, v)
            scores = torch.matmul(q, keys.transpose(2, 3)) / E**0.5 + mask
            x = x + F.linear(join_heads(torch.matmul(scores.softmax(-1), values)), out)
            x = x + F.linear(F.gelu(F.linear(F.layer_norm(x, (D,), norm), up)), down)
        return F.linear(F.layer_norm(x, (D,), norm)[:, 0], embedding).argmax(-1, keepdim=True)

    token = torch.zeros((batch, 1), dtype=torch.int64, device=device)
    stepper = Stepper(run, token, graphed=True)
    torch.cuda.synchronize()
    start = time.perf_counter()
    for position in range(history, N):
        token = stepper(token, position)
        token.tolist()
    return time.perf_counter() - start, cache.numel() * cache.element_size() * history // N


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--config", required=True)
    parser.add_argument("--batches", default="1")
    parser.add_argument("--tokens", type=int, default=512)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--eager", action="store_true")
    parser.add_argument("--full-cache", default="")
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    config = Config.read(args.config)
    batches = [int(batch) for batch in args.batches.split(",")]
    if args.full_cache:
        layers, history = map(int, args.full_cache.split(","))
        for batch in batches:
            took, size = full_cache(config, batch, args.tokens, layers, history, args.device)
            row = {"batch": batch, "seconds": took, "bytes": size, "torch": torch.__version__}
            print(json.dumps(row), flush=True)
        return
    model = Memformer(config).eval()
    model.initialize(0)
    if args.device != "cpu":
        model.to(args.device, torch.bfloat16)
    for batch in batches:
        seconds(model, batch, model.config.segmentLength, args.eager)
        times = sorted(seconds(model, batch, args.tokens, args.eager) for _ in range(3))
        print(json.dumps({"batch": batch, "seconds": times[1], "torch": torch.__version__}), flush=True)


if __name__ == "__main__":
    main()
