/**
 * The page: its files as they are in lib/service/page, and Preact from the package htm. Their folder's name is a hash
 * of all of them, so that browsers keep them for ever and never mix two versions. Nothing but our own origin is
 * allowed.
 */
import type { FastifyInstance, FastifyReply } from "fastify";
import { createHash } from "node:crypto";
import { readdirSync, readFileSync } from "node:fs";
import { createRequire } from "node:module";
import { dirname, extname, join } from "node:path";
import { fileURLToPath } from "node:url";

const folder = fileURLToPath(new URL("../page", import.meta.url));
const types: Readonly<Record<string, string>> = {
  ".js": "text/javascript; charset=utf-8",
  ".css": "text/css; charset=utf-8",
  ".svg": "image/svg+xml",
};

const headers = {
  "content-security-policy": [
    "default-src 'none'",
    "script-src 'self'",
    "style-src 'self'",
    "img-src 'self'",
    "connect-src 'self'",
    "base-uri 'none'",
    "form-action 'none'",
    "frame-ancestors 'none'",
    "require-trusted-types-for 'script'",
    "trusted-types 'none'",
  ].join("; "),
  "x-content-type-options": "nosniff",
  "referrer-policy": "no-referrer",
  "cross-origin-opener-policy": "same-origin",
  "cross-origin-resource-policy": "same-origin",
};

/** Registers `/` and `/page/HASH/FILE`, open to everybody: what they show they ask for with the reader's token. */
export function pageRoutes(app: FastifyInstance): void {
  const { index, files, hash } = readPage();
  const route = { schema: { hide: true }, config: { rateLimit: false } };
  const send = (reply: FastifyReply, type: string, caching: string, body: Buffer): FastifyReply =>
    reply.headers({ ...headers, "content-type": type, "cache-control": caching, etag: `"${hash}"` }).send(body);

  app.get("/", route, async (request, reply) => {
    const [path, query] = request.url.split("?", 2) as [string, string?];
    // Its addresses are relative: it stands in a folder, under whatever prefix.
    if (!path.endsWith("/"))
      return reply.redirect(`${path.slice(path.lastIndexOf("/") + 1)}/${query === undefined ? "" : `?${query}`}`, 308);
    if (request.headers["if-none-match"] === `"${hash}"`) return reply.status(304).headers(headers).send();
    return send(reply, "text/html; charset=utf-8", "no-cache", index);
  });
  for (const [name, body] of files)
    app.get(`/page/${hash}/${name}`, route, async (_, reply) =>
      send(reply, types[extname(name)]!, "public, max-age=31536000, immutable", body),
    );
}

/** All files, and index.html with the addresses that they have. */
function readPage(): { index: Buffer; files: ReadonlyMap<string, Buffer>; hash: string } {
  const names = readdirSync(folder).filter((name) => extname(name) in types);
  const files = new Map(names.sort().map((name) => [name, readFileSync(join(folder, name))]));
  const preact = dirname(createRequire(import.meta.url).resolve("htm/preact"));
  files.set("preact.js", readFileSync(join(preact, "standalone.module.js")));
  const html = readFileSync(join(folder, "index.html"), "utf8"),
    digest = createHash("sha256").update(html);
  for (const [name, body] of files) digest.update(`\0${name}\0`).update(body);
  const hash = digest.digest("hex").slice(0, 16);
  return { index: Buffer.from(html.replaceAll('="page/', `="page/${hash}/`)), files, hash };
}
