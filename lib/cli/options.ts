/** Command-line options made out of zod schemas: name, type, default, choices and help are written once, there. */
import { InvalidArgumentError, Option, type Command } from "commander";
import { z } from "zod";
import { choiceMeant, expected } from "../options.ts";
import { flagName } from "../run/flags.ts";

/**
 * Adds an option for every key of `schema`. Options carry no default of their own, so that what `command.opts()` holds
 * was given; the help shows the schema's. A boolean becomes `--x` and `--no-x`; of an array, each use adds an element.
 */
export function addOptions(command: Command, schema: z.ZodObject, group: string): void {
  for (const [key, field] of Object.entries(schema.shape)) {
    for (const option of optionsFor(flagName(key), field as z.ZodType))
      command.addOption(option.helpGroup(`${group}:`));
  }
}

function optionsFor(flag: string, field: z.ZodType): Option[] {
  const fallback = defaultOf(field),
    kind = unwrapped(field);
  const notes = [
    ...(kind instanceof z.ZodEnum ? [`choices: ${kind.options.join(", ")}`] : []),
    ...(fallback === undefined || kind instanceof z.ZodBoolean
      ? []
      : [`default: ${JSON.stringify(fallback).replaceAll('"', "")}`]),
  ];
  const help = `${field.description ?? ""}${notes.length === 0 ? "" : ` (${notes.join("; ")})`}`;
  if (kind instanceof z.ZodBoolean) {
    // The help lists the one that changes something. --x comes first: alone, --no-x would set a default.
    return [
      new Option(`--${flag}`, help).hideHelp(fallback === true),
      new Option(`--no-${flag}`, `do not ${help}`).hideHelp(fallback !== true),
    ];
  }
  if (kind instanceof z.ZodArray) {
    const collect = (text: string, before: unknown[] = []): unknown[] => [
      ...before,
      parseText(kind.element as z.ZodType, text),
    ];
    return [new Option(`--${flag} <text>`, `${help}; may be given several times`).argParser(collect)];
  }
  return [new Option(`--${flag} <${placeholder(kind)}>`, help).argParser((text: string) => parseText(field, text))];
}

function defaultOf(field: z.ZodType): unknown {
  return field instanceof z.ZodDefault ? field.def.defaultValue : undefined;
}

function unwrapped(field: z.ZodType): z.ZodType {
  return field instanceof z.ZodDefault || field instanceof z.ZodOptional
    ? unwrapped(field.def.innerType as z.ZodType)
    : field;
}

function placeholder(kind: z.ZodType): string {
  if (kind instanceof z.ZodNumber) return "n";
  return kind instanceof z.ZodEnum ? "name" : kind instanceof z.ZodUnion ? "name|n,n,..." : "text";
}

/** NaN, which no schema takes, for anything but a number: Number("") would be 0. */
function numberOf(word: string): number {
  return word.trim() === "" ? NaN : Number(word);
}

/** The first reading of a text that its field accepts: a number, the text itself, a list of numbers. */
function parseText(field: z.ZodType, text: string): unknown {
  const numeric = text.trim() !== "" && !Number.isNaN(Number(text));
  const readings: unknown[] = [...(numeric ? [Number(text)] : []), text, text.split(",").map(numberOf)];
  for (const reading of readings) {
    const parsed = field.safeParse(reading);
    if (parsed.success) return reading;
  }
  const { issues } = field.safeParse(readings[0]).error!;
  throw new InvalidArgumentError(issues.map((issue) => expected(issue) + choiceMeant(issue, text)).join("; "));
}
