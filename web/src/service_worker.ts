/**
 * The service worker: keeps the app on the device, and wakes it.
 *
 * A new build is fetched in the background and waits until the page, which asks the person first, says `take_over`; a
 * first build, and one that no page is open of, takes over by itself. What is of the server (`/v1`, `/.well-known`)
 * always goes to the server.
 *
 * A push says nothing but that there is something. The engine fetches and decrypts it here, and every push ends in a
 * notification, as browsers demand, unless somebody is looking at the app. A page that nobody looks at, and that has the
 * connection, hands over what it received: nobody is woken for that.
 */

import type { Account } from "./client/account";
import { openEngine } from "./engine";
import { joined, type Line, type Note, notesOf, readWords, SOMETHING } from "./model/notifications";
import { Shell } from "./shell_cache";

declare const self: ServiceWorkerGlobalScope;
/** Every file of this build, as the paths under which the server has them; put in by build.mjs. */
declare const __FILES__: string[];
/** Changes with any byte of the build. */
declare const __VERSION__: string;

/** A browser ends a worker that takes longer over a push. */
const WAKE_MS = 20_000;
const ICON = "/icon-192.png";

const shell = new Shell({
  files: __FILES__,
  version: __VERSION__,
  caches: self.caches,
  fetch: (request) => self.fetch(request),
});

// ---------------------------------------------------------------- the app's files

self.addEventListener("install", (event) => event.waitUntil(shell.fill()));

self.addEventListener("activate", (event) => {
  event.waitUntil(shell.removeOthers().then(() => self.clients.claim()));
});

self.addEventListener("fetch", (event) => {
  const { request } = event;
  const url = new URL(request.url);
  if (request.method !== "GET" || url.origin !== self.location.origin) return;
  const path = shell.pathOf(url, request.mode === "navigate");
  if (path !== null) event.respondWith(shell.get(path));
});

self.addEventListener("message", (event) => {
  const said = event.data as "take_over" | { taube: "notes"; notes: Note[] } | null;
  if (said === "take_over") event.waitUntil(self.skipWaiting());
  else if (said?.taube === "notes") event.waitUntil(showUnwatched(said.notes));
});

// ---------------------------------------------------------------- waking

/** Pushes that come while one is worked on are answered by the next round: one engine at a time. */
let underWay: Promise<void> = Promise.resolve();
let waiting: Promise<void> | null = null;

self.addEventListener("push", (event) => {
  waiting ??= underWay.then(() => {
    waiting = null;
    const waking = wake();
    underWay = waking.catch(() => {}); // one that failed, as without the permission to show anything, ends none after it
    return waking;
  });
  event.waitUntil(waiting);
});

async function wake(): Promise<void> {
  const words = await readWords(self.caches);
  let notes: Note[] = [];
  let complete = false;
  let looked = false;
  try {
    const news = await withEngine((account) => account.wake(WAKE_MS));
    complete = news.complete;
    looked = news.messages.length > 0;
    notes = notesOf(news.messages, words, Date.now());
  } catch (error) {
    console.warn("woken in vain", error);
  }
  if (await isWatched()) return;
  await showAll(notes);
  if (notes.length > 0) return;
  // Something has to be shown for every push. Where all that is new is muted, or was read elsewhere, it goes at once.
  const { title, options } = generic(words.something, words.locale, words.direction);
  await self.registration.showNotification(title, { ...options, silent: complete || looked });
  if (complete || looked) await closeNotes(SOMETHING);
}

function generic(title: string, lang: string, dir: "ltr" | "rtl"): { title: string; options: NotificationOptions } {
  return { title, options: { tag: SOMETHING, icon: ICON, badge: ICON, lang, dir, data: { chat: "" } } };
}

/** One at a time: a page and a push may tell of the same message. */
let showing: Promise<void> = Promise.resolve();

function showAll(notes: readonly Note[]): Promise<void> {
  const shown = showing.then(async () => {
    for (const note of notes) await show(note);
    if (notes.length > 0) await closeNotes(SOMETHING);
  });
  showing = shown.catch(() => {});
  return shown;
}

async function showUnwatched(notes: readonly Note[]): Promise<void> {
  if (!(await isWatched())) await showAll(notes);
}

/** Show it with what its chat's notification says already; a message is told once. */
async function show(news: Note): Promise<void> {
  const [before] = await self.registration.getNotifications({ tag: news.chat });
  const note = joined(news, (before?.data as { lines?: Line[] } | undefined)?.lines ?? []);
  if (note === null) return;
  const options: NotificationOptions & { renotify?: boolean; timestamp?: number } = {
    body: note.lines.map(({ text }) => text).join("\n"),
    tag: note.chat,
    icon: ICON,
    badge: ICON,
    lang: note.locale,
    dir: note.direction,
    data: { chat: note.chat, lines: note.lines },
    renotify: true,
    timestamp: note.atMs,
  };
  await self.registration.showNotification(note.title, options);
}

async function closeNotes(tag: string): Promise<void> {
  for (const note of await self.registration.getNotifications({ tag })) note.close();
}

/** Whether somebody looks at the app: then the page itself shows what is new. */
async function isWatched(): Promise<boolean> {
  const windows = await self.clients.matchAll({ type: "window", includeUncontrolled: true });
  return windows.some((one) => one.visibilityState === "visible");
}

async function withEngine<T>(work: (account: Account) => Promise<T>): Promise<T> {
  const account = await openEngine({ live: false });
  try {
    return await work(account);
  } finally {
    await account.close();
  }
}

self.addEventListener("notificationclick", (event) => {
  event.notification.close();
  const { chat } = (event.notification.data ?? {}) as { chat?: string };
  event.waitUntil(open(chat ? `#/chat/${chat}` : "#/"));
});

/** The app at that place: in a window that is open, else in a new one. */
async function open(place: string): Promise<void> {
  const windows = await self.clients.matchAll({ type: "window", includeUncontrolled: true });
  const window = windows.find((one) => one.visibilityState === "visible") ?? windows[0];
  if (window === undefined) {
    await self.clients.openWindow(`/${place}`);
    return;
  }
  window.postMessage({ taube: "open", place });
  await window.focus();
}

/** The browser took another subscription, or gave up the one there was: the server is told as soon as it can be. */
self.addEventListener("pushsubscriptionchange", (event) => {
  const change = event as ExtendableEvent & { newSubscription?: PushSubscription | null };
  change.waitUntil(withEngine((account) => renew(account, change.newSubscription ?? null)));
});

async function renew(account: Account, given: PushSubscription | null): Promise<void> {
  if ((await account.status()).push.state === "off") return;
  const { pushManager } = self.registration;
  const subscription = given ?? (await pushManager.getSubscription()) ?? (await subscribe(account));
  if (subscription === null) return; // the page finds that, and says so
  await account.setPush(subscription.toJSON()).catch(() => {}); // it is stored and owed
  await account.wake(WAKE_MS);
}

async function subscribe(account: Account): Promise<PushSubscription | null> {
  try {
    const applicationServerKey = (await account.pushKey()).slice();
    return await self.registration.pushManager.subscribe({ userVisibleOnly: true, applicationServerKey });
  } catch {
    return null;
  }
}
