/**
 * Where one is in the app: the address behind `#`, and the sheets that lie over it, each with its step in the history.
 *
 * Going back, by the phone's gesture or the browser's button, closes the topmost sheet before it leaves a screen. A link
 * that somebody gave out (`/i#…`, `/c#…`) is taken off the address bar at once. This file knows no screens.
 */

import { signal } from "@preact/signals";

export type SettingsPage =
  | ""
  | "profile"
  | "notifications"
  | "appearance"
  | "language"
  | "storage"
  | "server"
  | "about"
  | "delete";
export type Route =
  | { name: "list" | "archived" | "requests" | "search" | "contact" | "add" }
  | { name: "chat"; chat: string; at: number }
  | { name: "info" | "safety"; chat: string }
  | { name: "settings"; page: SettingsPage };

interface Step {
  depth: number;
  overlays: number;
}

const SETTINGS: SettingsPage[] = [
  "profile",
  "notifications",
  "appearance",
  "language",
  "storage",
  "server",
  "about",
  "delete",
];
const overlays: (() => void)[] = [];
/** Steps back that were asked for and have not come yet, and what waits for them: a step made before would be undone. */
let backs = 0;
const waiting: (() => void)[] = [];

export const route = signal<Route>({ name: "list" });

/** Begin to follow the address; gives the link that the app was opened with, if it was. */
export function startRouter(): string | null {
  const { pathname, hash, href } = location;
  const opened = /\/[ic]$/.test(pathname) && hash.length > 1 ? href : null;
  if (/\/[ic]$/.test(pathname)) history.replaceState({ depth: 0, overlays: 0 }, "", "/");
  else if (!history.state) history.replaceState({ depth: 0, overlays: 0 }, "");
  depthNow = step().depth;
  route.value = parse(location.hash);
  addEventListener("popstate", follow);
  return opened;
}

/** The screen that an address behind `#` names; the list for any other. */
export function parse(hash: string): Route {
  const [first = "", second = "", third = ""] = hash.replace(/^#\/?/, "").split("/");
  if (first === "chat" && second) {
    if (third === "info" || third === "safety") return { name: third, chat: second };
    return { name: "chat", chat: second, at: Number(third) || 0 };
  }
  if (first === "settings") return { name: "settings", page: SETTINGS.find((each) => each === second) ?? "" };
  if (first === "archived" || first === "requests" || first === "search" || first === "contact" || first === "add")
    return { name: first };
  return { name: "list" };
}

export function hrefOf(to: Route): string {
  switch (to.name) {
    case "list":
      return "#/";
    case "chat":
      return `#/chat/${to.chat}${to.at ? `/${to.at}` : ""}`;
    case "info":
    case "safety":
      return `#/chat/${to.chat}/${to.name}`;
    case "settings":
      return `#/settings${to.page ? `/${to.page}` : ""}`;
    default:
      return `#/${to.name}`;
  }
}

function step(): Step {
  const state = history.state as Partial<Step> | null;
  return { depth: state?.depth ?? 0, overlays: state?.overlays ?? 0 };
}

/** How deep one is; a link that was followed brings no state of its own along. */
let depthNow = 0;

function follows(): void {
  if (history.state === null) history.replaceState({ depth: depthNow + 1, overlays: 0 }, "");
  depthNow = step().depth;
}

/** Go to a screen; a sheet that is open closes, and its step in the history becomes the screen's. */
export function go(to: Route, replace = false): void {
  if (backs > 0) {
    waiting.push(() => go(to, replace));
    return;
  }
  const { depth } = step();
  const open = overlays.splice(0);
  for (const close of open.reverse()) close();
  const state = { depth: replace ? depth : depth + 1, overlays: 0 };
  if (replace || open.length > 0) history.replaceState(state, "", hrefOf(to));
  else history.pushState(state, "", hrefOf(to));
  depthNow = state.depth;
  route.value = to;
}

/** One step back; to *home* where the history of the app ends. */
export function back(home: Route = { name: "list" }): void {
  if (step().depth > 0) history.back();
  else go(home, true);
}

/**
 * A sheet was opened: *close* is called when one goes back. The answer closes it from the sheet's side, and says whether
 * it was open until then.
 */
export function overlay(close: () => void): () => boolean {
  overlays.push(close);
  const count = overlays.length;
  const push = () => {
    const { depth, overlays: steps } = step();
    if (steps < count) history.pushState({ depth, overlays: count }, ""); // else it is there, from before a reload
  };
  if (backs > 0) waiting.push(push);
  else push();
  return () => {
    const at = overlays.lastIndexOf(close);
    if (at < 0) return false;
    overlays.splice(at, 1);
    close();
    backs += 1;
    history.back();
    return true;
  };
}

function follow(): void {
  if (backs > 0) {
    backs -= 1;
    if (backs === 0) for (const run of waiting.splice(0)) run();
    return;
  }
  follows();
  const { overlays: wanted } = step();
  while (overlays.length > wanted) overlays.pop()?.();
  const to = parse(location.hash);
  if (hrefOf(to) !== hrefOf(route.value)) route.value = to;
}
