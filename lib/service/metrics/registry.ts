/** Metrics in a registry of the host's, such as prom-client's, so that its /metrics has all of them. */
import type { Instrument } from "./instruments.ts";

/** What prom-client's `Registry`, and that of its successor, have. */
export interface HostRegistry {
  /** Takes a metric of prom-client's form. */
  registerMetric(metric: never): unknown;
}

/** Adds the instruments to a registry of prom-client's form. */
export function registerIn(registry: HostRegistry, instruments: Iterable<Instrument>): void {
  for (const instrument of instruments) registry.registerMetric(asHostMetric(instrument) as never);
}

function asHostMetric(instrument: Instrument): object {
  const { name, help, type } = instrument;
  return {
    name,
    help,
    type,
    aggregator: "sum",
    reset: () => undefined,
    get: async () => ({
      name,
      help,
      type,
      aggregator: "sum",
      values: instrument.readings().map(({ suffix = "", labels = {}, value }) => ({
        value,
        labels,
        metricName: `${name}${suffix}`,
      })),
    }),
  };
}
