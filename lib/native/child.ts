/** Runs one of our modules in a process of its own: a bad binary ends its process instead of throwing. */
import { spawnSync } from "node:child_process";

export interface ChildAnswer {
  /** Why it did not end well; undefined if it did. */
  readonly failure?: string | undefined;
  /** What it printed. */
  readonly said: string;
}

/** Node's arguments for a program text in a process of its own. */
export function childArguments(program: string): string[] {
  // `-e` of this process, if it was started so, must not reach the child; loaders given with --import must.
  const loaders = process.execArgv.filter((arg, at, all) => arg.startsWith("--import") || all[at - 1] === "--import");
  return [...loaders, "-e", program];
}

/** Evaluates `expression` over the module `name` of this folder, `m`. */
export function inChild(name: string, expression: string, env: NodeJS.ProcessEnv): ChildAnswer {
  const module = new URL(import.meta.url.endsWith(".ts") ? `./${name}.ts` : `./${name}.js`, import.meta.url).href;
  const program = `import(${JSON.stringify(module)}).then((m) => { ${expression} })`;
  const run = spawnSync(process.execPath, childArguments(program), {
    env: { ...env, ELECTRON_RUN_AS_NODE: "1" },
    encoding: "utf8",
    timeout: 60_000,
  });
  if (run.error !== undefined) return { failure: run.error.message, said: "" };
  const said = run.stdout.trim();
  if (run.status === 0) return { said };
  const reason = /^(?:\w*Error)(?: \[\w+\])?: (.+)$/m.exec(run.stderr)?.[1];
  const end = run.signal === null ? `exit code ${run.status ?? "?"}` : `killed by ${run.signal}`;
  return { failure: reason ?? `does not load: ${end}`, said };
}
