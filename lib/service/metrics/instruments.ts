/**
 * Counters, gauges and histograms, and their text in the exposition format 0.0.4 of Prometheus. Sixty lines instead of
 * a library: prom-client is deprecated, and its heir needs a later Node.
 */

type Labels = Readonly<Record<string, string>>;

/** One line of the text: `suffix` of the name, labels, value. */
export interface Reading {
  readonly suffix?: string;
  readonly labels?: Labels;
  readonly value: number;
}

export interface Instrument {
  readonly name: string;
  readonly help: string;
  readonly type: "counter" | "gauge" | "histogram";
  readings(): readonly Reading[];
}

/** A number that rises, by label. The labels' values are ours, never a user's. */
export class Counter<Label extends string = never> implements Instrument {
  readonly type = "counter";
  readonly name: string;
  readonly help: string;
  readonly #label: string | undefined;
  readonly #values = new Map<string, number>();

  /** With a label: all its values, so that each is there from the start. */
  constructor(name: string, help: string, label?: string, values: readonly Label[] = []) {
    [this.name, this.help, this.#label] = [name, help, label];
    for (const value of label === undefined ? [""] : values) this.#values.set(value, 0);
  }

  add(amount: number, ...[value]: [Label] extends [never] ? [] : [Label]): void {
    const key = value ?? "";
    this.#values.set(key, (this.#values.get(key) ?? 0) + amount);
  }

  readings(): Reading[] {
    const label = this.#label;
    return [...this.#values].map(([key, value]) =>
      label === undefined ? { value } : { labels: { [label]: key }, value },
    );
  }
}

/** A number that is asked for when it is read. */
export class Gauge implements Instrument {
  readonly type = "gauge";
  readonly name: string;
  readonly help: string;
  readonly #read: () => number | readonly Reading[];

  constructor(name: string, help: string, read: () => number | readonly Reading[]) {
    [this.name, this.help, this.#read] = [name, help, read];
  }

  readings(): readonly Reading[] {
    const read = this.#read();
    return typeof read === "number" ? [{ value: read }] : read;
  }
}

/** How often a number fell below each bound. */
export class Histogram<Label extends string = never> implements Instrument {
  readonly type = "histogram";
  readonly name: string;
  readonly help: string;
  readonly #bounds: readonly number[];
  readonly #label: string | undefined;
  readonly #series = new Map<string, { counts: number[]; sum: number; count: number }>();

  constructor(name: string, help: string, bounds: readonly number[], label?: string, values: readonly Label[] = []) {
    [this.name, this.help, this.#bounds, this.#label] = [name, help, bounds, label];
    for (const value of label === undefined ? [""] : values) this.#of(value);
  }

  observe(value: number, ...[label]: [Label] extends [never] ? [] : [Label]): void {
    const series = this.#of(label ?? "");
    series.sum += value;
    series.count += 1;
    const bucket = this.#bounds.findIndex((bound) => value <= bound);
    if (bucket >= 0) series.counts[bucket]! += 1;
  }

  readings(): Reading[] {
    return [...this.#series].flatMap(([value, { counts, sum, count }]) => {
      const labels: Labels = this.#label === undefined ? {} : { [this.#label]: value };
      let below = 0;
      return [
        ...this.#bounds.map((bound, i) => ({
          suffix: "_bucket",
          labels: { ...labels, le: String(bound) },
          value: (below += counts[i]!),
        })),
        { suffix: "_bucket", labels: { ...labels, le: "+Inf" }, value: count },
        { suffix: "_sum", labels, value: sum },
        { suffix: "_count", labels, value: count },
      ];
    });
  }

  #of(value: string): { counts: number[]; sum: number; count: number } {
    let series = this.#series.get(value);
    if (series === undefined) {
      series = { counts: this.#bounds.map(() => 0), sum: 0, count: 0 };
      this.#series.set(value, series);
    }
    return series;
  }
}

/** The content type of {@link exposition}. */
export const expositionType = "text/plain; version=0.0.4; charset=utf-8";

/** The text that Prometheus reads. */
export function exposition(instruments: Iterable<Instrument>): string {
  let text = "";
  for (const instrument of instruments) {
    const { name, help, type } = instrument;
    text += `# HELP ${name} ${help}\n# TYPE ${name} ${type}\n`;
    for (const { suffix = "", labels = {}, value } of instrument.readings())
      text += `${name}${suffix}${labelText(labels)} ${value}\n`;
  }
  return text;
}

function labelText(labels: Labels): string {
  const pairs = Object.entries(labels).map(
    ([name, value]) => `${name}="${value.replace(/[\\"]/g, "\\$&").replaceAll("\n", "\\n")}"`,
  );
  return pairs.length === 0 ? "" : `{${pairs.join(",")}}`;
}
