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

  /** Takes places; what gives them back. Throws ServiceError invalid_request, overloaded, rate_limited. */
  enter(client: string, count = 1): Disposable {
    const held = this.#byClient.get(client) ?? 0,
      most = Math.min(this.#all, this.#each);
    if (count > most && count > 1)
      throw new ServiceError(
        "invalid_request",
        `${count} choices are more than the ${most} turns that a client may have`,
      );
    if (this.#count + count > this.#all)
      throw new ServiceError("overloaded", `${this.#count} turns are under way, as many as this server takes`, {
        retryAfter: 1,
      });
    if (held + count > this.#each)
      throw new ServiceError("rate_limited", `this client has ${held} turns under way, as many as it may`, {
        retryAfter: 1,
      });
    this.#byClient.set(client, held + count);
    this.#count += count;
    let left = false;
    return {
      [Symbol.dispose]: () => {
        if (left) return;
        left = true;
        this.#count -= count;
        const now = this.#byClient.get(client)! - count;
        if (now === 0) this.#byClient.delete(client);
        else this.#byClient.set(client, now);
      },
    };
  }
}
