/**
 * A token's time while a model generates: by a session, by a decoder of many rows, by `logits` without a cache, and by
 * a careful PyTorch decode with a key/value cache (bench/peers/decode.py), greedy, with the borders of segments on the
 * way. Ratios are of the decoder's runs of 4 draws; "not deterministic": such runs whose rows' segments end and begin
 * together.
 *   [--tokens 512] [--threads 2] [--batches 1,8,32] [--models demo,small] [--rounds 3]
 *   [--of session,read,uncached,step,runs,engine,border,peer,full-cache]: these alone
 * On a GPU (--device cuda) in bfloat16, the peer's step one CUDA graph; and beside a decoder of 20 layers that keeps
 * the keys and values of 16,384 tokens [--full-cache 20,16384 --full-batch 8]: time, and memory above the weights.
 * The peer needs a python with torch: MEMFORMER_PYTHON, else python3; without one its column says skipped.
 */
import { execFileSync } from "node:child_process";
import { mkdtempSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { fileURLToPath } from "node:url";
import {
  applyOperator,
  disposeSegment,
  Memformer,
  memoryUsage,
  PADDING,
  resetPeakMemory,
  synchronize,
  Tensor,
  type DeviceName,
  type State,
} from "../lib/index.ts";
import { placed } from "../lib/engine/tensor.ts";
import { decodeModels } from "./support/configurations.ts";
import { choice, flag, median, report, wholeWord, words, type Row } from "./support/report.ts";

const parts = ["session", "read", "uncached", "step", "runs", "engine", "border", "peer", "full-cache"] as const;
type Part = (typeof parts)[number];

const greedy = (logits: Tensor, { vocabulary, bos }: Memformer["config"]): Tensor => {
  using draws = placed(Tensor.from(new Float64Array(rowsOf), [rowsOf]), device);
  return applyOperator("memformer::sample_token", logits, draws, 0, 0, 1, vocabulary, bos);
};
let rowsOf = 1;
let device: DeviceName = "cpu";

/** Seconds a token of a session's text. */
async function bySession(model: Memformer, tokens: number): Promise<number> {
  using session = await model.session();
  const generate = async (count: number): Promise<number> => {
    const start = performance.now(),
      end = session.position + count;
    for await (const piece of session.generate({ maxTokens: count, temperature: 0 })) void piece;
    if (session.position !== end) throw new Error("the document ended before its time: give the model another seed");
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

/**
 * Seconds a step of `batch` rows in runs of 4 draws, two under way: the tokens of a run are read while the next goes
 * on. On a GPU what borders and steps do is recorded over three segments before.
 */
async function byRuns(model: Memformer, batch: number, tokens: number, deterministic = true): Promise<number> {
  const { segmentLength: T, vocabulary } = model.config,
    recorded = device === "cpu" ? 0 : 3 * T,
    sampling = { temperature: 0, topK: 0, topP: 1, tokens: vocabulary, gaps: null };
  rowsOf = batch;
  using decoder = model.decoder(batch, { deterministic });
  const slots = Array.from({ length: batch }, (_, slot) => slot),
    underWay: Promise<void>[] = [];
  let state = model.initialState(batch),
    previous: Int32Array | undefined;
  let start = performance.now();
  const all = recorded + tokens;
  for (let made = 0; made < all;) {
    if (made > 0) {
      await Promise.all(underWay.splice(0)); // the segment that is read next is of these tokens
      if (made === recorded) start = performance.now();
      free(state);
      state = decoder.end(slots);
    }
    const segment = segmentOf(model, batch, previous);
    let logits = decoder.begin(segment, state, slots);
    disposeSegment(segment);
    const written = (previous = new Int32Array(batch * T));
    for (let at = 0; at < T && made < all;) {
      const first = at,
        count = Math.min(4, T - at, all - made),
        run = decoder.run(logits, new Float64Array(count * batch), sampling, slots, at + count < T);
      logits.dispose();
      logits = run.logits;
      underWay.push(
        run.tokens.data().then((ids) => {
          for (let i = 0; i < count; i++)
            for (let row = 0; row < batch; row++) written[row * T + first + i] = Number(ids[i * batch + row]);
        }),
      );
      run.tokens.dispose();
      if (underWay.length > 1) await underWay.shift();
      [at, made] = [at + count, made + count];
    }
    logits.dispose();
  }
  await Promise.all(underWay);
  free(state);
  return (performance.now() - start) / 1000 / tokens;
}

/** Seconds a step of `batch` rows whose tokens nobody looks at: what the engine can do. */
async function byEngine(model: Memformer, batch: number, steps: number): Promise<number> {
  const { segmentLength: T } = model.config;
  using decoder = model.decoder(batch);
  const slots = Array.from({ length: batch }, (_, slot) => slot),
    tokens = slots.map((slot) => slot % model.config.bos || 1);
  let done = 0,
    seconds = 0;
  while (done < steps) {
    const segment = segmentOf(model, batch),
      state = model.initialState(batch);
    decoder.begin(segment, state, slots).dispose();
    disposeSegment(segment);
    free(state);
    for (let i = 0; i < 2; i++) decoder.step(tokens, slots).dispose();
    await synchronize();
    const start = performance.now();
    for (let i = 3; i < T; i++) decoder.step(tokens, slots).dispose();
    await synchronize();
    seconds += (performance.now() - start) / 1000;
    done += T - 3;
  }
  return seconds / done;
}

/** Seconds in which the segments of `batch` rows end and the next ones begin. */
async function atBorder(model: Memformer, batch: number): Promise<number> {
  using decoder = model.decoder(batch);
  const slots = Array.from({ length: batch }, (_, slot) => slot),
    tokens = slots.map(() => 1),
    times: number[] = [];
  let state = model.initialState(batch);
  for (let round = 0; round < 7; round++) {
    const segment = segmentOf(model, batch);
    await synchronize();
    const start = performance.now();
    if (round > 0) {
      free(state);
      state = decoder.end(slots);
    }
    decoder.begin(segment, state, slots).dispose();
    await synchronize();
    if (round > 3) times.push((performance.now() - start) / 1000); // a GPU has recorded it
    disposeSegment(segment);
    decoder.step(tokens, slots).dispose();
  }
  free(state);
  return median(times);
}

/** Tokens a second of a session that reads. */
async function reading(model: Memformer, tokens: number): Promise<number> {
  using session = await model.session();
  const text = Int32Array.from({ length: tokens }, (_, i) => (i * 7) % 256);
  await session.read(text);
  const start = performance.now();
  await session.read(text);
  return tokens / ((performance.now() - start) / 1000);
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
  readonly bytes?: number;
  readonly torch: string;
}

/** Seconds a step by batch, or why there are none. */
function peer(
  model: Memformer,
  batches: readonly number[],
  tokens: number,
  threads: number,
  more: readonly string[] = [],
): PeerRow[] | string {
  const folder = mkdtempSync(join(tmpdir(), "memformer-bench-"));
  try {
    const config = join(folder, "config.json");
    writeFileSync(config, JSON.stringify(model.config));
    const program = fileURLToPath(new URL("peers/decode.py", import.meta.url));
    const said = execFileSync(
      process.env["MEMFORMER_PYTHON"] ?? "python3",
      [
        program,
        "--config",
        config,
        "--batches",
        batches.join(),
        "--tokens",
        `${tokens}`,
        "--threads",
        `${threads}`,
        ...more,
      ],
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
  [device = "cpu"] = words(flags, "device", ["cpu"]) as DeviceName[];
  const onGpu = device !== "cpu",
    batches = words(flags, "batches", onGpu ? ["1", "8", "64", "256"] : ["1", "8", "32"]).map(Number);
  const rows: Row[] = [],
    wide: Row[] = [],
    wanted = choice(flags, "of", parts, parts);
  let torch = "";
  const ms = (seconds: number | undefined): string => (seconds === undefined ? "" : (1000 * seconds).toFixed(3));
  const ofPeer = (found: PeerRow[] | string): PeerRow[] => {
    if (typeof found !== "string") return found;
    console.error(`PyTorch skipped: ${found}`);
    return [];
  };
  for (const name of words(flags, "models", onGpu ? ["wiki"] : ["demo", "small"])) {
    const where = { device, ...(onGpu && { precision: "bfloat16" as const }) };
    await using model = await Memformer.create({ ...decodeModels[name], threads, ...where });
    const repeated = async (part: Part, work: () => Promise<number>): Promise<number | undefined> => {
      const times: number[] = [];
      if (!wanted.includes(part)) return undefined;
      for (let round = 0; round < rounds; round++) times.push(await work());
      return median(times);
    };
    const session = await repeated("session", () => bySession(model, tokens)),
      read = await repeated("read", () => reading(model, 256 * model.config.segmentLength)),
      uncached = await repeated("uncached", () =>
        withoutCache(model, Math.min(tokens, 2 * model.config.segmentLength)),
      );
    const more = onGpu ? ["--device", "cuda"] : [],
      beside = wanted.includes("peer"),
      theirs = beside ? ofPeer(peer(model, batches, tokens, threads, more)) : [],
      eager = beside && onGpu ? ofPeer(peer(model, batches.slice(0, 1), tokens, threads, [...more, "--eager"])) : [];
    torch = theirs[0]?.torch ?? torch;
    for (const batch of batches) {
      const step = await repeated("step", () => byDecoder(model, batch, tokens)),
        runs = await repeated("runs", () => byRuns(model, batch, tokens)),
        together = await repeated("runs", () => byRuns(model, batch, tokens, /*deterministic=*/ false)),
        engine = await repeated("engine", () => byEngine(model, batch, tokens)),
        border = await repeated("border", () => atBorder(model, batch));
      const seconds = (found: readonly PeerRow[]): number | undefined => {
        const row = found.find((one) => one.batch === batch);
        return row === undefined ? undefined : row.seconds / tokens;
      };
      const graphed = seconds(theirs),
        plain = seconds(eager);
      rows.push({
        model: name,
        batch,
        "session ms/token": batch === 1 ? ms(session) : "",
        "decoder ms/step": ms(step),
        "in runs ms/step": ms(runs),
        "not deterministic": batch === 1 ? "" : ms(together),
        "engine ms/step": ms(engine),
        "border ms": ms(border),
        "tokens/s": runs === undefined ? "" : Math.round(batch / runs),
        "read tokens/s": batch === 1 && read !== undefined ? Math.round(read) : "",
        "without cache ms/token": batch === 1 ? ms(uncached) : "",
        "PyTorch ms/step": graphed === undefined ? (beside ? "skipped" : "") : ms(graphed),
        ...(onGpu && { "PyTorch eager": plain === undefined ? "" : ms(plain) }),
        ratio: graphed === undefined || runs === undefined ? "" : (graphed / runs).toFixed(2),
        "session's ratio":
          graphed === undefined || session === undefined || batch > 1 ? "" : (graphed / session).toFixed(2),
      });
    }
    const full = wholeWord(flags, "full-cache", onGpu ? "20,16384" : "");
    if (full !== "" && wanted.includes("full-cache")) {
      const batch = flag(flags, "full-batch", 8),
        count = Math.min(tokens, 256);
      await synchronize();
      const before = memoryUsage().deviceBytes;
      resetPeakMemory();
      const step = await byRuns(model, batch, count),
        above = memoryUsage().peakDeviceBytes - before;
      const [other] = ofPeer(peer(model, [batch], count, threads, [...more, "--full-cache", full]));
      const MiB = (bytes: number): string => (bytes / 2 ** 20).toFixed(1);
      wide.push({
        model: name,
        batch,
        "layers, history": full,
        "ours ms/step": ms(step),
        "ours MiB above weights": MiB(above),
        "full cache ms/step": other === undefined ? "skipped" : ms(other.seconds / count),
        "its cache MiB": other === undefined ? "skipped" : MiB(other.bytes ?? 0),
        faster: other === undefined ? "" : (other.seconds / count / step).toFixed(2),
        "less memory": other === undefined ? "" : ((other.bytes ?? 0) / above).toFixed(1),
      });
    }
  }
  const suffix = onGpu ? "-gpu" : "";
  report(`decode${suffix}`, "Decoding, greedy, the borders of segments included", rows, { torch, tokens });
  if (wide.length > 0)
    report(`decode-full-cache${suffix}`, "Beside a decoder that keeps every key and value", wide, { torch });
  return true;
}
