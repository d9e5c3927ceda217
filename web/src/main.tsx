/** Where the page begins: starts the engine's worker and shows the screens, unless check.js found the browser too old. */

import type { Engine, EngineEvent } from "./client/api";
import { METHODS } from "./hosted";
import type { App } from "./model/app";
import { SOMETHING } from "./model/notifications";
import { BrowserPlatform } from "./platform";
import { Client } from "./rpc";
import { registerServiceWorker, startEngineWorker } from "./trusted";
import { show } from "./ui/app";

const place = document.getElementById("app");
if (place && !document.documentElement.dataset.unusable) start(place);

async function start(place: HTMLElement): Promise<void> {
  const client = new Client<Engine, EngineEvent>(startEngineWorker, METHODS);
  const hurry = () => {
    if (document.visibilityState === "visible") client.api.hurry().catch(() => {});
  };
  addEventListener("online", hurry);
  document.addEventListener("visibilitychange", hurry);
  const platform = new BrowserPlatform();
  const app = await show(place, { engine: client.api, listen: (handler) => client.listen(handler) }, platform);
  client.onRestart(() => app.restarted());
  await keepOnDevice(app).catch(() => {}); // without it the app runs, but neither offline nor woken
  const look = () => {
    if (document.visibilityState !== "visible") return;
    platform.closeNotes(SOMETHING).catch(() => {});
    app.checkPush().catch(() => {});
  };
  look();
  document.addEventListener("visibilitychange", look);
}

/** Keep the app on the device; a new build that is there waits until a person wants it. */
async function keepOnDevice(app: App): Promise<void> {
  let isFirst = navigator.serviceWorker.controller === null;
  navigator.serviceWorker.addEventListener("controllerchange", () => {
    // another tab took the new build: files of this one are on the device no more
    if (!isFirst) app.update.value = () => location.reload();
    isFirst = false;
  });
  const registration = await registerServiceWorker();
  const offer = () => {
    const waiting = registration.waiting;
    if (!waiting || !navigator.serviceWorker.controller) return;
    app.update.value = () => {
      navigator.serviceWorker.addEventListener("controllerchange", () => location.reload(), { once: true });
      waiting.postMessage("take_over");
    };
  };
  offer();
  registration.addEventListener("updatefound", () => {
    registration.installing?.addEventListener("statechange", offer);
  });
}
