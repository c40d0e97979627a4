/** The page in a real browser: what a newcomer does, what goes wrong, and who has no mouse, no light or no room. */
import { expect } from "chai";
import { mkdir, readFile, writeFile } from "node:fs/promises";
import { join } from "node:path";
import type { Browser, Page, Route } from "playwright-core";
import type { MemoryRow } from "../lib/service/memory-page.ts";
import { ask, chromiumPath, startBrowser, visit } from "./support/browser.ts";
import { ServiceBench, servedModel } from "./support/service.ts";
import type { Memformer } from "../lib/index.ts";

const T = 16,
  M = 12,
  book = "Call me Ishmael. Some years ago, never mind how long precisely, I thought I would sail about a little. ";

describe("the page", function () {
  this.timeout(40_000);
  let browser: Browser, model: Memformer, bench: ServiceBench;

  before(async function () {
    if (chromiumPath() === undefined) {
      console.log("      skipped: there is no chromium on the PATH (apt-get install chromium)");
      this.skip();
    }
    browser = await startBrowser();
    model = await servedModel({ segmentLength: T, memorySlots: M, width: 32, writerSharpness: 3 });
    bench = await ServiceBench.start({ model });
  });
  after(async () => {
    await browser?.close();
    await bench?.[Symbol.asyncDispose]();
    await model?.dispose();
  });

  /** Writes, lets the model go on, and waits until it is done. */
  async function goOn(page: Page, text: string, settings: Record<string, string> = {}): Promise<void> {
    if (Object.keys(settings).length > 0 && !(await page.locator("[name=seed]").isVisible()))
      await page.getByText("Settings").click();
    for (const [name, value] of Object.entries(settings)) await page.fill(`[name=${name}]`, value);
    await page.fill("#write", text);
    await page.getByRole("button", { name: "Continue" }).click();
    await done(page);
  }

  async function done(page: Page): Promise<void> {
    await page.waitForTimeout(40); // a click shows at the next frame
    await page.getByRole("button", { name: "Stop" }).waitFor({ state: "detached" });
    await page.locator(".composer button.primary:enabled").waitFor();
  }

  async function readFileOf(page: Page, text: string): Promise<void> {
    await page
      .locator("input[accept]")
      .setInputFiles({ name: "b.txt", mimeType: "text/plain", buffer: Buffer.from(text) });
    await page.getByText("Read from b.txt").waitFor();
    await done(page);
  }

  const idOf = async (page: Page): Promise<string> => /#s=(.*)/.exec(page.url())![1]!;

  async function memoryOf(page: Page): Promise<MemoryRow[]> {
    const { body } = await bench.call<{ segments: MemoryRow[] }>(
      "GET",
      `/v1/sessions/${await idOf(page)}/memory?limit=256`,
    );
    return body.segments;
  }

  it("sends all that was typed, however soon the key that sends it comes", async () => {
    await using seen = await visit(browser, `${bench.url}/`);
    const { page } = seen;
    await page.getByText("Settings").click();
    await page.evaluate(
      `for (const [selector, value] of [["#write", "Call me"], ["[name=maxTokens]", "3"], ["[name=seed]", "5"]]) {
        const field = document.querySelector(selector);
        field.value = value;
        field.dispatchEvent(new InputEvent("input", { bubbles: true }));
      }
      const key = { key: "Enter", ctrlKey: true, bubbles: true, cancelable: true };
      document.querySelector("#write").dispatchEvent(new KeyboardEvent("keydown", key));`,
    );
    await done(page);
    await page.getByText("seed 5").waitFor();
    const { body } = await bench.call<{ position: number }>("GET", `/v1/sessions/${await idOf(page)}`);
    expect([body.position, await page.inputValue("#write")]).to.deep.equal([10, ""]);
    expect(seen.complaints).to.deep.equal([]);
  });

  it("shows a newcomer the first token and the first picture of the memory", async () => {
    const began = performance.now();
    await using seen = await visit(browser, `${bench.url}/`);
    const { page } = seen;
    await page.getByText("A text of any length, in a memory that never grows.").waitFor();
    expect(await page.locator(".facts").textContent()).to.contain(`${M} memory slots`);
    await page.fill("#write", book);
    await page.keyboard.press("Control+Enter");
    await page.locator(".turn.model").waitFor();
    await page.locator(".grid canvas").waitFor();
    expect(performance.now() - began, "milliseconds").to.be.below(30_000);
    await done(page);
    const rows = await memoryOf(page);
    await page.getByText(`Segment ${rows.length}`, { exact: false }).first().waitFor();
    for (const colour of ["--mixing", "--latching"])
      expect(await ask<number>(page, `painted("${colour}")`), colour).to.be.above(20);
    expect(await page.locator("header .number").first().textContent()).to.contain("parameters");
    expect(seen.complaints).to.deep.equal([]);
  });

  it("reads a file, and goes back over what the memory did with it", async () => {
    await using seen = await visit(browser, `${bench.url}/`);
    const { page } = seen;
    await readFileOf(page, book.repeat(12));
    const rows = await memoryOf(page),
      text = book.repeat(12);
    expect(await page.locator("section header").first().textContent()).to.contain(
      `${text.length.toLocaleString("en")} tokens`,
    );
    const scrubber = page.getByRole("slider", { name: "Segment" });
    await page.getByText(`Segment ${rows.length},`).waitFor();
    expect(await scrubber.getAttribute("aria-valuetext")).to.equal(`Segment ${rows.length} of ${rows.length}`);
    await scrubber.fill("3");
    const row = rows[3]!;
    const counts = [..."lmo"].map((letter) => [...row.classes!].filter((found) => found === letter).length);
    await page
      .getByText(
        `Segment 4, tokens ${row.start + 1} to ${row.end}: ${counts[0]} latched, ${counts[1]} mixed, ${counts[2]} overwritten`,
      )
      .waitFor();
    expect(await page.locator(".segment .tokens").textContent()).to.equal(text.slice(row.start, row.end));
    await page.getByRole("button", { name: "Segment before" }).click();
    await page.getByText("Segment 3,").waitFor();
    // A later segment does not move what somebody looks at.
    await goOn(page, "", { maxTokens: "40", seed: "1" });
    await page.getByText("Segment 3,").waitFor();
    expect(seen.complaints).to.deep.equal([]);
  });

  it("shows which slots a chosen token read, as the service tells it", async () => {
    await using seen = await visit(browser, `${bench.url}/`);
    const { page } = seen;
    await goOn(page, book, { maxTokens: "60", seed: "5" });
    const rows = await memoryOf(page),
      row = rows[2]!;
    const token = page.locator(".turn .tokens > span").nth(row.start + 7);
    await token.click();
    await page.locator(".reads").waitFor();
    expect(await token.getAttribute("aria-selected")).to.equal("true");
    const shown = await page.locator(".reads li").allTextContents();
    const wanted = row.reads!.slots[7]!.map(
      (slot, k) => `slot ${slot + 1}${(100 * row.reads!.weights[7]![k]!).toFixed(1)} %`,
    );
    expect(shown.map((text) => text.trim())).to.deep.equal(wanted);
    await token.click();
    await page.locator(".reads").waitFor({ state: "detached" });
    expect(seen.complaints).to.deep.equal([]);
  });

  it("branches: two futures from one memory, compared and continued, one kept", async () => {
    await using seen = await visit(browser, `${bench.url}/`);
    const { page } = seen;
    await goOn(page, book, { maxTokens: "20", seed: "5" });
    await page.getByRole("button", { name: "Branch" }).click();
    await page.getByRole("heading", { name: "Future B" }).waitFor();
    const first = await idOf(page);
    await goOn(page, "The same. ", { maxTokens: "30", seed: "7" });
    await page.getByText("Word for word the same so far.").first().waitFor();
    const texts = await page.locator(".document").allTextContents();
    expect(texts[0]).to.equal(texts[1]);
    await page.getByRole("radio", { name: "B", exact: true }).check();
    await goOn(page, "But here. ");
    await page.getByRole("radio", { name: "A", exact: true }).check();
    await goOn(page, "But there also. ");
    const same = /The same for (\d+) characters/.exec(
      await page.locator("p", { hasText: "The same for" }).first().innerText(),
    )![1];
    expect(Number(same)).to.be.above("The same. But ".length);
    const parted = await page.locator(".parted").allTextContents();
    expect(parted.join("")).to.contain("here. ").and.to.contain("there also. ");
    await page.getByRole("radio", { name: "Future B" }).check();
    await page.getByText(/(slots did something else|did the same) here in the other future/).waitFor();
    await page.getByRole("button", { name: "Keep only this" }).nth(1).click();
    await page.getByRole("heading", { name: "Future B" }).waitFor({ state: "detached" });
    expect(await idOf(page)).not.to.equal(first);
    await page.waitForTimeout(100);
    expect((await bench.call("GET", `/v1/sessions/${first}`)).status).to.equal(404);
    expect(await page.locator(".document").textContent()).to.contain("But here");
    expect(seen.complaints).to.deep.equal([]);
  });

  it("saves a session and restores it, starts a new one, and finds one again by its address", async () => {
    await using seen = await visit(browser, `${bench.url}/`);
    const { page } = seen;
    await goOn(page, book, { maxTokens: "20", seed: "5" });
    const [download] = await Promise.all([
      page.waitForEvent("download"),
      page.getByRole("button", { name: "Save" }).click(),
    ]);
    const saved = await readFile(await download.path());
    expect(download.suggestedFilename()).to.match(/^\d+\.session$/);
    const first = await idOf(page);
    await page.reload();
    await page.getByText("Found again").waitFor();
    expect(await idOf(page)).to.equal(first);
    await page.getByRole("button", { name: "New" }).click();
    await page.getByText("A text of any length").waitFor();
    const file = { name: "mine.session", mimeType: "application/octet-stream", buffer: saved };
    await page.locator(".top input[type=file]").setInputFiles(file);
    await page.getByText("Restored from mine.session").waitFor();
    expect(await idOf(page)).not.to.equal(first);
    await goOn(page, "And on. ");
    await page.locator(".top input[type=file]").setInputFiles({ ...file, buffer: Buffer.from("no session") });
    await page.getByRole("alert").waitFor();
    expect(await page.getByRole("alert").textContent()).to.contain("The server refused this.");
    expect(seen.complaints.filter((text) => !text.includes("status of 4"))).to.deep.equal([]);
  });

  it("is used by the keyboard alone, with the focus in sight", async () => {
    await using seen = await visit(browser, `${bench.url}/`);
    const { page } = seen;
    const keys = async (...all: string[]): Promise<void> => {
      for (const key of all) await page.keyboard.press(key);
    };
    const tabTo = async (wanted: string): Promise<void> => {
      for (let i = 0; i < 40; i++) {
        await keys("Tab");
        const { name, seen: inSight } = await ask<{ name: string; seen: boolean }>(page, "focused()");
        expect(inSight, name).to.equal(true);
        if (name.startsWith(wanted)) return;
      }
      throw new Error(`the tab key does not come to ${wanted}`);
    };
    await page.getByText("A text of any length").waitFor();
    await tabTo("textarea");
    await page.keyboard.type(book);
    await keys("Control+Enter");
    await page.locator(".turn.model").waitFor();
    await done(page);
    await tabTo("div.grid");
    const cell = page.locator("#cell");
    await keys("Home", "PageUp");
    await page.getByText("Slot 1 at segment").waitFor();
    const before = await cell.textContent();
    await keys("ArrowRight", "ArrowDown");
    await page.getByText("Slot 2 at segment").waitFor();
    expect(await cell.textContent()).not.to.equal(before);
    await keys("End");
    await page.getByText(`Slot ${M} at segment`).waitFor();
    await tabTo("input.");
    await keys("Home");
    await page.getByText("Segment 1:", { exact: false }).waitFor();
    await keys("ArrowRight", "ArrowRight");
    await page.getByText("Segment 3,").waitFor();
    await tabTo("span.tokens");
    await keys("ArrowRight", "ArrowRight", "Enter");
    await page.locator(".reads").waitFor();
    // Escape stops, and what was said stays.
    await page.focus("#write");
    await page.getByText("Settings").click();
    await page.fill("[name=maxTokens]", "1000000");
    await page.focus("#write");
    await keys("Control+Enter");
    await page.getByRole("button", { name: "Stop" }).waitFor();
    await page.waitForTimeout(300);
    await keys("Escape");
    await done(page);
    const { body } = await bench.call<{ position: number; busy: boolean }>("GET", `/v1/sessions/${await idOf(page)}`);
    expect(body.busy).to.equal(false);
    expect(await page.locator("section header").first().textContent()).to.contain(body.position.toLocaleString("en"));
    expect(seen.complaints).to.deep.equal([]);
  });

  it("says each failure in a sentence with what to do, and tries again", async () => {
    await using seen = await visit(browser, `${bench.url}/`);
    const { page } = seen;
    await page.getByText("A text of any length").waitFor();
    const cases = [
      { status: 409, headers: {}, says: "The session is busy with another turn." },
      { status: 409, headers: { "memformer-owner": "http://other.example" }, says: "It is at http://other.example." },
      { status: 413, headers: {}, says: "Send it in smaller parts." },
      { status: 429, headers: { "retry-after": "7" }, says: "Try again in 7 seconds." },
      { status: 503, headers: { "retry-after": "1" }, says: "Try again in 1 second." },
      { status: 500, headers: { "x-request-id": "req-9" }, says: "Its log has more under request req-9." },
      { status: 404, headers: {}, says: "This session is not there any more." },
      { status: 0, headers: {}, says: "The server does not answer." },
    ];
    await page.getByText("Settings").click();
    await page.fill("[name=temperature]", "-1");
    await page.getByText("Settings").click();
    await page.getByRole("button", { name: "Continue" }).click();
    await page.locator("[name=temperature]:invalid").waitFor(); // in sight again
    await page.fill("[name=temperature]", "0.85");
    for (const { status, headers, says } of cases) {
      const refuse = async (route: Route): Promise<void> =>
        status === 0
          ? route.abort()
          : route.fulfill({ status, headers, json: { error: { message: "no", type: "x", param: null, code: "x" } } });
      await page.route("**/generate", refuse);
      await goOn(page, "Again. ", { maxTokens: "3" });
      await page.getByRole("alert").waitFor();
      expect(await page.getByRole("alert").textContent()).to.contain(says);
      expect(await page.inputValue("#write"), "what was written").to.equal("Again. ");
      await page.unroute("**/generate", refuse);
      await page.getByRole("button", { name: "Try again" }).click();
      await page.getByRole("alert").waitFor({ state: "detached" });
      await done(page);
      expect(await page.inputValue("#write"), "what was sent").to.equal("");
    }
    // A stream that breaks off keeps what was said.
    const broken = 'data: {"text":"Half a","tokens":[],"finish":null}\n\n';
    await page.route("**/generate", async (route) => route.fulfill({ contentType: "text/event-stream", body: broken }));
    await goOn(page, "");
    expect(await page.getByRole("alert").textContent()).to.contain("The server does not answer.");
    expect(await page.locator(".turn.model").last().textContent()).to.contain("Half a");
  });

  it("says that the server is gone before anything is there, and connects once it is back", async () => {
    await using seen = await visit(browser, `${bench.url}/`);
    const { page } = seen;
    await page.route("**/v1/model", async (route) => route.abort());
    await page.reload();
    await page.getByText("The server does not answer.").waitFor();
    await page.unroute("**/v1/model");
    await page.getByRole("button", { name: "Try again" }).click();
    await page.getByText("A text of any length").waitFor();
  });

  it("asks for a token where the server wants one, and goes on with what was to be done", async () => {
    await using closed = await ServiceBench.start({ model, tokens: { me: "0123456789abcdef" } });
    await using seen = await visit(browser, `${closed.url}/`);
    const { page } = seen;
    const dialog = page.getByRole("dialog", { name: "This server wants a token" });
    await dialog.waitFor();
    await page.fill("[name=token]", "something else than it");
    const refused = page.waitForResponse((response) => response.status() === 401);
    await page.keyboard.press("Enter");
    await refused;
    await page.waitForTimeout(100);
    await dialog.waitFor();
    await page.fill("[name=token]", "0123456789abcdef");
    await page.keyboard.press("Enter");
    await page.getByText("A text of any length").waitFor();
    await goOn(page, book, { maxTokens: "5" });
    await page.reload();
    await page.getByText("Found again").waitFor();
  });

  it("keeps what a model says text, and lets no other script run", async () => {
    await using seen = await visit(browser, `${bench.url}/`);
    const { page } = seen;
    const evil = '<script>window.hit=1</script><img src="x" onerror="window.hit=2">';
    const events = [
      { text: evil, tokens: [], finish: null },
      { text: "", tokens: [], finish: "length", seed: 1, position: 9, usage: { read: 0, generated: 9 } },
    ];
    const body = events.map((event) => `data: ${JSON.stringify(event)}\n\n`).join("") + "data: [DONE]\n\n";
    await page.route("**/generate", async (route) => route.fulfill({ contentType: "text/event-stream", body }));
    await goOn(page, evil);
    expect(await page.locator(".turn.model").textContent()).to.contain(evil);
    await readFileOf(page, evil);
    expect(await page.locator(".turn img, .turn script").count()).to.equal(0);
    expect(seen.complaints).to.deep.equal([]);
    expect(await ask(page, "trespass()")).to.deep.equal({ directive: "img-src", markup: "refused", hit: null });
  });

  it("is served with headers that fit, whole under any prefix, and kept by its hash", async () => {
    const index = await fetch(`${bench.url}/`),
      html = await index.text();
    expect(index.headers.get("content-security-policy")).to.contain("default-src 'none'").and.not.contain("unsafe");
    expect(index.headers.get("x-content-type-options")).to.equal("nosniff");
    expect(index.headers.get("cache-control")).to.equal("no-cache");
    const again = await fetch(`${bench.url}/`, { headers: { "if-none-match": index.headers.get("etag")! } });
    expect(again.status).to.equal(304);
    expect(html).not.to.match(/<script>|style=|onclick|https?:/);
    const assets = [...html.matchAll(/="(page\/[^"]+)"/g)].map(([, path]) => path!);
    expect(assets.length).to.be.above(4);
    for (const path of [...assets, assets[0]!.replace(/[^/]+$/, "preact.js")]) {
      const asset = await fetch(`${bench.url}/${path}`);
      expect(asset.status, path).to.equal(200);
      expect(asset.headers.get("cache-control")).to.contain("immutable");
    }
    expect((await fetch(`${bench.url}/page/0123456789abcdef/app.js`)).status).to.equal(404);
    await using inside = await ServiceBench.start({ model, ...({ prefix: "/deep/memory" } as object) });
    const moved = await fetch(`${inside.url}/deep/memory?x=1`, { redirect: "manual" });
    expect([moved.status, moved.headers.get("location")]).to.deep.equal([308, "memory/?x=1"]);
    await using seen = await visit(browser, `${inside.url}/deep/memory`);
    await goOn(seen.page, book, { maxTokens: "5" });
    await seen.page.locator(".turn.model").waitFor();
    expect(seen.complaints).to.deep.equal([]);
    await using without = await ServiceBench.start({ model, page: false });
    expect((await fetch(`${without.url}/`)).status).to.equal(404);
  });

  for (const [scheme, width, height] of [
    ["light", 1280, 800],
    ["dark", 1280, 800],
    ["light", 390, 844],
    ["dark", 390, 844],
  ] as const) {
    it(`fits and can be read: ${scheme}, ${width} x ${height}`, async () => {
      const options = { viewport: { width, height }, colorScheme: scheme, hasTouch: width < 500 };
      await using seen = await visit(browser, `${bench.url}/`, options);
      const { page } = seen;
      const check = async (name: string): Promise<void> => {
        const wide = await ask(page, "document.documentElement.scrollWidth");
        expect(wide, `${name}: width`).to.be.at.most(width);
        expect(await ask(page, "weakContrast()"), `${name}: contrast`).to.deep.equal([]);
        await shoot(page, `${scheme}-${width}-${name}`, width < 500);
      };
      await page.getByText("A text of any length").waitFor();
      await check("empty");
      await readFileOf(page, book.repeat(8));
      await goOn(page, "Then ", { maxTokens: "80", seed: "2" });
      await page.locator(".turn .tokens > span").nth(300).click();
      await page.locator(".reads").waitFor();
      await check("token");
      await page.getByRole("button", { name: "Branch" }).click();
      await page.getByRole("heading", { name: "Future B" }).waitFor();
      await goOn(page, "Now ", { seed: "" });
      await page.route("**/read", async (route) =>
        route.fulfill({ status: 503, headers: { "retry-after": "3" }, json: {} }),
      );
      await page.fill("#write", "More.");
      await page.getByRole("button", { name: "Only read" }).click();
      await page.getByRole("alert").waitFor();
      await check("futures");
    });
  }
});

/** Writes a picture where MEMFORMER_SCREENSHOTS says, to be looked at. */
async function shoot(page: Page, name: string, fullPage: boolean): Promise<void> {
  const folder = process.env["MEMFORMER_SCREENSHOTS"];
  if (folder === undefined) return;
  await mkdir(folder, { recursive: true });
  await writeFile(join(folder, `${name}.png`), await page.screenshot({ fullPage }));
}
