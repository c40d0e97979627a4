// GPT-2's alphabet of bytes: each byte has a printable character that stands for it.
const printable = (byte: number): boolean =>
  (byte >= 0x21 && byte <= 0x7e) || (byte >= 0xa1 && byte <= 0xac) || byte >= 0xae;

let moved = 0x100;
const characters = Array.from({ length: 256 }, (_, byte) => String.fromCharCode(printable(byte) ? byte : moved++));
const bytes = new Map(characters.map((character, byte) => [character.charCodeAt(0), byte]));

/** A text's UTF-8 bytes as characters of the alphabet. */
export function byteCharacters(text: string): string {
  const utf8 = Buffer.from(text, "utf8");
  let result = "";
  for (let i = 0; i < utf8.length; i++) result += characters[utf8[i]!];
  return result;
}

/** The bytes that characters of the alphabet stand for; undefined if one is not of the alphabet. */
export function bytesOfCharacters(text: string): Uint8Array | undefined {
  const result = new Uint8Array(text.length);
  for (let i = 0; i < text.length; i++) {
    const byte = bytes.get(text.charCodeAt(i));
    if (byte === undefined) return undefined;
    result[i] = byte;
  }
  return result;
}
