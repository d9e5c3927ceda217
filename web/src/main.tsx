/** Where the page begins: starts the engine's worker and shows the screens, unless check.js found the browser too old. */

import type { EngineEvent } from "./client/api";
import { type Hosted, METHODS } from "./hosted";
import type { App } from "./model/app";
import { BrowserPlatform } from "./platform";
import { Client } from "./rpc";
import { registerServiceWorker, startEngineWorker } from "./trusted";
import { show } from "./ui/app";

const place = document.getElementById("app");
if (place && !document.documentElement.dataset.unusable) start(place);

async function start(place: HTMLElement): Promise<void> {
  const client = new Client<Hosted, EngineEvent>(startEngineWorker, METHODS);
  const hurry = () => {
    if (document.visibilityState === "visible") Promise.resolve(client.api.hurry()).catch(() => {});
  };
  addEventListener("online", hurry);
  document.addEventListener("visibilitychange", hurry);
  const app = await show(
    place,
    { engine: client.api, listen: (handler) => client.listen(handler) },
    new BrowserPlatform(),
  );
  client.onRestart(() => app.restarted());
  await keepOnDevice(app).catch(() => {}); // without it the app runs, but neither offline nor woken
}

/** Keep the app on the device; a new build that is there waits until a person wants it. */
async function keepOnDevice(app: App): Promise<void> {
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
  await app.checkPush();
}
