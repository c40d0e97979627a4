/** `memformer generate`: what is drawn, where it stops, what it prints, and sessions in files. */
import { expect } from "chai";
import { readdirSync, readFileSync, writeFileSync } from "node:fs";
import { Memformer, type Piece } from "../lib/index.ts";
import { perturb } from "./support/models.ts";
import { Bench, type Outcome } from "./support/run-cli.ts";

describe("memformer generate", function () {
  this.timeout(300_000);
  let bench: Bench;
  before(async () => {
    bench = new Bench();
    await using model = await Memformer.create({ preset: "tiny", seed: 3, device: "cpu" });
    await perturb(model, 0.05);
    await model.save(bench.path("model"));
  });
  after(() => {
    bench.remove();
  });

  const generate = async (...args: string[]): Promise<Outcome> =>
    bench.run(
      "generate",
      "model",
      "--prompt",
      "Call me",
      "--threads",
      "1",
      "--seed",
      "4",
      "--max-tokens",
      "60",
      ...args,
    );
  const text = async (...args: string[]): Promise<string> => {
    const { code, stdout, stderr } = await generate(...args);
    expect(code, stderr).to.equal(0);
    return stdout;
  };

  it("stops before a text, and prints nothing of it", async () => {
    const plain = (await text()).slice(0, -1),
      [stop, other] = [plain.slice(20, 23), plain.slice(30, 32)];
    const at = Math.min(...[stop, other].map((word) => plain.indexOf(word)));
    expect(await text("--stop", stop, "--stop", other)).to.equal(`${plain.slice(0, at)}\n`);
  });

  it("prints tokens and log-probabilities as lines of JSON", async () => {
    const plain = await text(),
      lines = (await text("--json", "--logprobs", "2")).trim().split("\n");
    const pieces = lines.map((line) => JSON.parse(line) as Piece);
    expect(pieces.map((piece) => piece.text).join("")).to.equal(plain.slice(0, -1));
    expect(pieces.map(({ finish }) => finish)).to.deep.equal([...pieces.slice(1).map(() => null), "length"]);
    const tokens = pieces.flatMap((piece) => piece.tokens);
    expect(tokens.length).to.equal(60);
    for (const { logprob, top } of tokens) {
      expect(logprob).to.be.below(0);
      expect(top!.length).to.equal(2);
      expect(top![0]!.logprob).to.be.at.least(Math.max(logprob!, top![1]!.logprob));
    }
    const { code, stderr } = await generate("--logprobs", "2");
    expect([code, stderr.split("\n")[0]]).to.deep.equal([2, "memformer: --logprobs needs --json"]);
  });

  it("draws by min-p and a repetition penalty", async () => {
    const greedy = await text("--temperature", "0");
    expect(await text("--min-p", "1")).to.equal(greedy);
    expect(await text("--temperature", "0", "--repetition-penalty", "1.8")).to.not.equal(greedy);
    expect(await text("--temperature", "0", "--repetition-penalty", "1.8", "--repetition-window", "0")).to.equal(
      greedy,
    );
    for (const wrong of [
      ["--min-p", "2"],
      ["--repetition-penalty", "0"],
      ["--stop", ""],
    ])
      expect((await generate(...wrong)).code, wrong.join(" ")).to.equal(2);
  });

  it("keeps a session in a file, and goes on with it as if it had never stopped", async () => {
    const whole = await text("--max-tokens", "50");
    const first = await text("--max-tokens", "20", "--save", "kept.session");
    const { stdout: rest } = await bench.run(
      ...["generate", "model", "--session", "kept.session", "--seed", "4", "--max-tokens", "30", "--threads", "1"],
    );
    expect(first.slice(0, -1) + rest).to.equal(whole);
    expect(readdirSync(bench.folder).filter((name) => name.includes("partial"))).to.deep.equal([]);
    const bytes = readFileSync(bench.path("kept.session"));
    bytes[bytes.length >> 1]! ^= 1;
    writeFileSync(bench.path("damaged.session"), bytes);
    const damaged = await bench.run("generate", "model", "--session", "damaged.session");
    expect(damaged.code).to.equal(1);
    expect(damaged.stderr)
      .to.match(/not a saved session: .*checksum/)
      .and.include("ERR_MEMFORMER_CHECKPOINT_FORMAT");
    const missing = await bench.run("generate", "model", "--session", "none.session");
    expect([missing.code, missing.stderr]).to.satisfy(
      ([code, said]: [number, string]) => code === 1 && said.includes("cannot read none.session: ENOENT"),
    );
    // A book is read without a word being made.
    const { stdout, code } = await bench.run(
      ...["generate", "model", "--prompt-file", bench.text, "--max-tokens", "0", "--save", "book.session"],
    );
    expect([stdout, code]).to.deep.equal(["\n", 0]);
    expect(readFileSync(bench.path("book.session")).length).to.be.below(8 * 64 * 4 + 4096);
  });
});
