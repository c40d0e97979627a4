"""lucidrains' Memformer (the PyTorch package `memformer` 0.3.1) as plain functions over its state dict, written from reading it.

`w` maps the package's own names to tensors; sizes and heads are taken from their shapes, the writer's heads and steps are
given. Letters as in docs/checkpoint.md. `python test/support/lucidrains.py` is what test/import.lucidrains.spec.ts calls.
"""

import json
import math
import sys
from collections import OrderedDict

import torch
from torch.nn.functional import cross_entropy, embedding, gelu, layer_norm, linear

BUCKETS, FARTHEST = 32, 128


def names_and_shapes(V, D, H, M, encoder_layers, decoder_layers, F=None):
    """Every tensor of the package's state dict, in its order; without decoder layers that of an `encoder_only` model."""
    F = F or 4 * D
    found = OrderedDict(memory_slots=(M, D))

    def affine(name, out, size):
        found.update({f"{name}.weight": (out, size), f"{name}.bias": (out,)})

    def norm(name):
        found.update({f"{name}.weight": (D,), f"{name}.bias": (D,)})

    def attention(name):
        affine(f"{name}.to_q", D, D)
        affine(f"{name}.to_kv", 2 * D, D)
        affine(f"{name}.to_out", D, D)

    def feed_forward(name):
        affine(f"{name}.net.0", F, D)
        affine(f"{name}.net.2", D, F)

    for stack, layers in (("encoder", encoder_layers), ("decoder.net", decoder_layers)):
        if layers == 0:
            continue
        found[f"{stack}.token_emb.weight"] = (V, D)
        found[f"{stack}.layer_blocks.rel_pos_emb.relative_attention_bias.weight"] = (BUCKETS, H)
        for i in range(layers):
            for j, part in enumerate((attention, attention, feed_forward)):
                part(f"{stack}.layer_blocks.layers.{i}.{j}.fn.fn")
                norm(f"{stack}.layer_blocks.layers.{i}.{j}.fn.norm")
        norm(f"{stack}.norm")
        if stack != "encoder":
            affine(f"{stack}.to_logits", V, D)
    attention("mem_updater")
    found.update(
        {"gru.weight_ih": (3 * D, D), "gru.weight_hh": (3 * D, D), "gru.bias_ih": (3 * D,), "gru.bias_hh": (3 * D,)}
    )
    feed_forward("mem_ff.fn.fn")
    norm("mem_ff.fn.norm")
    return found


def random_weights(seed, dtype=torch.float64, spread=0.3, **sizes):
    """Every tensor away from where a model starts, biases and norms too, so that a mistake in any of them shows.

    A spread of 0.3 is twice what PyTorch gives matrices of width 16: the memory grows, and rounding with it."""
    generator, w = torch.Generator().manual_seed(seed), OrderedDict()
    for name, shape in names_and_shapes(**sizes).items():
        deviation = 1.0 if name == "memory_slots" or "token_emb" in name else spread
        gain = 1.0 if name.endswith("norm.weight") else 0.0
        w[name] = (torch.randn(shape, generator=generator, dtype=torch.float64) * deviation + gain).to(dtype)
    return w


def bucket(i, j, halved):
    """The package's bucket of query i, key j. halved: half of the buckets are for keys ahead. Its logarithm is in float32."""
    buckets = BUCKETS // 2 if halved else BUCKETS
    distance = (i - j).abs() if halved else (i - j).clamp(min=0)
    exact = buckets // 2
    share = torch.log(distance.float() / exact) / math.log(FARTHEST / exact) * (buckets - exact)
    far = (exact + share.long()).clamp(max=buckets - 1)
    return torch.where(distance < exact, distance, far) + (buckets * (j > i) if halved else 0)


def attend(w, name, heads, x, context, bias=None, seen=None):
    """x (B, N, D) looks at context (B, K, D); seen (B or 1, 1, N or 1, K) bool. A query that sees nothing sees everything."""
    split = lambda y: y.unflatten(-1, (heads, -1)).transpose(1, 2)
    project = lambda y, part: linear(y, w[f"{name}.{part}.weight"], w[f"{name}.{part}.bias"])
    q = split(project(x, "to_q"))
    k, v = (split(part) for part in project(context, "to_kv").chunk(2, -1))
    scores = q @ k.mT * q.shape[-1] ** -0.5
    if bias is not None:
        scores = scores + bias
    if seen is not None:
        scores = scores.masked_fill(~seen, -torch.finfo(scores.dtype).max)
    return project((scores.softmax(-1) @ v).transpose(1, 2).flatten(2), "to_out")


def normed(w, name, x):
    return layer_norm(x, x.shape[-1:], w[f"{name}.weight"], w[f"{name}.bias"])


def feed_forward(w, name, x):
    inner = gelu(linear(normed(w, f"{name}.norm", x), w[f"{name}.fn.net.0.weight"], w[f"{name}.fn.net.0.bias"]))
    return linear(inner, w[f"{name}.fn.net.2.weight"], w[f"{name}.fn.net.2.bias"])


def stack(w, prefix, tokens, mask, context, context_seen):
    """A stack of layers over tokens (B, T), mask (B, T) bool, reading context (B, K, D) -> (B, T, D), normed.

    The decoder is causal, and of the two ways to share out buckets each stack has the other's."""
    causal, table = prefix.startswith("decoder"), w[f"{prefix}.layer_blocks.rel_pos_emb.relative_attention_bias.weight"]
    T, heads = tokens.shape[1], table.shape[1]
    i, j = torch.arange(T)[:, None], torch.arange(T)
    bias = table[bucket(i, j, halved=causal)].permute(2, 0, 1)
    seen = mask[:, None, :, None] & mask[:, None, None, :] & ((j <= i) if causal else torch.tensor(True))
    x = embedding(tokens.clamp(min=0), w[f"{prefix}.token_emb.weight"])
    layers = {
        name.split(".layers.")[1].split(".")[0] for name in w if name.startswith(f"{prefix}.layer_blocks.layers.")
    }
    for layer in (f"{prefix}.layer_blocks.layers.{n}" for n in range(len(layers))):
        own = normed(w, f"{layer}.0.fn.norm", x)
        x = x + attend(w, f"{layer}.0.fn.fn", heads, own, own, bias, seen)
        x = x + attend(w, f"{layer}.1.fn.fn", heads, normed(w, f"{layer}.1.fn.norm", x), context, seen=context_seen)
        x = x + feed_forward(w, f"{layer}.2.fn", x)
    return normed(w, f"{prefix}.norm", x)


def write(w, memory, x, mask, heads, steps):
    """Slot i looks at itself and at the tokens; a GRU cell and a feed-forward follow."""
    M = memory.shape[1]
    own = torch.eye(M, dtype=torch.bool).expand(len(x), -1, -1)
    seen = torch.cat([own, mask[:, None, :].expand(-1, M, -1)], -1)[:, None]
    for _ in range(steps):
        read = attend(w, "mem_updater", heads, memory, torch.cat([memory, x], 1), seen=seen)
        cell = (w[f"gru.{part}"] for part in ("weight_ih", "weight_hh", "bias_ih", "bias_hh"))
        memory = torch.gru_cell(read.flatten(0, 1), memory.flatten(0, 1), *cell).view_as(memory)
        memory = memory + feed_forward(w, "mem_ff.fn", memory)
    return memory


def segment(w, source, inputs, memory, heads, steps):
    """One segment: (hidden states or, with `inputs` for the decoder, logits; next memory). -1 is padding; a memory of None the first."""
    mask = source >= 0
    memory = w["memory_slots"].expand(len(source), -1, -1) if memory is None else memory
    encoded = stack(w, "encoder", source, mask, memory, None)
    after = write(w, memory, encoded, mask, heads, steps)
    if inputs is None:
        return encoded, after
    target_mask = inputs >= 0
    seen = target_mask[:, None, :, None] & mask[:, None, None, :]
    hidden = stack(w, "decoder.net", inputs, target_mask, encoded, seen)
    return linear(hidden, w["decoder.net.to_logits.weight"], w["decoder.net.to_logits.bias"]), after


def window(w, source, target, bos, heads, steps, weights):
    """Consecutive segments (S, B, T) by back-propagation through all of them: what is compared, by name.

    Targets begin with `bos`; the loss is the weighted sum of the segments' means over targets that are no padding.
    Of a model without decoder the loss is half the mean square of the hidden states, weighted likewise."""
    w = OrderedDict((name, value.detach().clone().requires_grad_()) for name, value in w.items())
    memory, losses, outputs = None, [], []
    for s, t in zip(source, target):
        inputs = torch.cat([torch.full_like(t[:, :1], bos), t[:, :-1]], 1) if "decoder.net.norm.weight" in w else None
        output, memory = segment(w, s, inputs, memory, heads, steps)
        scored = (
            cross_entropy(output.flatten(0, 1), t.flatten(), ignore_index=-1)
            if inputs is not None
            else output.square().mean() / 2
        )
        losses.append(scored)
        outputs.append(output)
    sum(weight * loss for weight, loss in zip(weights, losses)).backward()
    found = {"losses": torch.stack(losses), "outputs": torch.stack(outputs), "memory": memory}
    found.update(
        {f"grad.{name}": torch.zeros_like(value) if value.grad is None else value.grad for name, value in w.items()}
    )
    return {name: value.detach() for name, value in found.items()}


def random_window(seed, S, B, T, V, padded):
    """source, target (S, B, T) of random tokens, each target the next source; padded: sources that end early and that begin late,
    targets that end early."""
    generator = torch.Generator().manual_seed(seed)
    tokens = torch.randint(V, (S + 1, B, T), generator=generator)
    source, target = tokens[:-1].clone(), tokens[1:].clone()
    if padded:
        source[::2, 0, T - 2 :] = -1
        source[1::2, 1, :2] = -1
        target[::2, 1, T - 2 :] = -1
    return source, target


def main():
    """Reads a list of cases from the standard input; writes for each `checkpoint.pt`, `window.safetensors`, `expected.safetensors` and
    `exact.safetensors`, what the same weights give in float64."""
    sys.path.insert(0, sys.argv[1])
    from safetensors_io import write_safetensors

    torch.set_num_threads(1)
    for case in json.load(sys.stdin):
        w = random_weights(case["seed"], getattr(torch, case["dtype"]), case["spread"], **case["sizes"])
        source, target = random_window(case["seed"] + 1, **case["window"], V=case["sizes"]["V"])
        torch.save(w, f"{case['folder']}/checkpoint.pt")
        write_safetensors(f"{case['folder']}/window.safetensors", {"source": source.int(), "target": target.int()})
        exact = {name: value.double() for name, value in w.items()}
        for name, weights in (("expected", w), ("exact", exact)):
            write_safetensors(f"{case['folder']}/{name}.safetensors", window(weights, source, target, **case["how"]))


if __name__ == "__main__":
    main()
