"""Writes test/fixtures/lucidrains.{pt,json} and views.{pt,json}; run by hand, with PyTorch: python test/support/make-lucidrains-fixture.py

lucidrains.pt is a training checkpoint of a tiny model, all tensors of which lie in one storage; lucidrains.json what the model
computes of a window: losses, outputs, last memory, and of each gradient three numbers (norm, sum, sum of g_i cos i).
views.pt holds tensors of every dtype and layout; views.json their numbers.
"""

import json
import pathlib

import torch

import lucidrains

FIXTURES = pathlib.Path(__file__).resolve().parents[1] / "fixtures"
HOW = dict(bos=0, heads=4, steps=2, weights=[0.1, 0.2, 0.3, 0.4])


def in_one_storage(w):
    """The same tensors as views of one flat one."""
    flat = torch.cat([value.flatten() for value in w.values()])
    parts = flat.split([value.numel() for value in w.values()])
    return {f"module.{name}": part.view(value.shape) for (name, value), part in zip(w.items(), parts)}


def summary(gradient):
    g = gradient.double().flatten()
    return [g.norm().item(), g.sum().item(), (g * torch.arange(len(g)).double().cos()).sum().item()]


def model():
    w = lucidrains.random_weights(7, torch.float32, 0.15, V=11, D=8, H=2, M=3, encoder_layers=1, decoder_layers=1)
    source, target = lucidrains.random_window(8, S=4, B=2, T=5, V=11, padded=True)
    torch.save(
        {
            "model": in_one_storage(w),
            "epoch": 3,
            "rate": 1e-4,
            "best": None,
            "args": {"amp": False, "betas": (0.9, 0.99)},
        },
        FIXTURES / "lucidrains.pt",
    )
    found = lucidrains.window({name: value.double() for name, value in w.items()}, source, target, **HOW)
    gradients = {name[5:]: summary(value) for name, value in found.items() if name.startswith("grad.")}
    return {
        "how": HOW,
        "source": source.tolist(),
        "target": target.tolist(),
        **{part: found[part].tolist() for part in ("losses", "outputs", "memory")},
        "gradients": gradients,
    }


def views():
    base = torch.arange(24, dtype=torch.float32).view(2, 3, 4) / 8 - 1
    tensors = {
        "contiguous": base,
        "transposed": base.transpose(0, 2),
        "sliced": base[:, ::2, 1:3],
        "row": base[1, 2],
        "scalar": base[1, 1, 1],
        "expanded": base[0, :1].expand(3, 4),
        "empty": base[:0],
        "parameter": torch.nn.Parameter(base[0].t()),
        "float64": base[0].double() / 3,
        "int64": torch.tensor([-(2**40), 0, 7]),
        "int32": torch.tensor([-5, 2**31 - 1], dtype=torch.int32),
        "uint8": torch.tensor([0, 255], dtype=torch.uint8),
        "bool": torch.tensor([True, False]),
    }
    halves = torch.tensor(
        [
            0.0,
            -0.0,
            1.0,
            -2.5,
            65504.0,
            6.104e-5,
            5.96e-8,
            1.5e-6,
            -3.0e-7,
            0.1,
            float("inf"),
            -float("inf"),
            float("nan"),
        ]
    )
    tensors.update(float16=halves.half(), bfloat16=halves.bfloat16())
    torch.save(tensors, FIXTURES / "views.pt")
    spelled = lambda x: str(x) if isinstance(x, float) and not abs(x) < float("inf") else x
    return {
        name: {
            "dtype": str(value.dtype)[6:],
            "shape": list(value.shape),
            "data": [spelled(x) for x in value.flatten().tolist()],
        }
        for name, value in tensors.items()
    }


def main():
    torch.set_num_threads(1)
    FIXTURES.mkdir(exist_ok=True)
    for name, content in (("lucidrains", model()), ("views", views())):
        (FIXTURES / f"{name}.json").write_text(json.dumps(content) + "\n")


if __name__ == "__main__":
    main()
