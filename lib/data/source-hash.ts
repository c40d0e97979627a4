// The identity of a source of documents: two sources with the same hash are the same.
import { hashOfTable } from "./text-hash.ts";
import type { TokenSource } from "./token-source.ts";

/** SHA-256, in hexadecimal, of the documents' hashes in order; undefined for a source that does not have them. */
export function sourceHash(source: TokenSource): string | undefined {
  if (source.documentHash === undefined) return undefined;
  const hashes = new BigUint64Array(source.documents);
  for (let i = 0; i < hashes.length; i++) {
    const hash = source.documentHash(i);
    if (hash === undefined) return undefined;
    hashes[i] = hash;
  }
  return hashOfTable(hashes);
}
