/**
 * Many sessions of one model at once, batched into the steps of one decoder. Three verbs: `add` a turn, `step` all of
 * them, `finish` one. What a session makes is what it makes alone; on a CPU to the bit.
 */
import { MemformerError } from "../../errors.ts";
import { synchronize } from "../../engine/runtime.ts";
import { Turns } from "../../engine/turns.ts";
import { rowBytes } from "../../model/state.ts";
import { storedLayout } from "../stored-state.ts";
import { checkGenerate, type GenerateOptions, type ReadOptions } from "../generate-options.ts";
import { decodes, segmentsAtOnce } from "../open-segment.ts";
import type { ReadInput } from "../read-input.ts";
import type { Session } from "../session.ts";
import type { SessionModel } from "../session-model.ts";
import { fairPolicy, type SchedulerPolicy, type TurnView } from "./policy.ts";
import { Residency } from "./residency.ts";
import { ScheduledTurn, type TurnRequest } from "./scheduled-turn.ts";
import {
  checkScheduler,
  type SchedulerOptions,
  type SchedulerReport,
  type SchedulerStep,
} from "./scheduler-options.ts";
import { DecodeSteps } from "./decode-step.ts";
import { Slots } from "./slots.ts";

/**
 * Batches the turns of many sessions of one model. Each session is lent to it for a turn, and busy until that is over.
 * Free it with `using` or `dispose()`.
 */
export class Scheduler<Model extends SessionModel = SessionModel> implements Disposable {
  readonly model: Model;
  readonly #slots: Slots<ScheduledTurn>;
  readonly #steps: DecodeSteps;
  readonly #policy: SchedulerPolicy;
  readonly #residency: Residency;
  readonly #budget: number;
  readonly #maxWaiting: number;
  readonly #maxAhead: number;
  readonly #drive: boolean;
  readonly #sessionBytes: number;
  readonly #onStep: ((report: SchedulerStep) => void) | undefined;
  readonly #waiting = new Set<ScheduledTurn>();
  readonly #active = new Set<ScheduledTurn>();
  #arrivals = 0;
  #driving = false;
  #asleep: (() => void) | undefined;
  #busySince: number | undefined;
  #behind: Promise<unknown> = Promise.resolve(); // what the step before has enqueued
  #woken = false; // since the step under way began
  #step: Promise<unknown> = Promise.resolve();
  #disposed = false;

  /** Throws MemformerError CONFIG for unknown options, those out of range, and a model that does not decode. */
  constructor(model: Model, options: SchedulerOptions = {}) {
    checkScheduler(options);
    const { slots = 16, budgetBytes = Infinity, maxWaiting = 1024, maxAhead = 16, deterministic } = options;
    const { idleAfter = Infinity, drive = true, policy = fairPolicy() } = options;
    if (!decodes(model)) throw new MemformerError("CONFIG", "scheduler: this model does not decode token by token");
    this.model = model;
    this.#sessionBytes = rowBytes(storedLayout(model)) + 4 * 2 * model.config.segmentLength;
    if (budgetBytes < this.#sessionBytes) {
      throw new MemformerError(
        "CONFIG",
        `scheduler: budgetBytes must hold one session of ${this.#sessionBytes} bytes, got ${budgetBytes}`,
      );
    }
    this.#slots = new Slots(model, model.decoder(slots, { deterministic }));
    this.#steps = new DecodeSteps(model, this.#slots, {
      charge: (turn, tokens) => this.#policy.charge(this.#view(turn), tokens, "generated"),
      fail: (turn, error) => this.#fail(turn, error),
    });
    this.#policy = policy;
    this.#residency = new Residency(budgetBytes, idleAfter);
    this.#budget = budgetBytes;
    this.#maxWaiting = maxWaiting;
    this.#maxAhead = maxAhead;
    this.#drive = drive;
    this.#onStep = options.onStep;
  }

  /**
   * Takes a turn of a session on: reads `input`, then generates. The session is busy until the turn is over. Throws
   * MemformerError CONFIG for options that {@link Session.generatePieces} refuses and for a session of another model,
   * BUSY for a session with a turn, or when too many wait, the signal's reason when it has aborted.
   */
  add(session: Session, request: TurnRequest = {}): ScheduledTurn {
    this.#check();
    const { input, key, ...options } = request;
    checkGenerate(options);
    options.signal?.throwIfAborted();
    if (session.model !== this.model)
      throw new MemformerError("CONFIG", "scheduler: the session is of another model than the scheduler");
    this.#admit();
    if (this.#waiting.size >= this.#maxWaiting && this.#active.size > 0 && !this.#hasRoom()) {
      throw new MemformerError("BUSY", `the scheduler has ${this.#waiting.size} turns waiting, as many as it takes`, {
        details: { waiting: this.#waiting.size },
      });
    }
    const turn = new ScheduledTurn(session, request, this.#arrivals++, {
      wake: () => this.#wake(),
      over: (ended) => this.#over(ended),
    });
    this.#waiting.add(turn);
    try {
      this.#admit();
    } catch (error) {
      turn.end(error); // a policy that throws
      throw error;
    }
    this.#wake();
    return turn;
  }

  /**
   * One step: lets turns in, reads some segments, draws a token of each turn that is ready and has a slot, or a short
   * run of tokens where the policy lets it. Of what fails, the turns it concerns end with the error.
   */
  async step(): Promise<SchedulerReport> {
    this.#check();
    const before = this.#step;
    const step = before.then(async () => this.#one());
    this.#step = step.catch(() => undefined);
    return step;
  }

  /** Ends a turn at what it has handed out; its session is its owner's again. Nothing for one that is over. */
  finish(turn: ScheduledTurn): void {
    turn.end();
  }

  /** `session.generate`, beside others. */
  async *generate(session: Session, options: GenerateOptions & Pick<TurnRequest, "key"> = {}): AsyncGenerator<string> {
    for await (const { text } of this.add(session, options)) if (text !== "") yield text;
  }

  /** `session.read`, beside others: all is read, or nothing. */
  async read(session: Session, input: ReadInput, options: Pick<ReadOptions, "signal"> = {}): Promise<void> {
    for await (const piece of this.add(session, { ...options, input, maxTokens: 0 })) void piece;
  }

  /** How things stand. */
  get report(): Omit<SchedulerReport, "generated" | "decoding" | "read"> {
    return {
      active: this.#active.size,
      waiting: this.#waiting.size,
      bytes: this.#residency.bytes,
      moves: this.#residency.moves,
    };
  }

  /**
   * @internal When it last had nothing to do and then had, in milliseconds since 1970; undefined while it has nothing:
   * no turn, or none but those that wait for their clients, to send what is read or to take pieces. A turn that waits
   * to be let in is work, whoever keeps it out.
   */
  get busySince(): number | undefined {
    return this.#busySince;
  }

  /** Ends every turn at what it has handed out, with MemformerError DISPOSED, and frees the decoder. Idempotent. */
  dispose(): void {
    if (this.#disposed) return;
    this.#disposed = true;
    for (const turn of this.#turns) turn.end(disposed());
    void this.#residency.close();
    this.#slots[Symbol.dispose]();
    this.#wake();
  }

  /** For `using`: as `dispose`. */
  [Symbol.dispose](): void {
    this.dispose();
  }

  get #turns(): ScheduledTurn[] {
    return [...this.#active, ...this.#waiting];
  }

  #check(): void {
    if (this.#disposed) throw disposed();
  }

  #hasRoom(): boolean {
    return (this.#active.size + 1) * this.#sessionBytes <= this.#budget;
  }

  #admit(): void {
    for (const turn of this.#policy.admit(this.#views(this.#waiting))) {
      if (!this.#residency.enter(turn.of.document, this.#sessionBytes)) return; // the next in turn, not the next that fits
      this.#waiting.delete(turn.of);
      this.#active.add(turn.of);
      this.#guard([turn.of], () => turn.of.start());
    }
  }

  async #one(): Promise<SchedulerReport> {
    if (this.#disposed) return { generated: 0, decoding: 0, read: 0, ...this.report };
    const start = performance.now();
    this.#admit();
    const ready = [...this.#active].filter((turn) => turn.decodable(this.#maxAhead)),
      readable = [...this.#active].filter((turn) => turn.readable);
    const read = this.#read(readable, ready.length > 0 || this.#steps.wanted());
    const chosen = this.#policy.decode(this.#views(ready), this.#slots.count),
      drawing = new Set(chosen.map(({ of }) => of));
    const others = [...this.#waiting, ...readable, ...ready.filter((turn) => !drawing.has(turn))];
    const longest = chosen.length === 0 ? 1 : (this.#policy.run?.(chosen, this.#views(others)) ?? 1);
    const { turns: decoding, tokens: generated } = await this.#steps.step([...drawing], {
      longest: Math.max(1, Math.floor(longest) || 1),
      ahead: this.#maxAhead,
    });
    if (read > 0) await this.#oneStepAhead();
    for (const turn of [...this.#active]) turn.deliver();
    const report = { generated, decoding, read, ...this.report };
    if (generated + read > 0) this.#onStep?.({ ...report, seconds: (performance.now() - start) / 1000 });
    return report;
  }

  /** Waits for what the step before has read: a text of any length is never enqueued but for two steps of it. */
  async #oneStepAhead(): Promise<void> {
    const before = this.#behind;
    this.#behind = synchronize().catch(() => undefined); // who reads the state is told of what failed
    await before;
  }

  #read(readable: readonly ScheduledTurn[], decoding: boolean): number {
    let read = 0;
    const most = segmentsAtOnce(this.model),
      segments = new Map<ScheduledTurn, number>();
    for (const { of } of this.#policy.read(this.#views(readable), decoding))
      segments.set(of, (segments.get(of) ?? 0) + 1);
    for (const [turn, count] of segments) {
      this.#guard([turn], () => {
        const view = this.#view(turn),
          tokens = turn.readSegments(Math.min(count, most));
        this.#policy.charge(view, tokens, "read");
        read += tokens;
      });
    }
    return read;
  }

  #fail(turn: ScheduledTurn, error: unknown): void {
    this.#slots.leave(turn);
    turn.end(error);
  }

  /** Runs `work`; what it throws ends these turns. */
  #guard(turns: readonly ScheduledTurn[], work: () => void): void {
    try {
      work();
    } catch (error) {
      for (const turn of turns) this.#fail(turn, error);
    }
  }

  #over(turn: ScheduledTurn): void {
    const view = this.#view(turn);
    this.#slots.leave(turn);
    this.#waiting.delete(turn);
    if (this.#active.delete(turn)) this.#residency.leave(turn.document);
    this.#policy.leave(view, this.#views(this.#turns));
    this.#wake();
  }

  #views(turns: Iterable<ScheduledTurn>): (TurnView & { readonly of: ScheduledTurn })[] {
    return Array.from(turns, (turn) => this.#view(turn));
  }

  #view(turn: ScheduledTurn): TurnView & { readonly of: ScheduledTurn } {
    const inSegment = this.#slots.has(turn) && turn.document.current.length > 0;
    return { key: turn.key, arrival: turn.arrival, inSegment, of: turn };
  }

  /** Something may be done that could not be before. */
  #wake(): void {
    this.#woken = true;
    if (this.#asleep !== undefined) this.#busySince ??= Date.now();
    this.#asleep?.();
    this.#asleep = undefined;
    if (this.#drive && !this.#driving && !this.#disposed) void this.#run();
  }

  /** Steps while there is work. */
  async #run(): Promise<void> {
    this.#driving = true;
    this.#busySince = Date.now();
    const turns = new Turns();
    try {
      while (!this.#disposed && this.#active.size + this.#waiting.size > 0) {
        this.#woken = false;
        const { generated, read } = await this.step();
        await turns.take();
        if (generated + read > 0 || this.#woken || this.#disposed) continue;
        // Everybody waits for tokens to arrive or pieces to be taken.
        if (this.#active.size + this.#waiting.size === 0 || this.#canGoOn()) continue;
        if (this.#waiting.size === 0) this.#busySince = undefined;
        await new Promise<void>((resolve) => (this.#asleep = resolve));
      }
    } catch (error) {
      for (const turn of this.#turns) turn.end(error); // a policy that throws
    } finally {
      this.#driving = false;
      this.#busySince = undefined;
    }
  }

  #canGoOn(): boolean {
    if (this.#steps.wanted()) return true;
    return [...this.#active].some((turn) => turn.deliverable || turn.decodable(this.#maxAhead) || turn.readable);
  }
}

function disposed(): MemformerError {
  return new MemformerError("DISPOSED", "this scheduler has been disposed of");
}
