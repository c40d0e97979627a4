// The identity of a document: two documents with the same hash are the same.
import { createHash } from "node:crypto";

/** The first 64 bits of SHA-256: of a document's text (as UTF-8), or of its token ids where the text is not known. */
export function documentHash(content: string | Int32Array): bigint {
  const hash = createHash("sha256");
  if (typeof content === "string") hash.update(content, "utf8");
  else hash.update("tokens").update(new Uint8Array(content.buffer, content.byteOffset, content.byteLength));
  return hash.digest().readBigUInt64BE();
}

/** SHA-256, in hexadecimal, of a table of documents' hashes. */
export function hashOfTable(hashes: BigUint64Array): string {
  return createHash("sha256")
    .update(new Uint8Array(hashes.buffer, hashes.byteOffset, hashes.byteLength))
    .digest("hex");
}
