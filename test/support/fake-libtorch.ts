/** Tiny stand-ins for what `memformer setup` meets: a LibTorch folder, a wheel, a server of files, a python3. */
import { createHash } from "node:crypto";
import { chmodSync, mkdirSync, mkdtempSync, writeFileSync } from "node:fs";
import { createServer, type IncomingMessage, type Server, type ServerResponse } from "node:http";
import type { AddressInfo } from "node:net";
import { tmpdir } from "node:os";
import { dirname, join } from "node:path";
import { crc32 } from "node:zlib";
import type { PinnedFile, Pins } from "../../lib/toolchain/libtorch/pin.ts";

export function scratchFolder(): string {
  return mkdtempSync(join(tmpdir(), "memformer-test-"));
}

/** The files of a LibTorch below its root. */
export function libtorchFiles(version = "2.13.0", variant: "cpu" | "cuda" = "cpu"): Record<string, string> {
  return {
    "lib/libtorch_cpu.so": "machine code ".repeat(5000),
    "lib/libc10.so": "more machine code",
    ...(variant === "cuda" ? { "lib/libtorch_cuda.so": "kernels" } : {}),
    "include/torch/all.h": "#pragma once\n",
    "share/cmake/Torch/TorchConfig.cmake": "# cmake\n",
    "version.py": `from typing import Optional\n__version__ = '${version}+${variant === "cpu" ? "cpu" : "cu130"}'\n`,
  };
}

export function writeFiles(folder: string, files: Record<string, string>): string {
  for (const [path, content] of Object.entries(files)) {
    mkdirSync(dirname(join(folder, path)), { recursive: true });
    writeFileSync(join(folder, path), content);
  }
  return folder;
}

/** A zip archive, its files stored uncompressed. `modes` gives Unix modes by name (0o120777 is a link). */
export function zip(files: Record<string, string>, modes: Record<string, number> = {}): Buffer {
  const locals: Buffer[] = [];
  const central: Buffer[] = [];
  let offset = 0;
  for (const [name, content] of Object.entries(files)) {
    const [path, data] = [Buffer.from(name), Buffer.from(content)];
    const sizes = Buffer.alloc(16);
    sizes.writeUInt32LE(crc32(data), 0);
    sizes.writeUInt32LE(data.length, 4);
    sizes.writeUInt32LE(data.length, 8);
    sizes.writeUInt16LE(path.length, 12);
    const local = Buffer.concat([
      Buffer.from("504b03041400000000000000000000", "hex").subarray(0, 14),
      sizes,
      path,
      data,
    ]);
    const head = Buffer.concat([Buffer.from("504b010214031400000000000000000000", "hex").subarray(0, 16), sizes]);
    const rest = Buffer.alloc(14);
    rest.writeUInt32LE(((modes[name] ?? 0o100644) << 16) >>> 0, 6);
    rest.writeUInt32LE(offset, 10);
    central.push(head, rest, path);
    locals.push(local);
    offset += local.length;
  }
  const directory = Buffer.concat(central);
  const end = Buffer.alloc(22);
  end.writeUInt32LE(0x06054b50, 0);
  end.writeUInt16LE(Object.keys(files).length, 8);
  end.writeUInt16LE(Object.keys(files).length, 10);
  end.writeUInt32LE(directory.length, 12);
  end.writeUInt32LE(offset, 16);
  return Buffer.concat([...locals, directory, end]);
}

/** A wheel as PyTorch makes it, with what has to stay inside. */
export function wheel(version = "2.13.0", variant: "cpu" | "cuda" = "cpu", extra: Record<string, string> = {}): Buffer {
  const files = Object.entries(libtorchFiles(version, variant)).map(([path, text]) => [`torch/${path}`, text]);
  return zip({
    ...(Object.fromEntries(files) as Record<string, string>),
    "torch/lib/libgomp.so.1": "threads",
    "torch/lib/libtorch_python.so": "python",
    "torch/lib/libtorchbind_test.so": "test",
    "torch/__init__.py": "import os",
    [`torch-${version}.dist-info/METADATA`]: "Name: torch",
    ...extra,
  });
}

export const sha256 = (bytes: Buffer): string => createHash("sha256").update(bytes).digest("hex");

/** A wheel of a CUDA library, with what has to stay inside. */
export function cudaWheel(): Buffer {
  return zip({
    "nvidia/cu13/lib/libcudart.so.13": "run time",
    "nvidia/cu13/lib/stubs/libcuda.so": "stub",
    "nvidia/cu13/include/cuda.h": "header",
    "nvidia_cuda_runtime-13.0.96.dist-info/METADATA": "Name: nvidia-cuda-runtime",
  });
}

const supported = { from: "2.11", to: "2.14" } as const;

/** Pins with one file, served at `url`. */
export function pinsFor(bytes: Buffer, url: string): Pins {
  const file = {
    requirement: "torch==2.13.0+cpu",
    file: "torch-2.13.0+cpu.whl",
    url,
    bytes: bytes.length,
    sha256: sha256(bytes),
  };
  const pin = { version: "2.13.0", variant: "cpu", files: [file] } as const;
  return { defaults: { cpu: "2.13.0-cpu" }, supported, pins: { "2.13.0-cpu": pin } };
}

/** Pins of a LibTorch with CUDA, in two files that have no URL. */
export function cudaPins(torch: Buffer, library: Buffer): Pins {
  const file = (requirement: string, name: string, bytes: Buffer): PinnedFile => ({
    requirement,
    file: name,
    bytes: bytes.length,
    sha256: sha256(bytes),
  });
  const files = [
    file("torch==2.14.1", "torch-2.14.1.whl", torch),
    file("nvidia-cuda-runtime==13.0.96", "nvidia_cuda_runtime-13.0.96.whl", library),
  ];
  const pin = { version: "2.14.1", variant: "cu130", files } as const;
  return { defaults: { cpu: "2.13.0-cpu", cu130: "2.14.1-cu130" }, supported, pins: { "2.14.1-cu130": pin } };
}

export interface FileServer extends AsyncDisposable {
  readonly url: string;
  /** The `Range` header of each request, or "whole". */
  readonly requests: string[];
}

/** Serves with `answer`; by default `bytes`, with ranges. */
export async function serve(
  bytes: Buffer,
  answer: (request: IncomingMessage, response: ServerResponse, count: number) => void = sendRange(bytes),
): Promise<FileServer> {
  const requests: string[] = [];
  const server: Server = createServer((request, response) => {
    requests.push(request.headers.range ?? "whole");
    answer(request, response, requests.length);
  });
  await new Promise<void>((resolve) => server.listen(0, "127.0.0.1", resolve));
  const { port } = server.address() as AddressInfo;
  const close = async (): Promise<void> => {
    server.closeAllConnections();
    await new Promise((resolve) => server.close(resolve));
  };
  return { url: `http://127.0.0.1:${port}/torch-2.13.0%2Bcpu.whl`, requests, [Symbol.asyncDispose]: close };
}

export function sendRange(bytes: Buffer): (request: IncomingMessage, response: ServerResponse) => void {
  return (request, response) => {
    const from = Number(/^bytes=(\d+)-/.exec(request.headers.range ?? "")?.[1] ?? 0);
    const headers = {
      "content-length": bytes.length - from,
      "content-range": `bytes ${from}-${bytes.length - 1}/${bytes.length}`,
    };
    response.writeHead(from > 0 ? 206 : 200, headers).end(bytes.subarray(from));
  };
}

/** A folder whose `python3` runs `script` (sh); for PATH. */
export function fakePython(folder: string, script: string): string {
  const bin = join(folder, "bin");
  mkdirSync(bin, { recursive: true });
  writeFileSync(join(bin, "python3"), `#!/bin/sh\n${script}\n`);
  chmodSync(join(bin, "python3"), 0o755);
  return bin;
}
