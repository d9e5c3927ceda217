/**
 * The screens with the engine of `fake_engine.ts`, to be looked at: `npm start`, then `/test/gallery/index.html`.
 *
 * The query says what to show: `phase`, `failure`, `empty`, `push`, `offline`, `deleting`, `messages`, `broken` (the engine does not
 * start), `sees` (what the camera reads; without it there is no camera), `agent` (which browser this is taken for).
 * `window.gallery` changes it afterwards.
 */

import type { ErrorCode, PushState, Status } from "../../src/client/api";
import type { App } from "../../src/model/app";
import { BrowserPlatform } from "../../src/platform";
import { show } from "../../src/ui/app";
import { FakeEngine } from "../fake_engine";

export interface Gallery {
  app: App;
  engine: FakeEngine;
}

const query = new URLSearchParams(location.search);
if (query.has("agent")) Object.defineProperty(navigator, "userAgent", { value: query.get("agent") });

class GalleryPlatform extends BrowserPlatform {
  override async camera(): Promise<MediaStream> {
    if (!query.has("sees")) return super.camera();
    const canvas = document.createElement("canvas");
    canvas.getContext("2d")?.fillRect(0, 0, canvas.width, canvas.height);
    return canvas.captureStream();
  }

  override async readCode(frame: HTMLVideoElement | ImageBitmap): Promise<string | null> {
    return query.get("sees") ?? super.readCode(frame);
  }
}

const engine = new FakeEngine({
  phase: (query.get("phase") ?? "ready") as Status["phase"],
  failure: (query.get("failure") ?? "") as ErrorCode | "",
  empty: query.has("empty"),
  push: (query.get("push") ?? "off") as PushState["state"],
  offline: query.has("offline"),
  deleting: query.has("deleting"),
  messages: Number(query.get("messages") ?? 10_000),
});
if (query.has("broken")) engine.status = () => Promise.reject(new Error("asked for"));
const place = document.getElementById("app");
if (place) {
  const app = await show(place, { engine, listen: (handler) => engine.listen(handler) }, new GalleryPlatform());
  Object.assign(window, { gallery: { app, engine } satisfies Gallery });
}
