/** Whoever wants to see a session's memory change: told of segments, and keeps the session from nothing. */
import type { State } from "../model/state.ts";

/** A segment that has reached the memory. */
export interface SegmentReached {
  /** (T) each, as the model saw them: what came before, and the segment itself. `first`: the document's first. */
  readonly segment: { readonly source: Int32Array; readonly target: Int32Array; readonly first: boolean };
  /** Tokens of the document before `segment.target`. */
  readonly position: number;
  /**
   * The state that the segment met, and the one after it, of one row, as the session keeps them. They are the
   * session's: `detach()` what is to live longer than the call.
   */
  readonly before: State;
  readonly after: State;
}

/** Is told of a session's segments, in their order, before the next one begins. What it throws is a warning. */
export interface MemoryWatcher {
  /** The memory has been written. Tokens of the segment that nobody has been handed yet may still be taken back. */
  reached(segment: SegmentReached): void;
  /** The document goes on from this position, the end of a segment: segments behind it never were. */
  takenBack(position: number): void;
}

/** @internal Those of one document. */
export class Watchers implements MemoryWatcher {
  readonly #all = new Set<{ readonly watcher: MemoryWatcher }>();

  get count(): number {
    return this.#all.size;
  }

  add(watcher: MemoryWatcher): () => void {
    const entry = { watcher };
    this.#all.add(entry);
    return () => this.#all.delete(entry);
  }

  reached(segment: SegmentReached): void {
    this.#tell((watcher) => {
      watcher.reached(segment);
    });
  }

  takenBack(position: number): void {
    this.#tell((watcher) => {
      watcher.takenBack(position);
    });
  }

  #tell(what: (watcher: MemoryWatcher) => void): void {
    for (const { watcher } of [...this.#all]) {
      try {
        what(watcher);
      } catch (error) {
        process.emitWarning(error instanceof Error ? error : String(error));
      }
    }
  }
}
