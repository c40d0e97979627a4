/** A headless Chromium for pages of ours, and what it complains about. */
import { existsSync, readFileSync } from "node:fs";
import { delimiter, join } from "node:path";
import { chromium, type Browser, type BrowserContextOptions, type Page } from "playwright-core";

/** The path of a Chromium; undefined: there is none. */
export function chromiumPath(): string | undefined {
  return (process.env["PATH"] ?? "")
    .split(delimiter)
    .flatMap((folder) => ["chromium", "chromium-browser", "google-chrome"].map((name) => join(folder, name)))
    .find(existsSync);
}

export async function startBrowser(): Promise<Browser> {
  const args = process.getuid?.() === 0 ? ["--no-sandbox"] : [];
  return chromium.launch({ executablePath: chromiumPath()!, args });
}

/** A page in a context of its own. */
export interface Visit extends AsyncDisposable {
  readonly page: Page;
  /** Errors and warnings of the console, exceptions, and requests to any other origin. */
  readonly complaints: string[];
}

/** Opens `url`; a desktop in light unless `options` say otherwise. */
export async function visit(browser: Browser, url: string, options: BrowserContextOptions = {}): Promise<Visit> {
  const context = await browser.newContext({
    viewport: { width: 1280, height: 800 },
    colorScheme: "light",
    reducedMotion: "reduce",
    acceptDownloads: true,
    ...options,
  });
  context.setDefaultTimeout(10_000);
  const page = await context.newPage(),
    complaints: string[] = [];
  page.on("console", (message) => {
    if (["error", "warning"].includes(message.type())) complaints.push(message.text());
  });
  page.on("pageerror", (error) => complaints.push(String(error)));
  page.on("request", (request) => {
    if (!request.url().startsWith(url) && !request.url().startsWith("blob:")) complaints.push(request.url());
  });
  await page.goto(url);
  return { page, complaints, [Symbol.asyncDispose]: async () => context.close() };
}

const inPage = readFileSync(new URL("in-page.js", import.meta.url), "utf8");

/** Asks the page one of the questions of in-page.js. */
export async function ask<T>(page: Page, question: string): Promise<T> {
  return page.evaluate<T>(`(() => {${inPage}; return ${question}; })()`);
}
