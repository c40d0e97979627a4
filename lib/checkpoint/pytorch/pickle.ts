/**
 * Reads the pickles that PyTorch writes, and nothing more: no code is run. A pickle is a program for a stack machine;
 * of its instructions only those that build dictionaries, lists, tuples, numbers, texts, booleans and None are known
 * here. What would import a Python object (`GLOBAL`, `STACK_GLOBAL`) is asked of the caller by name, and calling it
 * (`REDUCE`) calls the function that the caller gave for that name.
 */
import { MemformerError } from "../../errors.ts";
import { ByteReader } from "./pickle-bytes.ts";

/** Stands for a Python callable: given the arguments, returns the object that it would make. */
export type Construct = (args: readonly unknown[]) => unknown;

export interface PickleHooks {
  /**
   * Of `module.name`: a function for what may be called, any other value for what is only handed on. Throws to refuse.
   */
  readonly global: (module: string, name: string) => unknown;
  /** What a persistent id, PyTorch's word for a storage, stands for. */
  readonly persistent: (id: unknown) => unknown;
}

/**
 * The object of a pickle: a dictionary is a Map, a list or tuple an array, an int a number (a bigint from 2^53 on).
 * Throws CHECKPOINT_FORMAT for damage, for an instruction that tensors do not need, and what the hooks throw.
 */
export function unpickle(bytes: Uint8Array, path: string, hooks: PickleHooks): unknown {
  const machine = new Machine(new ByteReader(bytes, path), path, hooks);
  for (;;) {
    const opcode = machine.bytes.byte();
    if (opcode === STOP) return machine.pop();
    const instruct = instructions.get(opcode);
    if (instruct === undefined) {
      return machine.fail(
        `it holds the pickle instruction 0x${opcode.toString(16).padStart(2, "0")}, which no tensor needs`,
      );
    }
    instruct(machine);
  }
}

const STOP = 0x2e;
const LAST_PROTOCOL = 5;
const MARK = Symbol("mark");

class Machine {
  readonly bytes: ByteReader;
  readonly hooks: PickleHooks;
  readonly memo = new Map<number, unknown>();
  readonly #path: string;
  readonly #stack: unknown[] = [];

  constructor(bytes: ByteReader, path: string, hooks: PickleHooks) {
    this.bytes = bytes;
    this.hooks = hooks;
    this.#path = path;
  }

  push(value: unknown): void {
    this.#stack.push(value);
  }

  mark(): void {
    this.#stack.push(MARK);
  }

  pop(): unknown {
    const value = this.#stack.pop();
    return value === undefined || value === MARK ? this.fail("an instruction finds nothing on the stack") : value;
  }

  top(): unknown {
    const value = this.pop();
    this.push(value);
    return value;
  }

  /** Takes all that was pushed since the last mark. */
  sinceMark(): unknown[] {
    const at = this.#stack.lastIndexOf(MARK);
    return at === -1 ? this.fail("an instruction needs a mark that was never set") : this.#stack.splice(at).slice(1);
  }

  recall(key: number): unknown {
    return this.memo.has(key) ? this.memo.get(key) : this.fail(`nothing is stored under ${key}`);
  }

  text(): string {
    const value = this.pop();
    return typeof value === "string" ? value : this.fail("a global's name is not text");
  }

  append(values: readonly unknown[]): void {
    const list = this.top();
    if (!Array.isArray(list)) this.fail("it appends to something that is not a list");
    for (const value of values) (list as unknown[]).push(value);
  }

  setItems(keysAndValues: readonly unknown[]): void {
    const map = this.top();
    if (!(map instanceof Map) || keysAndValues.length % 2 !== 0)
      this.fail("it sets items of something that is not a dictionary");
    for (let i = 0; i < keysAndValues.length; i += 2) {
      (map as Map<unknown, unknown>).set(keysAndValues[i], keysAndValues[i + 1]);
    }
  }

  reduce(): void {
    const args = this.pop(),
      construct = this.pop();
    if (typeof construct !== "function" || !Array.isArray(args)) this.fail("it calls something that cannot be called");
    this.push((construct as Construct)(args as unknown[]));
  }

  fail(words: string): never {
    throw new MemformerError("CHECKPOINT_FORMAT", `${this.#path}: its pickle is damaged, or not PyTorch's: ${words}`, {
      details: { path: this.#path, byte: this.bytes.position },
    });
  }
}

function tuple(machine: Machine, size: number): void {
  machine.push(Array.from({ length: size }, () => machine.pop()).reverse());
}

/** By opcode. The names behind them are those of Python's pickletools. */
const instructions: ReadonlyMap<number, (machine: Machine) => void> = new Map<number, (m: Machine) => void>([
  [
    0x80,
    (m) => {
      if (m.bytes.byte() > LAST_PROTOCOL) m.fail("its protocol is newer than 5");
    },
  ], // PROTO
  [
    0x95,
    (m) => {
      m.bytes.skip(8);
    },
  ], // FRAME
  [
    0x28,
    (m) => {
      m.mark();
    },
  ], // MARK
  [
    0x4e,
    (m) => {
      m.push(null);
    },
  ], // NONE
  [
    0x88,
    (m) => {
      m.push(true);
    },
  ], // NEWTRUE
  [
    0x89,
    (m) => {
      m.push(false);
    },
  ], // NEWFALSE
  [
    0x4b,
    (m) => {
      m.push(m.bytes.byte());
    },
  ], // BININT1
  [
    0x4d,
    (m) => {
      m.push(m.bytes.uint16());
    },
  ], // BININT2
  [
    0x4a,
    (m) => {
      m.push(m.bytes.int32());
    },
  ], // BININT
  [
    0x8a,
    (m) => {
      m.push(m.bytes.integer(m.bytes.byte()));
    },
  ], // LONG1
  [
    0x47,
    (m) => {
      m.push(m.bytes.float64());
    },
  ], // BINFLOAT
  [
    0x58,
    (m) => {
      m.push(m.bytes.text(m.bytes.uint32()));
    },
  ], // BINUNICODE
  [
    0x8c,
    (m) => {
      m.push(m.bytes.text(m.bytes.byte()));
    },
  ], // SHORT_BINUNICODE
  [
    0x7d,
    (m) => {
      m.push(new Map());
    },
  ], // EMPTY_DICT
  [
    0x5d,
    (m) => {
      m.push([]);
    },
  ], // EMPTY_LIST
  [
    0x29,
    (m) => {
      m.push([]);
    },
  ], // EMPTY_TUPLE
  [
    0x85,
    (m) => {
      tuple(m, 1);
    },
  ], // TUPLE1
  [
    0x86,
    (m) => {
      tuple(m, 2);
    },
  ], // TUPLE2
  [
    0x87,
    (m) => {
      tuple(m, 3);
    },
  ], // TUPLE3
  [
    0x74,
    (m) => {
      m.push(m.sinceMark());
    },
  ], // TUPLE
  [
    0x61,
    (m) => {
      m.append([m.pop()]);
    },
  ], // APPEND
  [
    0x65,
    (m) => {
      m.append(m.sinceMark());
    },
  ], // APPENDS
  [
    0x73,
    (m) => {
      m.setItems([m.pop(), m.pop()].reverse());
    },
  ], // SETITEM
  [
    0x75,
    (m) => {
      m.setItems(m.sinceMark());
    },
  ], // SETITEMS
  [
    0x71,
    (m) => {
      m.memo.set(m.bytes.byte(), m.top());
    },
  ], // BINPUT
  [
    0x72,
    (m) => {
      m.memo.set(m.bytes.uint32(), m.top());
    },
  ], // LONG_BINPUT
  [
    0x94,
    (m) => {
      m.memo.set(m.memo.size, m.top());
    },
  ], // MEMOIZE
  [
    0x68,
    (m) => {
      m.push(m.recall(m.bytes.byte()));
    },
  ], // BINGET
  [
    0x6a,
    (m) => {
      m.push(m.recall(m.bytes.uint32()));
    },
  ], // LONG_BINGET
  [
    0x63,
    (m) => {
      m.push(m.hooks.global(m.bytes.line(), m.bytes.line()));
    },
  ], // GLOBAL
  [
    0x93,
    (m) => {
      // STACK_GLOBAL
      const name = m.text();
      m.push(m.hooks.global(m.text(), name));
    },
  ],
  [
    0x51,
    (m) => {
      m.push(m.hooks.persistent(m.pop()));
    },
  ], // BINPERSID
  [
    0x52,
    (m) => {
      m.reduce();
    },
  ], // REDUCE
  [
    0x62,
    (m) => {
      // BUILD: attributes of an OrderedDict, which say nothing about its tensors
      m.pop();
      if (!(m.top() instanceof Map)) m.fail("it sets attributes of something that is not a dictionary");
    },
  ],
]);
