/**
 * How many turns there may be, in all and of one client: counted where a request comes in, so that none waits unseen.
 */
import { ServiceError } from "./service-error.ts";

export class TurnLimits {
  readonly #all: number;
  readonly #each: number;
  readonly #byClient = new Map<string, number>();
  #count = 0;

  /** Turns at once, waiting ones included: of all clients, and of each. */
  constructor(all: number, each: number) {
    [this.#all, this.#each] = [all, each];
  }

  /** Turns that have a place. */
  get count(): number {
    return this.#count;
  }

  /** Takes a place; what gives it back. Throws ServiceError overloaded, rate_limited. */
  enter(client: string): Disposable {
    const held = this.#byClient.get(client) ?? 0;
    if (this.#count >= this.#all)
      throw new ServiceError("overloaded", `${this.#count} turns are under way, as many as this server takes`, {
        retryAfter: 1,
      });
    if (held >= this.#each)
      throw new ServiceError("rate_limited", `this client has ${held} turns under way, as many as it may`, {
        retryAfter: 1,
      });
    this.#byClient.set(client, held + 1);
    this.#count += 1;
    let left = false;
    return {
      [Symbol.dispose]: () => {
        if (left) return;
        left = true;
        this.#count -= 1;
        const now = this.#byClient.get(client)! - 1;
        if (now === 0) this.#byClient.delete(client);
        else this.#byClient.set(client, now);
      },
    };
  }
}
