/** The reader of PyTorch's checkpoints: what it reads, what it refuses, and that nothing of a file is ever run. */
import { expect } from "chai";
import fc from "fast-check";
import { mkdtemp, readFile, rm, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { fileURLToPath } from "node:url";
import { openPytorch } from "../lib/checkpoint/pytorch/pytorch-file.ts";
import type { StridedTensor } from "../lib/checkpoint/pytorch/strided.ts";
import type { HostTensor } from "../lib/checkpoint/host-tensor.ts";
import { openStateDict } from "../lib/import/state-dict.ts";
import { isMemformerError } from "../lib/index.ts";
import { numbersOf } from "./support/host-numbers.ts";
import { zipOf } from "./support/zip.ts";

const fixture = (name: string): string => fileURLToPath(new URL(`fixtures/${name}`, import.meta.url));

interface Expected {
  readonly dtype: string;
  readonly shape: readonly number[];
  readonly data: readonly (number | boolean | string)[];
}

describe("a checkpoint of PyTorch's", function () {
  let folder: string;
  before(async () => {
    folder = await mkdtemp(join(tmpdir(), "memformer-pytorch-"));
  });
  after(async () => {
    await rm(folder, { recursive: true });
  });

  const write = async (name: string, bytes: Uint8Array | string): Promise<string> => {
    await writeFile(join(folder, name), bytes);
    return join(folder, name);
  };
  /** What opening refuses it with. */
  const refusal = async (path: string): Promise<string> => {
    try {
      await using dict = await openStateDict(path);
      return `read, ${dict.tensors.size} tensors`;
    } catch (error) {
      if (!isMemformerError(error)) throw error;
      return `${error.code}: ${error.message.replace(folder, "")}`;
    }
  };
  const pickled = async (pickle: string, data: Record<string, Uint8Array> = {}): Promise<string> =>
    refusal(await write("made.pt", zipOf({ "made/data.pkl": Buffer.from(`\x80\x02${pickle}`, "latin1"), ...data })));

  it("is read whatever the layout and dtype of its tensors", async () => {
    const expected = JSON.parse(await readFile(fixture("views.json"), "utf8")) as Record<string, Expected>;
    await using dict = await openStateDict(fixture("views.pt"));
    expect([...dict.tensors.keys()]).to.deep.equal(Object.keys(expected));
    for (const [name, { dtype, shape, data }] of Object.entries(expected)) {
      const tensor = await dict.tensors.get(name)!.read();
      expect({ dtype: tensor.dtype, shape: tensor.shape, data: spelled(tensor) }, name).to.deep.equal({
        dtype,
        shape,
        data,
      });
    }
  });

  it("may hold everything that plain Python does beside its tensors", async () => {
    await using file = await openPytorch(fixture("lucidrains.pt"));
    const root = file.root as Map<string, unknown>;
    expect([...root.keys()]).to.deep.equal(["model", "epoch", "rate", "best", "args"]);
    expect([root.get("epoch"), root.get("rate"), root.get("best")]).to.deep.equal([3, 1e-4, null]);
    expect(root.get("args")).to.deep.equal(
      new Map<string, unknown>([
        ["amp", false],
        ["betas", [0.9, 0.99]],
      ]),
    );
  });

  it("that names a function of the system is refused by the name, and nothing of it is run", async () => {
    const marker = join(folder, "run");
    for (const [pickle, name] of [
      [`cposix\nsystem\n\x8c${String.fromCharCode(`touch ${marker}`.length)}touch ${marker}\x85R.`, "posix.system"],
      ["\x8c\x02os\x8c\x06system\x93.", "os.system"],
      ["c__builtin__\neval\n.", "__builtin__.eval"],
      ["ctorch._utils\n__dict__\n.", "torch._utils.__dict__"],
      ["cargparse\nNamespace\n)R.", "argparse.Namespace"],
      ["cconstructor\nconstructor\n.", "constructor.constructor"],
    ] as const) {
      expect(await pickled(pickle)).to.equal(
        `ERR_MEMFORMER_CHECKPOINT_FORMAT: /made.pt: it names "${name}", which no tensor needs; ` +
          "nothing of it was run. Save the state dict alone: torch.save(model.state_dict(), file)",
      );
    }
    expect(await readFile(marker).catch(() => undefined)).to.be.undefined;
  });

  it("is told in a sentence when it is none, or another format", async () => {
    const legacy = Buffer.from("\x80\x02\x8a\x0al\xfc\x9cF\xf9 j\xa8P\x19.", "latin1");
    expect(await refusal(await write("legacy.pt", legacy))).to.match(
      /FORMAT: \/legacy\.pt is a pickle without a zip around it, PyTorch's format before version 1\.6, which memformer does not read; load it in PyTorch and save it again/,
    );
    expect(await refusal(await write("text.pt", "These are no weights at all."))).to.match(
      /FORMAT: \/text\.pt is not a checkpoint: neither a PyTorch zip nor safetensors$/,
    );
    expect(await refusal(await write("empty.pt", ""))).to.match(/FORMAT: \/empty\.pt is not a checkpoint/);
    expect(await refusal(await write("other.zip", zipOf({ "readme.txt": "no weights" })))).to.match(
      /FORMAT: \/other\.zip: a zip without data\.pkl/,
    );
    expect(await refusal(await write("packed.zip", zipOf({ "a/data.pkl": "\x80\x02}." }, 8)))).to.match(
      /"a\/data\.pkl" is compressed, which PyTorch never does/,
    );
    expect(await refusal(await write("big.pt", zipOf({ "a/data.pkl": "", "a/byteorder": "big" })))).to.match(
      /its numbers are not little-endian/,
    );
    expect(await refusal(folder)).to.match(/^ERR_MEMFORMER_IO: cannot read .*EISDIR/);
    expect(await refusal(join(folder, "absent.pt"))).to.match(/^ERR_MEMFORMER_IO: cannot read .*ENOENT/);
    expect(await pickled("}.")).to.match(/holds no state dict: there are no tensors by name/);
    expect(await pickled("K\x05.")).to.match(/holds no state dict/);
  });

  it("is refused when its pickle is damaged", async () => {
    for (const [pickle, words] of [
      ["", /its pickle ends before it is complete \(truncated\?\)$/],
      ["X\xff\xff\xff\xffabc.", /its pickle ends before it is complete/],
      ["cposix", /its pickle ends before it is complete/],
      [".", /an instruction finds nothing on the stack$/],
      ["(.", /an instruction finds nothing on the stack$/],
      ["K\x01u.", /an instruction needs a mark that was never set$/],
      ["h\x07.", /nothing is stored under 7$/],
      ["K\x01K\x02a.", /it appends to something that is not a list$/],
      ["K\x01(K\x01K\x02u.", /it sets items of something that is not a dictionary$/],
      ["K\x01)R.", /it calls something that cannot be called$/],
      ["ctorch\nFloatStorage\n)R.", /it calls something that cannot be called$/],
      ["c\n.", /ends before it is complete/],
      ["\x81.", /it holds the pickle instruction 0x81, which no tensor needs$/],
      ["\x80\x09.", /its protocol is newer than 5$/],
    ] as const)
      expect(await pickled(pickle), JSON.stringify(pickle)).to.match(words);
  });

  it("is refused when a view leaves its storage, repeats it without end, or its storage is of another size", async () => {
    const small = (n: number): string => `K${String.fromCharCode(n)}`,
      tuple = (...items: string[]): string => `(${items.join("")}t`;
    const text = (words: string): string => `\x8c${String.fromCharCode(words.length)}${words}`;
    const tensor = (shape: string, stride: string, offset = small(0), length = small(4)): string =>
      `}${text("w")}ctorch._utils\n_rebuild_tensor_v2\n${tuple(
        `${tuple(text("storage"), "ctorch\nFloatStorage\n", text("0"), text("cpu"), length)}Q`,
        offset,
        shape,
        stride,
        "\x89",
        "}",
      )}Rs.`;
    const data = { "made/data/0": new Uint8Array(16) };
    expect(await pickled(tensor(tuple(small(2), small(2)), tuple(small(2), small(1))), data)).to.equal(
      "read, 1 tensors",
    );
    for (const [made, words] of [
      [
        tensor(tuple(small(2), small(2)), tuple(small(3), small(1))),
        /storage "0": it reaches to element 4 of a storage of 4$/,
      ],
      [tensor(tuple(small(4)), tuple(small(1)), small(1)), /it reaches to element 4 of a storage of 4$/],
      [
        tensor(tuple(small(4)), tuple("J\xff\xff\xff\xff"), small(3)),
        /its offset and strides are not whole numbers from 0/,
      ],
      [
        tensor(tuple(small(4)), tuple(small(1)), "J\xff\xff\xff\xff"),
        /its offset and strides are not whole numbers from 0/,
      ],
      [tensor(tuple("J\xff\xff\xff\xff"), tuple(small(1))), /has a size that is not a whole number/],
      [
        tensor(tuple(small(2)), tuple(small(1), small(1))),
        /its offset and strides are not whole numbers from 0, one an axis/,
      ],
      [tensor(tuple("J\xff\xff\xff\x7f"), tuple(small(0))), /it repeats a storage of 4 to 2147483647 numbers$/],
      [
        tensor(
          tuple("J\xff\xff\xff\x7f", "J\xff\xff\xff\x7f", "J\xff\xff\xff\x7f"),
          tuple(small(0), small(0), small(0)),
        ),
        /overflows/,
      ],
      [tensor(tuple(small(1)), tuple(small(1)), small(0), small(5)), /storage "0" should have 20 bytes and has 16$/],
      [tensor(small(1), tuple(small(1))), /a shape is damaged$/],
    ] as const)
      expect(await pickled(made, data)).to.match(words);
    expect(await pickled(tensor(tuple(small(1)), tuple(small(1))))).to.match(
      /storage "0" should have 16 bytes and has none$/,
    );
  });

  it("with a changed weight fails its checksum", async () => {
    const bytes = await readFile(fixture("lucidrains.pt"));
    await using file = await openPytorch(fixture("lucidrains.pt"));
    const first = ((file.root as Map<string, unknown>).get("model") as Map<string, StridedTensor>).get(
      "module.memory_slots",
    )!;
    const number = (await file.read(first)).data.slice(0, 4),
      at = bytes.indexOf(number);
    bytes[at]! ^= 1;
    await using changed = await openPytorch(await write("changed.pt", bytes));
    let said = "";
    await changed.read(first).catch((error: Error) => {
      said = error.message;
    });
    expect(said).to.match(/data\/0" fails its checksum$/);
  });

  it("whose zip names a place that no file has is refused, and the process goes on", async () => {
    const bytes = await readFile(fixture("lucidrains.pt"));
    const locator = bytes.lastIndexOf(Buffer.from("504b0607", "hex")); // of zip64's directory: 8 bytes on stands where it lies
    expect(locator).to.be.above(0);
    bytes.writeBigUInt64LE(2n ** 54n, locator + 8);
    const error = await openStateDict(await write("outside.pt", bytes)).then(
      () => undefined,
      (reason: unknown) => reason,
    );
    if (!isMemformerError(error)) throw error ?? new Error("nothing was thrown");
    expect(error.code).to.equal("ERR_MEMFORMER_CHECKPOINT_FORMAT");
    expect(error.message).to.match(
      /its zip is damaged .*: it names bytes 18014398509481984 to 18014398509482040, which lie outside it/,
    );
  });

  it("cut or changed anywhere is read or refused, soon, and with a code", async function () {
    this.timeout(120_000);
    const whole = await readFile(fixture("lucidrains.pt"));
    const damage = fc.record({
      cut: fc.option(fc.nat(whole.length)),
      changes: fc.array(fc.tuple(fc.oneof(fc.nat(whole.length - 1), fc.nat(9000)), fc.nat(255)), { maxLength: 8 }),
    });
    await fc.assert(
      fc.asyncProperty(damage, async ({ cut, changes }) => {
        const bytes = Buffer.from(whole);
        for (const [at, to] of changes) bytes[at] = to;
        const path = await write("fuzzed.pt", bytes.subarray(0, cut ?? bytes.length));
        try {
          await using dict = await openStateDict(path);
          for (const tensor of dict.tensors.values()) await tensor.read();
        } catch (error) {
          if (!isMemformerError(error)) throw error;
        }
      }),
      { numRuns: 400, interruptAfterTimeLimit: 60_000, markInterruptAsFailure: false },
    );
  });

  it("with any bytes for a pickle is read or refused, soon, and with a code", async function () {
    this.timeout(120_000);
    const said: string[] = [];
    // Instructions that exist, so that most programs go on for a while.
    const known = fc.constantFrom(
      ...Buffer.from("(}])K\x01M\x02N\x88\x89X\x03\x8c\x85\x86\x87tauseq\x02r\x94h\x02jc\x93QRb.", "latin1"),
    );
    await fc.assert(
      fc.asyncProperty(
        fc.array(fc.oneof({ weight: 5, arbitrary: known }, fc.nat(255)), { maxLength: 60 }),
        async (program) => {
          said.push(await pickled(Buffer.from(program).toString("latin1")));
        },
      ),
      { numRuns: 400, interruptAfterTimeLimit: 60_000, markInterruptAsFailure: false },
    );
    // It was the pickle that was refused, and not the zip around it.
    expect(said.filter((words) => !/pickle|no state dict|it names|is damaged/.test(words))).to.deep.equal([]);
  });
});

/** As views.json has it. */
function spelled(tensor: HostTensor): (number | boolean | string)[] {
  return Array.from(numbersOf(tensor), (value): number | boolean | string => {
    const number = Number(value);
    if (tensor.dtype === "bool") return number === 1;
    return Number.isNaN(number) ? "nan" : Number.isFinite(number) ? number : number < 0 ? "-inf" : "inf";
  });
}
