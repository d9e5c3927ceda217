/**
 * Words, numbers and dates in the language that was chosen: one signal, one function `t`.
 *
 * Catalogues are `i18n/<locale>.json`, parsed at build and loaded when chosen. English is what remains when another one
 * cannot be fetched. This file knows no DOM; `ui/app.tsx` sets `lang` and `dir` of the document from here.
 */

import { signal } from "@preact/signals";
import IntlMessageFormat from "intl-messageformat";
import type en from "../i18n/en.json";
import { flat } from "./format";

export type Key = keyof typeof en;
export type Values = Record<string, string | number>;
type Catalogue = Record<string, unknown>;

/** Every language by the name that its speakers give it. */
export const LOCALES = {
  ar: "العربية",
  de: "Deutsch",
  en: "English",
  es: "Español",
  fr: "Français",
  hi: "हिन्दी",
  id: "Bahasa Indonesia",
  "pt-BR": "Português (Brasil)",
  ru: "Русский",
  tr: "Türkçe",
} as const;
export type Locale = keyof typeof LOCALES;

const LOADERS: Record<Locale, () => Promise<{ default: Catalogue }>> = {
  ar: () => import("catalogue:ar"),
  de: () => import("catalogue:de"),
  en: () => import("catalogue:en"),
  es: () => import("catalogue:es"),
  fr: () => import("catalogue:fr"),
  hi: () => import("catalogue:hi"),
  id: () => import("catalogue:id"),
  "pt-BR": () => import("catalogue:pt-BR"),
  ru: () => import("catalogue:ru"),
  tr: () => import("catalogue:tr"),
};

const state = signal<{ locale: Locale; region: string; catalogue: Catalogue }>({
  locale: "en",
  region: "en",
  catalogue: {},
});
let formats = new Map<string, IntlMessageFormat>();
let intl = new Map<string, Intl.DateTimeFormat | Intl.NumberFormat | Intl.RelativeTimeFormat | Intl.PluralRules>();
let wanted = 0;

/** The first language of *preferred* (BCP 47 tags, best first) that there is; English otherwise. */
export function choose(preferred: readonly string[]): Locale {
  const all = Object.keys(LOCALES) as Locale[];
  for (const tag of preferred) {
    const language = tag.toLowerCase().split("-")[0];
    const found = all.find((each) => each.toLowerCase() === tag.toLowerCase());
    const near = all.find((each) => each.split("-")[0] === language);
    const locale = found ?? near;
    if (locale) return locale;
  }
  return "en";
}

/** How times and numbers are written in *locale*: as in the first of *preferred* that is of the same language. */
export function regionOf(locale: Locale, preferred: readonly string[]): string {
  const [language] = locale.split("-");
  const near = preferred.find((tag) => tag.toLowerCase().split("-")[0] === language);
  try {
    return Intl.getCanonicalLocales(near)[0] ?? locale;
  } catch {
    return locale; // what a system says of itself may be no tag
  }
}

/** Switch to *locale*, as it is written where *preferred* (BCP 47 tags) says; the words change when its catalogue is here.
 * Resolves false if it cannot be had now. */
export async function setLocale(locale: Locale, preferred: readonly string[] = []): Promise<boolean> {
  const mine = ++wanted;
  try {
    const loaded = await LOADERS[locale]();
    if (mine !== wanted) return true;
    formats = new Map();
    intl = new Map();
    state.value = { locale, region: regionOf(locale, preferred), catalogue: loaded.default };
    return true;
  } catch {
    return false;
  }
}

export function locale(): Locale {
  return state.value.locale;
}

export function direction(): "rtl" | "ltr" {
  return state.value.locale === "ar" ? "rtl" : "ltr";
}

/** The message *key* with *values* put in; names and texts of people are isolated, so that they keep their direction. */
export function t(key: Key, values?: Values): string {
  const { region, catalogue } = state.value;
  const found = catalogue[key];
  if (typeof found === "string") return found;
  if (found === undefined) return key;
  let format = formats.get(key);
  if (!format) {
    format = new IntlMessageFormat(found as never, region);
    formats.set(key, format);
  }
  return String(format.format(values && isolated(values)));
}

/** Whether there is a message of that name: codes come from elsewhere, and may be newer than this build. */
export function has(key: string): key is Key {
  return key in state.value.catalogue;
}

function isolated(values: Values): Values {
  const safe: Values = {};
  for (const [name, value] of Object.entries(values)) {
    safe[name] = typeof value === "string" ? `\u2068${clean(value)}\u2069` : value;
  }
  return safe;
}

/** *text* without marks that turn the direction of what follows, without line ends, and with few marks on a letter. */
export function clean(text: string): string {
  // biome-ignore lint/suspicious/noControlCharactersInRegex: it is what they are taken out by.
  return flat(text.replace(/[\u0000-\u001f\u007f\u061c\u200e\u200f\u202a-\u202e\u2066-\u2069]/g, " "));
}

function cached<T extends Intl.DateTimeFormat | Intl.NumberFormat | Intl.RelativeTimeFormat>(
  key: string,
  make: (region: string) => T,
): T {
  const { region } = state.value;
  let found = intl.get(key);
  if (!found) {
    found = make(region);
    intl.set(key, found);
  }
  return found as T;
}

/** The last day of the year 9999: what a sender's clock says may be no date at all (CNT-04). */
const LATEST_MS = 253_402_214_400_000;

/** *atMs* as a time that can be written. */
function told(atMs: number): number {
  return Math.min(atMs, LATEST_MS);
}

/** 14:05, or 2:05 PM, as it is written here. */
export function time(atMs: number): string {
  return cached("time", (each) => new Intl.DateTimeFormat(each, { hour: "numeric", minute: "2-digit" })).format(
    told(atMs),
  );
}

export function number(value: number): string {
  return cached("number", (each) => new Intl.NumberFormat(each)).format(value);
}

export function percent(part: number): string {
  return cached("percent", (each) => new Intl.NumberFormat(each, { style: "percent" })).format(part);
}

/** Bytes in words: 12 kB, 3.4 MB, 2.1 GB. */
export function size(bytes: number): string {
  const [unit, in1] = bytes >= 1e9 ? ["gigabyte", 1e9] : bytes >= 1e6 ? ["megabyte", 1e6] : ["kilobyte", 1e3];
  const maximumFractionDigits = in1 > 1e3 ? 1 : 0;
  const made = cached(unit, (each) => new Intl.NumberFormat(each, { style: "unit", unit, maximumFractionDigits }));
  return made.format(Math.max(1, bytes / in1));
}

/** The days from one to the other, by the calendar of where this device is. */
export function daysBetween(fromMs: number, toMs: number): number {
  const from = new Date(told(fromMs));
  const to = new Date(told(toMs));
  return Math.round(
    (Date.UTC(to.getFullYear(), to.getMonth(), to.getDate()) -
      Date.UTC(from.getFullYear(), from.getMonth(), from.getDate())) /
      86_400_000,
  );
}

/** When a chat was last written in: the time, yesterday, a weekday, a date. */
export function when(atMs: number, nowMs: number): string {
  const days = daysBetween(atMs, nowMs);
  if (days <= 0) return time(atMs);
  if (days === 1) return relative(-1);
  if (days < 7)
    return cached("weekday", (each) => new Intl.DateTimeFormat(each, { weekday: "short" })).format(told(atMs));
  return cached(
    "short",
    (each) => new Intl.DateTimeFormat(each, { year: "2-digit", month: "2-digit", day: "2-digit" }),
  ).format(told(atMs));
}

/** When something ends: the time, and the day unless it is today. */
export function end(atMs: number, nowMs: number): string {
  if (daysBetween(nowMs, atMs) === 0) return time(atMs);
  return cached(
    "end",
    (each) =>
      new Intl.DateTimeFormat(each, {
        weekday: "short",
        day: "numeric",
        month: "short",
        hour: "numeric",
        minute: "2-digit",
      }),
  ).format(told(atMs));
}

/** The head of a day: today, yesterday, Monday 3 March. */
export function day(atMs: number, nowMs: number): string {
  const days = daysBetween(atMs, nowMs);
  if (days === 0 || days === 1) return relative(-days);
  const sameYear = new Date(told(atMs)).getFullYear() === new Date(nowMs).getFullYear();
  return cached(
    sameYear ? "day" : "dayOfYear",
    (each) =>
      new Intl.DateTimeFormat(each, {
        weekday: sameYear ? "long" : "short",
        day: "numeric",
        month: "long",
        ...(sameYear ? {} : { year: "numeric" }),
      }),
  ).format(told(atMs));
}

function relative(days: number): string {
  const text = cached("relative", (each) => new Intl.RelativeTimeFormat(each, { numeric: "auto" })).format(days, "day");
  return text.charAt(0).toLocaleUpperCase(state.value.locale) + text.slice(1);
}
