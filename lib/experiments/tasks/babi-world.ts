/**
 * A small world in the style of bAbI: people go to places, take things along and leave them there. The sentences and
 * the drawing of them are our own. Questions: qa1, where is a person; qa2, where is a thing; qa3, where was a thing
 * before.
 */
import type { Random } from "../../data/index.ts";

export const questions = ["qa1", "qa2", "qa3"] as const;
export type Question = (typeof questions)[number];

export interface Story {
  /** Sentences in the order of what happened. */
  readonly facts: readonly string[];
  readonly question: string;
  /** One word: a place. */
  readonly answer: string;
}

const people = ["Anna", "Boris", "Clara", "David"] as const;
const things = ["apple", "lamp", "letter"] as const;
export const places = ["attic", "bathroom", "cellar", "garden", "kitchen", "office"] as const;
const moves = ["went to the", "walked to the", "moved to the", "came back to the"] as const;
const takes = ["picked up the", "took the", "got the"] as const;
const leaves = ["put down the", "left the", "dropped the"] as const;

/** The fewest facts that answer a question. */
export const leastFacts: Readonly<Record<Question, number>> = { qa1: 1, qa2: 2, qa3: 3 };

/**
 * `facts` things that happen, at least {@link leastFacts}, from which the question can be answered. Drawn until they
 * are such.
 */
export function story(random: Random, question: Question, facts: number): Story {
  for (;;) {
    const told = world(random, question, facts),
      asked = ask(random, question, told);
    if (asked !== undefined) return { facts: told.facts, ...asked };
  }
}

interface Told {
  readonly facts: string[];
  /** Where each person is. */
  readonly at: Map<string, string>;
  /** Of each thing that has been touched, the places where it has been, the last one last. */
  readonly been: Map<string, string[]>;
}

function world(random: Random, question: Question, count: number): Told {
  const told: Told = { facts: [], at: new Map(), been: new Map() },
    holder = new Map<string, string>();
  const of = <T>(list: readonly T[]): T => list[random.below(list.length)]!;
  const visit = (thing: string, place: string): void => {
    const been = told.been.get(thing) ?? [];
    if (been.at(-1) !== place) told.been.set(thing, [...been, place]);
  };
  while (told.facts.length < count) {
    const person = of(people),
      place = told.at.get(person),
      what = question === "qa1" || place === undefined ? 0 : random.below(4);
    const held = things.filter((thing) => holder.get(thing) === person);
    // A thing that nobody holds lies where it was left; nobody knows where one was before it was first taken.
    const near = things.filter((thing) => !holder.has(thing) && (told.been.get(thing)?.at(-1) ?? place) === place);
    if (what === 3 && held.length > 0) {
      const thing = of(held);
      holder.delete(thing);
      told.facts.push(`${person} ${of(leaves)} ${thing}.`);
    } else if (what >= 2 && near.length > 0) {
      const thing = of(near);
      holder.set(thing, person);
      visit(thing, place!);
      told.facts.push(`${person} ${of(takes)} ${thing}.`);
    } else {
      const to = of(places.filter((other) => other !== place));
      told.at.set(person, to);
      for (const thing of held) visit(thing, to);
      told.facts.push(`${person} ${of(moves)} ${to}.`);
    }
  }
  return told;
}

/** Undefined where what was told answers no such question. */
function ask(random: Random, question: Question, { at, been }: Told): Omit<Story, "facts"> | undefined {
  const of = <T>(list: readonly T[]): T => list[random.below(list.length)]!;
  if (question === "qa1") {
    const [person, place] = of([...at]);
    return { question: `Where is ${person}?`, answer: place };
  }
  if (question === "qa2") {
    if (been.size === 0) return undefined;
    const [thing, seen] = of([...been]);
    return { question: `Where is the ${thing}?`, answer: seen.at(-1)! };
  }
  const moved = [...been].filter(([, seen]) => seen.length >= 2);
  if (moved.length === 0) return undefined;
  const [thing, seen] = of(moved),
    last = seen.at(-1)!;
  return { question: `Where was the ${thing} before the ${last}?`, answer: seen.at(-2)! };
}
