/** The memory writers of native/nn/memory/writers by name, and the work of each. */
interface WriterSizes {
  readonly width: number;
  readonly feedForward: number;
  readonly memorySlots: number;
  readonly segmentLength: number;
}

interface Writer {
  /** For --help: what it does, in a few words. */
  readonly help: string;
  /** Multiply-adds of its matrix products, one row's segment forward. D width, F feedForward, M slots, T tokens. */
  readonly work: (sizes: WriterSizes) => number;
}

/** Slots' queries and keys, tokens' keys and values; scores and sums. */
const slotAttention = ({ width: D, memorySlots: M, segmentLength: T }: WriterSizes): number =>
  2 * M * D * D + 2 * T * D * D + 2 * M * T * D + M * D;

/** The slots' own values and the output projection, the cell, its feed-forward layer. */
const gruCell = ({ width: D, feedForward: F, memorySlots: M }: WriterSizes): number =>
  2 * M * D * D + 6 * M * D * D + 2 * M * D * F;

export const writers = {
  "slot-attention": { help: "the paper's slot attention", work: slotAttention },
  gru: { help: "a GRU on top of it", work: (sizes) => slotAttention(sizes) + gruCell(sizes) },
} as const satisfies Record<string, Writer>;

export type WriterName = keyof typeof writers;
