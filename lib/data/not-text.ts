// Recognizes the format of a file that is not UTF-8 text by its bytes, and suggests how to convert it.

const magics: readonly (readonly [name: string, bytes: readonly number[], remedy: string])[] = [
  ["UTF-32 text", [0xff, 0xfe, 0, 0], "iconv -f utf-32 -t utf-8"],
  ["UTF-32 text", [0, 0, 0xfe, 0xff], "iconv -f utf-32 -t utf-8"],
  ["UTF-16 text", [0xff, 0xfe], "iconv -f utf-16 -t utf-8"],
  ["UTF-16 text", [0xfe, 0xff], "iconv -f utf-16 -t utf-8"],
  ["gzip inside gzip", [0x1f, 0x8b], "gunzip it once"], // a file's own gzip has been taken off
  ["compressed by zstd", [0x28, 0xb5, 0x2f, 0xfd], "unpack it first: zstd -d"],
  ["compressed by xz", [0xfd, 0x37, 0x7a, 0x58, 0x5a, 0], "unpack it first: xz -d"],
  ["compressed by bzip2", [0x42, 0x5a, 0x68, -1, 0x31, 0x41, 0x59], "unpack it first: bzip2 -d"],
  ["compressed by lz4", [0x04, 0x22, 0x4d, 0x18], "unpack it first: lz4 -d"],
  ["a zip archive", [0x50, 0x4b, 3, 4], "unpack it first: unzip"],
  ["a 7z archive", [0x37, 0x7a, 0xbc, 0xaf, 0x27, 0x1c], "unpack it first: 7z x"],
  ["a Parquet file", [0x50, 0x41, 0x52, 0x31], "write its text to .jsonl first"],
  ["a PDF", [0x25, 0x50, 0x44, 0x46, 0x2d], "take its text out first: pdftotext"],
];

/**
 * What a file's first bytes say that it is instead of text, and the remedy; undefined where they may begin text. Marks
 * made of letters alone count only where the file is known not to be text.
 */
export function toldByStart(bytes: Uint8Array, isText = true): string | undefined {
  for (const [name, magic, remedy] of magics) {
    if (isText && magic.every((byte) => byte >= 0x20 && byte < 0x7f)) continue;
    if (bytes.length >= magic.length && magic.every((byte, i) => byte < 0 || bytes[i] === byte)) {
      return `is ${name}, not UTF-8 text; ${name.startsWith("UTF") ? `convert it first (${remedy})` : remedy}`;
    }
  }
  const order = byteOrder(bytes);
  return (
    order && `is UTF-16 text without a byte order mark, not UTF-8 text; convert it first (iconv -f ${order} -t utf-8)`
  );
}

/** What bytes inside a file that are not UTF-8 say that it is. */
export function toldByBytes(bytes: Uint8Array, ended: boolean): string {
  if (bytes.includes(0)) return holdsNul;
  if (ended) return "is not UTF-8 text: it ends inside a character, as a file does that was cut short";
  const windows = bytes.some((byte) => byte >= 0x80 && byte < 0xa0); // controls in Latin-1, letters and quotes in Windows-1252
  return `is not UTF-8 text; convert it first (iconv -f ${windows ? "windows-1252" : "latin1"} -t utf-8, if that is its encoding)`;
}

/** Of a file with NUL bytes. */
export const holdsNul =
  "holds NUL bytes: it is binary, or damaged (not UTF-8 text); " +
  "leave it out, or where they are stray ones remove them first (tr -d '\\000')";

/** UTF-16 without a mark: of its first characters, most are of Latin script, so that every other byte is NUL. */
function byteOrder(bytes: Uint8Array): string | undefined {
  const pairs = Math.min(bytes.length >> 1, 2048);
  const zeros: [number, number] = [0, 0];
  for (let i = 0; i < 2 * pairs; i++) if (bytes[i] === 0) zeros[i % 2]!++;
  const [even, odd] = zeros;
  if (odd + even < 2) return undefined;
  if (odd > pairs / 2 && even < pairs / 8) return "utf-16le";
  if (even > pairs / 2 && odd < pairs / 8) return "utf-16be";
  return undefined;
}
