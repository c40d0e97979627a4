/** The bytes of a pickle, read from front to back; an end that comes too early is an error with a code. */
import { MemformerError } from "../../errors.ts";

export class ByteReader {
  readonly #view: DataView;
  readonly #bytes: Uint8Array;
  readonly #path: string;
  #position = 0;

  constructor(bytes: Uint8Array, path: string) {
    this.#bytes = bytes;
    this.#view = new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength);
    this.#path = path;
  }

  /** How many bytes have been read. */
  get position(): number {
    return this.#position;
  }

  byte(): number {
    return this.#view.getUint8(this.#take(1));
  }

  uint16(): number {
    return this.#view.getUint16(this.#take(2), true);
  }

  uint32(): number {
    return this.#view.getUint32(this.#take(4), true);
  }

  int32(): number {
    return this.#view.getInt32(this.#take(4), true);
  }

  /** Big-endian, alone among pickle's numbers. */
  float64(): number {
    return this.#view.getFloat64(this.#take(8), false);
  }

  /** A little-endian integer in two's complement of so many bytes; a bigint where a number cannot hold it. */
  integer(size: number): number | bigint {
    const start = this.#take(size);
    let value = 0n;
    for (let i = size - 1; i >= 0; i--) value = (value << 8n) | BigInt(this.#bytes[start + i]!);
    const signed = size === 0 ? 0n : BigInt.asIntN(8 * size, value);
    const number = Number(signed);
    return Number.isSafeInteger(number) ? number : signed;
  }

  /** UTF-8 of so many bytes. */
  text(size: number): string {
    const start = this.#take(size);
    return new TextDecoder().decode(this.#bytes.subarray(start, start + size));
  }

  /** Up to the next newline, which is left out. */
  line(): string {
    const end = this.#bytes.indexOf(0x0a, this.#position);
    if (end === -1) this.#ended();
    const text = this.text(end - this.#position);
    this.skip(1);
    return text;
  }

  skip(size: number): void {
    this.#take(size);
  }

  #take(size: number): number {
    const start = this.#position;
    if (size > this.#bytes.length - start) this.#ended();
    this.#position = start + size;
    return start;
  }

  #ended(): never {
    throw new MemformerError("CHECKPOINT_FORMAT", `${this.#path}: its pickle ends before it is complete (truncated?)`, {
      details: { path: this.#path, byte: this.#position },
    });
  }
}
