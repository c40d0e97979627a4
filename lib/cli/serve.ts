/** `memformer serve`: sessions of a model over HTTP, until a signal ends it. */
import closeWithGrace from "close-with-grace";
import { readFile } from "node:fs/promises";
import { isAbsolute, resolve } from "node:path";
import { pathToFileURL } from "node:url";
import { InvalidArgumentError, type Command } from "commander";
import { z } from "zod";
import { MemformerError } from "../errors.ts";
import { withIoErrors } from "../io-error.ts";
import { runSchema } from "../run/config.ts";
import { findModel, modelName, openModel } from "../run/run-folder.ts";
import { Leases } from "../service/lease.ts";
import type { ServeOptions } from "../service/serve.ts";
import type { SessionStore } from "../service/store.ts";
import { fileStore } from "../service/stores/files.ts";
import { memoryStore } from "../service/stores/memory.ts";
import { addOptions } from "./options.ts";

const seconds = z.number().nonnegative();
const serverSchema = z.strictObject({
  host: z.string().default("127.0.0.1").describe("the address to listen on; 0.0.0.0: all of this machine"),
  port: z.int().min(0).max(65535).default(8080).describe("the port; 0: any that is free"),
  tokens: z
    .string()
    .optional()
    .describe("a JSON file of bearer tokens by the client's name; default: nobody needs one"),
  trustProxy: z.boolean().default(false).describe("believe X-Forwarded-For: behind a proxy of yours only"),
  logLevel: z.enum(["trace", "debug", "info", "warn", "error", "silent"]).default("info").describe("what is logged"),
  grace: seconds.default(5).describe("seconds that turns may go on after SIGTERM"),
});
const modelSchema = z.strictObject({
  name: z.string().min(1).default("memformer").describe("the model's name for clients"),
  tokenizer: z.string().optional().describe(runSchema.shape.tokenizer.description!),
  device: runSchema.shape.device,
  threads: runSchema.shape.threads,
});
const sessionSchema = z.strictObject({
  store: z
    .string()
    .default("sessions")
    .describe("the folder that sessions are kept in; memory: until the process ends"),
  storeModule: z
    .string()
    .optional()
    .describe("an ES module whose default export is a SessionStore, in place of --store"),
  ownerUrl: z.string().optional().describe("this process' URL for the others that share its store; turns leases on"),
  lease: z
    .number()
    .positive()
    .default(30)
    .describe("seconds after which a session of a dead process may be taken over"),
  sessionTtl: z
    .int()
    .positive()
    .optional()
    .describe("seconds that a session is kept after its last turn; default: for ever"),
  idleAfter: seconds.default(60).describe("seconds until a session without a call leaves memory"),
});
const limitSchema = z.strictObject({
  slots: z.int().positive().default(16).describe("turns that draw a token in one step"),
  deterministic: z
    .boolean()
    .default(true)
    .describe("compute a session to the same bits alone and among others, which takes longer where many are"),
  budget: z.number().positive().optional().describe("MiB of memories that the engine holds; the others wait"),
  maxTurns: z.int().positive().default(256).describe("turns at once, those that wait included"),
  turnsPerClient: z.int().positive().optional().describe("the same of one client; default: as many"),
  requestsPerMinute: z.int().positive().optional().describe("requests of one client; default: any number"),
});

/** Adds `memformer serve`. */
export function register(program: Command): void {
  const command = program
    .command("serve")
    .description("serve sessions of a model over HTTP")
    .argument("<folder>", "a model, a checkpoint or a run");
  const groups = { Server: serverSchema, Model: modelSchema, Sessions: sessionSchema, Limits: limitSchema };
  for (const [group, schema] of Object.entries(groups)) addOptions(command, schema, group);
  command.action(async (path: string, flags: Record<string, unknown>) => {
    const given = z
      .strictObject({ ...serverSchema.shape, ...modelSchema.shape, ...sessionSchema.shape, ...limitSchema.shape })
      .parse(flags);
    const { tokens: tokenFile, storeModule, store: folder, ownerUrl, lease, grace, idleAfter, ...rest } = given;
    const { tokenizer: spec, device, threads, slots, deterministic, budget, ...plain } = rest;
    if (storeModule !== undefined && flags["store"] !== undefined)
      throw new InvalidArgumentError("--store and --store-module exclude each other");
    const tokens = tokenFile === undefined ? undefined : await readTokens(tokenFile);
    const store = await openStore(storeModule, folder);
    const { serve } = await import("../service/serve.ts");
    const found = await findModel(path);
    const { model, tokenizer } = await openModel(found.folder, { tokenizer: spec, device, threads });
    const options: ServeOptions = {
      ...plain,
      model,
      tokenizer,
      store,
      tokens,
      ownership: ownerUrl === undefined ? undefined : new Leases(store, { name: ownerUrl, url: ownerUrl, ttl: lease }),
      scheduler: { slots, deterministic, budgetBytes: budget === undefined ? undefined : budget * 2 ** 20 },
      grace: grace * 1000,
      idleAfter: idleAfter * 1000,
    };
    const { app, url } = await serve(options);
    process.stderr.write(`${modelName(found)} on ${url}\n`);
    if (tokens === undefined && !isLoopback(given.host))
      process.stderr.write("Nobody needs a token: whoever reaches this address may use it (--tokens).\n");
    closeWithGrace({ delay: grace * 1000 + 4000, logger: false }, async ({ err }) => {
      if (err) app.log.fatal(err);
      const cut = setTimeout(() => app.server.closeAllConnections(), grace * 1000 + 2000); // of clients that do not read
      await app.close();
      clearTimeout(cut);
      await model.dispose();
    });
  });
}

async function readTokens(file: string): Promise<Record<string, string>> {
  const text = await withIoErrors("read", file, async () => readFile(file, "utf8"));
  const parsed = z.record(z.string(), z.string()).safeParse(parseJson(text));
  if (!parsed.success)
    throw new MemformerError("CONFIG", `${file}: expected an object of tokens by the client's name: {"web": "…"}`);
  return parsed.data;
}

function parseJson(text: string): unknown {
  try {
    return JSON.parse(text);
  } catch {
    return undefined;
  }
}

async function openStore(module: string | undefined, folder: string): Promise<SessionStore> {
  if (module === undefined) return folder === "memory" ? memoryStore() : fileStore(folder);
  const url = pathToFileURL(isAbsolute(module) ? module : resolve(module)).href;
  const { default: store } = (await import(url)) as { default?: unknown };
  const methods = ["get", "put", "delete", "list", "touch"] as const;
  for (const method of methods) {
    if (typeof (store as SessionStore | undefined)?.[method] === "function") continue;
    throw new MemformerError("CONFIG", `${module}: expected a SessionStore as default export; it has no ${method}()`);
  }
  return store as SessionStore;
}

function isLoopback(host: string): boolean {
  return host === "localhost" || host === "::1" || host.startsWith("127.");
}
