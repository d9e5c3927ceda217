/** What every screen can reach: the app's model, the words that pass by at the bottom, and what is read out. */

import { type Signal, signal } from "@preact/signals";
import { createContext } from "preact";
import { useContext } from "preact/hooks";
import type { Failure } from "../client/api";
import type { App } from "../model/app";
import { has, type Key, size, t } from "../model/i18n";

export const AppContext = createContext<App | null>(null);

export function useApp(): App {
  const app = useContext(AppContext);
  if (!app) throw new Error("There is no app around this screen.");
  return app;
}

/** A sentence at the bottom, for a few seconds. */
export const toast: Signal<{ text: string; tone: "plain" | "bad" } | null> = signal(null);
/** What a screen reader says next; it does not stay for whoever comes later. */
export const announced = signal("");
const ANNOUNCED_MS = 10_000;

let timer: ReturnType<typeof setTimeout> | undefined;
let silence: ReturnType<typeof setTimeout> | undefined;

export function say(text: string, tone: "plain" | "bad" = "plain"): void {
  toast.value = { text, tone };
  announce(text);
  clearTimeout(timer);
  timer = setTimeout(
    () => {
      toast.value = null;
    },
    3_000 + text.length * 50,
  );
}

export function announce(text: string): void {
  announced.value = announced.value === text ? `${text}\u00a0` : text;
  clearTimeout(silence);
  silence = setTimeout(() => {
    announced.value = "";
  }, ANNOUNCED_MS);
}

/** One clear sentence on what was refused and what to do. */
export function sentence(failure: Failure): string {
  const key = `error.${failure.code}`;
  const params = { ...failure.params };
  for (const name of ["bytes", "most"]) {
    const value = params[name];
    if (typeof value === "number") params[name] = size(value);
  }
  return t(has(key) ? (key as Key) : "error.internal", params);
}
