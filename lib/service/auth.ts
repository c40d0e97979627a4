/** Bearer tokens: which client a request is of. */
import { createHash, timingSafeEqual } from "node:crypto";
import { MemformerError } from "../errors.ts";
import { ServiceError } from "./service-error.ts";

/** The client of a request without tokens: everybody. */
export const everybody = "public";

const NAME = /^[A-Za-z0-9_-]{1,32}$/;

/** Tells a client by its token; compares all of them, in constant time. */
export class Clients {
  readonly #hashes: readonly (readonly [string, Buffer])[] | undefined;

  /** Tokens by the client's name; undefined: nobody needs one. Throws MemformerError CONFIG. */
  constructor(tokens: Readonly<Record<string, string>> | undefined) {
    if (tokens === undefined) return;
    const entries = Object.entries(tokens);
    for (const [name, token] of entries) {
      if (NAME.test(name) && typeof token === "string" && token.length >= 16) continue;
      throw new MemformerError(
        "CONFIG",
        `tokens: expected names of 1 to 32 letters, digits, "_" or "-", and tokens of at least 16 characters; ` +
          `client ${JSON.stringify(name)} is not`,
      );
    }
    this.#hashes = entries.map(([name, token]) => [name, hash(token)]);
  }

  /** Throws ServiceError unauthorized. */
  of(authorization: string | undefined): string {
    if (this.#hashes === undefined) return everybody;
    const given = /^Bearer +(\S+)$/i.exec(authorization ?? "")?.[1];
    if (given === undefined)
      throw new ServiceError("unauthorized", 'expected the header "Authorization: Bearer TOKEN"');
    const hashed = hash(given);
    let found: string | undefined;
    for (const [name, expected] of this.#hashes) if (timingSafeEqual(expected, hashed)) found = name;
    if (found === undefined) throw new ServiceError("unauthorized", "this token is not known");
    return found;
  }
}

function hash(token: string): Buffer {
  return createHash("sha256").update(token).digest();
}
