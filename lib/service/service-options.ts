/** The options of the plugin, and their checks. */
import { z } from "zod";
import type { Tokenizer } from "../data/tokenizers/tokenizer.ts";
import type { Memformer } from "../model/memformer.ts";
import { checkOptions, optionSchema, optionTypes } from "../options.ts";
import type { HostRegistry } from "./metrics/registry.ts";
import type { SessionHostOptions } from "./host-types.ts";
import type { SessionStore } from "./store.ts";

/** Options of {@link memformerService}. */
export interface ServiceOptions extends Omit<SessionHostOptions, "tokenizer" | "store"> {
  readonly model: Memformer;
  /** As in training. Default "bytes". */
  readonly tokenizer?: Tokenizer | (string & {}) | undefined;
  /** Where sessions are kept. Default: in memory, until the process ends. */
  readonly store?: SessionStore | undefined;
  /** The model's name for clients. Default "memformer". */
  readonly name?: string | undefined;
  /** Bearer tokens by the name of the client; each sees its own sessions alone. Default: everybody is one client. */
  readonly tokens?: Readonly<Record<string, string>> | undefined;
  /** Requests of a client (its token, else its address) in a minute. Default: any number. */
  readonly requestsPerMinute?: number | undefined;
  /** Milliseconds that turns may go on when the service closes. Default 5000. */
  readonly grace?: number | undefined;
  /** Milliseconds of silence in a stream until a ping. Default 15,000. */
  readonly pingAfter?: number | undefined;
  /** Milliseconds that a client may leave a stream unread until it is dropped. Default 30,000. */
  readonly readerTimeout?: number | undefined;
  /** Milliseconds without a step, while turns wait, until /ready says no. Default 60,000. */
  readonly stallAfter?: number | undefined;
  /** Whether `/` is the page that shows a session and its memory. Default true. */
  readonly page?: boolean | undefined;
  /** A registry of prom-client's form that takes the metrics too. */
  readonly metricsRegistry?: HostRegistry | undefined;
}

const kind = <T>(test: (value: unknown) => boolean, expected: string) => z.custom<T>(test, `expected ${expected}`);
const object = (value: unknown): boolean => typeof value === "object" && value !== null;
const milliseconds = z.number().nonnegative().optional();

const serviceSchema = optionSchema<ServiceOptions & { prefix?: string; logLevel?: string; logSerializers?: object }>({
  model: kind(object, "a Memformer"),
  tokenizer: z.union([z.string(), kind(object, "a tokenizer")]).optional(),
  store: kind(object, "a SessionStore").optional(),
  ownership: kind(object, "leases").optional(),
  scheduler: kind(object, "options of a scheduler").optional(),
  maxTurns: optionTypes.count.optional(),
  turnsPerClient: optionTypes.count.optional(),
  liveSessions: z.int().nonnegative().optional(),
  idleAfter: milliseconds,
  sessionTtl: z.int().positive().optional(),
  name: z.string().min(1).optional(),
  tokens: z.record(z.string(), z.string()).optional(),
  requestsPerMinute: optionTypes.count.optional(),
  grace: milliseconds,
  pingAfter: z.number().positive().optional(),
  readerTimeout: z.number().positive().optional(),
  stallAfter: z.number().positive().optional(),
  page: z.boolean().optional(),
  metricsRegistry: kind(object, "a registry").optional(),
  prefix: z.string().optional(),
  logLevel: z.any().optional(),
  logSerializers: z.any().optional(),
});

/** Throws MemformerError CONFIG for unknown options and for those out of range. */
export function checkService(options: ServiceOptions): void {
  checkOptions(serviceSchema, options, "service");
}
