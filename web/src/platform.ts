/**
 * What the screens need of the device around them, as an interface, and how a browser gives it.
 *
 * Clock, timers, small choices that outlive a visit, sharing, the camera, notifications, installing, and pictures made
 * small. Everything that asks a person for leave is called from a tap. This file knows nothing of chats.
 */

import { rgbaToThumbHash } from "thumbhash";
import { same } from "./bytes";
import type { Failure, Photo } from "./client/api";
import { keepWords, type Note, type Words } from "./model/notifications";

/** How the app can be installed here: by a button of ours, by the steps of the browser, or it is installed. */
export type Install = "installed" | "button" | "ios" | "android" | "firefox" | "desktop";

export interface Platform {
  now(): number;
  /** Call *run* after *ms*; the answer calls it off. */
  later(ms: number, run: () => void): () => void;
  languages(): readonly string[];
  remembered(name: string): string | null;
  remember(name: string, value: string | null): void;
  /** Ask the browser to keep what is stored here. */
  keepStorage(): Promise<boolean>;
  /** Bytes used, and how many there may be; null where the browser does not say. */
  storage(): Promise<{ used: number; most: number } | null>;
  /** The hash of the build that runs here; empty where the app was not built. */
  build(): Promise<string>;
  /** The hash of the build that the server gives out now; empty where it does not answer. */
  published(): Promise<string>;
  install(): Install;
  /** Show the browser's own question; resolves whether the app was installed. */
  askToInstall(): Promise<boolean>;
  onInstallChange(run: () => void): void;
  copy(text: string): Promise<boolean>;
  canShare(): boolean;
  share(what: { title?: string; text?: string; url?: string; file?: File }): Promise<boolean>;
  vibrate(ms: number): void;
  /** Rejects with a failure `file_not_a_picture` or `file_too_large`. */
  photo(file: Blob & { name?: string }): Promise<Photo>;
  /** A square picture for a profile. */
  portrait(file: Blob): Promise<Blob>;
  /** The camera that looks away from a person; rejects when it is not permitted or there is none. */
  camera(): Promise<MediaStream>;
  /** What a QR code in *frame* says; null if there is none. */
  readCode(frame: HTMLVideoElement | ImageBitmap): Promise<string | null>;
  askForNotifications(): Promise<NotificationPermission>;
  /** The subscription there is, if it was made with *key*, or another one. Rejects with "no_answer" or "refused". */
  subscribePush(key: Uint8Array, anew: boolean): Promise<PushSubscriptionJSON>;
  unsubscribePush(): Promise<void>;
  /** What the browser has of push now: whether it can, whether a person lets it, and the subscription there is. */
  pushNow(): Promise<{ can: boolean; permission: NotificationPermission; subscription: PushSubscriptionJSON | null }>;
  /** Leave *words* for notifications that are shown while the app is closed. */
  keepWords(words: Words): Promise<void>;
  /** Whether a person can see the app. */
  isVisible(): boolean;
  /** Show *notes*, unless a person looks at another window of the app. */
  showNotes(notes: readonly Note[]): Promise<void>;
  /** Take away what a notification said of *chat*, or all that say something. */
  closeNotes(chat?: string): Promise<void>;
}

const EDGE_PX_MOST = 2_048;
const PORTRAIT_PX = 256;
const PIXELS_MOST = 100e6;
const FILE_BYTES_MOST = 100e6;
const QUALITY = 0.82;
const PUSH_MS_MOST = 15_000;
const FRAME_PX_MOST = 800;

interface InstallPrompt extends Event {
  prompt(): Promise<void>;
  userChoice: Promise<{ outcome: string }>;
}
interface Detector {
  detect(source: CanvasImageSource): Promise<{ rawValue: string }[]>;
}

export class BrowserPlatform implements Platform {
  #prompt: InstallPrompt | null = null;
  #installed = false;
  #onInstall = () => {};
  #detector: Detector | null | undefined;
  /** Asked for with the page, where the page came from: another build may take that place later. */
  readonly #build = hashIn("/build.json", "hash");

  constructor() {
    addEventListener("beforeinstallprompt", (event) => {
      event.preventDefault();
      this.#prompt = event as InstallPrompt;
      this.#onInstall();
    });
    addEventListener("appinstalled", () => {
      this.#installed = true;
      this.#prompt = null;
      this.#onInstall();
    });
  }

  now(): number {
    return Date.now();
  }

  later(ms: number, run: () => void): () => void {
    const timer = setTimeout(run, ms);
    return () => clearTimeout(timer);
  }

  languages(): readonly string[] {
    return navigator.languages.length ? navigator.languages : [navigator.language];
  }

  remembered(name: string): string | null {
    try {
      return localStorage.getItem(`taube.${name}`);
    } catch {
      return null;
    }
  }

  remember(name: string, value: string | null): void {
    try {
      if (value === null) localStorage.removeItem(`taube.${name}`);
      else localStorage.setItem(`taube.${name}`, value);
    } catch {
      // A browser that stores nothing: the choice holds for this visit.
    }
  }

  async keepStorage(): Promise<boolean> {
    return (await navigator.storage?.persist?.().catch(() => false)) ?? false;
  }

  async storage(): Promise<{ used: number; most: number } | null> {
    const estimate = await navigator.storage?.estimate?.().catch(() => null);
    return estimate ? { used: estimate.usage ?? 0, most: estimate.quota ?? 0 } : null;
  }

  async build(): Promise<string> {
    return this.#build;
  }

  async published(): Promise<string> {
    return hashIn("/.well-known/taube", "app");
  }

  install(): Install {
    const standalone =
      matchMedia("(display-mode: standalone)").matches || (navigator as { standalone?: boolean }).standalone === true;
    if (standalone || this.#installed) return "installed";
    if (this.#prompt) return "button";
    const agent = navigator.userAgent;
    if (/iPhone|iPad|iPod/.test(agent) || (/Macintosh/.test(agent) && navigator.maxTouchPoints > 1)) return "ios";
    if (/Android/.test(agent)) return "android";
    return /Firefox/.test(agent) ? "firefox" : "desktop";
  }

  async askToInstall(): Promise<boolean> {
    const prompt = this.#prompt;
    if (!prompt) return false;
    await prompt.prompt();
    this.#prompt = null;
    return (await prompt.userChoice).outcome === "accepted";
  }

  onInstallChange(run: () => void): void {
    this.#onInstall = run;
  }

  async copy(text: string): Promise<boolean> {
    try {
      await navigator.clipboard.writeText(text);
      return true;
    } catch {
      return false;
    }
  }

  canShare(): boolean {
    return typeof navigator.share === "function";
  }

  async share(what: { title?: string; text?: string; url?: string; file?: File }): Promise<boolean> {
    const { file, ...rest } = what;
    const data: ShareData = file ? { ...rest, files: [file] } : rest;
    try {
      if (!navigator.share || (file && !navigator.canShare?.(data))) return false;
      await navigator.share(data);
      return true;
    } catch (error) {
      return (error as Error).name === "AbortError";
    }
  }

  vibrate(ms: number): void {
    navigator.vibrate?.(ms);
  }

  async photo(file: Blob & { name?: string }): Promise<Photo> {
    if (file.size > FILE_BYTES_MOST) throw refusal("file_too_large", { bytes: file.size, most: FILE_BYTES_MOST });
    const picture = await decode(file);
    try {
      const scale = Math.min(1, EDGE_PX_MOST / Math.max(picture.width, picture.height));
      const width = Math.max(1, Math.round(picture.width * scale));
      const height = Math.max(1, Math.round(picture.height * scale));
      const data = await encode(drawn(picture, width, height));
      return { data, width, height, thumbhash: thumbhash(picture), name: nameOf(file, data) };
    } finally {
      picture.close();
    }
  }

  async portrait(file: Blob): Promise<Blob> {
    const picture = await decode(file);
    try {
      const edge = Math.min(picture.width, picture.height);
      const canvas = document.createElement("canvas");
      canvas.width = canvas.height = Math.min(PORTRAIT_PX, edge);
      const [x, y] = [(picture.width - edge) / 2, (picture.height - edge) / 2];
      canvas.getContext("2d")?.drawImage(picture, x, y, edge, edge, 0, 0, canvas.width, canvas.height);
      return await encode(canvas);
    } finally {
      picture.close();
    }
  }

  async camera(): Promise<MediaStream> {
    return navigator.mediaDevices.getUserMedia({
      video: { facingMode: "environment", width: { ideal: 1280 }, height: { ideal: 720 } },
      audio: false,
    });
  }

  async readCode(frame: HTMLVideoElement | ImageBitmap): Promise<string | null> {
    if (this.#detector === undefined) this.#detector = await detector();
    if (this.#detector) {
      const [found] = await this.#detector.detect(frame).catch(() => []);
      return found?.rawValue ?? null;
    }
    const [wide, high] = "videoWidth" in frame ? [frame.videoWidth, frame.videoHeight] : [frame.width, frame.height];
    if (!wide || !high) return null;
    const scale = Math.min(1, FRAME_PX_MOST / Math.max(wide, high));
    const canvas = drawn(frame, Math.round(wide * scale), Math.round(high * scale));
    const image = canvas.getContext("2d")?.getImageData(0, 0, canvas.width, canvas.height);
    if (!image) return null;
    const { decodeQR } = await import("qr/decode.js");
    try {
      return decodeQR(image);
    } catch {
      return null;
    }
  }

  async askForNotifications(): Promise<NotificationPermission> {
    return typeof Notification === "function" ? Notification.requestPermission() : "denied";
  }

  async subscribePush(key: Uint8Array, anew: boolean): Promise<PushSubscriptionJSON> {
    const asked = (async () => {
      const { pushManager } = await navigator.serviceWorker.ready;
      const before = await pushManager.getSubscription();
      const madeWith = before?.options.applicationServerKey;
      if (before && (anew || !madeWith || !same(new Uint8Array(madeWith), key))) await before.unsubscribe();
      const options = { userVisibleOnly: true, applicationServerKey: key.slice() };
      return (await pushManager.subscribe(options)).toJSON();
    })();
    const slow = new Promise<never>((_, reject) => setTimeout(() => reject("no_answer"), PUSH_MS_MOST));
    try {
      return await Promise.race([asked, slow]);
    } catch (error) {
      throw error === "no_answer" || isUnreachable(error) ? "no_answer" : "refused";
    }
  }

  async pushNow(): ReturnType<Platform["pushNow"]> {
    const has = "Notification" in globalThis && "PushManager" in globalThis && "serviceWorker" in navigator;
    const worker = has ? await navigator.serviceWorker.getRegistration() : undefined;
    if (!worker) return { can: false, permission: "default", subscription: null };
    const subscription = await worker.pushManager.getSubscription();
    return { can: true, permission: Notification.permission, subscription: subscription?.toJSON() ?? null };
  }

  async keepWords(words: Words): Promise<void> {
    await keepWords(caches, words);
  }

  isVisible(): boolean {
    return document.visibilityState === "visible";
  }

  async showNotes(notes: readonly Note[]): Promise<void> {
    const worker = await navigator.serviceWorker?.getRegistration();
    worker?.active?.postMessage({ taube: "notes", notes });
  }

  async closeNotes(chat?: string): Promise<void> {
    const worker = await navigator.serviceWorker?.getRegistration();
    for (const note of (await worker?.getNotifications(chat ? { tag: chat } : {})) ?? []) note.close();
  }

  async unsubscribePush(): Promise<void> {
    const worker = await navigator.serviceWorker?.getRegistration();
    await (await worker?.pushManager?.getSubscription())?.unsubscribe();
  }
}

/** Whether a browser did not get through to its push service; browsers have one name for that and for "not here". */
function isUnreachable(error: unknown): boolean {
  return error instanceof DOMException && error.name === "AbortError" && !/denied|not available/.test(error.message);
}

/** What the JSON at *path* has under *name*, if that is text; else nothing. */
async function hashIn(path: string, name: string): Promise<string> {
  try {
    const found = ((await (await fetch(path, { cache: "no-cache" })).json()) as Record<string, unknown>)[name];
    return typeof found === "string" ? found : "";
  } catch {
    return "";
  }
}

function refusal(code: Failure["code"], params: Failure["params"] = {}): Failure {
  return { code, params };
}

/** The picture upright; whatever is no picture is refused. */
async function decode(file: Blob): Promise<ImageBitmap> {
  let picture: ImageBitmap;
  try {
    picture = await createImageBitmap(file, { imageOrientation: "from-image" });
  } catch {
    throw refusal("file_not_a_picture");
  }
  if (picture.width * picture.height > PIXELS_MOST) {
    picture.close();
    throw refusal("file_too_large", { bytes: file.size, most: FILE_BYTES_MOST });
  }
  return picture;
}

function drawn(source: CanvasImageSource, width: number, height: number): HTMLCanvasElement {
  const canvas = document.createElement("canvas");
  canvas.width = width;
  canvas.height = height;
  const context = canvas.getContext("2d", { willReadFrequently: true });
  if (context) {
    context.imageSmoothingQuality = "high";
    context.drawImage(source, 0, 0, width, height);
  }
  return canvas;
}

/** As WebP, or as JPEG where a browser cannot write that: it then answers with PNG and says nothing. */
async function encode(canvas: HTMLCanvasElement): Promise<Blob> {
  for (const type of ["image/webp", "image/jpeg"]) {
    const blob = await new Promise<Blob | null>((done) => canvas.toBlob(done, type, QUALITY));
    if (blob?.type === type) return blob;
  }
  throw refusal("file_not_a_picture");
}

function thumbhash(picture: ImageBitmap): Uint8Array {
  const scale = Math.min(1, 100 / Math.max(picture.width, picture.height));
  const width = Math.max(1, Math.round(picture.width * scale));
  const height = Math.max(1, Math.round(picture.height * scale));
  const image = drawn(picture, width, height).getContext("2d")?.getImageData(0, 0, width, height);
  return image ? rgbaToThumbHash(width, height, image.data) : new Uint8Array();
}

function nameOf(file: Blob & { name?: string }, data: Blob): string {
  const stem = (file.name ?? "").replace(/\.[^.]{1,5}$/, "").slice(0, 60) || "photo";
  return `${stem}.${data.type === "image/webp" ? "webp" : "jpg"}`;
}

async function detector(): Promise<Detector | null> {
  const kind = (globalThis as { BarcodeDetector?: unknown }).BarcodeDetector as
    | ((new (options: { formats: string[] }) => Detector) & { getSupportedFormats(): Promise<string[]> })
    | undefined;
  if (!kind) return null;
  const formats = await kind.getSupportedFormats().catch((): string[] => []);
  return formats.includes("qr_code") ? new kind({ formats: ["qr_code"] }) : null;
}
