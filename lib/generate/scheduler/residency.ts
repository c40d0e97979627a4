/** Which sessions' memories the engine holds, within a budget of bytes; the others are in host memory. */
import type { DocumentState } from "../document-state.ts";

/** A session that has no turn, since when. */
interface Idle {
  readonly document: DocumentState;
  readonly since: number;
}

export class Residency {
  readonly #budget: number;
  readonly #idleAfter: number;
  readonly #active = new Map<DocumentState, number>(); // bytes set aside
  readonly #idle = new Map<DocumentState, Idle>(); // resident, the longest unused first
  readonly #leaving = new Set<Promise<void>>();
  #timer: NodeJS.Timeout | undefined;
  #moves = 0;

  /** Bytes, and milliseconds after which an idle session leaves; Infinity: none. */
  constructor(budget: number, idleAfter: number) {
    this.#budget = budget;
    this.#idleAfter = idleAfter;
  }

  /** Bytes of sessions with a turn, and of idle ones that have not left. */
  get bytes(): number {
    let bytes = 0;
    for (const held of this.#active.values()) bytes += held;
    for (const { document } of this.#idle.values()) if (isHeld(document)) bytes += document.bytes;
    return bytes;
  }

  /** Sessions that were moved to host memory so far. */
  get moves(): number {
    return this.#moves;
  }

  /** Lets a session in that will hold so many bytes; idle ones leave for it. False: there is no room yet. */
  enter(document: DocumentState, bytes: number): boolean {
    const idle = this.#idle.get(document);
    this.#idle.delete(document);
    let held = 0;
    for (const others of this.#active.values()) held += others;
    if (this.#active.size > 0 && held + bytes > this.#budget) {
      if (idle !== undefined) this.#idle.set(document, idle);
      return false;
    }
    this.#active.set(document, bytes);
    for (const { document: other } of [...this.#idle.values()]) {
      if (this.bytes <= this.#budget) break;
      this.#moveOut(other);
    }
    return true;
  }

  /** Its turn is over. */
  leave(document: DocumentState): void {
    this.#active.delete(document);
    if (this.#budget === Infinity && this.#idleAfter === Infinity) return;
    for (const { document: other } of [...this.#idle.values()]) if (other.disposed) this.#idle.delete(other);
    if (document.disposed) return;
    this.#idle.set(document, { document, since: performance.now() });
    if (this.bytes > this.#budget) this.#moveOut([...this.#idle.keys()][0]!);
    this.#watch();
  }

  /** Waits for the moves under way; no more will follow. */
  async close(): Promise<void> {
    clearTimeout(this.#timer);
    this.#idle.clear();
    await Promise.all(this.#leaving);
  }

  #moveOut(document: DocumentState): void {
    this.#idle.delete(document);
    if (!isHeld(document)) return;
    this.#moves += 1;
    const move = document.offload().catch(() => undefined); // of a session disposed of meanwhile, or whose state failed
    this.#leaving.add(move);
    void move.then(() => this.#leaving.delete(move));
  }

  #watch(): void {
    if (this.#idleAfter === Infinity || this.#timer !== undefined || this.#idle.size === 0) return;
    this.#timer = setTimeout(() => {
      this.#timer = undefined;
      const now = performance.now();
      for (const { document, since } of [...this.#idle.values()])
        if (document.disposed || now - since >= this.#idleAfter) this.#moveOut(document);
      this.#watch();
    }, this.#idleAfter);
    this.#timer.unref();
  }
}

function isHeld(document: DocumentState): boolean {
  return !document.disposed && document.resident;
}
