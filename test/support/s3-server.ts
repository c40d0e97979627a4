/**
 * A strict stand-in for S3: objects in memory, and of the protocol what a store of sessions needs. It refuses what S3
 * refuses: a request that is not signed (Signature Version 4) over the very bytes that came, a stale date, a body that
 * is not what its checksum says, a condition that does not hold, a bucket that is not there.
 */
import { createHash, createHmac, timingSafeEqual } from "node:crypto";
import { once } from "node:events";
import { createServer, type IncomingMessage, type ServerResponse } from "node:http";
import type { AddressInfo, Socket } from "node:net";
import { crc32 } from "node:zlib";

export const s3Credentials = {
  accessKeyId: "AKIDEXAMPLE",
  secretAccessKey: "wJalrXUtnFEMI/K7MDENG+bPxRfiCYEXAMPLEKEY",
};

export interface S3Server {
  readonly endpoint: string;
  /** The latest requests, as `PUT /bucket/key`. */
  readonly requests: string[];
  /** Does so many of the next writes, and closes the connection without an answer. */
  loseAnswers(count: number): void;
  /** Answers so many of the next conditional writes 409, as S3 does when two meet. */
  collide(count: number): void;
  /** Ends it, and the connections. */
  close(): Promise<void>;
}

interface Stored {
  readonly body: Buffer;
  readonly etag: string;
  readonly metadata: Readonly<Record<string, string>>;
}

/** An answer of S3 that is an error. */
class Refused extends Error {
  readonly status: number;
  readonly code: string;

  constructor(status: number, code: string, message = code) {
    super(message);
    this.status = status;
    this.code = code;
  }
}

const REGION = "eu-central-1";
const sha256 = (bytes: string | Buffer): string => createHash("sha256").update(bytes).digest("hex");
const hmac = (key: string | Buffer, text: string): Buffer => createHmac("sha256", key).update(text).digest();
const header = (request: IncomingMessage, name: string): string | undefined => {
  const value = request.headers[name];
  return Array.isArray(value) ? value.join(",") : value;
};
/** As RFC 3986 has it, with a capital hexadecimal. */
const encode = (text: string): string =>
  encodeURIComponent(text).replace(/[!'()*]/g, (c) => `%${c.charCodeAt(0).toString(16).toUpperCase()}`);

/** Throws unless the request is signed by our one user, over this body. */
function checkSignature(request: IncomingMessage, url: URL, body: Buffer): void {
  const authorization = /^AWS4-HMAC-SHA256 Credential=([^,]+), ?SignedHeaders=([^,]+), ?Signature=([0-9a-f]{64})$/.exec(
    header(request, "authorization") ?? "",
  );
  if (authorization === null) throw new Refused(403, "AccessDenied", "Anonymous access is forbidden");
  const [, credential, signedHeaders, signature] = authorization as unknown as [string, string, string, string],
    [id, day, region, service, end] = credential.split("/"),
    date = header(request, "x-amz-date") ?? "",
    hash = header(request, "x-amz-content-sha256") ?? "",
    signed = signedHeaders.split(";");
  if (id !== s3Credentials.accessKeyId) throw new Refused(403, "InvalidAccessKeyId");
  if (region !== REGION || service !== "s3" || end !== "aws4_request" || !date.startsWith(`${day}T`))
    throw new Refused(400, "AuthorizationHeaderMalformed");
  const at = Date.parse(date.replace(/^(\d{4})(\d\d)(\d\d)T(\d\d)(\d\d)(\d\d)Z$/, "$1-$2-$3T$4:$5:$6Z"));
  if (!(Math.abs(Date.now() - at) < 900_000)) throw new Refused(403, "RequestTimeTooSkewed");
  if (hash !== sha256(body)) throw new Refused(400, "XAmzContentSHA256Mismatch");
  for (const name of ["host", ...Object.keys(request.headers).filter((each) => each.startsWith("x-amz-"))])
    if (!signed.includes(name)) throw new Refused(403, "AccessDenied", `${name} is not signed`);
  const query = [...url.searchParams].map(([key, value]) => `${encode(key)}=${encode(value)}`).sort();
  const canonical = [
    request.method,
    url.pathname,
    query.join("&"),
    ...signed.map((name) => `${name}:${(header(request, name) ?? "").trim().replace(/ +/g, " ")}`),
    "",
    signedHeaders,
    hash,
  ].join("\n");
  const text = ["AWS4-HMAC-SHA256", date, `${day}/${region}/s3/aws4_request`, sha256(canonical)].join("\n"),
    key = [region, "s3", "aws4_request"].reduce(hmac, hmac(`AWS4${s3Credentials.secretAccessKey}`, day!));
  if (!timingSafeEqual(hmac(key, text), Buffer.from(signature, "hex"))) throw new Refused(403, "SignatureDoesNotMatch");
}

function checkChecksum(request: IncomingMessage, body: Buffer): void {
  const sum = header(request, "x-amz-checksum-crc32");
  if (sum === undefined) return;
  const found = Buffer.alloc(4);
  found.writeUInt32BE(crc32(body));
  if (found.toString("base64") !== sum) throw new Refused(400, "BadDigest");
}

/** `If-Match` and `If-None-Match` of a write. */
function checkConditions(request: IncomingMessage, found: Stored | undefined): void {
  const match = header(request, "if-match"),
    none = header(request, "if-none-match");
  if (none !== undefined && none !== "*") throw new Refused(501, "NotImplemented");
  if (none === "*" && found !== undefined) throw new Refused(412, "PreconditionFailed");
  if (match !== undefined && found === undefined) throw new Refused(404, "NoSuchKey");
  if (match !== undefined && match !== "*" && match !== found?.etag) throw new Refused(412, "PreconditionFailed");
}

const xml = (text: string): string => text.replaceAll("&", "&amp;").replaceAll("<", "&lt;");

class Objects {
  readonly #objects = new Map<string, Stored>();
  readonly requests: string[] = [];
  lost = 0;
  collisions = 0;

  /** Answers one request whose signature holds. True: the answer is to be lost. */
  answer(request: IncomingMessage, url: URL, body: Buffer, response: ServerResponse, bucket: string): boolean {
    const [, wanted, ...rest] = url.pathname.split("/").map(decodeURIComponent),
      key = rest.join("/"),
      found = this.#objects.get(key);
    if (wanted !== bucket) throw new Refused(404, "NoSuchBucket", "The specified bucket does not exist");
    const { method } = request;
    if (method === "GET" && key === "") this.#list(url, response, bucket);
    else if (method === "GET") this.#get(request, found, response);
    else if (method === "PUT" || method === "DELETE") {
      if (this.collisions > 0 && (request.headers["if-match"] ?? request.headers["if-none-match"]) !== undefined) {
        this.collisions--;
        throw new Refused(409, "ConditionalRequestConflict");
      }
      checkConditions(request, found);
      if (method === "PUT") this.#put(request, key, body, response);
      else {
        this.#objects.delete(key);
        response.writeHead(204);
      }
      if (this.lost > 0) return this.lost-- > 0;
      response.end();
    } else throw new Refused(405, "MethodNotAllowed");
    return false;
  }

  #get(request: IncomingMessage, found: Stored | undefined, response: ServerResponse): void {
    if (found === undefined) throw new Refused(404, "NoSuchKey", "The specified key does not exist.");
    const { body, etag, metadata } = found,
      range = /^bytes=(\d+)-(\d+)$/.exec(header(request, "range") ?? "");
    if (range !== null && Number(range[1]) >= body.length) throw new Refused(416, "InvalidRange");
    const part = range === null ? body : body.subarray(Number(range[1]), Number(range[2]) + 1);
    const about = Object.fromEntries(Object.entries(metadata).map(([name, value]) => [`x-amz-meta-${name}`, value]));
    response.writeHead(range === null ? 200 : 206, { ...about, ETag: etag, "Content-Length": part.length });
    response.end(part);
  }

  #put(request: IncomingMessage, key: string, body: Buffer, response: ServerResponse): void {
    const prefix = "x-amz-meta-",
      names = Object.keys(request.headers).filter((name) => name.startsWith(prefix));
    const metadata = Object.fromEntries(names.map((name) => [name.slice(prefix.length), header(request, name)!]));
    const etag = `"${createHash("md5").update(body).digest("hex")}"`;
    this.#objects.set(key, { body, etag, metadata });
    response.writeHead(200, { ETag: etag });
  }

  #list(url: URL, response: ServerResponse, bucket: string): void {
    const { searchParams: query } = url;
    if (query.get("list-type") !== "2") throw new Refused(501, "NotImplemented");
    const prefix = query.get("prefix") ?? "",
      after = query.get("start-after") ?? "",
      most = Math.min(Number(query.get("max-keys") ?? 1000), 1000);
    const keys = [...this.#objects.keys()].filter((key) => key.startsWith(prefix) && key > after).sort(),
      page = keys.slice(0, most);
    const contents = page.map((key) => {
      const { etag, body } = this.#objects.get(key)!;
      return `<Contents><Key>${xml(key)}</Key><ETag>${xml(etag)}</ETag><Size>${body.length}</Size></Contents>`;
    });
    response.writeHead(200, { "Content-Type": "application/xml" });
    response.end(
      `<?xml version="1.0" encoding="UTF-8"?><ListBucketResult xmlns="http://s3.amazonaws.com/doc/2006-03-01/"><Name>${bucket}</Name><Prefix>${xml(prefix)}</Prefix><KeyCount>${page.length}</KeyCount><MaxKeys>${most}</MaxKeys><IsTruncated>${page.length < keys.length}</IsTruncated>${contents.join("")}</ListBucketResult>`,
    );
  }
}

async function bodyOf(request: IncomingMessage): Promise<Buffer> {
  const parts: Buffer[] = [];
  for await (const part of request) parts.push(part as Buffer);
  return Buffer.concat(parts);
}

/** Starts it on a free port, with one empty bucket. */
export async function startS3(bucket: string): Promise<S3Server> {
  const objects = new Objects(),
    sockets = new Set<Socket>();
  const serve = async (request: IncomingMessage, response: ServerResponse): Promise<void> => {
    const url = new URL(request.url ?? "/", `http://${request.headers.host}`);
    const body = await bodyOf(request);
    objects.requests.push(`${request.method} ${url.pathname}`);
    try {
      checkSignature(request, url, body);
      checkChecksum(request, body);
      if (objects.answer(request, url, body, response, bucket)) request.socket.destroy();
    } catch (error) {
      const { status, code, message } =
        error instanceof Refused ? error : new Refused(500, "InternalError", String(error));
      response.writeHead(status, { "Content-Type": "application/xml" });
      response.end(
        `<?xml version="1.0" encoding="UTF-8"?><Error><Code>${code}</Code><Message>${xml(message)}</Message></Error>`,
      );
    }
  };
  const server = createServer((request, response) => {
    serve(request, response).catch(() => request.socket.destroy());
  });
  server.on("connection", (socket) => {
    sockets.add(socket);
    socket.once("close", () => sockets.delete(socket));
  });
  server.listen(0, "127.0.0.1");
  await once(server, "listening");
  return {
    endpoint: `http://127.0.0.1:${(server.address() as AddressInfo).port}`,
    requests: objects.requests,
    loseAnswers: (count) => (objects.lost = count),
    collide: (count) => (objects.collisions = count),
    close: async () => {
      const closed = once(server, "close");
      server.close();
      for (const socket of sockets) socket.destroy();
      await closed;
    },
  };
}

/** What `new S3()` takes to speak to it. */
export function s3Config(endpoint: string): {
  endpoint: string;
  region: string;
  forcePathStyle: boolean;
  credentials: typeof s3Credentials;
} {
  return { endpoint, region: REGION, forcePathStyle: true, credentials: s3Credentials };
}
