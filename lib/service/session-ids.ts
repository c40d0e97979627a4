/** Names of sessions: what clients know them by, and the keys that a store knows them by. */
import { createHash, randomBytes } from "node:crypto";

/** The store's key of a client's session; 64 characters at most. */
export function keyOf(client: string, id: string): string {
  return `session.${client}.${id}`;
}

/** Unguessable, 22 characters; with an idempotency key the same for the same call. */
export function newId(call: string, client: string, idempotencyKey: string | undefined): string {
  if (idempotencyKey === undefined) return randomBytes(16).toString("base64url");
  const hash = createHash("sha256").update(JSON.stringify([call, client, idempotencyKey]));
  return hash.digest().subarray(0, 16).toString("base64url");
}

/** SHA-256 in hex: what a request with an idempotency key is compared by. */
export function hashOf(request: string): string {
  return createHash("sha256").update(request).digest("hex");
}
