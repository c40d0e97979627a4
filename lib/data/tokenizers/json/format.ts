// The contents of a tokenizer.json, and errors for what is not supported.

/** A component of a tokenizer.json: its `type`, and options by name. */
export interface Component {
  readonly type?: string;
  readonly [option: string]: unknown;
}

/** One of the tokens that are found in text before anything else is. */
export interface AddedToken {
  readonly id: number;
  readonly content: string;
  readonly special: boolean;
  readonly normalized: boolean;
  readonly single_word: boolean;
  readonly lstrip: boolean;
  readonly rstrip: boolean;
}

/** A component that would give other tokens here than where the tokenizer came from. */
export class UnsupportedError extends Error {}

/** For the `default` of a `switch` over types. */
export function unsupported(kind: string, component: Component, why = ""): UnsupportedError {
  return new UnsupportedError(`its ${kind} ${JSON.stringify(component.type ?? null)} is not supported${why}`);
}

/** The members of a list of components. */
export function components(value: unknown, name: string): Component[] {
  if (!Array.isArray(value)) throw new Error(`${name} is not a list`);
  return value.map((member) => component(member, name));
}

/** @throws Error unless `value` is an object. */
export function component(value: unknown, name: string): Component {
  if (typeof value !== "object" || value === null || Array.isArray(value)) throw new Error(`${name} is not an object`);
  return value as Component;
}

/** Whether a value can be an id: tokens are kept in 32 bits. */
export function isId(value: unknown): value is number {
  return Number.isInteger(value) && (value as number) >= 0 && (value as number) < 2 ** 31 - 1;
}

/** An option's text, or what stands for it where there is none. */
export function textOption(component: Component, name: string, otherwise?: string): string {
  const value = component[name] ?? otherwise;
  if (typeof value !== "string") throw new Error(`${name} of ${component.type} is not a string`);
  return value;
}

/** An option's number, or what stands for it where there is none. */
export function countOption(component: Component, name: string, otherwise?: number): number {
  const value = component[name] ?? otherwise;
  if (!Number.isInteger(value) || (value as number) < 0) throw new Error(`${name} of ${component.type} is not a count`);
  return value as number;
}

/** A text's UTF-8 bytes as the names that byte fallback gives them. */
export function byteNames(text: string): string[] {
  return [...Buffer.from(text, "utf8")].map((byte) => `<0x${byte.toString(16).toUpperCase().padStart(2, "0")}>`);
}

/** Whether a text has no half of a surrogate pair. */
export function isWellFormed(text: string): boolean {
  return (text as unknown as { isWellFormed(): boolean }).isWellFormed(); // ES2024; every supported Node has it
}
