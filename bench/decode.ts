/**
 * A token's time while a model generates: by a session, by a decoder of many rows, by `logits` without a cache, and by
 * a careful PyTorch decode with a key/value cache (bench/peers/decode.py), greedy, with the borders of segments on the
 * way.   [--tokens 512] [--threads 2] [--batches 1,8,32] [--models demo,small]
 * The peer needs a python with torch: MEMFORMER_PYTHON, else python3; without one its column says skipped.
 */
import { execFileSync } from "node:child_process";
import { mkdtempSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { fileURLToPath } from "node:url";
import { applyOperator, Memformer, PADDING, Tensor, type CreateOptions, type State } from "../lib/index.ts";
import { flag, median, report, words, type Row } from "./support/report.ts";

const models: Record<string, CreateOptions> = {
  demo: {
    width: 128,
    heads: 4,
    feedForward: 512,
    encoderLayers: 2,
    decoderLayers: 2,
    memorySlots: 32,
    segmentLength: 64,
  },
  small: { preset: "small" },
  wiki: { preset: "wiki" },
};

const greedy = (logits: Tensor, { vocabulary, bos }: Memformer["config"]): Tensor => {
  using draws = Tensor.from(new Float64Array(rowsOf), [rowsOf]);
  return applyOperator("memformer::sample_token", logits, draws, 0, 0, 1, vocabulary, bos);
};
let rowsOf = 1;

/** Seconds a token of a session's text. */
async function bySession(model: Memformer, tokens: number): Promise<number> {
  using session = await model.session();
  const generate = async (count: number): Promise<number> => {
    const start = performance.now(),
      end = (session.pending + count) % model.config.segmentLength;
    for await (const piece of session.generate({ maxTokens: count, temperature: 0 })) void piece;
    if (session.pending !== end) throw new Error("the document ended before its time: give the model another seed");
    return (performance.now() - start) / 1000 / count;
  };
  await generate(model.config.segmentLength);
  return await generate(tokens);
}

function segmentOf(model: Memformer, batch: number, previous?: Int32Array): ReturnType<Memformer["upload"]> {
  const { segmentLength: T, bos } = model.config;
  const source = previous ?? new Int32Array(batch * T).fill(bos),
    target = new Int32Array(batch * T).fill(PADDING);
  return model.upload({
    batch,
    length: T,
    source,
    target,
    reset: new Uint8Array(batch).fill(previous === undefined ? 1 : 0),
  });
}

function free(state: State): void {
  for (const tensor of state) tensor.dispose();
}

/** Seconds a step of `batch` rows: each row's next token is known before the next step. */
async function byDecoder(model: Memformer, batch: number, tokens: number): Promise<number> {
  const { segmentLength: T } = model.config;
  rowsOf = batch;
  using decoder = model.decoder(batch);
  const slots = Array.from({ length: batch }, (_, slot) => slot);
  let state = model.initialState(batch),
    previous: Int32Array | undefined,
    last: number[] = [];
  const start = performance.now();
  for (let made = 0; made < tokens; made++) {
    const at = made % T;
    if (at === 0 && made > 0) {
      free(state);
      state = decoder.end(slots);
    }
    using logits =
      at === 0 ? decoder.begin(segmentOf(model, batch, previous), state, slots) : decoder.step(last, slots);
    if (at === 0) previous = new Int32Array(batch * T);
    using drawn = greedy(logits, model.config);
    last = Array.from(await drawn.data(), Number);
    for (const [row, token] of last.entries()) previous![row * T + at] = token;
  }
  free(state);
  return (performance.now() - start) / 1000 / tokens;
}

/** Seconds a token where each is computed from the segment's beginning. */
async function withoutCache(model: Memformer, tokens: number): Promise<number> {
  const { segmentLength: T } = model.config;
  rowsOf = 1;
  let state = model.initialState(1),
    previous: Int32Array | undefined,
    current: number[] = [];
  const start = performance.now();
  for (let made = 0; made < tokens; made++) {
    if (current.length === T) {
      const whole = segmentOf(model, 1, previous),
        next = model.advance(whole, state);
      free(state);
      [state, previous, current] = [next, Int32Array.from(current), []];
    }
    using prefix = Tensor.from(Int32Array.from(current), [1, current.length]);
    using logits = model.logits(segmentOf(model, 1, previous), prefix, state);
    using drawn = greedy(logits, model.config);
    current.push(await drawn.item());
  }
  free(state);
  return (performance.now() - start) / 1000 / tokens;
}

interface PeerRow {
  readonly batch: number;
  readonly seconds: number;
  readonly torch: string;
}

/** Seconds a step by batch, or why there are none. */
function peer(model: Memformer, batches: readonly number[], tokens: number, threads: number): PeerRow[] | string {
  const folder = mkdtempSync(join(tmpdir(), "memformer-bench-"));
  try {
    const config = join(folder, "config.json");
    writeFileSync(config, JSON.stringify(model.config));
    const program = fileURLToPath(new URL("peers/decode.py", import.meta.url));
    const said = execFileSync(
      process.env["MEMFORMER_PYTHON"] ?? "python3",
      [program, "--config", config, "--batches", batches.join(), "--tokens", `${tokens}`, "--threads", `${threads}`],
      { encoding: "utf8", stdio: ["ignore", "pipe", "pipe"] },
    );
    return said
      .split("\n")
      .filter((line) => line.startsWith("{"))
      .map((line) => JSON.parse(line) as PeerRow);
  } catch (error) {
    return String((error as { stderr?: string }).stderr ?? error)
      .trim()
      .split("\n")
      .at(-1)!;
  } finally {
    rmSync(folder, { recursive: true });
  }
}

export async function decoding(flags: readonly string[]): Promise<boolean> {
  const tokens = flag(flags, "tokens", 512),
    threads = flag(flags, "threads", 2),
    rounds = flag(flags, "rounds", 3);
  const batches = words(flags, "batches", ["1", "8", "32"]).map(Number);
  const rows: Row[] = [];
  let torch = "";
  const ms = (seconds: number): string => (1000 * seconds).toFixed(3);
  for (const name of words(flags, "models", ["demo", "small"])) {
    await using model = await Memformer.create({ ...models[name], threads, device: "cpu" });
    const repeated = async (work: () => Promise<number>): Promise<number> => {
      const times: number[] = [];
      for (let round = 0; round < rounds; round++) times.push(await work());
      return median(times);
    };
    const session = await repeated(() => bySession(model, tokens)),
      uncached = await repeated(() => withoutCache(model, Math.min(tokens, 2 * model.config.segmentLength)));
    const theirs = peer(model, batches, tokens, threads);
    if (typeof theirs === "string") console.error(`PyTorch skipped: ${theirs}`);
    else torch = theirs[0]?.torch ?? "";
    for (const batch of batches) {
      const step = await repeated(() => byDecoder(model, batch, tokens));
      const of = typeof theirs === "string" ? undefined : theirs.find((row) => row.batch === batch);
      rows.push({
        model: name,
        batch,
        "session ms/token": batch === 1 ? ms(session) : "",
        "decoder ms/step": ms(step),
        "tokens/s": Math.round(batch / step),
        "without cache ms/token": batch === 1 ? ms(uncached) : "",
        "PyTorch ms/step": of === undefined ? "skipped" : ms(of.seconds / tokens),
        ratio: of === undefined ? "" : (of.seconds / tokens / step).toFixed(2),
      });
    }
  }
  report("decode", "Decoding, greedy, the borders of segments included", rows, { torch, tokens });
  return true;
}
