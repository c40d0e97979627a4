export { AUXILIARY_TOKENS, type AuxiliaryShares } from "./auxiliary.ts";
export type { TokenDecoder } from "./tokenizers/byte-decoder.ts";
export type { CorpusOptions, HeldOutTexts, PreparedCorpus } from "./corpus.ts";
export { Dataset, type Split } from "./dataset.ts";
export { documentRules, type DocumentOptions, type DocumentRule, type TextDocument } from "./documents.ts";
export { documentHash } from "./text-hash.ts";
export { sourceHash } from "./source-hash.ts";
export { readIdx, type IdxArray } from "./idx.ts";
export { imageSource, pixels } from "./mnist.ts";
export { datasetNames, type DatasetName } from "./known-datasets.ts";
export type { DatasetOptions } from "./open-dataset.ts";
export { Random } from "./random.ts";
export { RecallStream, type RecallOptions, type RecallPosition } from "./recall.ts";
export type { SegmentStream } from "./segment-stream.ts";
export { openDataset, prepareCorpus, readDocuments } from "./strict.ts";
export {
  evaluationPass,
  TokenStream,
  type EvaluationPassOptions,
  type StreamStats,
  type TokenStreamOptions,
} from "./stream.ts";
export type { StreamPosition } from "./stream-position.ts";
export { isTokenFile, openTokenFile, TokenFile, type TokenFileOptions } from "./token-file.ts";
export type { TokenHeader } from "./token-format.ts";
export {
  documentRange,
  tokensInMemory,
  type TokenDocument,
  type TokenizerFacts,
  type TokenSource,
} from "./token-source.ts";
export type { TokenizeProgress } from "./tokenize-progress.ts";
export type { TokenizeOptions } from "./tokenize.ts";
export { writeTokenFile } from "./token-writer.ts";
export type { TextCut } from "./tokenizers/text-cuts.ts";
export { openTokenizer } from "./tokenizers/open.ts";
export type { EncodeOptions, Tokenizer } from "./tokenizers/tokenizer.ts";
