/** Bodies of requests out of a zod schema: some that it takes, most of them spoilt in a place or two, some no JSON. */
import { z } from "zod";
import { Random } from "../../lib/index.ts";

export interface FuzzOptions {
  readonly seed: number;
  /** Values to choose from, by the name of the field, in place of what the schema allows. */
  readonly fields?: Readonly<Record<string, readonly unknown[]>>;
}

/** What is posted. */
export interface FuzzedBody {
  readonly payload: string;
  readonly contentType: string;
}

type Node = Readonly<Record<string, unknown>>;
type Json = null | boolean | number | string | Json[] | { [key: string]: Json };

/** As many as are taken, the same for the same seed. */
export function* fuzzBodies(schema: z.ZodType, { seed, fields = {} }: FuzzOptions): Generator<FuzzedBody, never> {
  const random = new Random(seed),
    root = z.toJSONSchema(schema, { io: "input", unrepresentable: "any" }) as Node;
  for (;;) {
    const spoilt = random.below(8) < 7;
    let body = valueOf(root, random, fields, 0);
    for (let i = spoilt ? 1 + random.below(2) : 0; i > 0; i--) body = spoil(body, random);
    const payload = JSON.stringify(body);
    if (random.below(20) > 0) yield { payload, contentType: "application/json" };
    else yield noJson(payload, random);
  }
}

const texts = [
  "",
  "a",
  "Call me Ishmael.",
  "naïve 🐋",
  "\ud83d",
  "\udc0b\ud83d",
  "\u0000",
  "\ufeff",
  "\ufffd",
  "../../etc/passwd",
  "__proto__",
  "constructor",
  "1e9",
  "null",
  "${7*7}",
  "%00%0a",
  "' OR 1=1 --",
  "\r\ndata: x\r\n\r\n",
  "<script>",
];
const numbers = [0, -0, 1, -1, 0.5, 1e-320, 1e308, -1e308, 2 ** 31, 2 ** 53, 2 ** 53 + 2, 2 ** 64, -(2 ** 63)];

/** A value that a part of the schema takes, as far as JSON Schema can say. */
function valueOf(node: Node, random: Random, fields: FuzzOptions["fields"] & object, depth: number): Json {
  const among = (node["anyOf"] ?? node["oneOf"]) as Node[] | undefined;
  if (among !== undefined) return valueOf(pick(among, random), random, fields, depth);
  if ("const" in node) return node["const"] as Json;
  if (Array.isArray(node["enum"])) return pick(node["enum"] as Json[], random);
  switch (node["type"]) {
    case "object":
      return objectOf(node, random, fields, depth);
    case "array": {
      const least = (node["minItems"] as number | undefined) ?? 0,
        items = (node["items"] ?? {}) as Node;
      return Array.from({ length: least + random.below(4) }, () => valueOf(items, random, fields, depth + 1));
    }
    case "string":
      return typeof node["pattern"] === "string" ? matching(node["pattern"], random) : textOf(random);
    case "integer":
      return Math.round(numberOf(node, random));
    case "number":
      return numberOf(node, random);
    case "boolean":
      return random.below(2) === 0;
    case "null":
      return null;
    default:
      return hostile(random);
  }
}

function objectOf(node: Node, random: Random, fields: FuzzOptions["fields"] & object, depth: number): Json {
  const made: [string, Json][] = [],
    required = (node["required"] ?? []) as string[];
  for (const [name, part] of Object.entries((node["properties"] ?? {}) as Record<string, Node>)) {
    if (!required.includes(name) && fields[name] === undefined && random.below(4) > 0) continue;
    const pool = fields[name] as Json[] | undefined;
    made.push([name, pool === undefined ? valueOf(part, random, fields, depth + 1) : pick(pool, random)]);
  }
  const rest = node["additionalProperties"];
  if (typeof rest === "object" && rest !== null)
    for (let i = random.below(3); i > 0; i--)
      made.push([String(random.below(400)), valueOf(rest as Node, random, fields, depth + 1)]);
  return Object.fromEntries(made);
}

function numberOf(node: Node, random: Random): number {
  const least = (node["minimum"] ?? node["exclusiveMinimum"] ?? -10) as number,
    most = (node["maximum"] ?? node["exclusiveMaximum"] ?? least + 10) as number;
  switch (random.below(4)) {
    case 0:
      return least;
    case 1:
      return most;
    case 2:
      return least + 1;
    default:
      return least + (Math.min(most - least, 100) * random.below(1000)) / 1000;
  }
}

function textOf(random: Random): string {
  return random.below(50) === 0 ? "x".repeat(200) : pick(texts, random);
}

/** Patterns of ids and names are classes with a count; anything else gets a text that may not match. */
function matching(pattern: string, random: Random): string {
  const count = Number(/\{(\d+)\}/.exec(pattern)?.[1] ?? 1);
  return random.below(4) === 0 ? textOf(random) : String(random.below(10)).repeat(count);
}

function hostile(random: Random): Json {
  switch (random.below(10)) {
    case 0:
      return null;
    case 1:
      return random.below(2) === 0;
    case 2:
    case 3:
      return pick(numbers, random);
    case 4:
    case 5:
      return textOf(random);
    case 6:
      return pick<Json>([[], [[]], [null], [{}], ["a", 1], Array<Json>(300).fill(0), [-1], [1e9], [0.5]], random);
    case 7:
    case 8:
      return pick<Json>([{}, { length: 3 }, { pipe: 1 }, { toJSON: 1 }, { then: 1 }, { hasOwnProperty: 1 }], random);
    default:
      return JSON.parse("[".repeat(100) + "]".repeat(100)) as Json;
  }
}

/** The same with something wrong in one place. */
function spoil(value: Json, random: Random): Json {
  if (typeof value !== "object" || value === null) return hostile(random);
  const keys = Object.keys(value);
  if (Array.isArray(value)) {
    if (keys.length === 0 || random.below(3) === 0) return hostile(random);
    const at = random.below(keys.length);
    return value.map((each, i) => (i === at ? spoil(each, random) : each));
  }
  const entries = Object.entries(value),
    at = random.below(Math.max(1, keys.length));
  switch (random.below(20)) {
    case 0:
      return Object.fromEntries(entries.filter((_, i) => i !== at));
    case 1:
    case 2:
    case 3:
      return Object.fromEntries([...entries, [mistyped(keys[at] ?? "x", random), hostile(random)]]);
    case 4:
      return hostile(random);
    case 5:
      return [value];
    default:
      return Object.fromEntries(entries.map(([name, each], i) => [name, i === at ? spoil(each, random) : each]));
  }
}

function mistyped(name: string, random: Random): string {
  switch (random.below(4)) {
    case 0:
      return name.toUpperCase();
    case 1:
      return name.replace(/_?(\w)$/, "$1$1");
    case 2:
      return name.replaceAll("_", "");
    default:
      return pick(texts, random);
  }
}

function noJson(payload: string, random: Random): FuzzedBody {
  const json = "application/json";
  return pick<FuzzedBody>(
    [
      { payload: payload.slice(0, random.below(payload.length + 1)), contentType: json },
      { payload: "", contentType: json },
      { payload: `\ufeff${payload}`, contentType: json },
      { payload: `${payload}${payload}`, contentType: json },
      { payload: "[".repeat(20_000), contentType: json },
      { payload: '{"__proto__":{"stream":true},"model":"memformer"}', contentType: json },
      { payload: '{"constructor":{"prototype":{"a":1}}}', contentType: json },
      { payload: '{"a":1e999,"b":-1e999}', contentType: json },
      { payload: "NaN", contentType: json },
      { payload, contentType: "text/plain" },
      { payload, contentType: "application/octet-stream" },
      { payload, contentType: "application/x-www-form-urlencoded" },
      { payload, contentType: "application/json; charset=utf-16" },
      { payload, contentType: ";;;" },
      { payload, contentType: "multipart/form-data; boundary=x" },
    ],
    random,
  );
}

function pick<T>(values: readonly T[], random: Random): T {
  return values[random.below(values.length)]!;
}
