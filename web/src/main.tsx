/** Where the page begins: starts the engine's worker and shows the screens, unless check.js found the browser too old. */

import { startEngineWorker } from "./trusted";

if (!document.documentElement.dataset.unusable) {
  startEngineWorker();
}
