import { expect } from "chai";
import { writeFile } from "node:fs/promises";
import { Bench } from "./support/run-cli.ts";

describe("the command line, misused", function () {
  let bench: Bench;
  before(() => {
    bench = new Bench();
  });
  after(() => {
    bench.remove();
  });

  const cases: [string, string[], number, RegExp][] = [
    ["a command that is none", ["evalute"], 2, /^memformer: unknown command 'evalute'\n\(Did you mean evaluate\?\)\n$/],
    [
      "an option that is none",
      ["train", "--encoder-layer", "3"],
      2,
      /^memformer: unknown option '--encoder-layer'\n\(Did you mean --encoder-layers\?\)\n$/,
    ],
    [
      "a number that is none",
      ["train", "--steps", "many"],
      2,
      /option '--steps <n>' argument 'many' is invalid\. expected number/,
    ],
    [
      "a number out of range",
      ["train", "--dropout", "1"],
      2,
      /option '--dropout <n>' argument '1' is invalid\. Too big: expected number to be <1/,
    ],
    [
      "a choice that is none",
      ["train", "--position", "rotery"],
      2,
      /argument 'rotery' is invalid\. expected one of "rotary"\|"relative"\|"t5"; did you mean "rotary"\?/,
    ],
    ["no text", ["train"], 2, /^memformer: there is no text to read: name it with --data .*\nERR_MEMFORMER_CONFIG\n$/],
    [
      "a data set that is none",
      ["train", "--data", "moby-dik"],
      1,
      /There is no file, folder or data set "moby-dik": did you mean "moby-dick"\?.*\nERR_MEMFORMER_DATA\n$/,
    ],
    [
      "a tokenizer that is none",
      ["train", "--data", "text.txt", "--tokenizer", "byte"],
      2,
      /Unknown tokenizer "byte": did you mean "bytes"\?/,
    ],
    [
      "options that do not fit",
      ["train", "--data", "text.txt", "--heads", "3"],
      2,
      /^memformer: model: heads must divide width, got 3 heads and width 256/,
    ],
    ["a file that is not there", ["train", "none.json"], 1, /^memformer: cannot read none\.json: ENOENT/],
    [
      "a file with a key that is none",
      ["train", "top.json"],
      2,
      /^memformer: top\.json: there is no option "lane"; did you mean "lanes"\?/,
    ],
    [
      "a file with a model's key that is none",
      ["train", "nested.json"],
      2,
      /^memformer: nested\.json: model: there is no option "widh"; did you mean "width"\?/,
    ],
    [
      "a file with a wrong value",
      ["train", "value.json"],
      2,
      /^memformer: value\.json: train: steps: expected number, received string, got "ten"/,
    ],
    ["a file with a key twice", ["train", "twice.json"], 2, /^memformer: twice\.json has the key "lanes" twice/],
    ["a file that is no JSON", ["train", "text.txt"], 2, /^memformer: text\.txt is not valid JSON/],
    ["no folder", ["evaluate"], 2, /^memformer: missing required argument 'folder'/],
    [
      "a folder without a model",
      ["evaluate", "."],
      1,
      /^memformer: \. holds no model: there is neither config\.json nor/,
    ],
    [
      "a prompt and a file of it",
      ["generate", ".", "--prompt", "a", "--prompt-file", "b"],
      2,
      /^memformer: --prompt and --prompt-file exclude each other/,
    ],
  ];
  for (const [name, args, expected, sentence] of cases) {
    it(`${name}: exit code ${expected} and a sentence without a stack`, async () => {
      await writeFile(bench.path("top.json"), '{"data": "text.txt", "lane": 2}');
      await writeFile(bench.path("nested.json"), '{"data": "text.txt", "model": {"widh": 2}}');
      await writeFile(bench.path("value.json"), '{"data": "text.txt", "train": {"steps": "ten"}}');
      await writeFile(bench.path("twice.json"), '{"data": "text.txt", "lanes": 2, "lanes": 3}');
      const { code, stdout, stderr } = await bench.run(...args);
      expect(stderr)
        .to.match(sentence)
        .and.not.match(/\n\s+at /);
      expect({ code, stdout }).to.deep.equal({ code: expected, stdout: "" });
    });
  }

  it("shows the stack of an error when MEMFORMER_DEBUG is set", async () => {
    process.env["MEMFORMER_DEBUG"] = "1";
    const { code, stderr } = await bench.run("train", "none.json").finally(() => {
      delete process.env["MEMFORMER_DEBUG"];
    });
    expect(code).to.equal(1);
    expect(stderr).to.match(/ENOENT[^]*\n\s+at /);
  });

  it("prints version and help on stdout, exit code 0", async () => {
    const version = await bench.run("--version");
    expect(version).to.deep.include({ code: 0, stderr: "" });
    expect(version.stdout).to.match(/^\d+\.\d+\.\d+\n$/);
    const help = await bench.run("train", "--help");
    expect(help.code).to.equal(0);
    expect(help.stdout)
      .to.match(/--encoder-layers <n>/)
      .and.match(/--no-tie-embedding/);
  });

  it("leaves --version of setup to setup", async () => {
    const { code, stdout, stderr } = await bench.run("setup", "--version", "0.0.0", "--from", "none.whl");
    expect(code).to.equal(1);
    expect(stdout).to.equal("");
    expect(stderr).to.match(/^memformer: LibTorch 0\.0\.0 in --version /);
  });
});
