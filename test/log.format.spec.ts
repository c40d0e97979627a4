import { expect } from "chai";
import { formatBytes, formatDuration, formatNumber, formatRate } from "../lib/log/format.ts";

function table<T>(format: (value: T) => string, rows: [T, string][]): void {
  for (const [value, text] of rows) expect(format(value), String(value)).to.equal(text);
}

describe("formatting quantities", () => {
  it("tells bytes in powers of 1000", () => {
    table(formatBytes, [
      [0, "0 B"],
      [1, "1 B"],
      [512, "512 B"],
      [999, "999 B"],
      [1000, "1.0 kB"],
      [1_434_000, "1.4 MB"],
      [9_949_000, "9.9 MB"],
      [9_950_000, "10 MB"],
      [999_400, "999 kB"],
      [999_600, "1.0 MB"],
      [81_488_000_000, "81 GB"],
      [2.5e15, "2500 TB"],
      [-2048, "-2.0 kB"],
      [NaN, "NaN B"],
    ]);
  });

  it("tells tokens per second", () => {
    table(formatRate, [
      [0, "0.0 tok/s"],
      [3.14, "3.1 tok/s"],
      [950, "950 tok/s"],
      [12_345, "12.3 k tok/s"],
      [123_456, "123 k tok/s"],
      [999_700, "1.0 M tok/s"],
      [1_234_567, "1.2 M tok/s"],
      [Infinity, "Infinity tok/s"],
    ]);
  });

  it("tells durations in their two largest units and never 60 of one", () => {
    table(formatDuration, [
      [0, "0 s"],
      [0.84, "0.8 s"],
      [9.96, "10 s"],
      [45, "45 s"],
      [59.7, "1 min"],
      [60, "1 min"],
      [200, "3 min 20 s"],
      [3599.6, "1 h"],
      [3600, "1 h"],
      [7500, "2 h 5 min"],
      [7199, "2 h"],
      [86_399, "1 d"],
      [90_000, "1 d 1 h"],
      [273_600, "3 d 4 h"],
      [-200, "-3 min 20 s"],
      [Infinity, "unknown"],
      [NaN, "unknown"],
    ]);
  });

  it("tells numbers with significant digits that keep their columns", () => {
    table(
      (value: number) => formatNumber(value),
      [
        [2.4, "2.400"],
        [0, "0.000"],
        [12.3456, "12.35"],
        [123_456, "123500"],
        [0.00123456, "0.001235"],
        [0.00001234, "1.234e-5"],
        [12_345_678, "1.235e+7"],
        [-1.5, "-1.500"],
        [NaN, "NaN"],
        [-Infinity, "-Infinity"],
      ],
    );
    expect(formatNumber(2.45678, 2)).to.equal("2.5");
  });
});
