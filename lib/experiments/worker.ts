/** A process that makes runs of an experiment beside others, each on a device of its own. */
import { configureRuntime } from "../engine/runtime.ts";
import { experimentOf } from "./index.ts";
import { serveOrders } from "./jobs.ts";
import type { Row } from "./row.ts";
import { made } from "./run.ts";
import type { BesideRun } from "./side-by-side.ts";

serveOrders<BesideRun, Row>(async ({ experiment, settings, ...options }, { device, threads }, signal, note) => {
  if (device === "cpu") configureRuntime({ threads });
  note(JSON.stringify(settings));
  return made(experimentOf(experiment), settings, { ...options, device, signal }, note);
});
