import { expect } from "chai";
import { execFileSync, spawnSync } from "node:child_process";
import { mkdtemp, readFile, readdir, rm, truncate, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { ITEM_BYTES, type DType, type HostTensor } from "../lib/checkpoint/host-tensor.ts";
import { openSafetensors, tensorEntry, writeSafetensors, type TensorEntry } from "../lib/checkpoint/safetensors.ts";
import { failure } from "./support/failure.ts";

let folder = "";

const bytesOf = (array: ArrayBufferView) => new Uint8Array(array.buffer, array.byteOffset, array.byteLength);
const float32 = (shape: number[], values: number[]): HostTensor => ({
  dtype: "float32",
  shape,
  data: bytesOf(Float32Array.from(values)),
});

/** One tensor of every dtype, odd sizes, narrow ones first so that a writer in this order would misalign. */
function everyDType(): [string, HostTensor][] {
  const dtypes: DType[] = ["bool", "uint8", "bfloat16", "float16", "int32", "float32", "int64", "float64"];
  return dtypes.map((dtype, i) => {
    const count = 3 * (i + 1);
    const data = Uint8Array.from({ length: count * ITEM_BYTES[dtype] }, (_, j) =>
      dtype === "bool" ? j % 2 : (j * 37 + i) % 120,
    );
    return [`t.${dtype}`, { dtype, shape: [3, i + 1], data }];
  });
}

async function write(
  name: string,
  tensors: [string, HostTensor][],
  metadata?: Record<string, string>,
): Promise<string> {
  const path = join(folder, name);
  await writeSafetensors(
    path,
    tensors.map(([key, tensor]) => tensorEntry(key, tensor)),
    metadata,
  );
  return path;
}

/** A file with this header text and as many bytes of data. */
async function forge(header: string | Buffer, dataBytes: number, declared?: bigint): Promise<string> {
  const text = Buffer.from(header as string);
  const length = Buffer.alloc(8);
  length.writeBigUInt64LE(declared ?? BigInt(text.length));
  const path = join(folder, "forged.safetensors");
  await writeFile(path, Buffer.concat([length, text, Buffer.alloc(dataBytes)]));
  return path;
}

describe("safetensors", () => {
  beforeEach(async () => {
    folder = await mkdtemp(join(tmpdir(), "memformer-safetensors-"));
  });
  afterEach(() => rm(folder, { recursive: true, force: true }));

  it("gives back every dtype, shape and byte it was given, and the metadata", async () => {
    const tensors: [string, HostTensor][] = [
      ...everyDType(),
      ["scalar", float32([], [4.5])],
      ["empty", float32([0, 7], [])],
      ["7", float32([1], [7])],
      ["__proto__", float32([2], [1, 2])],
      ['ü "\\ \u{1f600}', float32([1], [9])],
    ];
    const path = await write("all.safetensors", tensors, { note: "hello", __proto__x: "y" });
    await using file = await openSafetensors(path);
    expect(file.metadata).to.deep.equal({ note: "hello", __proto__x: "y" });
    const read = await file.readAll();
    expect([...read.keys()].sort()).to.deep.equal(tensors.map(([name]) => name).sort());
    for (const [name, tensor] of tensors) expect(read.get(name), name).to.deep.equal(tensor);
  });

  it("aligns the data to 8 bytes and every tensor to its element", async () => {
    const path = await write("aligned.safetensors", everyDType());
    for (let length = 1; length <= 8; length++) {
      const named = await write("named.safetensors", [["x".repeat(length), float32([1], [1])]]);
      expect((await readFile(named)).readBigUInt64LE() % 8n).to.equal(0n);
    }
    await using file = await openSafetensors(path);
    for (const name of file.names) {
      const { dtype, begin } = file.entry(name);
      expect(begin % ITEM_BYTES[dtype], name).to.equal(0);
    }
  });

  it("reads into memory that a typed array can view", async () => {
    await using file = await openSafetensors(await write("view.safetensors", [["x", float32([3], [1, -2, 3.5])]]));
    const { data } = await file.read("x");
    expect([...new Float32Array(data.buffer)]).to.deep.equal([1, -2, 3.5]);
  });

  it("asks for one tensor at a time", async () => {
    let open = 0;
    let most = 0;
    const entry = (name: string): TensorEntry => ({
      name,
      dtype: "uint8",
      shape: [1000],
      async read() {
        most = Math.max(most, ++open);
        await new Promise((resolve) => setTimeout(resolve, 1));
        open--;
        return new Uint8Array(1000);
      },
    });
    await writeSafetensors(join(folder, "stream.safetensors"), ["a", "b", "c"].map(entry));
    expect(most).to.equal(1);
  });

  it("leaves the old file and nothing else when a tensor cannot be had", async () => {
    const path = await write("kept.safetensors", [["x", float32([1], [1])]]);
    const before = await readFile(path);
    const broken: TensorEntry = {
      name: "x",
      dtype: "float32",
      shape: [1],
      read: () => {
        throw new Error("lost");
      },
    };
    expect((await failure(writeSafetensors(path, [broken]))).message).to.equal("lost");
    expect(await readFile(path)).to.deep.equal(before);
    expect(await readdir(folder)).to.deep.equal(["kept.safetensors"]);
  });

  it("refuses to write what could not be read back", async () => {
    const one = float32([1], [1]);
    const cases: [TensorEntry[], RegExp][] = [
      [[tensorEntry("x", one), tensorEntry("x", one)], /"x": two tensors bear this name/],
      [[tensorEntry("__metadata__", one)], /the format keeps this name for itself/],
      [[tensorEntry("x", { ...one, shape: [2] })], /was to have 8 bytes, but 4 came/],
      [[tensorEntry("x", { ...one, shape: [1.5] })], /its shape \[1.5\] has a size that is not a whole number/],
      [[tensorEntry("x", { ...one, dtype: "int8" as DType })], /unknown dtype "int8"/],
    ];
    for (const [entries, words] of cases) {
      const error = await failure(writeSafetensors(join(folder, "no.safetensors"), entries));
      expect(error.code, error.message).to.equal("ERR_MEMFORMER_CHECKPOINT_FORMAT");
      expect(error.message).to.match(words);
    }
    expect(await readdir(folder)).to.deep.equal([]);
  });

  it("names a missing tensor, a missing file and a closed file", async () => {
    const path = await write("few.safetensors", [["x", float32([1], [1])]]);
    const file = await openSafetensors(path);
    const error = await failure(file.read("y"));
    expect(error).to.include({ code: "ERR_MEMFORMER_CHECKPOINT_MISMATCH", message: `${path} holds no tensor "y"` });
    await file.close();
    await file.close();
    expect((await failure(file.read("x"))).code).to.equal("ERR_MEMFORMER_DISPOSED");
    const missing = await failure(openSafetensors(join(folder, "none.safetensors")));
    expect(missing.code).to.equal("ERR_MEMFORMER_IO");
    expect(missing.details).to.include({ path: join(folder, "none.safetensors"), errno: "ENOENT" });
    expect((await failure(openSafetensors(folder))).message).to.match(/not a regular file/);
  });

  it("does not wait for a named pipe", async () => {
    const pipe = join(folder, "pipe.safetensors");
    execFileSync("mkfifo", [pipe]);
    expect((await failure(openSafetensors(pipe))).message).to.match(/not a regular file/);
  });

  it("refuses a file cut off at any byte", async () => {
    const path = await write("cut.safetensors", [
      ["x", float32([2], [1, 2])],
      ["y", float32([1], [3])],
    ]);
    const whole = await readFile(path);
    for (let size = 0; size < whole.length; size++) {
      await writeFile(path, whole.subarray(0, size));
      expect((await failure(openSafetensors(path))).code, `at ${size}`).to.equal("ERR_MEMFORMER_CHECKPOINT_FORMAT");
    }
  });

  it("notices a file that shrinks while open", async () => {
    const path = await write("shrinks.safetensors", [["x", float32([2], [1, 2])]]);
    await using file = await openSafetensors(path);
    await truncate(path, 10);
    expect((await failure(file.read("x"))).message).to.match(/truncated since it was opened/);
  });

  const x = (dtype: unknown, shape: unknown, offsets: unknown) =>
    JSON.stringify({ dtype, shape, data_offsets: offsets });
  const hostile: [string, string | Buffer, number, RegExp][] = [
    ["JSON that is none", "{oops", 0, /the header is not valid JSON/],
    ["a million open brackets", "[".repeat(1_000_000), 0, /the header is not valid JSON/],
    ["bytes that are not UTF-8", Buffer.from("7b22ff223a307d", "hex"), 0, /not valid JSON \(.*utf-8/],
    ["a byte order mark", "\u{feff}{}", 0, /not valid JSON/],
    ["a list in place of an object", "[]", 0, /valid JSON, but not an object/],
    ["null in place of an object", "null", 0, /valid JSON, but not an object/],
    ["a name twice", `{"x":${x("F32", [1], [0, 4])},"x":${x("F32", [1], [4, 8])}}`, 8, /holds the key "x" twice/],
    [
      "a name twice, once escaped",
      `{"x":${x("U8", [1], [0, 1])},"\\u0078":${x("U8", [1], [1, 2])}}`,
      2,
      /the key "x" twice/,
    ],
    ["a field twice", '{"x":{"dtype":"U8","shape":[1],"shape":[2],"data_offsets":[0,1]}}', 1, /the key "shape" twice/],
    ["metadata that is a list", '{"__metadata__":[]}', 0, /"__metadata__" is not an object/],
    ["metadata that holds numbers", '{"__metadata__":{"a":1}}', 0, /holds a number under "a"; only strings/],
    ["a tensor that is a number", '{"x":3}', 0, /tensor "x": its entry in the header is not an object/],
    ["an unknown dtype", `{"x":${x("F8_E4M3", [1], [0, 1])}}`, 1, /unknown dtype "F8_E4M3"; known are F64, F32/],
    [
      "a dtype that is a property of objects",
      `{"x":${x("constructor", [1], [0, 1])}}`,
      1,
      /unknown dtype "constructor"/,
    ],
    ["a dtype of megabytes", `{"x":${x("F".repeat(2e6), [1], [0, 1])}}`, 1, /unknown dtype.{0,700}$/],
    ["no shape", '{"x":{"dtype":"F32","data_offsets":[0,4]}}', 4, /its shape is not a list/],
    ["a negative size", `{"x":${x("F32", [-1], [0, 4])}}`, 4, /its shape \[-1\] has a size that is not a whole number/],
    ["two negative sizes", `{"x":${x("F32", [-1, -1], [0, 4])}}`, 4, /not a whole number/],
    ["a size of a half", `{"x":${x("F32", [0.5, 2], [0, 4])}}`, 4, /not a whole number/],
    [
      "a size beyond 2^53",
      '{"x":{"dtype":"F32","shape":[9007199254740993],"data_offsets":[0,4]}}',
      4,
      /not a whole number/,
    ],
    ["a size as text", `{"x":${x("F32", ["1"], [0, 4])}}`, 4, /not a whole number/],
    [
      "a product that overflows",
      `{"x":${x("F32", [2 ** 32, 2 ** 32], [0, 4])}}`,
      4,
      /overflows: more than 2\^53 - 1 bytes/,
    ],
    ["sixty-five dimensions", `{"x":${x("F32", Array(65).fill(1), [0, 4])}}`, 4, /65 dimensions; at most 64/],
    ["no offsets", '{"x":{"dtype":"F32","shape":[1]}}', 4, /not two whole numbers/],
    ["three offsets", `{"x":${x("F32", [1], [0, 4, 4])}}`, 4, /not two whole numbers/],
    ["a negative offset", `{"x":${x("F32", [1], [-4, 0])}}`, 4, /not two whole numbers/],
    ["offsets that run backwards", `{"x":${x("F32", [1], [4, 0])}}`, 4, /\[4, 0\] run backwards/],
    [
      "data past the end",
      `{"x":${x("F32", [2], [0, 8])}}`,
      4,
      /ends at byte 8, but the file holds only 4 bytes of data/,
    ],
    [
      "offsets that do not match the shape",
      `{"x":${x("F32", [2], [0, 4])}}`,
      4,
      /span 4 bytes, but F32 of shape \[2\] needs 8/,
    ],
    [
      "tensors that overlap",
      `{"x":${x("U8", [4], [0, 4])},"y":${x("U8", [4], [2, 6])}}`,
      6,
      /"x" and "y" overlap at byte 2/,
    ],
    [
      "tensors that share all",
      `{"x":${x("U8", [4], [0, 4])},"y":${x("U8", [4], [0, 4])}}`,
      4,
      /"x" and "y" overlap at byte 0/,
    ],
    [
      "a hole at the start",
      `{"x":${x("U8", [4], [2, 6])}}`,
      6,
      /no tensor covers the bytes 0 to 2 of the data, before "x"/,
    ],
    [
      "a hole in the middle",
      `{"x":${x("U8", [1], [0, 1])},"y":${x("U8", [1], [3, 4])}}`,
      4,
      /the bytes 1 to 3 of the data, before "y"/,
    ],
    ["bytes left over", `{"x":${x("U8", [1], [0, 1])}}`, 5, /no tensor covers the last 4 bytes/],
  ];
  for (const [what, header, dataBytes, words] of hostile) {
    it(`refuses ${what}`, async () => {
      const error = await failure(openSafetensors(await forge(header, dataBytes)));
      expect(error.code, error.message).to.equal("ERR_MEMFORMER_CHECKPOINT_FORMAT");
      expect(error.message).to.match(words);
      expect(error.details!["path"]).to.equal(join(folder, "forged.safetensors"));
    });
  }

  it("refuses a header longer than the file or the limit before it allocates anything", async () => {
    const { message } = await failure(openSafetensors(await forge("{}", 0, 3n)));
    expect(message).to.match(/header of 3 bytes, but only 2 follow/);
    const before = process.memoryUsage().rss;
    for (const declared of [100_000_001n, 2n ** 63n, 2n ** 64n - 1n]) {
      const error = await failure(openSafetensors(await forge("{}", 0, declared)));
      expect(error.message).to.match(/the limit is 100000000/);
    }
    expect(process.memoryUsage().rss - before).to.be.below(50e6);
  });

  it("refuses a bool that is neither 0 nor 1", async () => {
    const path = await write("bool.safetensors", [["m", { dtype: "bool", shape: [2], data: Uint8Array.of(1, 2) }]]);
    await using file = await openSafetensors(path);
    expect((await failure(file.read("m"))).message).to.match(/"m" is bool but holds bytes other than 0 and 1/);
  });

  it("exchanges files with Python's safetensors, both ways", async function () {
    const python = process.env["MEMFORMER_PYTHON"] ?? "python3";
    if (spawnSync(python, ["-c", "import safetensors.numpy"]).status !== 0) {
      console.log(`      (skipped: ${python} has no safetensors and numpy; name one that has with MEMFORMER_PYTHON)`);
      this.skip();
    }
    const tensors = everyDType().filter(([, { dtype }]) => dtype !== "bfloat16"); // numpy has none
    const ours = await write("ours.safetensors", [...tensors, ["empty", float32([0, 2], [])]], { by: "node" });
    const theirs = join(folder, "theirs.safetensors");
    execFileSync(python, [
      "-c",
      `
import sys
from safetensors import safe_open
from safetensors.numpy import load_file, save_file
tensors = load_file(sys.argv[1])
assert safe_open(sys.argv[1], "np").metadata() == {"by": "node"}
save_file(tensors, sys.argv[2], metadata={"by": "python"})
`,
      ours,
      theirs,
    ]);
    await using file = await openSafetensors(theirs);
    expect(file.metadata).to.deep.equal({ by: "python" });
    const back = await file.readAll();
    expect(back.size).to.equal(tensors.length + 1);
    for (const [name, tensor] of tensors) expect(back.get(name), name).to.deep.equal(tensor);
  });
});
