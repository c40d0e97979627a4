/**
 * Makes an object of ours refuse to be posted to another thread. A structured clone skips private fields, so it
 * would arrive as an empty object; one symbol among its own properties makes `postMessage` and `structuredClone` throw
 * a DataCloneError instead, on every Node, and the symbol's description is that error's message.
 */

/** The value of a property of every object that holds a handle of the engine. */
export const threadBound: unique symbol = Symbol(
  "memformer: this belongs to the thread that made it; post its numbers or its folder instead",
);
