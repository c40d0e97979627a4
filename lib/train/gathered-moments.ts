/**
 * The moments that ranks have shared out, on their way into one checkpoint, a part at a time: rank 0 asks for the next
 * part when it has written the one before. The others wait for its word on the store, without a limit, for a disk may
 * be slow; they hold one tensor more than their own share at a time, and rank 0 one part on its host.
 */
import { ITEM_BYTES } from "../checkpoint/host-tensor.ts";
import { synchronize } from "../engine/runtime.ts";
import type { Group } from "../distributed/group.ts";
import type { AdamW } from "./optimizer.ts";

const NAME = "the optimizer's moments";

export class GatheredMoments {
  /** Bytes of a part, the same on all ranks: each costs a word on the store. */
  static part = 64 * 2 ** 20;
  readonly #group: Group;
  readonly #optimizer: AdamW;
  /** Names of tensors, in the order in which they are written. */
  readonly #parts: readonly (readonly string[])[];
  readonly #moments: ReadonlySet<string>;
  #asked = 0;
  #here = new Map<string, Uint8Array>();

  constructor(group: Group, optimizer: AdamW) {
    this.#group = group;
    this.#optimizer = optimizer;
    const parts: string[][] = [];
    let bytes = Infinity; // of the last part
    for (const { name, dtype, shape } of optimizer.entries()) {
      if (shape.length === 0) continue; // counts, which every rank has
      const size = ITEM_BYTES[dtype] * shape.reduce((product, length) => product * length, 1);
      if (bytes + size > GatheredMoments.part) {
        parts.push([]);
        bytes = 0;
      }
      parts.at(-1)!.push(name);
      bytes += size;
    }
    this.#parts = parts;
    this.#moments = new Set(parts.flat());
  }

  /** On every rank but the first: gives it what it asks for, until it has all or has failed. On the first: nothing. */
  async giveFirstRank(): Promise<void> {
    if (this.#group.rank === 0) return;
    for (;;) {
      const part = await this.#group.share<number | null>(NAME);
      if (part === null) return;
      await this.#gather(this.#parts[part]!);
    }
  }

  /** On rank 0: the bytes of a tensor; moments are asked for in the order of {@link AdamW.entries}. */
  readonly read = async (name: string): Promise<Uint8Array> => {
    while (this.#moments.has(name) && !this.#here.has(name)) {
      const part = this.#asked++;
      await this.#group.share(NAME, part);
      this.#here = await this.#gather(this.#parts[part]!);
    }
    const bytes = this.#here.get(name);
    if (bytes !== undefined) return bytes;
    using count = this.#optimizer.tensor(name);
    return new Uint8Array((await count.read()).data);
  };

  /** On rank 0: lets the others go. */
  async end(): Promise<void> {
    if (this.#group.failure === undefined) await this.#group.share(NAME, null);
  }

  async #gather(names: readonly string[]): Promise<Map<string, Uint8Array>> {
    const gathered = new Map<string, Uint8Array>();
    for (const name of names) {
      using tensor = this.#optimizer.tensor(name);
      if (this.#group.rank > 0) await this.#group.guard(NAME, synchronize());
      else gathered.set(name, new Uint8Array((await this.#group.guard(NAME, tensor.read())).data));
    }
    return gathered;
  }
}
