/**
 * Stop strings in a text that arrives piece by piece: an automaton of their beginnings (Aho, Corasick, 1975). Text is
 * let go of as soon as it cannot be the beginning of a stop string any more, and no sooner.
 */

/** What may leave after a piece, and the stop string that ends the text, if one does. */
export interface Released {
  readonly text: string;
  readonly stop?: string;
}

interface Node {
  readonly next: Map<number, Node>;
  /** Characters from the root. */
  readonly depth: number;
  /** The node of the longest proper ending that begins a stop string. */
  fail: Node | undefined;
  /** The longest stop string that ends here. */
  stop: string | undefined;
}

/** Finds the stop string that ends first; of several that end at one place, the longest. */
export class StopFinder {
  readonly #root: Node = { next: new Map(), depth: 0, fail: undefined, stop: undefined };
  #at = this.#root;
  #held = "";

  constructor(stops: readonly string[]) {
    for (const stop of stops) this.#add(stop);
    const queue = [...this.#root.next.values()];
    for (const node of queue) {
      for (const [unit, child] of node.next) {
        child.fail = this.#step(node.fail ?? this.#root, unit);
        child.stop ??= child.fail.stop;
        queue.push(child);
      }
    }
  }

  /** The text that is certain; after a stop string was found the finder is of no more use. */
  push(text: string): Released {
    const whole = this.#held + text,
      before = this.#held.length;
    for (let i = 0; i < text.length; i++) {
      this.#at = this.#step(this.#at, text.charCodeAt(i));
      const { stop } = this.#at;
      if (stop === undefined) continue;
      this.#held = "";
      return { text: whole.slice(0, before + i + 1 - stop.length), stop };
    }
    const free = whole.length - this.#at.depth;
    this.#held = whole.slice(free);
    return { text: whole.slice(0, free) };
  }

  /** The text that is held back, when no more will come. */
  end(): string {
    const rest = this.#held;
    this.#held = "";
    this.#at = this.#root;
    return rest;
  }

  #add(stop: string): void {
    let node = this.#root;
    for (let i = 0; i < stop.length; i++) {
      const unit = stop.charCodeAt(i);
      let child = node.next.get(unit);
      if (child === undefined) {
        child = { next: new Map(), depth: i + 1, fail: this.#root, stop: undefined };
        node.next.set(unit, child);
      }
      node = child;
    }
    node.stop = stop;
  }

  #step(from: Node, unit: number): Node {
    let node: Node | undefined = from;
    while (node !== undefined) {
      const next = node.next.get(unit);
      if (next !== undefined) return next;
      node = node.fail;
    }
    return this.#root;
  }
}
