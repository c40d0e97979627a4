// Tokens on their way out of an encoder, one after another in an array that grows.

/** A growing list of tokens. */
export class TokenBuffer {
  #tokens = new Int32Array(1 << 13);
  #length = 0;

  get length(): number {
    return this.#length;
  }

  push(token: number): void {
    this.#reserve(1);
    this.#tokens[this.#length++] = token;
  }

  pushAll(tokens: readonly number[]): void {
    for (let i = 0; i < tokens.length; i++) this.push(tokens[i]!);
  }

  /** Takes `tokens[from]` to `tokens[to - 1]`: a loop, for they are few. */
  copy(tokens: Int32Array, from: number, to: number): void {
    this.#reserve(to - from);
    const into = this.#tokens;
    let at = this.#length;
    for (let i = from; i < to; i++) into[at++] = tokens[i]!;
    this.#length = at;
  }

  /** Gives all of them away, and is empty again. */
  take(): Int32Array {
    const taken = this.#tokens.slice(0, this.#length);
    this.#length = 0;
    return taken;
  }

  #reserve(more: number): void {
    if (this.#length + more <= this.#tokens.length) return;
    const longer = new Int32Array(Math.max(this.#length + more, 2 * this.#tokens.length));
    longer.set(this.#tokens.subarray(0, this.#length));
    this.#tokens = longer;
  }
}
