#!/usr/bin/env python3
"""Two token files of a byte-level BPE trained on the first: what `npm run bench -- worth` reads on a GPU.

    python3 bench/worth-data.py TRAIN.txt[.xz] VALID.txt[.xz] OUT [--vocabulary 16000]

A document ends with a line that holds a form feed. Writes OUT/train.tokens, OUT/valid.tokens (docs/data.md, "Token files") and
OUT/tokenizer.json. Needs `tokenizers`; the same text gives the same files.
"""

import argparse
import array
import json
import lzma
import pathlib
import struct
import sys

from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

START = "<s>"
HEADER_BYTES = 4096
DOCUMENTS_AT_ONCE = 256


def documents_of(path: pathlib.Path) -> list[str]:
    """The documents of a text, each with its last line's end and without the form feed."""
    with (lzma.open if path.suffix == ".xz" else open)(path, "rt", encoding="utf-8", newline="") as file:
        text = file.read()
    documents = [part.removeprefix("\n") for part in text.split("\f")]
    return [document for document in documents if document.strip()]


def trained(documents: list[str], vocabulary: int) -> Tokenizer:
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocabulary,
        special_tokens=[START],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(documents, trainer)
    return tokenizer


def write_tokens(path: pathlib.Path, documents: list[str], tokenizer: Tokenizer) -> dict:
    vocabulary = tokenizer.get_vocab_size()
    ids, ends, size = array.array("H" if vocabulary <= 1 << 16 else "I"), array.array("Q"), 0
    for first in range(0, len(documents), DOCUMENTS_AT_ONCE):
        some = documents[first : first + DOCUMENTS_AT_ONCE]
        for document, encoding in zip(some, tokenizer.encode_batch(some, add_special_tokens=False)):
            ids.extend(encoding.ids)
            size += len(document.encode())
            ends.extend((len(ids), size))
    facts = {
        "version": 1,
        "tokenizer": f"json:{path.parent.name}",
        "vocabulary": vocabulary,
        "bos": tokenizer.token_to_id(START),
        "dtype": "uint16" if ids.itemsize == 2 else "uint32",
        "documents": len(documents),
        "tokens": len(ids),
        "bytes": size,
    }
    header = json.dumps(facts).encode()
    with open(path, "wb") as file:
        file.write((b"MFTOKENS" + struct.pack("<I", len(header)) + header).ljust(HEADER_BYTES, b"\0"))
        file.write(ids.tobytes())
        file.write(ends.tobytes())
    return facts


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("train", type=pathlib.Path)
    parser.add_argument("valid", type=pathlib.Path)
    parser.add_argument("out", type=pathlib.Path)
    parser.add_argument("--vocabulary", type=int, default=16_000)
    given = parser.parse_args()
    if sys.byteorder != "little":
        sys.exit("token files are little-endian, and so must be the machine that writes them here")
    given.out.mkdir(parents=True, exist_ok=True)
    train = documents_of(given.train)
    tokenizer = trained(train, given.vocabulary)
    tokenizer.save(str(given.out / "tokenizer.json"))
    for name, documents in (("train", train), ("valid", documents_of(given.valid))):
        facts = write_tokens(given.out / f"{name}.tokens", documents, tokenizer)
        print(
            f"{given.out / name}.tokens: {facts['documents']} documents, {facts['tokens']} tokens, {facts['bytes']} bytes",
            flush=True,
        )


if __name__ == "__main__":
    main()
