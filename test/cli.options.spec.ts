import { expect } from "chai";
import { Command } from "commander";
import { z } from "zod";
import { addOptions } from "../lib/cli/options.ts";
import { fromFlags, runSchema, mergeSettings, shapeSchema } from "../lib/run/config.ts";
import { trainSchema } from "../lib/train/config.ts";

describe("command-line options from schemas", () => {
  const parse = (schema: z.ZodObject, ...args: string[]): Record<string, unknown> => {
    const command = new Command().exitOverride().configureOutput({ writeErr: () => {} });
    addOptions(command, schema, "Some");
    return command.parse(args, { from: "user" }).opts();
  };
  const schema = z.strictObject({
    manyWords: z.int().positive().default(3).describe("how many"),
    on: z.boolean().default(true),
    off: z.boolean().default(false),
    kind: z.enum(["a", "b"]).default("a"),
    name: z.string().optional(),
    list: z.union([z.enum(["even"]), z.array(z.number())]).default("even"),
    each: z.array(z.string().min(1)).optional().describe("texts"),
  });

  it("holds only what was given", () => {
    expect(parse(schema)).to.deep.equal({});
    expect(
      parse(schema, "--many-words", "4", "--no-on", "--off", "--kind", "b", "--name", "12", "--list", "1,2"),
    ).to.deep.equal({ manyWords: 4, on: false, off: true, kind: "b", name: "12", list: [1, 2] });
    expect(parse(schema, "--on", "--no-off", "--list", "even")).to.deep.equal({ on: true, off: false, list: "even" });
  });

  it("collects what is given several times", () => {
    expect(parse(schema, "--each", "a,b", "--each", "12")).to.deep.equal({ each: ["a,b", "12"] });
    expect(() => parse(schema, "--each", "")).to.throw(/is invalid/);
  });

  it("refuses what the schema refuses", () => {
    for (const args of [
      ["--many-words", "0"],
      ["--many-words", "1.5"],
      ["--many-words", ""],
      ["--kind", "c"],
      ["--list", "1,x"],
      ["--list", "1,,2"],
      ["--list", "1,"],
    ]) {
      expect(() => parse(schema, ...args), args.join(" ")).to.throw(/is invalid/);
    }
  });

  it("shows help and default of every option", () => {
    const command = new Command();
    addOptions(command, schema, "Some");
    const help = command.helpInformation();
    expect(help)
      .to.match(/--many-words <n> +how many \(default: 3\)/)
      .and.include("(choices: a, b; default: a)");
    expect(help).to.include("--no-on").and.include("--off").and.not.include("--on").and.not.include("--no-off");
  });

  it("has one for every option of training: how many rows and segments go back at once", () => {
    expect(parse(trainSchema, "--micro-batch", "4", "--segments-per-step", "2")).to.deep.equal({
      microBatch: 4,
      segmentsPerStep: 2,
    });
    expect(() => parse(trainSchema, "--micro-batch", "0")).to.throw(/--micro-batch <n>' argument '0' is invalid/);
  });

  it("takes weights of a window by name or as a list; a list with a gap, or of zeros, is refused in words", () => {
    for (const name of ["tokens", "segments", "doubling"])
      expect(parse(trainSchema, "--weights", name)).to.deep.equal({ weights: name });
    expect(parse(trainSchema, "--weights", "1,0.5")).to.deep.equal({ weights: [1, 0.5] });
    for (const bad of ["1,,2", "0,0,0", "1,-1", "", "token"]) {
      expect(() => parse(trainSchema, "--weights", bad), bad).to.throw(
        /invalid. expected tokens, segments, doubling, or a number per segment/,
      );
    }
  });

  it("gives no key to two sections", () => {
    const keys = [runSchema, shapeSchema, trainSchema].flatMap(({ shape }) => Object.keys(shape));
    expect(new Set(keys).size).to.equal(keys.length);
    const { run, model, train } = fromFlags({ lanes: 3, width: 5, steps: 7, resume: true });
    expect([run, model, train]).to.deep.equal([{ lanes: 3 }, { width: 5 }, { steps: 7 }]);
  });

  it("lets later sources win, key by key", () => {
    const settled = mergeSettings(
      { run: { data: "a", lanes: 2 }, model: { width: 8 }, train: { steps: 5, learningRate: 0.5 } },
      { run: { lanes: 3 }, model: { heads: 2 }, train: { steps: 6 } },
    );
    expect(settled.run).to.deep.include({ data: "a", lanes: 3, tokenizer: "bytes" });
    expect(settled.model).to.deep.equal({ width: 8, heads: 2 });
    expect(settled.train).to.deep.include({ steps: 6, learningRate: 0.5, horizon: 8 });
  });
});
