/** Zips whose files are stored as they are, as PyTorch's are, with whatever a test puts into them. */
import { crc32 } from "node:zlib";

/** Name -> content; `method` 8 lies that they are compressed. */
export function zipOf(files: Readonly<Record<string, Uint8Array | string>>, method = 0): Buffer {
  const locals: Buffer[] = [],
    directory: Buffer[] = [];
  let offset = 0;
  for (const [path, given] of Object.entries(files)) {
    const name = Buffer.from(path),
      content = Buffer.from(given as string);
    const facts = Buffer.alloc(26); // from "version needed" on, shared by both headers
    facts.writeUInt16LE(20, 0);
    facts.writeUInt16LE(method, 4);
    facts.writeUInt32LE(crc32(content), 10);
    facts.writeUInt32LE(content.length, 14);
    facts.writeUInt32LE(content.length, 18);
    facts.writeUInt16LE(name.length, 22);
    const local = Buffer.concat([Buffer.from("PK\x03\x04"), facts, name, content]);
    const rest = Buffer.alloc(10); // comment, disk, attributes
    directory.push(Buffer.concat([Buffer.from("PK\x01\x02\x14\0", "latin1"), facts, rest, number(offset), name]));
    locals.push(local);
    offset += local.length;
  }
  const central = Buffer.concat(directory),
    end = Buffer.alloc(18);
  end.writeUInt16LE(directory.length, 4);
  end.writeUInt16LE(directory.length, 6);
  end.writeUInt32LE(central.length, 8);
  end.writeUInt32LE(offset, 12);
  return Buffer.concat([...locals, central, Buffer.from("PK\x05\x06"), end]);
}

function number(value: number): Buffer {
  const bytes = Buffer.alloc(4);
  bytes.writeUInt32LE(value);
  return bytes;
}
