/** `memformer inspect`: what a folder holds, read from its files alone; the native core is not loaded. */
import { existsSync } from "node:fs";
import { readdir, stat } from "node:fs/promises";
import { join } from "node:path";
import type { Command } from "commander";
import { CheckpointStore } from "../checkpoint/store.ts";
import { openWeights, readConfig } from "../checkpoint/model-files.ts";
import { formatBytes } from "../log/format.ts";
import { CHECKPOINTS, findModel, modelName } from "../run/run-folder.ts";
import { print } from "./output.ts";
import { optionLines, table } from "./table.ts";

interface Group {
  readonly group: string;
  readonly tensors: number;
  readonly parameters: number;
  readonly bytes: number;
}

/** Adds `memformer inspect`. */
export function register(program: Command): void {
  program
    .command("inspect")
    .description("show configuration, parameters and checkpoints of a model, a checkpoint or a run")
    .argument("<folder>", "a model, a checkpoint or a run")
    .option("--json", "print JSON")
    .action(async (path: string, { json = false }: { json?: boolean }) => {
      const { folder: model, step } = await findModel(path);
      const { format, formatVersion, ...config } = await readConfig(model);
      const groups = await parameterGroups(model),
        total = sum("total", groups);
      const checkpoints = await checkpointsOf(path);
      const facts = {
        model,
        ...(step !== undefined && { step }),
        format,
        formatVersion,
        config,
        groups,
        total,
        checkpoints,
      };
      await print(json ? `${JSON.stringify(facts, null, 2)}\n` : show(facts));
    });
}

/** By the first words of their names: `embedding`, `encoder.0`, `memory`. */
async function parameterGroups(folder: string): Promise<Group[]> {
  await using weights = await openWeights(folder);
  const groups = new Map<string, Group>();
  for (const name of weights.names) {
    const { shape, begin, end } = weights.entry(name);
    const group = /^[^.]+(\.\d+)?/.exec(name)![0];
    const one = {
      group,
      tensors: 1,
      parameters: shape.reduce((product, size) => product * size, 1),
      bytes: end - begin,
    };
    const before = groups.get(group);
    groups.set(group, before === undefined ? one : sum(group, [before, one]));
  }
  return [...groups.values()].sort((a, b) => a.group.localeCompare(b.group, "en", { numeric: true }));
}

function sum(group: string, parts: readonly Group[]): Group {
  const add = (key: "tensors" | "parameters" | "bytes"): number => parts.reduce((total, part) => total + part[key], 0);
  return { group, tensors: add("tensors"), parameters: add("parameters"), bytes: add("bytes") };
}

interface CheckpointFacts {
  readonly folder: string;
  readonly step: number;
  readonly best: boolean;
  readonly last: boolean;
  readonly bytes: number;
}

async function checkpointsOf(run: string): Promise<CheckpointFacts[]> {
  const root = join(run, CHECKPOINTS);
  if (!existsSync(root)) return [];
  const store = new CheckpointStore(root);
  const [last, best] = [await store.last(), await store.best()];
  return Promise.all(
    (await store.list()).map(async ({ folder, step }) => {
      const sizes = await Promise.all(
        (await readdir(folder)).map(async (name) => (await stat(join(folder, name))).size),
      );
      return {
        folder,
        step,
        best: folder === best,
        last: folder === last,
        bytes: sizes.reduce((total, size) => total + size, 0),
      };
    }),
  );
}

function show(facts: {
  model: string;
  step?: number;
  config: Readonly<Record<string, unknown>>;
  groups: readonly Group[];
  total: Group;
  checkpoints: readonly CheckpointFacts[];
}): string {
  const line = ({ group, tensors, parameters, bytes }: Group): string[] => [
    group,
    String(tensors),
    String(parameters),
    formatBytes(bytes),
  ];
  const parts = [
    modelName({ folder: facts.model, step: facts.step }),
    optionLines(facts.config),
    table([["parameters", "tensors", "numbers", "bytes"], ...facts.groups.map(line), line(facts.total)]),
    ...(facts.checkpoints.length === 0
      ? []
      : [
          table([
            ["checkpoint", "step", "bytes", ""],
            ...facts.checkpoints.map((checkpoint) => [
              checkpoint.folder,
              String(checkpoint.step),
              formatBytes(checkpoint.bytes),
              [checkpoint.last ? "last" : "", checkpoint.best ? "best" : ""].join(" ").trim(),
            ]),
          ]),
        ]),
  ];
  return `${parts.join("\n\n")}\n`;
}
