"""What docs/checkpoint.md claims, extracted from it: the table of tensors and the reading in PyTorch."""

import pathlib
import re

PAGE = pathlib.Path(__file__).resolve().parents[2] / "docs" / "checkpoint.md"


def namespace():
    """What the page's ```python block defines."""
    (code,) = re.findall(r"^```python\n(.*?)^```$", PAGE.read_text(encoding="utf-8"), re.DOTALL | re.MULTILINE)
    names = {}
    exec(compile(code, str(PAGE), "exec"), names)
    return names


def table(config):
    """name -> shape of every tensor the page lists for a configuration."""
    sizes = {
        "V": config.vocabulary,
        "D": config.width,
        "F": config.feedForward,
        "H": config.heads,
        "M": config.memorySlots,
        "2D": 2 * config.width,
        "3D": 3 * config.width,
        "2R-1": 2 * config.segmentLength - 1,
        "32": 32,
    }
    listed, column = {}, {"encoder-decoder": 2, "encoder": 3, "decoder": 4}[config.architecture]
    for line in PAGE.read_text(encoding="utf-8").splitlines():
        cells = [cell.strip() for cell in line.split("|")[1:-1]]
        if len(cells) != 6 or not cells[0].startswith("`") or cells[column] != "yes" or not holds(cells[5], config):
            continue
        name = cells[0].strip("`")
        shape = tuple(sizes[size.strip()] for size in cells[1].strip("()").split(","))
        layers = config.encoderLayers if name.startswith("encoder.") else config.decoderLayers
        for i in range(layers) if "<i>" in name else (0,):
            listed[name.replace("<i>", str(i))] = shape
    return listed


def holds(condition, config):
    if condition == "":
        return True
    if " > " in condition:
        key, least = condition.split(" > ")
        return getattr(config, key, 0) > int(least)
    key, values = condition.split(" = ")
    return str(getattr(config, key, config.PLAIN.get(key))).lower() in values.split(" or ")


def disagreements(config, found):
    """Sentences about tensors that the page and `found` (name -> shape) do not share."""
    listed = table(config)
    return [
        f"{name}: listed {listed.get(name)}, found {found.get(name)}"
        for name in sorted(listed.keys() | found.keys())
        if listed.get(name) != found.get(name)
    ]
